"""The data pipeline: images per second against torchvision's, and what a sample costs as the catalogue grows.

    race_pipelines(folder, size_px=1024, images=200, repeats=5)    # ours ÷ ImageFolder + PIL + CLIP's transform
    cost_by_size([1000, 100_000], steps=20, repeats=3)             # seconds per sample of a whole training step

One process decodes for each, on one thread, so the figures are per core.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

from experiments.bench_steps import by_turns, make_model, make_run, median_ratio
from fclip.batches import TrainingPictures, training_batches
from fclip.captions import captions_for
from fclip.catalogue.schema import features
from fclip.config import DataConfig
from fclip.device_augmentation import augment_batch, stacked
from fclip.training import on_device

if TYPE_CHECKING:
    from datasets import Dataset

    from fclip.model import Model

INPUT_PX = 224  # of the tower, as CLIP's
GROUPS = ("category", "colour", "pattern", "fabric", "sleeve")
VALUES = 8  # per group: 32,768 captions
NOISE = 6  # grey levels: without it a drawing decodes faster than a photograph


def write_photographs(folder: Path, number: int, size_px: int) -> Path:
    """Drawn garments with a camera's noise, as JPEGs in the one class of an `ImageFolder`."""
    from fclip.catalogue.drawn import draw_catalogue
    from fclip.images import decode

    rng = np.random.default_rng(0)
    inside = folder / f"{size_px}px" / "garments"
    inside.mkdir(parents=True, exist_ok=True)
    for row in draw_catalogue(items=number, views=1, size_px=size_px):
        pixels = np.asarray(decode(row["image"]), dtype=np.float32)
        noisy = np.clip(pixels + rng.normal(0, NOISE, pixels.shape), 0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(inside / f"{row['id']}.jpg", quality=90)
    return inside.parent


def race_pipelines(folder: Path, size_px: int, images: int, repeats: int) -> dict[str, float]:
    """Images per second and core of both, on the same files in turns, up to normalised float32.

    Besides those of ours with `data.augment_on: device`: of the loader (`device_loader`), and of the device alone
    (`device_only`), which is the GPU where there is one.
    """
    from torchvision.datasets import ImageFolder

    from experiments.bench_peer import peer_transform

    root = write_photographs(folder, images, size_px)
    model = make_model("timm:test_resnet", (INPUT_PX, INPUT_PX))
    theirs = ImageFolder(str(root), transform=peer_transform(model))
    ours = our_pictures(root, model)

    def their_turn() -> None:
        for index in range(images):
            theirs[index]

    def our_turn() -> None:
        samples = [ours[index]["pixels"] for index in range(images)]
        for first in range(0, images, 64):  # as the step does it, on the device
            model.preprocess.normalise(torch.stack(samples[first : first + 64]))

    torch.set_num_threads(1)
    our_turn()
    turns = {"ours": our_turn, "torchvision": their_turn}
    seconds = by_turns(turns | _device_turns(root, model, images), repeats)
    rates = {who: images / float(np.median(times)) for who, times in seconds.items()}
    return rates | {"ratio": median_ratio(seconds["torchvision"], seconds["ours"])}


def _device_turns(root: Path, model: Model, images: int) -> dict[str, Callable[[], object]]:
    """What the loader does when the device augments, and what the device does, each for all images."""
    data = DataConfig(augment_on="device")
    pictures, device = our_pictures(root, model, data), "cuda" if torch.cuda.is_available() else "cpu"

    def load() -> list[dict[str, Any]]:
        return [
            stacked([pictures[index] for index in range(first, min(first + 64, images))])
            for first in range(0, images, 64)
        ]

    there = [{k: v if k == "size" else v.to(device) for k, v in batch.items()} for batch in load()]

    def vary() -> None:
        for batch in there:
            last = model.preprocess.normalise(augment_batch(batch, data)["pixels"])
        last[0, 0, 0, 0].item()  # a GPU is done only now

    vary()
    return {"device_loader": load, "device_only": vary}


def our_pictures(root: Path, model: Model, data: DataConfig | None = None) -> TrainingPictures:
    """Our training pictures of an image folder, augmented by default as in our presets."""
    from datasets import Dataset

    files = sorted(root.rglob("*.jpg"))
    rows = [_row(number, {"path": str(file), "bytes": None}) for number, file in enumerate(files)]
    catalogue = Dataset.from_list(rows, features=features(GROUPS))
    return TrainingPictures(catalogue, captions_for(GROUPS), model.preprocess, data or DataConfig(), seed=0)


def cost_by_size(sizes: Sequence[int], steps: int, repeats: int, batch_size: int = 64) -> dict[int, dict[str, float]]:
    """What a catalogue of each size costs: to open, and per sample of training (data and step, no workers).

    The sizes take turns; the tower is tiny, so that what grows with the catalogue would show.
    """
    model, found, turns = make_model("timm:test_resnet", (64, 64)), {}, {}
    run = make_run(model, batch_size, bf16=False)
    for size in sizes:
        catalogue = large_catalogue(size)
        start = time.perf_counter()
        pictures = TrainingPictures(catalogue, captions_for(GROUPS), model.preprocess, DataConfig(), seed=0, epochs=999)
        found[size] = {"open_seconds": time.perf_counter() - start}
        turns[size] = _training_turn(run, pictures, steps)
    for size, times in by_turns({str(size): turn for size, turn in turns.items()}, repeats + 1).items():
        found[int(size)]["ms_per_sample"] = 1000 * float(np.median(times[1:])) / (steps * batch_size)
    return found


def _training_turn(run: Any, pictures: TrainingPictures, steps: int) -> Callable[[], None]:
    """Goes on through the epoch from turn to turn, as a run does."""
    from fclip.order import BatchOrder

    order = BatchOrder(len(pictures), run.preset.batch_size, epochs=999, seed=0)
    loader = on_device(run, training_batches(pictures, run.model.tokenizer, order, workers=0))

    def turn() -> None:
        losses = [run.take_step(batch, order.steps)["loss"] for batch in islice(loader, steps)]
        torch.stack(losses).mean().item()

    return turn


def large_catalogue(size: int) -> Dataset:
    """A catalogue of small JPEGs, thirty-two different ones, with random attributes."""
    from datasets import Dataset

    rng = np.random.default_rng(0)
    pictures = [_jpeg(rng) for _ in range(32)]

    def rows() -> Iterator[dict[str, Any]]:
        for number in range(size):
            codes = rng.integers(VALUES, size=len(GROUPS))
            attributes = {group: f"{group} {code}" for group, code in zip(GROUPS, codes, strict=True)}
            yield _row(number, {"path": None, "bytes": pictures[number % len(pictures)]}, attributes)

    columns: dict[str, list[Any]] = {}
    for row in rows():
        for name, value in row.items():
            columns.setdefault(name, []).append(value)
    return Dataset.from_dict(columns, features=features(GROUPS))


def _row(number: int, image: dict[str, Any], attributes: dict[str, str] | None = None) -> dict[str, Any]:
    attributes = attributes or {group: f"{group} {number % VALUES}" for group in GROUPS}
    return {"id": str(number), "item": str(number), "image": image, "split": "train", "attributes": attributes}


def _jpeg(rng: np.random.Generator) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(rng.integers(256, size=(64, 64, 3), dtype=np.uint8)).save(stream, "JPEG")
    return stream.getvalue()
