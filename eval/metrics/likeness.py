"""How alike are pictures: among each other, and to those that a model has learned from.

    diversity          mean cosine of two different pictures of a group (lower: more diverse)
    nearest            each picture's most similar one of another set: close to 1 it may be a copy

What "close" is depends on the features: compare with real pictures that were not learned from. Rows are made unit
vectors; a zero vector or nan is an error.

    >>> within_similarity(vectors, participants), nearest(generated, training)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eval.metrics.vectors import slices, unit_rows

Vectors = NDArray[Any]


def mean_similarity(vectors: Vectors) -> float:
    """Mean cosine over the pairs of different rows (N, D); nan for fewer than two."""
    rows = unit_rows(vectors, "the")
    if len(rows) < 2:
        return float("nan")
    total = rows.exact(slice(None)).sum(0)  # |Σ x|² = N + the sum over all ordered pairs
    return float((total @ total - len(rows)) / (len(rows) * (len(rows) - 1)))


def within_similarity(vectors: Vectors, groups: Sequence[str]) -> tuple[list[str], NDArray[np.float64]]:
    """The groups in order, and the mean cosine within each (G,); nan for a group of one."""
    names, place = np.unique(np.asarray(groups), return_inverse=True)
    return [str(name) for name in names], np.array([mean_similarity(vectors[place == i]) for i in range(len(names))])


def nearest(vectors: Vectors, others: Vectors) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Of each row (N, D) the most similar of the others (M, D), and their cosine; the first of equal ones.

    Raises:
        ValueError: no others.
    """
    if not len(others):
        raise ValueError("expected pictures to look for the nearest among, got none")
    asked, known = unit_rows(vectors, "the"), unit_rows(others, "the other")
    best, cosine = np.zeros(len(asked), np.int64), np.full(len(asked), -np.inf)
    queries = asked.exact(slice(None))
    for part in slices(len(known), 8192):
        similar = queries @ known.exact(part).T
        place = similar.argmax(1)
        value = similar[np.arange(len(similar)), place]
        better = value > cosine
        best[better], cosine[better] = place[better] + part.start, value[better]
    return best, cosine
