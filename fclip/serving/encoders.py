"""Which program runs the towers of a server: ONNX Runtime on a CPU where that gives the same, else PyTorch.

    encoder = choose_encoder(open_model("runs/mine/best", []), Settings(), index)

The graphs are made once and kept in the user's cache folder by the model's fingerprint. At every start they are
compared with the model on pictures and texts: every cosine must reach .9999, or PyTorch serves. Weights of 8 bits
(`int8`) are used only where the index's own products stay each other's neighbours. What was chosen, and why, is logged.
"""

from __future__ import annotations

import logging
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from fclip.errors import UserError
from fclip.files import expand, new_folder
from fclip.images import Source, decode

if TYPE_CHECKING:
    from fclip.index import Index
    from fclip.model import Model
    from fclip.serving.settings import Settings

logger = logging.getLogger("fclip.serving")
LEAST_COSINE = 0.9999
LEAST_RECALL = 0.95
NEIGHBOURS = 10
PROBES = 32  # products of the index that the weights of 8 bits are measured on
TEXTS = ("a red dress", "women's v-shaped neckline, (long) SLEEVE & more!", "x", "checked shirt, " * 40)
WEIGHTS_OF_8_BITS = ("MatMul", "Gemm")  # those of convolutions make them slower on a CPU
VERSION = 1  # of the graphs; another is made anew


class TowerEncoder:
    """The towers run by `image` and `text`: pixels uint8 (B, 3, H, W) and tokens (B, L) → unit vectors (B, D).

    Attributes:
        fingerprint, tokenizer, preprocess: of the model.
        size_px: pictures may be reduced to this shorter side before they come here.
    """

    def __init__(self, model: Model, image: Callable[..., torch.Tensor], text: Callable[..., torch.Tensor]) -> None:
        self.fingerprint, self.tokenizer, self.preprocess = model.fingerprint, model.tokenizer, model.preprocess
        self.size_px = model.preprocess.shorter_px
        self._image, self._text = image, text

    @torch.inference_mode()
    def embed_texts(self, texts: list[str]) -> np.ndarray:
        """Unit vectors (N, D), float32."""
        return self._text(self.tokenizer(texts)).cpu().numpy()

    @torch.inference_mode()
    def embed_pictures(self, sources: list[Source]) -> np.ndarray:
        """Unit vectors (N, D), float32.

        Raises:
            UnreadableImageError: the first that cannot be read.
        """
        return self._image(torch.stack([self.preprocess(decode(s, self.size_px)) for s in sources])).cpu().numpy()


def torch_encoder(model: Model) -> TowerEncoder:
    """The model itself, where it is."""
    model.eval()
    return TowerEncoder(
        model,
        lambda pixels: model.encode_image(model.preprocess.normalise(pixels.to(model.device))),
        lambda tokens: model.encode_text(model.cut(tokens).to(model.device)),
    )


def choose_encoder(model: Model, settings: Settings, index: Index | None = None) -> TowerEncoder:
    """The encoder that a server uses.

    Args:
        model: opened.
        settings: `encoder` and `int8`.
        index: whose products decide on `int8`; None: there are none to ask.

    Raises:
        UserError: `encoder` is onnx, and it is not installed or does not become the same.
    """
    ours = torch_encoder(model)
    if settings.encoder == "torch" or (settings.encoder == "auto" and _why_not(model)):
        _say("torch", _why_not(model) if settings.encoder == "auto" else "as asked")
        return ours
    try:
        with graphs_folder(model) as folder:
            theirs = _onnx_encoder(model, folder, ours)
            if settings.int8:
                theirs = _with_int8(model, folder, theirs, index)
    except UserError as error:
        if settings.encoder == "onnx":
            raise
        _say("torch", str(error))
        return ours
    seconds = {name: _seconds(encoder) for name, encoder in (("onnx", theirs), ("torch", ours))}
    slower = settings.encoder == "auto" and not settings.int8 and seconds["onnx"] > 1.1 * seconds["torch"]
    chosen = "torch" if slower else "onnx"
    _say(chosen, "the faster here" if settings.encoder == "auto" else "as asked", **_in_ms(seconds))
    return ours if slower else theirs


def _why_not(model: Model) -> str:
    """What speaks against ONNX Runtime before it is tried; empty: nothing."""
    if model.device.type != "cpu":
        return "there is a GPU"
    if not model.reads_text:
        return "the model knows pictures only"
    missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if find_spec(name) is None]
    return f"{', '.join(missing)} not installed" if missing else ""


def _say(encoder: str, why: str, **fields: Any) -> None:
    logger.info("encoder", extra={"fields": {"encoder": encoder, "why": why, **fields}})


def _in_ms(seconds: dict[str, float]) -> dict[str, float]:
    return {f"{name}_ms": round(1000 * value, 1) for name, value in seconds.items()}


@contextmanager
def graphs_folder(model: Model) -> Iterator[Path]:
    """Where the graphs of a model are kept; of one without a fingerprint, or without a cache, a passing folder."""
    root = os.environ.get("FCLIP_CACHE", str(Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "fclip")))
    if root and model.fingerprint not in ("", "unsaved"):
        yield Path(expand(root)) / "onnx" / f"{model.fingerprint}-{VERSION}"
        return
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder) / "graphs"


