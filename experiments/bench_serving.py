"""What a server costs beyond its model, and what batching gives; ratios within one run.

    python -m experiments.bench_serving                                    # ViT-B-32, random weights
    python -m experiments.bench_serving --model test --items 200 --seconds 1

requests    a whole /search (encode, search, response) on localhost by 1, 8 and 32 clients: p50, questions/s, against
            the bare tower's time for one text; batches of 1 against batches as they come
embedding   pictures/s from JPEGs by `fclip.embedding`, ONNX Runtime, sentence-transformers' `encode` and
            `transformers`, the same random CLIP

Each turn takes all ways one after the other; medians over turns are printed. Run it when nothing else does. The peers
multiply as PyTorch does by itself; freed memory is kept for all.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.client import HTTPConnection
from pathlib import Path
from statistics import median
from typing import Annotated, Any
from urllib.parse import urlsplit

import numpy as np
import typer

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
TINY = {"embed_dim": 32, "vision_cfg": {"image_size": 64, "layers": 2, "width": 64, "head_width": 32, "patch_size": 16}}
SMALL_TEXT = {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2}
ARCHITECTURES: dict[str, dict[str, Any]] = {"test": {**TINY, "text_cfg": SMALL_TEXT, "quick_gelu": True}}
WORDS = ("red", "blue", "green", "long", "short", "summer", "dress", "shirt", "skirt", "coat", "floral", "plain")


@app.command()
def main(
    model: Annotated[str, typer.Option(help="An open_clip architecture (a ViT), or test.")] = "ViT-B-32-quickgelu",
    items: Annotated[int, typer.Option(help="Products in the index.")] = 2000,
    seconds: Annotated[float, typer.Option(help="Of each measurement.")] = 5.0,
    turns: Annotated[int, typer.Option(help="Times everything is measured.")] = 3,
    pictures: Annotated[int, typer.Option(help="That are embedded in each turn.")] = 128,
    encoder: Annotated[str, typer.Option(help="torch, onnx or auto.")] = "auto",
) -> None:
    """Measure serving and embedding."""
    from fclip.machine import tune_cpu

    tune_cpu()
    made = make_model(model)
    with tempfile.TemporaryDirectory() as folder:
        show("requests", requests(made, Path(folder), items, seconds, turns, encoder))
        show("embedding", embedding(made, Path(folder), pictures, turns))


def make_model(name: str) -> Any:
    """A CLIP of random weights, with a tokenizer that needs no download."""
    import open_clip
    import torch

    from fclip.captions import captions_for
    from fclip.model import Model, ModelCard, Preprocess, instantiate
    from fclip.tokenizer import ClipTokenizer

    architecture = ARCHITECTURES.get(name) or open_clip.get_model_config(name)
    torch.manual_seed(0)
    size = architecture["vision_cfg"]["image_size"]
    card = ModelCard(name, architecture, Preprocess(size=(size, size)), captions_for(["category"]))
    return Model(instantiate(architecture), card, ClipTokenizer(architecture["text_cfg"]["context_length"])).eval()


def requests(model: Any, folder: Path, items: int, seconds: float, turns: int, encoder: str) -> dict[str, list[float]]:
    """Name → a value for each turn."""
    from fclip.catalogue.drawn import draw_catalogue
    from fclip.index import build_index
    from fclip.recommend import Recommender
    from fclip.serving.app import create_app
    from fclip.serving.encoders import choose_encoder
    from fclip.serving.settings import Settings

    index = build_index(folder / "index", model, draw_catalogue(items=items, views=1, size_px=64))
    settings = Settings(encoder=encoder, rate_per_minute=0)
    chosen = choose_encoder(model, settings, index)
    recommender = Recommender(index, chosen)
    apps = {
        "batching": create_app(recommender, settings),
        "one by one": create_app(recommender, replace(settings, max_batch=1, batch_wait_ms=0)),
    }
    found: dict[str, list[float]] = {}
    with contextlib.ExitStack() as stack:
        urls = {name: stack.enter_context(served(app)) for name, app in apps.items()}
        for _ in range(turns):
            tower = usual(lambda: chosen.embed_texts([text_of(0)]), seconds)
            note(found, "bare tower, ms", 1000 * tower)
            for clients in (1, 8, 32):
                for name, url in urls.items():
                    p50, rate = asked(url, clients, seconds)
                    note(found, f"{clients} clients, {name}: p50 ms", 1000 * p50)
                    note(found, f"{clients} clients, {name}: questions/s", rate)
                    if clients == 1 and name == "batching":
                        note(found, "1 client: p50 / bare tower (goal 1.25 or less)", p50 / tower)
            rates = [found[f"32 clients, {name}: questions/s"][-1] for name in apps]
            note(found, "32 clients: batching / one by one (goal 2 or more)", rates[0] / rates[1])
    return found


def embedding(model: Any, folder: Path, number: int, turns: int) -> dict[str, list[float]]:
    """Name → pictures/s for each turn."""
    files = [picture_file(i) for i in range(number)]
    ways = {name: made for name, make in WAYS.items() if (made := make(model, folder)) is not None}
    found: dict[str, list[float]] = {}
    for way in ways.values():
        way(files[:8])
    for _ in range(turns):
        for name, way in ways.items():
            began = time.perf_counter()
            vectors = way(files)
            note(found, f"{name}: pictures/s", number / (time.perf_counter() - began))
            assert len(vectors) == number
        peer = "sentence-transformers" if "sentence-transformers" in ways else "transformers"
        for ours in ("fclip", "fclip, ONNX Runtime"):
            if ours in ways:
                rates = [found[f"{name}: pictures/s"][-1] for name in (ours, peer)]
                note(found, f"{ours} / {peer} (goal 1.5 or more)", rates[0] / rates[1])
    return found


def by_fclip(model: Any, folder: Path) -> Callable[[list[bytes]], np.ndarray]:
    from fclip.serving.encoders import torch_encoder

    return in_batches(torch_encoder(model))


def by_onnx(model: Any, folder: Path) -> Callable[[list[bytes]], np.ndarray] | None:
    from fclip.errors import UserError
    from fclip.serving.encoders import choose_encoder
    from fclip.serving.settings import Settings

    try:
        return in_batches(choose_encoder(model, Settings(encoder="onnx")))
    except UserError as error:
        print(f"no ONNX Runtime: {error}")
        return None


def in_batches(encoder: Any, size: int = 32) -> Callable[[list[bytes]], np.ndarray]:
    """An encoder of a server, fed as an index is built."""

    def embed(files: list[bytes]) -> np.ndarray:
        cells = [{"bytes": data, "path": None} for data in files]
        return np.concatenate([encoder.embed_pictures(cells[i : i + size]) for i in range(0, len(cells), size)])

    return embed


def by_sentence_transformers(model: Any, folder: Path) -> Callable[[list[bytes]], Any] | None:
    """The same weights, exported as a `transformers` folder, in sentence-transformers' own CLIP module."""
    from PIL import Image

    from fclip.machine import products_as_pytorch_has_them

    exported = transformers_folder(model, folder)
    try:
        from sentence_transformers import SentenceTransformer
        from sentence_transformers.sentence_transformer.modules import CLIPModel

        peer = SentenceTransformer(modules=[CLIPModel(str(exported))], device="cpu")
        peer.encode([Image.new("RGB", (64, 64))])
    except Exception as error:  # its modules move between releases
        print(f"no sentence-transformers: {type(error).__name__}: {str(error)[:200]}")
        return None

    def embed(files: list[bytes]) -> Any:
        with products_as_pytorch_has_them():
            return peer.encode([Image.open(io.BytesIO(data)).convert("RGB") for data in files], batch_size=32)

    return embed


