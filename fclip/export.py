"""Weights out without loss: a model as `transformers`, open_clip and ONNX Runtime load it.

    fclip export runs/mine/best --to transformers --out mine-for-transformers

transformers   CLIPModel, CLIPProcessor and AutoTokenizer `.from_pretrained(FOLDER)`; only what is a CLIP ViT there
open_clip      create_model_and_transforms and get_tokenizer of "local-dir:FOLDER"; all but spatial transformers
onnx           image.onnx and text.onnx (`fclip.export_onnx`); everything

What was written is loaded by that library and compared with fclip; if its embeddings differ, nothing is left. Outside
of the weights small differences remain: open_clip repairs HTML entities and wrong encodings in texts, as fclip's "clip"
tokenizer does, and `transformers` does not; its image processor resizes with torchvision, unless asked for
backend="pil", and crops up to a pixel beside.
"""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import asdict
from io import StringIO
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

import fclip
from fclip.errors import UserError, nearest
from fclip.export_folders import Towers, to_open_clip, to_transformers
from fclip.export_onnx import describe_graphs, load_graphs, require_onnx, write_graphs
from fclip.export_tokenizer import cleaning, write_tokenizer
from fclip.files import new_folder, write_json
from fclip.model import Model
from fclip.pretrained import open_model

ABOUT_FILE = "fclip.json"
TOLERANCE = 1e-4
"""Of a component of a unit vector, for sums in another order; 4e-6 is usual for a ViT-B/32."""
TEXTS = ("A red dress", "women's v-shaped neckline, (long) SLEEVE & more!", "garment with checked pattern, " * 40)


def export(checkpoint: str | Path, to: str, out: str | Path, overwrite: bool = False) -> dict[str, float]:
    """Writes a model in the form of another library.

    Args:
        checkpoint: the folder of an fclip checkpoint, or anything else that `open_model` knows.
        to: transformers, open_clip or onnx.
        out: the folder to write, whole or not at all.
        overwrite: replace an earlier export.

    Returns: the largest difference of a component from fclip's, of `image` and of `text` embeddings.

    Raises:
        UserError: an unknown form, a model that the other library does not have, a model without a text tower, or a
            folder that is in the way.
    """
    if to not in FORMS:
        raise UserError(f"expected another form for --to, got {to!r}; {nearest(to, FORMS)}")
    if overwrite and not _may_be_replaced(Path(out)):
        raise UserError(f"{out} is no export of fclip, so it is not overwritten; choose another name")
    if to == "onnx":
        require_onnx()
    model = open_model(checkpoint, [])
    model.require_text()
    with new_folder(out, overwrite) as folder:
        with quiet():
            differences = _differences(model, FORMS[to](model, folder))
        if not all(difference < TOLERANCE for difference in differences.values()):  # nor are they NaN
            off = ", ".join(f"{name} {difference:.1g}" for name, difference in differences.items())
            other = " or ".join(f"--to {form}" for form in FORMS if form != to)
            raise UserError(f"expected {to} to give fclip's embeddings within {TOLERANCE}, got {off}; try {other}")
        write_json(folder / ABOUT_FILE, _about(model, to, folder, differences))
    return differences


def _may_be_replaced(folder: Path) -> bool:
    return not folder.is_dir() or (folder / ABOUT_FILE).is_file() or not any(folder.iterdir())


@contextmanager
def quiet() -> Iterator[None]:
    """Keeps progress bars, notes and warnings of the other libraries off the terminal."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


@torch.inference_mode()
def _differences(model: Model, towers: Towers) -> dict[str, float]:
    """On one picture and text, and on three: a graph may have kept the number that it was made with."""
    found = {"image": 0.0, "text": 0.0}
    generator = torch.Generator().manual_seed(0)
    for number in (1, 3):
        pixels = torch.randint(256, (number, 3, *model.preprocess.size), dtype=torch.uint8, generator=generator)
        ours = (
            model.encode_image(model.preprocess.normalise(pixels)),
            model.encode_text(model.tokenizer(TEXTS[:number])),
        )
        theirs = towers[0](pixels), towers[1](TEXTS[:number])
        for name, expected, vectors in zip(found, ours, theirs, strict=True):
            off = (F.normalize(vectors, dim=-1) - expected).abs().max().item()
            found[name] = off if math.isnan(off) else max(found[name], off)
    return found


def _about(model: Model, to: str, folder: Path, differences: dict[str, float]) -> dict[str, Any]:
    """Where an export comes from, and what a user of the bare graphs needs; `logit_scale` is what cosines are times."""
    bias = getattr(model.clip, "logit_bias", None)
    return {
        "fclip": fclip.__version__,
        "to": to,
        "name": model.name,
        "fingerprint": model.fingerprint,
        "preprocess": asdict(model.preprocess),
        "context_length": model.tokenizer.context_length,
        "tokenizer": {"kind": model.tokenizer.kind, **cleaning(folder)},
        "logit_scale": model.clip.logit_scale.exp().item(),
        "logit_bias": None if bias is None else bias.item(),
        "differences": differences,
        **(describe_graphs(model) if to == "onnx" else {}),
    }


def _to_onnx(model: Model, folder: Path) -> Towers:
    write_tokenizer(model.tokenizer, folder)
    write_graphs(model, folder)
    image, text = load_graphs(folder)
    return image, lambda texts: text(model.tokenizer(list(texts)))


FORMS: dict[str, Callable[[Model, Path], Towers]] = {
    "transformers": to_transformers,
    "open_clip": to_open_clip,
    "onnx": _to_onnx,
}
