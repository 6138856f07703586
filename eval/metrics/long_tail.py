"""Is a value that training saw rarely recognised less often? Accuracy by frequency in training: the long tail.

A picture counts once for each of its known attributes, in the bin of how many training pictures have that value. The
bins are powers of ten, and one for values never seen: a vocabulary of the train split alone would hide them.

    >>> edges_of(np.array([0, 7, 240]))
    [0, 1, 10, 100]
    >>> bin_names([0, 1, 10, 100])
    ['0', '1–9', '10–99', '100 or more']

Source: the split by training frequency of Liu et al., Large-Scale Long-Tailed Recognition in an Open World, CVPR 2019;
their bins are many, medium and few shots (above 100, 20 to 100, below 20).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eval.metrics.surfacing import UNKNOWN, Ints


def training_counts(codes: Ints, n_values: int) -> NDArray[np.int64]:
    """(n_values,) how many training pictures have each value.

    Args:
        codes: (T, G) of the training pictures, -1 = unknown; values of different groups have different codes.
        n_values: of all groups, those unseen in training too.
    """
    return np.bincount(codes[codes != UNKNOWN].ravel(), minlength=n_values).astype(np.int64)


def edges_of(counts: Ints) -> list[int]:
    """The lower edges of bins that hold these counts: 0, 1, 10, 100, … up to the largest."""
    edges = [0, 1]
    while edges[-1] * 10 <= counts.max(initial=0):
        edges.append(edges[-1] * 10)
    return edges


def bin_names(edges: Sequence[int]) -> list[str]:
    """The bins in words."""
    names = [str(low) if high == low + 1 else f"{low}–{high - 1}" for low, high in pairwise(edges)]
    return [*names, f"{edges[-1]} or more"]


def by_frequency(
    hits: NDArray[Any], codes: Ints, counts: Ints, edges: Sequence[int]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Numerators and denominators per picture and bin, as `eval.metrics.uncertainty.ratio_interval` takes them.

    Args:
        hits: (N, G) 0 … 1, agreeing attributes, 0 where unknown.
        codes: (N, G) of the pictures, -1 = unknown.
        counts: (V,) in training, of each code.
        edges: (B,) lower edges, ascending from 0.

    Returns: found and known attributes, each (N, B).
    """
    known = codes != UNKNOWN
    bins = np.searchsorted(edges, counts[np.maximum(codes, 0)], side="right") - 1  # (N, G)
    member = known[:, :, None] & (bins[:, :, None] == np.arange(len(edges)))
    return (np.asarray(hits)[:, :, None] * member).sum(1).astype(np.float64), member.sum(1).astype(np.float64)
