"""How far is one set of pictures from another, in the features of a network: Fréchet and kernel distance.

    FID   |μ₁ - μ₂|² + tr(Σ₁ + Σ₂ - 2 (Σ₁ Σ₂)^½)          both sets taken for normal distributions
    KID   the unbiased MMD² with the kernel (x·y / D + 1)³  mean over subsets, to be told with their deviation

Edge cases. FID is too large for few pictures, by about c / N, and more so the wider the features: with fewer pictures
than dimensions it is mostly that. Compare FIDs of equal counts only, or take KID, whose expectation does not depend on
them; it may come out below zero. Covariances divide by N - 1, as the published code does. Fewer than two pictures in a
set give nan. Neither is comparable between networks.

    >>> frechet_distance(generated, real), kernel_distance(generated, real)

Sources: Heusel et al., GANs trained by a two time-scale update rule, 2017; Bińkowski et al., Demystifying MMD GANs,
2018; Chong & Forsyth, Effectively unbiased FID, 2020 (the bias).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[Any]
Array = NDArray[np.float64]


def moments(vectors: Vectors) -> tuple[Array, Array]:
    """Mean (D,), and a root R (r, D) of the covariance: Σ = Rᵀ R, with r = min(N, D).

    Raises:
        ValueError: not a matrix, or not finite.
    """
    values = np.asarray(vectors, np.float64)
    if values.ndim != 2 or not np.isfinite(values).all():
        raise ValueError(f"expected finite features (N, D), got shape {values.shape}")
    mean = values.mean(0)
    centred = (values - mean) / np.sqrt(max(len(values) - 1, 1))
    if len(values) > values.shape[1]:
        return mean, np.asarray(np.linalg.qr(centred, mode="r"), np.float64)
    return mean, centred


def frechet(first: tuple[Array, Array], second: tuple[Array, Array]) -> float:
    """FID of two sets' `moments`.

    tr (Σ₁ Σ₂)^½ is the sum of the singular values of R₁ R₂ᵀ: no root of a matrix, whose small eigenvalues are noise.
    """
    (mean, root), (other_mean, other_root) = first, second
    if mean.shape != other_mean.shape:
        raise ValueError(f"expected features of one network, got {len(mean)} and {len(other_mean)} numbers")
    common = np.linalg.svd(root @ other_root.T, compute_uv=False).sum()
    distance = ((mean - other_mean) ** 2).sum() + (root**2).sum() + (other_root**2).sum() - 2 * common
    return float(max(distance, 0.0))


def frechet_distance(first: Vectors, second: Vectors) -> float:
    """FID of features (N, D) and (M, D)."""
    if min(len(first), len(second)) < 2:
        return float("nan")
    return frechet(moments(first), moments(second))


def frechet_samples(first: Vectors, second: Vectors, clusters: NDArray[Any], resamples: int, seed: int) -> Array:
    """(resamples,) FIDs with the clusters of the first set drawn anew, moved so that their mean is the FID itself.

    Drawing with replacement repeats pictures and so adds to the bias; only the spread of these numbers means something.
    """
    names, place = np.unique(clusters, return_inverse=True)
    if len(names) < 2 or len(second) < 2 or not resamples:
        return np.full(resamples, np.nan)
    rng, other = np.random.default_rng(seed), moments(second)
    values, (mean, root) = np.asarray(first, np.float64), other
    centre, trace = values.mean(0), (root**2).sum()
    values = values - centre  # small numbers, so that squares lose nothing
    lengths, crossed = (values**2).sum(1), values @ root.T
    found = np.empty(resamples)
    for number in range(resamples):
        drawn = np.bincount(rng.integers(len(names), size=len(names)), minlength=len(names))[place]
        rows = np.flatnonzero(drawn)
        counts = drawn[rows].astype(np.float64)
        n, moved = counts.sum(), counts @ values[rows] / counts.sum()
        spread = (counts @ lengths[rows] - n * (moved**2).sum()) / (n - 1)
        common = _nuclear((crossed[rows] - moved @ root.T) * np.sqrt(counts / (n - 1))[:, None])
        found[number] = ((centre + moved - mean) ** 2).sum() + spread + trace - 2 * common
    return found - found.mean() + frechet(moments(first), other)


def _nuclear(matrix: Array) -> float:
    """The sum of a matrix's singular values, by its smaller Gram matrix: half of the digits, a fraction of the time."""
    gram = matrix.T @ matrix if len(matrix) > matrix.shape[1] else matrix @ matrix.T
    return float(np.sqrt(np.linalg.eigvalsh(gram).clip(0)).sum())


def kernel_distance(first: Vectors, second: Vectors) -> float:
    """The unbiased MMD² of (N, D) and (M, D) with KID's kernel; nan for fewer than two rows."""
    n, m = len(first), len(second)
    if min(n, m) < 2:
        return float("nan")
    a, b = np.asarray(first, np.float64), np.asarray(second, np.float64)
    own, other, across = _kernel(a, a), _kernel(b, b), _kernel(a, b)
    within = (own.sum() - np.trace(own)) / (n * (n - 1)) + (other.sum() - np.trace(other)) / (m * (m - 1))
    return float(within - 2 * across.mean())


def kernel_samples(
    first: Vectors, second: Vectors, subsets: int = 100, size: int = 1000, seed: int = 0
) -> tuple[Array, int]:
    """KID of pairs of random subsets (subsets,), and their size: at most that of the smaller set."""
    size = min(size, len(first), len(second))
    if size < 2:
        return np.full(subsets, np.nan), size
    rng = np.random.default_rng(seed)
    found = [
        kernel_distance(
            first[rng.choice(len(first), size, replace=False)], second[rng.choice(len(second), size, replace=False)]
        )
        for _ in range(subsets)
    ]
    return np.array(found), size


def _kernel(a: Array, b: Array) -> Array:
    return (a @ b.T / a.shape[1] + 1) ** 3
