"""Is one model better than another on the same queries, and what becomes of that when several are compared?

    sign_flip   a permutation test: were the models alike, each product's difference could as well have the other sign
    holm        p-values of several comparisons, corrected so that all together err with the stated probability
    over_seeds  mean and deviation of a score over training runs

Products are exchanged, not pictures: several pictures show one product and err together. The interval that belongs to
the test is `eval.metrics.uncertainty.paired_interval`. It tells about other queries, not about other training runs:
those are what seeds are for.

    >>> p = sign_flip(a[:, None], b[:, None], ones[:, None], products)   # (1,)
    >>> holm(np.concatenate([p, others]))

Sources: Fisher's randomisation test as recommended by Smucker, Allan & Carterette, A comparison of statistical
significance tests for information retrieval evaluation, 2007; Phipson & Smyth, Permutation p-values should never be
zero, 2010; Holm, A simple sequentially rejective multiple test procedure, 1979.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eval.metrics.means import finite
from eval.metrics.uncertainty import cluster_ids

Array = NDArray[np.float64]


@dataclass(frozen=True)
class OverSeeds:
    """A score over S training runs, or K scores: mean ± deviation."""

    mean: Any  # float or (K,)
    deviation: Any  # of the runs (divided by S - 1), not of the mean; nan for one run
    runs: int


def sign_flip(
    a: NDArray[Any],
    b: NDArray[Any],
    denominators: NDArray[Any],
    clusters: Sequence[Any],
    permutations: int = 10_000,
    seed: int = 0,
    cells: int = 1 << 22,
) -> Array:
    """Two-sided p-values of the differences of K ratios of sums, as in `paired_interval`.

    The statistic is |Σ (a - b) / Σ denominators|; the signs of the products' sums are drawn, or, when there are no
    more than `permutations` of them, all tried. Drawn: p = (1 + those as large) / (1 + permutations), never 0.

    Args:
        a, b: (N, K) numerators of the two models.
        denominators: (N, K), the same for both; 0 where the picture does not count.
        clusters: (N,) product of each picture.
        cells: signs held in memory at once.

    Returns: (K,); nan where nothing counts.

    Raises:
        ValueError: shapes disagree, or a number is not finite.
    """
    if not np.shape(a) == np.shape(b) == np.shape(denominators) or len(clusters) != len(a):
        shapes = f"{np.shape(a)}, {np.shape(b)}, {np.shape(denominators)}"
        raise ValueError(f"expected (N, K) of both models and N products, got {shapes} and {len(clusters)}")
    names = cluster_ids(clusters)
    totals = np.zeros((names.max(initial=-1) + 1, np.shape(a)[1]))
    np.add.at(totals, names, finite(a, "scores") - finite(b, "scores"))
    totals = totals[(totals != 0).any(1)]  # a product without a difference changes nothing
    exhaustive = len(totals) < 63 and 1 << len(totals) <= permutations
    runs = 1 << len(totals) if exhaustive else permutations
    reached, extra = _reached(totals, runs, seed, exhaustive, cells), 0 if exhaustive else 1
    return np.where(np.asarray(denominators).sum(0) != 0, (reached + extra) / (runs + extra), np.nan)


def holm(p_values: NDArray[Any]) -> Array:
    """(K,) adjusted p-values: the i-th smallest of m times m - i + 1, never below a smaller one's, at most 1.

    Nan stays nan and is not counted as a comparison.
    """
    p = np.asarray(p_values, np.float64)
    adjusted = np.full(p.shape, np.nan)
    order = np.argsort(p)[: (~np.isnan(p)).sum()]  # nan is sorted last
    adjusted[order] = np.minimum(1, np.maximum.accumulate(p[order] * np.arange(len(order), 0, -1)))
    return adjusted


def over_seeds(values: Sequence[Any] | NDArray[Any]) -> OverSeeds:
    """Mean ± deviation over S runs of a score (S,) or of K scores (S, K). A run that has none (nan) makes it nan.

    Raises:
        ValueError: no run.
    """
    runs = np.asarray(values, np.float64)
    if runs.ndim not in (1, 2) or not len(runs):
        raise ValueError(f"expected the scores of one run or more, (S,) or (S, K), got {runs.shape}")
    deviation = runs.std(0, ddof=1) if len(runs) > 1 else np.full(runs.shape[1:], np.nan)
    if runs.ndim == 1:
        return OverSeeds(float(runs.mean()), float(deviation), len(runs))
    return OverSeeds(runs.mean(0), deviation, len(runs))


def _reached(totals: Array, runs: int, seed: int, exhaustive: bool, cells: int) -> NDArray[np.int64]:
    """(K,) how many choices of signs give a sum at least as large as the one observed."""
    n, rng = len(totals), np.random.default_rng(seed)
    # Sums that are equal but for rounding are equal: with shares of a few products many are.
    observed = np.abs(totals.sum(0)) - 1e-9 * np.abs(totals).sum(0)
    reached, step = np.zeros(totals.shape[1], np.int64), max(1, cells // max(n, 1))
    for start in range(0, runs, step):
        rows = np.arange(start, min(start + step, runs))
        flips = rows[:, None] >> np.arange(n) & 1 if exhaustive else rng.integers(2, size=(len(rows), n))
        reached += (np.abs((1.0 - 2 * flips) @ totals) >= observed).sum(0)
    return reached
