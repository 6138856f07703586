"""How sure is a share? Percentile bootstrap over clusters.

Several pictures show one product and err together, so products are drawn, not pictures. A metric is the ratio of two
sums over pictures; summed per product first, a resample is one weighted sum: weights (R, C) times totals (C, K).
The weights are multinomial: C draws of C products with replacement, counted.

Two models on the same pictures: with the same seed and clusters they see the same draws, so the samples of the one
minus those of the other are the paired bootstrap of the difference.

    >>> low, high = ratio_interval(correct[:, None], ones[:, None], products)   # each (1,)

Source: Efron & Tibshirani, An Introduction to the Bootstrap, 1993, sections 8.3 (clusters) and 13.3 (percentiles).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def cluster_ids(names: Sequence[Any]) -> NDArray[np.int64]:
    """(N,) names as numbers 0 … C-1."""
    return np.unique(np.asarray(names), return_inverse=True)[1].astype(np.int64)


def resampled_sums(totals: Any, resamples: int, seed: int, cells: int = 1 << 22) -> Array:
    """Sums of the totals of C clusters drawn with replacement, C at a time.

    Args:
        totals: (C, K), an array or, where most are 0, a SciPy sparse array.
        cells: weights held in memory at once; changes the memory, never the draws.

    Returns: (resamples, K).
    """
    n, rng = totals.shape[0], np.random.default_rng(seed)
    step, sums = max(1, cells // max(n, 1)), []
    for start in range(0, resamples, step):
        rows = min(step, resamples - start)
        drawn = rng.integers(n, size=(rows, n)) + n * np.arange(rows)[:, None]
        weights = np.bincount(drawn.ravel(), minlength=rows * n).reshape(rows, n)
        sums.append(weights.astype(np.float64) @ totals)
    return np.concatenate(sums) if sums else np.zeros((0, totals.shape[1]))


def ratio_samples(
    numerators: NDArray[Any], denominators: NDArray[Any], clusters: Sequence[Any], resamples: int = 1000, seed: int = 0
) -> Array:
    """Bootstrap samples of K ratios of sums.

    Args:
        numerators: (N, K) per picture.
        denominators: (N, K) per picture, 0 where the picture does not count.
        clusters: (N,) product of each picture, names or numbers.

    Returns: (resamples, K); nan where a resample has nothing to divide by.
    """
    k, names = numerators.shape[1], cluster_ids(clusters)
    values = np.concatenate([numerators, denominators], axis=1).astype(np.float64)
    totals = np.zeros((len(np.unique(names)), 2 * k))
    np.add.at(totals, names, values)
    if len(totals) < 2:
        return np.full((resamples, k), np.nan)  # one product tells nothing about others
    sums = resampled_sums(totals, resamples, seed)
    return _ratio(sums[:, :k], sums[:, k:])


def interval(samples: Array, level: float = 0.95) -> tuple[Array, Array]:
    """Percentile interval of samples (R, K), leaving out nan; nan where no sample is left.

    Returns: low and high, each (K,).
    """
    tails = [50 * (1 - level), 50 * (1 + level)]
    bounds = np.full((2, samples.shape[1]), np.nan)
    for k, column in enumerate(samples.T):
        if (~np.isnan(column)).any():
            bounds[:, k] = np.percentile(column[~np.isnan(column)], tails)
    return bounds[0], bounds[1]


def ratio_interval(
    numerators: NDArray[Any],
    denominators: NDArray[Any],
    clusters: Sequence[Any],
    resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> tuple[Array, Array]:
    """Percentile interval of K ratios of sums; arguments as `ratio_samples`. With one cluster: nan."""
    return interval(ratio_samples(numerators, denominators, clusters, resamples, seed), level)


def paired_interval(
    a: NDArray[Any],
    b: NDArray[Any],
    denominators: NDArray[Any],
    clusters: Sequence[Any],
    resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> tuple[Array, Array]:
    """Interval of the difference a - b of two models' ratios on the same pictures.

    Args:
        a, b: (N, K) numerators of the two models.
        denominators: (N, K), the same for both.
    """
    first = ratio_samples(a, denominators, clusters, resamples, seed)
    second = ratio_samples(b, denominators, clusters, resamples, seed)
    return interval(first - second, level)


def _ratio(part: Array, whole: Array) -> Array:
    """part / whole, nan where whole is 0."""
    return np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole != 0)
