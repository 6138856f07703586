"""What a model must beat: chance, the most frequent caption, and 16x16 pixels.

    chance         a candidate caption drawn uniformly; its expected score, exact, not simulated
    most frequent  one caption for everything: the commonest of the train split
    pixels         the caption of the train picture that is nearest in 16x16 RGB by L2

Neither of the last two chooses among the candidates: where the caption of a train picture is no candidate, text SFA
counts it as wrong. Equally near train pictures: the first. Equally frequent captions: the first met.
Run by `python -m eval surfacing`; cosine similarity does not apply to them.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from eval.labels import Labels
from eval.metrics.surfacing import UNKNOWN, Ints

if TYPE_CHECKING:
    from datasets import Dataset

SIDE_PX = 16


@dataclass(frozen=True)
class Prediction:
    """How far N pictures are answered rightly: 0 or 1, or an expectation between them."""

    correct: NDArray[Any]  # (N,) the own caption
    hits: NDArray[Any]  # (N, G) the known attribute, 0 where unknown


def chance(codes: Ints, caption_codes: Ints) -> Prediction:
    """The expectation over a candidate drawn uniformly.

    Args:
        codes: (N, G) of the pictures, -1 = unknown.
        caption_codes: (M, G) of the candidates.
    """
    n, m = len(codes), max(len(caption_codes), 1)
    hits = np.zeros(codes.shape)
    for group in range(codes.shape[1]):
        stated, mine = caption_codes[:, group], codes[:, group]
        size = 1 + max(stated.max(initial=0), mine.max(initial=0))
        count = np.bincount(stated[stated != UNKNOWN], minlength=size)
        hits[:, group] = np.where(mine != UNKNOWN, count[mine], 0) / m
    return Prediction(np.full(n, 1 / m), hits)


def answered_with(labels: Labels, examples: Labels, chosen: Ints) -> Prediction:
    """Scores pictures that are answered with examples: picture i with the caption and attributes of `chosen[i]`.

    Args:
        labels: N pictures.
        examples: the pictures that answers are taken from, coded with the same codebook.
        chosen: (N,) places in `examples`.
    """
    same = [text == examples.texts[i] for text, i in zip(labels.texts, chosen, strict=True)]
    hits = (labels.codes != UNKNOWN) & (labels.codes == examples.codes[chosen])
    return Prediction(np.array(same, np.float64), hits.astype(np.float64))


def most_frequent(examples: Labels) -> int:
    """The place in `examples` of a picture with the commonest caption."""
    return examples.texts.index(Counter(examples.texts).most_common(1)[0][0])


def thumbnails(catalogue: Dataset, rows: Ints) -> tuple[NDArray[np.uint8], Ints]:
    """Pictures as 16x16 RGB.

    Returns: (n, 768) and, of the given rows, the places (n,) of those that could be read.
    """
    from PIL.Image import Resampling

    from fclip.images import UnreadableImageError, decode

    pixels, read = [], []
    cells = catalogue.select_columns(["image"]).select([int(row) for row in rows])
    for place, cell in enumerate(cells):
        try:
            picture = decode(cell["image"], size_px=SIDE_PX)
        except UnreadableImageError:
            continue
        pixels.append(np.asarray(picture.resize((SIDE_PX, SIDE_PX), Resampling.BOX)).ravel())
        read.append(place)
    return np.array(pixels, np.uint8).reshape(len(read), 3 * SIDE_PX**2), np.array(read, np.int64)


def nearest_pixels(queries: NDArray[np.uint8], gallery: NDArray[np.uint8], step: int = 2048) -> Ints:
    """The nearest gallery picture of each query by L2, in blocks of `step` x `step`; the first of equally near ones.

    Argmin |q - g|² = argmax q·g - |g|²/2. Around 128 every sum stays below 2^24, so float32 is exact for near pictures.

    Args:
        queries: (N, P); gallery: (T, P), T > 0.

    Returns: (N,) places in the gallery.
    """
    nearest, best = np.zeros(len(queries), np.int64), np.full(len(queries), -np.inf, np.float32)
    for start in range(0, len(gallery), step):
        block = _centred(gallery[start : start + step])
        half_norm = (block * block).sum(1) / 2
        for first in range(0, len(queries), step):
            part = slice(first, first + step)
            scores = _centred(queries[part]) @ block.T - half_norm
            top = scores.max(1, initial=-np.inf)
            better = top > best[part]
            nearest[part] = np.where(better, start + scores.argmax(1), nearest[part])
            best[part] = np.maximum(top, best[part])
    return nearest


def _centred(pixels: NDArray[Any]) -> NDArray[np.float32]:
    return pixels.astype(np.float32) - 128