def by_transformers(model: Any, folder: Path) -> Callable[[list[bytes]], Any]:
    import torch
    from PIL import Image
    from transformers import CLIPImageProcessor
    from transformers import CLIPModel as Peer

    from fclip.machine import products_as_pytorch_has_them

    exported = str(transformers_folder(model, folder))
    peer, processor = Peer.from_pretrained(exported).eval(), CLIPImageProcessor.from_pretrained(exported)

    @torch.inference_mode()
    @products_as_pytorch_has_them()
    def embed(files: list[bytes]) -> Any:
        opened = [Image.open(io.BytesIO(data)).convert("RGB") for data in files]
        parts = []
        for i in range(0, len(opened), 32):
            pixels = processor(opened[i : i + 32], return_tensors="pt")["pixel_values"]
            parts.append(peer.visual_projection(peer.vision_model(pixel_values=pixels).pooler_output).numpy())
        return np.concatenate(parts)

    return embed


WAYS: dict[str, Callable[[Any, Path], Callable[[list[bytes]], Any] | None]] = {
    "fclip": by_fclip,
    "fclip, ONNX Runtime": by_onnx,
    "sentence-transformers": by_sentence_transformers,
    "transformers": by_transformers,
}


def transformers_folder(model: Any, folder: Path) -> Path:
    from fclip.checkpoint import save_checkpoint
    from fclip.export import export

    out = folder / "transformers"
    if not out.exists():
        save_checkpoint(model, folder / "checkpoint")
        export(folder / "checkpoint", "transformers", out)
    return out


