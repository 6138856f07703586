"""Pairs of nearly equal pictures among very many: by perceptual hash, and by embedding.

    left, right, distance = hash_pairs(train_hashes, test_hashes, at_most=6)
    left, right, cosine = cosine_pairs(train_vectors, test_vectors, at_least=0.97)

A hash is the signs of a picture's low frequencies: 64 x 64 grey values, their cosine transform, of it the 16 x 16
lowest coefficients, each above their median or not: 256 bits (`imagehash.phash(picture, hash_size=16)` gives the same).
Small copies, recompressed ones and slightly relit ones differ in a few bits; mirrored or cropped ones do not come near:
those an embedding finds.

Two hashes of at most 15 different bits agree in at least one of 16 bands of 16 bits (pigeonhole), so only pairs that
share a band are compared: all pairs are found, and 100 k x 100 k are never looked at one by one.

Source of the hash: Zauner, Implementation and Benchmarking of Perceptual Image Hash Functions, 2010, section 3.2.1;
the library ImageHash.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from eval.metrics.vectors import slices, unit_rows

if TYPE_CHECKING:
    from PIL.Image import Image

Hashes = NDArray[np.uint8]
Ints = NDArray[np.int64]
SIDE, LOWEST = 64, 16
BITS, BANDS = LOWEST * LOWEST, 16
MOST_BITS = BANDS - 1  # as far as the pigeonhole reaches


def perceptual_hash(picture: Image) -> Hashes:
    """(32,) 256 bits of a picture."""
    from PIL.Image import Resampling
    from scipy.fft import dct

    grey = np.asarray(picture.convert("L").resize((SIDE, SIDE), Resampling.LANCZOS), np.float64)
    lowest = dct(dct(grey, axis=0), axis=1)[:LOWEST, :LOWEST]
    return np.packbits(lowest > np.median(lowest))


def hash_pairs(left: Hashes, right: Hashes, at_most: int, cells: int = 1 << 22) -> tuple[Ints, Ints, Ints]:
    """All pairs of at most this many different bits.

    Args:
        left, right: (N, 32) and (M, 32).
        at_most: 0 … 15 bits.
        cells: pairs compared at once; changes the memory, never what is found.

    Returns: (p,) places in left, in right, and different bits; by distance, then by place.

    Raises:
        ValueError: more bits than the bands are sure to find.
    """
    if not 0 <= at_most <= MOST_BITS:
        raise ValueError(f"expected 0 … {MOST_BITS} different bits of {BITS}, got {at_most}")
    bands = [np.ascontiguousarray(hashes).view(np.uint16) for hashes in (left, right)]  # (N, 16)
    words = [np.ascontiguousarray(hashes).view(np.uint64) for hashes in (left, right)]  # (N, 4)
    found: list[Ints] = [np.zeros((0, 3), np.int64)]
    for band in range(BANDS):
        for a, b in _equal(bands[0][:, band], bands[1][:, band], cells):
            far = np.bitwise_count(words[0][a] ^ words[1][b]).sum(1).astype(np.int64)
            near = far <= at_most
            found.append(np.stack([far[near], a[near], b[near]], 1))
        found = [np.unique(np.concatenate(found), axis=0)]  # a pair may share several bands
    return found[0][:, 1], found[0][:, 2], found[0][:, 0]


def _equal(left: NDArray[Any], right: NDArray[Any], cells: int) -> Iterator[tuple[Ints, Ints]]:
    """Places of equal values, a part of at most `cells` pairs (or one value of left) at a time."""
    order = np.argsort(right, kind="stable")
    start, stop = (np.searchsorted(right[order], left, side) for side in ("left", "right"))
    count = stop - start
    asked = np.flatnonzero(count)
    ends = np.cumsum(count[asked])
    first, done = 0, 0
    while first < len(asked):
        last = max(first + 1, int(np.searchsorted(ends, done + cells, "right")))
        part, done = asked[first:last], int(ends[last - 1])
        many = count[part]
        within = np.arange(many.sum()) - np.repeat(np.cumsum(many) - many, many)
        yield np.repeat(part, many), order[np.repeat(start[part], many) + within]
        first = last


def cosine_pairs(
    left: NDArray[Any], right: NDArray[Any], at_least: float, cells: int = 1 << 24
) -> tuple[Ints, Ints, NDArray[np.float64]]:
    """All pairs of embeddings of at least this cosine.

    Args:
        left, right: (N, D) and (M, D), normalised or not.
        at_least: -1 … 1.
        cells: cosines in memory at once.

    Returns: (p,) places in left, in right, and cosines; the nearest first.

    Raises:
        ValueError: embeddings are not finite or zero.
    """
    a, b, width = unit_rows(left, "left"), unit_rows(right, "right"), 8192
    rows, columns = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    cosines = [np.zeros(0)]
    for across in slices(len(b), width):
        block = b.fast(across).T
        for down in slices(len(a), max(1, cells // width)):
            near = a.fast(down) @ block
            row, column = np.nonzero(near >= at_least)
            rows.append(row + down.start)
            columns.append(column + across.start)
            cosines.append(near[row, column].astype(np.float64))
    first, second, cosine = np.concatenate(rows), np.concatenate(columns), np.concatenate(cosines)
    order = np.lexsort((second, first, -cosine))
    return first[order], second[order], cosine[order]
