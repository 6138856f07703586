"""Answers that are not all alike: maximal marginal relevance (MMR).

    order = diversify(scores, vectors, k=8, diversity=0.3)

One answer after the other is chosen: the one with the largest (1 - d) · relevance - d · likeness to the nearest of
those chosen before. Both are brought to 0 … 1 over the candidates, so that d means the same for all models and fusions.

Source: Carbonell & Goldstein, The use of MMR, diversity-based reranking for reordering documents, 1998.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fclip.queries.fusion import Floats

POOL = 100  # candidates that are chosen from: beyond them diversity would be bought with what does not fit


def diversify(scores: Floats, vectors: Floats, k: int, diversity: float) -> NDArray[np.int64]:
    """The places (≤ k,) of the chosen candidates, in the order they are shown.

    Args:
        scores: (N,), higher is better.
        vectors: unit (N, D).
        k: how many.
        diversity: d, 0 (by score) … 1 (after the first only unlikeness counts).
    """
    order = np.argsort(-scores, kind="stable")
    if diversity == 0 or not len(order):
        return order[:k]
    pool = order[: max(POOL, k)]
    relevance, likeness = _to_unit(scores[pool]), _to_unit(vectors[pool] @ vectors[pool].T)
    chosen = [0]
    nearest = likeness[0].copy()
    while len(chosen) < min(k, len(pool)):
        worth = (1 - diversity) * relevance - diversity * nearest
        worth[chosen] = -np.inf
        chosen.append(int(worth.argmax()))
        nearest = np.maximum(nearest, likeness[chosen[-1]])
    return pool[chosen]


def _to_unit(values: Floats) -> Floats:
    """0 … 1; all 0 when they are the same."""
    low, high = values.min(initial=np.inf), values.max(initial=-np.inf)
    return (values - low) / (high - low) if high > low else np.zeros_like(values)
