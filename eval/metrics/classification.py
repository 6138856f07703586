"""Classification by scores: is the true class among the k best?

    >>> right = top_k_accuracy(scores, labels, 3)        # (N,) 1, 0, or nan where the label is unknown
    >>> known_mean(right), known_mean(per_class(right, labels, n_classes))      # micro, macro

Ties are settled against the model: classes that score as high as the true one stand before it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from eval.metrics.means import finite, share

UNKNOWN = -1


def top_k_accuracy(scores: NDArray[Any], labels: NDArray[Any], k: int, tie: float = 0.0) -> NDArray[np.float64]:
    """(N,) 1 if the true class is among the k best, else 0; nan where its label is unknown.

    Args:
        scores: (N, C), higher is better.
        labels: (N,) classes 0 … C-1; -1: unknown.
        k: 1 … C.
        tie: scores this close are equal; 1e-6 for float32 cosines.

    Raises:
        ValueError: shapes disagree, labels or k out of range, scores not finite.
    """
    scores, labels = finite(scores, "scores"), np.asarray(labels, np.int64)
    if scores.ndim != 2 or labels.shape != scores.shape[:1]:
        raise ValueError(f"expected scores (N, C) and labels (N,), got {scores.shape} and {labels.shape}")
    if not 1 <= k <= scores.shape[1]:
        raise ValueError(f"expected k in 1 … {scores.shape[1]}, the number of classes, got {k}")
    if labels.min(initial=UNKNOWN) < UNKNOWN or labels.max(initial=UNKNOWN) >= scores.shape[1]:
        raise ValueError(f"expected labels in -1 … {scores.shape[1] - 1}, got {labels.min()} … {labels.max()}")
    mine = np.take_along_axis(scores, labels[:, None], 1)
    ahead = (scores >= mine - tie).sum(1) - 1  # the true class is among those counted
    return np.where(labels == UNKNOWN, np.nan, (ahead < k).astype(np.float64))


def per_class(values: NDArray[np.float64], labels: NDArray[Any], n_classes: int) -> NDArray[np.float64]:
    """(C,) the mean of the examples of each class; nan for a class without any, so that macro means leave it out.

    Args:
        values: (N,), nan where it does not count.
        labels: (N,) classes 0 … C-1; -1: unknown.
    """
    counted = ~np.isnan(values) & (labels != UNKNOWN)
    chosen = np.asarray(labels, np.int64)[counted]
    return share(np.bincount(chosen, values[counted], n_classes), np.bincount(chosen, minlength=n_classes))
