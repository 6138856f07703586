"""Is an embedding space in good health? Uniformity, alignment, effective rank, modality gap.

    uniformity      log mean exp(-2 |x - y|²) over pairs of different rows: 0 when all are one point, about -4 at best
    alignment       mean |x - y|² of pairs that belong together: 0 when they coincide
    effective rank  exp of the entropy of the singular values divided by their sum: 1 … D dimensions in use
    modality gap    |mean picture - mean text|: 0 … 2

A collapse shows as uniformity near 0 and a low rank long before retrieval says why. Rows are made unit vectors, except
for the rank, which is of the matrix as it is (not centred). A zero vector or nan is an error.

    >>> uniformity(images), alignment(images, texts), effective_rank(images), modality_gap(images, texts)

Sources: Wang & Isola, Understanding contrastive representation learning through alignment and uniformity, 2020 (t = 2,
α = 2); Roy & Vetterli, The effective rank, 2007; Liang et al., Mind the gap, 2022.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from eval.metrics.vectors import slices, unit_rows

Vectors = NDArray[Any]


def uniformity(vectors: Vectors, t: float = 2.0, step: int = 2048) -> float:
    """log E exp(-t |x - y|²) over the pairs of different rows (N, D); nan for fewer than two rows.

    Time grows with N²: draw some ten thousand rows of a large set.
    """
    rows, total = unit_rows(vectors, "the"), 0.0
    for first in slices(len(rows), step):
        for second in slices(len(rows), step):
            cosine = rows.exact(first) @ rows.exact(second).T
            total += float(np.exp(2 * t * (np.minimum(cosine, 1) - 1)).sum())
    pairs = len(rows) * (len(rows) - 1)
    # Each row with itself added exp(0) = 1, to rounding.
    return float(np.log((total - len(rows)) / pairs)) if pairs else float("nan")


def alignment(first: Vectors, second: Vectors, alpha: float = 2.0) -> float:
    """E |x - y|^α of the pairs first[i], second[i], each (N, D); nan without pairs."""
    a, b = unit_rows(first, "first"), unit_rows(second, "second")
    _check(first, second, len(a) == len(b))
    parts = [np.linalg.norm(a.exact(part) - b.exact(part), axis=1) ** alpha for part in slices(len(a), 1 << 14)]
    return float(np.concatenate(parts).mean()) if parts else float("nan")


def effective_rank(vectors: Vectors) -> float:
    """exp(-Σ p log p), p = singular values of (N, D) divided by their sum; nan without rows."""
    rows = unit_rows(vectors, "the")
    if not len(rows):
        return float("nan")
    gram = np.zeros((vectors.shape[1], vectors.shape[1]))
    for part in slices(len(rows), 1 << 14):
        block = np.asarray(vectors[part], np.float64)
        gram += block.T @ block
    power = np.linalg.eigvalsh(gram)
    singular = np.sqrt(power[power > power.max() * len(gram) * np.finfo(np.float64).eps])  # the rest is rounding
    p = singular / singular.sum()
    return float(np.exp(-(p * np.log(p)).sum()))


def modality_gap(images: Vectors, texts: Vectors) -> float:
    """Distance between the means of unit vectors, (N, D) and (M, D); nan where there are none."""
    a, b = unit_rows(images, "image"), unit_rows(texts, "text")
    _check(images, texts, True)
    if not len(a) or not len(b):
        return float("nan")
    means = [sum(rows.exact(part).sum(0) for part in slices(len(rows), 1 << 14)) / len(rows) for rows in (a, b)]
    return float(np.linalg.norm(means[0] - means[1]))


def _check(first: Vectors, second: Vectors, paired: bool) -> None:
    if not paired or first.shape[1] != second.shape[1]:
        raise ValueError(f"expected embeddings that go together, got {first.shape} and {second.shape}")