def picture_file(seed: int, size: tuple[int, int] = (600, 800)) -> bytes:
    """A JPEG as catalogues have them."""
    from PIL import Image

    coarse = np.random.default_rng(seed).integers(0, 256, (12, 9, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(coarse).resize(size).save(stream, "JPEG", quality=88)
    return stream.getvalue()


def text_of(number: int) -> str:
    """Different words each time, so that nothing could be remembered."""
    rng = np.random.default_rng(number)
    return " ".join(rng.choice(WORDS, 5)) + f" {number}"


@contextlib.contextmanager
def served(application: Any) -> Iterator[str]:
    """uvicorn on localhost, in a thread of this process; as `fclip serve` runs it."""
    import uvicorn

    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(application, log_config=None, access_log=False))
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


def asked(url: str, clients: int, seconds: float) -> tuple[float, float]:
    """Median seconds of a question, and questions/s, of clients that ask again as soon as they are answered.

    The clients are a process of their own: in this one they would wait for the server's interpreter lock.
    """
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        times, took = pool.submit(_clients, url, clients, seconds).result()
    return median(times), len(times) / took


def _clients(url: str, clients: int, seconds: float) -> tuple[list[float], float]:
    from concurrent.futures import ThreadPoolExecutor

    times: list[float] = []

    def ask(number: int, at_least: float) -> None:
        address = urlsplit(url)
        connection = HTTPConnection(address.hostname or "", address.port, timeout=60)
        end, count = time.perf_counter() + at_least, 0
        while time.perf_counter() < end or count < 2:
            question = json.dumps({"texts": [text_of(number * 100_000 + count)], "k": 12})
            began = time.perf_counter()
            connection.request("POST", "/search", question, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            assert answer.status == 200, answer.read()
            answer.read()
            times.append(time.perf_counter() - began)
            count += 1

    ask(10_000, 0.2)  # caches
    times.clear()
    began = time.perf_counter()
    with ThreadPoolExecutor(clients) as threads:
        for each in [threads.submit(ask, number, seconds) for number in range(clients)]:
            each.result()
    return times, time.perf_counter() - began


def usual(do: Callable[[], Any], seconds: float) -> float:
    """The median time of a call."""
    do()
    found, end = [], time.perf_counter() + seconds
    while time.perf_counter() < end or len(found) < 5:
        began = time.perf_counter()
        do()
        found.append(time.perf_counter() - began)
    return median(found)


def note(found: dict[str, list[float]], name: str, value: float) -> None:
    found.setdefault(name, []).append(value)


def show(title: str, found: dict[str, list[float]]) -> None:
    print(f"\n{title}, {os.cpu_count()} cores; median of {len(next(iter(found.values())))} turns")
    for name, values in found.items():
        print(f"  {name:55} {median(values):9.2f}")


if __name__ == "__main__":
    app()
