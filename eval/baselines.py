"""What a model must beat: chance, the most frequent answer, 16x16 pixels, and a colour histogram.

    chance         a candidate caption drawn uniformly; its expected score, exact, not simulated
    most frequent  one caption for everything: the commonest of the train split
    pixels         the picture that is nearest in 16x16 RGB by L2: its caption, its attributes, or itself
    histogram      the same with the shares of 8x8x8 colours, by Bhattacharyya's coefficient Σ √(p q)

In surfacing neither of the last two chooses among the candidates: where the caption of a train picture is no
candidate, text SFA counts it as wrong. Equally near train pictures: the first. Equally frequent captions: the first
met. Cosine similarity does not apply to them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from eval.labels import Labels
from eval.metrics.surfacing import UNKNOWN, Ints

if TYPE_CHECKING:
    from datasets import Dataset
    from PIL.Image import Image

SIDE_PX = 16
HISTOGRAM_PX = 64  # JPEGs are decoded no larger than needed
BINS = 8**3
SCALE = 2.0**12  # about the length of a picture, 128 √768


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

    pixels, read = [], []
    for place, picture in _decoded(catalogue, rows, SIDE_PX):
        pixels.append(np.asarray(picture.resize((SIDE_PX, SIDE_PX), Resampling.BOX)).ravel())
        read.append(place)
    return np.array(pixels, np.uint8).reshape(len(read), 3 * SIDE_PX**2), np.array(read, np.int64)


def colour_histograms(catalogue: Dataset, rows: Ints) -> tuple[NDArray[np.float32], Ints]:
    """Pictures as square roots of the shares of their 8x8x8 colours: unit vectors, their cosine is Bhattacharyya's.

    Returns: (n, 512) and, of the given rows, the places (n,) of those that could be read.
    """
    shares, read = [], []
    for place, picture in _decoded(catalogue, rows, HISTOGRAM_PX):
        red, green, blue = (np.asarray(picture).reshape(-1, 3) >> 5).T.astype(np.int64)
        count = np.bincount(64 * red + 8 * green + blue, minlength=BINS)
        shares.append(np.sqrt(count / count.sum()).astype(np.float32))
        read.append(place)
    return np.array(shares, np.float32).reshape(len(read), BINS), np.array(read, np.int64)


def _decoded(catalogue: Dataset, rows: Ints, size_px: int) -> Iterator[tuple[int, Image]]:
    """The place among the rows and the picture, of those that can be read; not smaller than `size_px` if it was not."""
    from fclip.images import UnreadableImageError, decode

    cells = catalogue.select_columns(["image"]).select([int(row) for row in rows])
    for place, cell in enumerate(cells):
        try:
            yield place, decode(cell["image"], size_px=size_px)
        except UnreadableImageError:
            continue


def by_distance(pixels: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Pictures (N, P) as queries and as gallery, each (N, P + 2): their cosine orders a gallery by L2.

    Nearest first is q·g - |g|²/2 from the largest on, which is (q, 1, 0)·(g, -|g|²/2, h). With h all of the gallery is
    of one length, so that dividing by it changes nothing. Scaled by a power of two to lengths of about 1, which changes
    no digit: ties of 1e-6 are then pictures that differ by a quarter of a level.
    """
    centred = (_centred(pixels) / SCALE).astype(np.float32)
    half = (centred * centred).sum(1, keepdims=True) / 2
    square = (centred.astype(np.float64) ** 2).sum(1, keepdims=True) + half.astype(np.float64) ** 2
    lift = np.sqrt(square.max(initial=0) + 1 - square).astype(np.float32)
    ones, zeros = np.ones_like(half), np.zeros_like(half)
    return np.hstack([centred, ones, zeros]), np.hstack([centred, -half, lift])


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
