"""Embeddings of a catalogue's pictures and of texts, in batches.

images = embed_catalogue(load_checkpoint("runs/demo/best"), open_catalogue("garments.csv"), progress=True)
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from fclip.errors import UserError
from fclip.images import Source, UnreadableImageError, decode
from fclip.model import Model, Preprocess

if TYPE_CHECKING:
    from datasets import Dataset


@dataclass(frozen=True)
class ImageEmbeddings:
    """Embeddings of the pictures that could be read.

    Attributes:
        vectors: unit vectors (N, D), float32.
        rows: the catalogue's row of each (N,).
        skipped: (id, reason) of every picture that could not be read.
        also: what else was asked for of each (N); see `embed_batches`.
    """

    vectors: np.ndarray
    rows: np.ndarray
    skipped: list[tuple[str, str]]
    also: list[Any] = field(default_factory=list)


Also = Callable[[Mapping[str, Any]], Any]
"""What is made of a picture's cell besides its vector, by the process that decodes it."""


class _Pictures(torch.utils.data.Dataset):
    def __init__(self, catalogue: Dataset, preprocess: Preprocess, also: Also | None = None) -> None:
        self._images, self._preprocess = catalogue.select_columns(["id", "image"]), preprocess
        self._also = also

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, row: int) -> tuple[int, Any, Any, str]:
        cell = self._images[row]
        try:
            pixels = self._preprocess(decode(cell["image"], self._preprocess.shorter_px))
            return row, pixels, self._also and self._also(cell["image"]), ""
        except UnreadableImageError as error:
            return row, None, None, f"{cell['id']}\n{error}"


def embed_batches(
    model: Model,
    catalogue: Dataset,
    batch_size: int = 64,
    progress: bool = False,
    workers: int = 0,
    batches: Sequence[Sequence[int]] | None = None,
    also: Also | None = None,
) -> Iterator[ImageEmbeddings]:
    """Embeds a catalogue batch by batch, so that a large one is never held in memory.

    Args:
        model: on its device.
        catalogue: the pictures.
        batch_size: pictures embedded at once.
        progress: show a progress bar.
        workers: processes that decode; 0: this one.
        batches: the rows of each batch, in place of all rows in their order.
        also: made of each picture besides, where it is decoded.
    """
    pictures = _Pictures(catalogue, model.preprocess, also)
    cut: dict[str, Any] = {"batch_size": batch_size} if batches is None else {"batch_sampler": batches}
    start = "forkserver" if workers and "lancedb" in sys.modules else None  # a fork of its threads may hang
    loader = DataLoader(pictures, num_workers=workers, collate_fn=list, multiprocessing_context=start, **cut)
    total = len(pictures) if batches is None else sum(map(len, batches))
    model.eval()
    with tqdm(total=total, desc="embedding", unit="img", disable=not progress) as bar:
        for samples in loader:
            good = [sample[:3] for sample in samples if not sample[3]]
            bad = [problem.split("\n", 1) for *_, problem in samples if problem]
            vectors = _encode(model, [pixels for _, pixels, _ in good]) if good else np.empty((0, 0), np.float32)
            bar.update(len(samples))
            rows = np.array([row for row, *_ in good], dtype=int)
            yield ImageEmbeddings(vectors, rows, [(i, p) for i, p in bad], [made for *_, made in good])


def dimension(model: Model) -> int:
    """The length of a picture's vector."""
    return _encode(model, [torch.zeros(3, *model.preprocess.size, dtype=torch.uint8)]).shape[1]


@torch.inference_mode()
def _encode(model: Model, pixels: list[torch.Tensor]) -> np.ndarray:
    batch = model.preprocess.normalise(torch.stack(pixels).to(model.device))
    return model.encode_image(batch).cpu().numpy()


def embed_catalogue(
    model: Model, catalogue: Dataset, batch_size: int = 64, progress: bool = False, workers: int = 0
) -> ImageEmbeddings:
    """Embeds all pictures of a catalogue; unreadable ones are left out and listed.

    Raises:
        UserError: not one picture could be read.
    """
    return collect(list(embed_batches(model, catalogue, batch_size, progress, workers)), len(catalogue))


def collect(parts: Sequence[ImageEmbeddings], total: int) -> ImageEmbeddings:
    """All parts of what `total` pictures gave as one.

    Raises:
        UserError: not one picture could be read.
    """
    skipped = [problem for part in parts for problem in part.skipped]
    filled = [part for part in parts if len(part.rows)]
    if not filled:
        first = skipped[0][1] if skipped else "the catalogue is empty"
        raise UserError(f"none of the {total} pictures can be read; the first: {first}")
    return ImageEmbeddings(
        np.concatenate([part.vectors for part in filled]), np.concatenate([part.rows for part in filled]), skipped
    )


@torch.inference_mode()
def embed_texts(model: Model, texts: Sequence[str], batch_size: int = 256) -> np.ndarray:
    """Texts → unit vectors (N, D), float32.

    Raises:
        UserError: an empty text, or a model without a text tower.
    """
    model.require_text()
    if any(not text.strip() for text in texts):
        raise UserError("expected words, got an empty text")
    model.eval()
    parts = [
        model.encode_text(model.cut(model.tokenizer(texts[i : i + batch_size])).to(model.device)).cpu().numpy()
        for i in range(0, len(texts), batch_size)
    ]
    return np.concatenate(parts) if parts else np.empty((0, 0), np.float32)


@torch.inference_mode()
def embed_pictures(model: Model, sources: Sequence[Source]) -> np.ndarray:
    """Pictures (paths or catalogue cells) → unit vectors (N, D), float32.

    Raises:
        UnreadableImageError: the first that cannot be read.
    """
    model.eval()
    return _encode(model, [model.preprocess(decode(source, model.preprocess.shorter_px)) for source in sources])
