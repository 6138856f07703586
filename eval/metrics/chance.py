"""What a ranking drawn at random scores: the exact expectation of every retrieval metric, nothing simulated.

With M candidates, R of them relevant and all orders equally likely, and N(i) = Π_{j<i} (M-R-j)/(M-j), the chance that
none of the first i is relevant:

    hit@k        1 - N(k)                                 precision@k, paper_map@k   R / M
    recall@k     k / M                                    mrr@k    Σ_{i≤k} (N(i-1) - N(i)) / i
    ndcg@k       R/M · Σ_{i≤k} 1/log2(i+1) / the best order's
    map@k        1/M · Σ_{i≤k} (1 + (i-1)(R-1)/(M-1)) / i        (at k = M: average precision)
    r_precision  R / M

    >>> expected_values(ranking.total, ranking.candidates, [1, 10])["hit@10"].mean()

The names are those of `retrieval.retrieval_values`; a query without relevant candidates is nan, as there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eval.metrics.means import share

Array = NDArray[np.float64]


def expected_values(total: NDArray[Any], candidates: NDArray[Any], ks: Sequence[int]) -> dict[str, Array]:
    """Expectation of every metric at every k, one value (Q,) per query.

    Args:
        total: (Q,) relevant candidates R of each query.
        candidates: (Q,) all its candidates M.
        ks: each at most the fewest candidates.
    """
    r, m = (np.asarray(values, np.float64) for values in (total, candidates))
    density = np.where(r > 0, share(r, m), np.nan)
    none, rank = _none_relevant(r, m, max(ks)), np.arange(1, max(ks) + 1)
    discount = np.cumsum(1 / np.log2(rank + 1))
    first = np.cumsum((none[:-1] - none[1:]) / rank[:, None], axis=0)  # [k-1]: mrr@k
    found: dict[str, dict[int, Array]] = {
        "hit": {k: 1 - none[k] for k in ks},
        "recall": {k: k / m for k in ks},
        "precision": dict.fromkeys(ks, density),
        "mrr": {k: first[k - 1] for k in ks},
        "ndcg": {k: density * discount[k - 1] / discount[np.clip(r, 1, k).astype(int) - 1] for k in ks},
        "map": {k: _average_precision(r, m, np.full(len(r), k)) for k in ks},
        "paper_map": dict.fromkeys(ks, density),
    }
    known = np.where(r > 0, 0.0, np.nan)
    return {f"{name}@{k}": values + known for name, at in found.items() for k, values in at.items()}


def expected_whole(total: NDArray[Any], candidates: NDArray[Any]) -> dict[str, Array]:
    """Expectation of the metrics without a k, (Q,) each: "map", average precision, and "r_precision"."""
    r, m = (np.asarray(values, np.float64) for values in (total, candidates))
    known = np.where(r > 0, 0.0, np.nan)
    return {"map": _average_precision(r, m, m) + known, "r_precision": share(r, m) + known}


def _none_relevant(r: Array, m: Array, k: int) -> Array:
    """(k+1, Q) the chance that none of the first 0 … k is relevant."""
    none = np.ones((k + 1, len(r)))
    for i in range(k):
        none[i + 1] = none[i] * share(np.maximum(m - r - i, 0), np.maximum(m - i, 1))
    return none


def _average_precision(r: Array, m: Array, k: NDArray[Any]) -> Array:
    harmonic = np.concatenate([[0], np.cumsum(1 / np.arange(1, int(k.max(initial=0)) + 1))])[k.astype(int)]
    return (harmonic + share(r - 1, np.maximum(m - 1, 1)) * (k - harmonic)) / m