def _onnx_encoder(model: Model, folder: Path, ours: TowerEncoder) -> TowerEncoder:
    """The graphs of a model, made where they are missing, and compared with it."""
    from fclip.export import quiet
    from fclip.export_onnx import load_graphs, require_onnx, write_graphs

    if not (folder / "text.onnx").is_file():
        require_onnx()
        with new_folder(folder, overwrite=True) as beside, quiet():
            write_graphs(model, beside)
    theirs = TowerEncoder(model, *load_graphs(folder, torch.get_num_threads()))
    cosine = least_cosine(theirs, ours)
    if not cosine >= LEAST_COSINE:  # nor NaN
        raise UserError(f"ONNX Runtime gives other embeddings of {model.name}: a cosine of {cosine:.5f}; use torch")
    return theirs


def least_cosine(a: TowerEncoder, b: TowerEncoder) -> float:
    """The least cosine between what two encoders make of the same pictures and texts, one alone and several."""
    pictures = [_noise(a.preprocess.size, seed) for seed in range(4)]
    found = []
    for number in (1, 4):
        pairs = (
            (a.embed_pictures(pictures[:number]), b.embed_pictures(pictures[:number])),
            (a.embed_texts(list(TEXTS[:number])), b.embed_texts(list(TEXTS[:number]))),
        )
        found += [float((left * right).sum(1).min()) for left, right in pairs]
    return min(found)


def _noise(size: tuple[int, int], seed: int) -> Any:
    """A picture of coarse and fine structure."""
    from PIL import Image

    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (4 + seed, 5, 3), dtype=np.uint8)).resize(size[::-1])
    fine = Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8))
    return Image.blend(coarse, fine, 0.25)


def _seconds(encoder: TowerEncoder) -> float:
    """The usual time of a lone text and a lone picture."""
    picture, found = _noise(encoder.preprocess.size, 0), []
    for _ in range(5):
        began = time.perf_counter()
        encoder.embed_texts([TEXTS[0]])
        encoder.embed_pictures([picture])
        found.append(time.perf_counter() - began)
    return float(np.median(found))


def _with_int8(model: Model, folder: Path, whole: TowerEncoder, index: Index | None) -> TowerEncoder:
    """The graphs with weights of 8 bits, or `whole` where they find other products."""
    from fclip.export import quiet
    from fclip.export_onnx import load_graphs

    small = folder.with_name(f"{folder.name}-int8")
    if not (small / "text.onnx").is_file():
        with new_folder(small, overwrite=True) as beside, quiet():
            quantise(folder, beside)
    encoder = TowerEncoder(model, *load_graphs(small, torch.get_num_threads()))
    recall = measured_recall(encoder, whole, model, index) if index is not None else 0.0
    seconds = {"int8": _seconds(encoder), "float": _seconds(whole)}
    kept = recall >= LEAST_RECALL
    fields = {"recall": round(recall, 4), "least": LEAST_RECALL, **_in_ms(seconds)}
    logger.info("int8 " + ("used" if kept else "not used"), extra={"fields": fields})
    return encoder if kept else whole


def quantise(folder: Path, out: Path) -> None:
    """Writes both graphs with the weights of matrix products in 8 bits; activations are scaled as they come."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    for kind in ("image", "text"):
        graph = onnx.load(folder / f"{kind}.onnx")
        del graph.graph.value_info[:]  # torch's notes of shapes, which onnxruntime would compare with its own
        quantize_dynamic(
            graph,
            out / f"{kind}.onnx",
            weight_type=QuantType.QInt8,
            per_channel=True,
            op_types_to_quantize=list(WEIGHTS_OF_8_BITS),
        )


def measured_recall(encoder: TowerEncoder, reference: TowerEncoder, model: Model, index: Index) -> float:
    """Of the nearest products by the reference, how many are nearest by the encoder too.

    Asked with the pictures of some products of the index and their captions; neighbours are those in the index's
    sample. The lower of the recall of pictures and of captions.
    """
    rows = np.linspace(0, len(index.sample) - 1, min(PROBES, len(index.sample))).astype(int)
    ids = list(dict.fromkeys(index.candidates(index.sample[row], 1).ids[0] for row in rows))
    found = index.read(ids)
    pictures: Sequence[Any] = [{"bytes": answer.thumbnail, "path": None} for answer in found]
    captions = [model.captions.render(answer.attributes) for answer in found]
    return min(
        recall(encoder.embed_pictures(list(pictures)), reference.embed_pictures(list(pictures)), index.sample),
        recall(encoder.embed_texts(captions), reference.embed_texts(captions), index.sample),
    )


def recall(vectors: np.ndarray, reference: np.ndarray, sample: np.ndarray, k: int = NEIGHBOURS) -> float:
    """Recall@k of vectors (N, D) against a reference (N, D) among a sample (M, D)."""
    k = min(k, max(1, len(sample) // 2))
    ours, theirs = (np.argpartition(-(v @ sample.T), k - 1, axis=1)[:, :k] for v in (vectors, reference))
    return float(np.mean([len(np.intersect1d(a, b)) / k for a, b in zip(ours, theirs, strict=True)]))
