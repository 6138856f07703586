"""Ranking metrics over relevance, one value per query; `eval/README.md` tells where popular libraries differ.

With rel(i) = 1 if the candidate on rank i is relevant, R = number of relevant candidates, P@i = (rel(1)+…+rel(i)) / i:

    hit_at                   1 if any of rel(1) … rel(k)            CLIP_benchmark's and DeepFashion's "recall@k"
    recall_at                (rel(1)+…+rel(k)) / R                  share of relevant found; BEIR's and Marqo's
    precision_at             P@k
    reciprocal_rank_at       1 / rank of the first relevant, 0 when it is below k
    ndcg_at                  Σ rel(i) / log2(i+1) over i ≤ k, divided by the same of the best order
    average_precision        Σ P@i rel(i) / R, over all i or those up to k (trec_eval's `map`, `map_cut`)
    paper_average_precision  (P@1 + … + P@k) / k                    section 6.3 of the paper behind this toolkit
    r_precision              P@R

A query without relevant candidates (R = 0) is nan in all of them, and `known_mean` leaves it out. Fewer than k
candidates, or a k below what the ranking knows, is a ValueError. Ties: see `eval.metrics.ranking`.

    >>> values = hit_at(ranking, 5)          # (Q,)
    >>> known_mean(values), ratio_interval(values[:, None], …)      # with `eval.metrics.uncertainty`

Sources: Manning, Raghavan & Schütze, Introduction to Information Retrieval, 2008, section 8.4; Järvelin & Kekäläinen,
Cumulated gain-based evaluation of IR techniques, 2002 (with the discount log2(i+1) of trec_eval).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eval.metrics.means import finite, known_mean, share
from eval.metrics.ranking import Ranking

Array = NDArray[np.float64]


def hit_at(ranking: Ranking, k: int) -> Array:
    """(Q,) 1 if a relevant candidate is among the first k, else 0: any-hit, "top-k retrieval accuracy"."""
    return _known(ranking, (_sum(ranking, k, np.ones(len(ranking.rank))) > 0).astype(np.float64))


def recall_at(ranking: Ranking, k: int) -> Array:
    """(Q,) share of the relevant candidates that are among the first k; below 1 where R > k."""
    return share(_sum(ranking, k, np.ones(len(ranking.rank))), ranking.total)


def precision_at(ranking: Ranking, k: int) -> Array:
    """(Q,) share of the first k that is relevant."""
    return _known(ranking, _sum(ranking, k, np.ones(len(ranking.rank))) / k)


def reciprocal_rank_at(ranking: Ranking, k: int | None = None) -> Array:
    """(Q,) 1 / rank of the first relevant candidate, 0 when it is below k; its mean is MRR@k. None: no limit."""
    first = np.where(ranking.place == 1, 1 / ranking.rank, 0)
    return _known(ranking, _sum(ranking, k, first))


def ndcg_at(ranking: Ranking, k: int) -> Array:
    """(Q,) normalised discounted cumulated gain of binary relevance."""
    ideal = np.concatenate([[0], np.cumsum(1 / np.log2(np.arange(k) + 2))])
    return share(_sum(ranking, k, 1 / np.log2(ranking.rank + 1)), ideal[np.minimum(ranking.total, k)])


def graded_ndcg_at(gains: NDArray[Any], ideal: NDArray[Any], k: int) -> Array:
    """(Q,) nDCG of graded relevance with linear gains (trec_eval's); pass 2^grade - 1 for exponential ones.

    Args:
        gains: (Q, K) gain of the candidate on rank 1 … K ≥ k.
        ideal: (Q, M) gains of all of a query's candidates in any order, 0 where there are fewer.

    Returns: nan where no candidate has a gain.

    Raises:
        ValueError: fewer than k candidates, lists of different queries, or a gain that is negative or not finite.
    """
    gains, ideal = finite(gains, "gains"), finite(ideal, "gains")
    if len(gains) != len(ideal) or not 1 <= k <= gains.shape[1]:
        raise ValueError(
            f"expected the same queries and k in 1 … {gains.shape[1]}, got {len(ideal)} of {len(gains)}, {k}"
        )
    if min(gains.min(initial=0), ideal.min(initial=0)) < 0:
        raise ValueError("expected gains of 0 or more, got a negative one")
    best = -np.sort(-ideal, axis=1)[:, :k]
    discount = 1 / np.log2(np.arange(max(k, best.shape[1])) + 2)
    return share(gains[:, :k] @ discount[:k], best @ discount[: best.shape[1]])


def average_precision(ranking: Ranking, k: int | None = None) -> Array:
    """(Q,) mean over the relevant candidates of the precision at their ranks, 0 for those below k; mean is MAP (@k).

    Divided by R also at k, as trec_eval's map_cut; others divide by min(R, k).
    """
    precision = ranking.place / ranking.rank
    return share(_sum(ranking, k, precision), ranking.total)


def paper_average_precision(ranking: Ranking, k: int) -> Array:
    """(Q,) the mean of P@1 … P@k, which the paper calls AP@k; its mean over users MAP@k.

    Unlike average precision it also counts ranks of irrelevant candidates, and a list of k relevant ones scores 1
    whatever R is. Verdicts of people, (users, k): `ranking_of_flags(liked, total=np.full(users, k))`; a user who likes
    nothing so scores 0 and is not left out.
    """
    ranking.check(k)
    harmonic = np.concatenate([[0], np.cumsum(1 / np.arange(1, k + 1))])
    # A relevant candidate on rank r adds 1/i to every P@i from i = r on.
    weights = harmonic[k] - harmonic[np.minimum(ranking.rank, k + 1) - 1]
    return _known(ranking, _sum(ranking, k, weights) / k)


def r_precision(ranking: Ranking) -> Array:
    """(Q,) precision at rank R, where precision and recall are equal; each query has its own R."""
    _check_whole(ranking, int(ranking.total.max(initial=0)))
    near = ranking.rank <= ranking.total[ranking.query]
    return share(np.bincount(ranking.query[near], minlength=len(ranking.total)), ranking.total)


def retrieval_values(ranking: Ranking, ks: Sequence[int]) -> dict[str, Array]:
    """Every metric at every k, one value (Q,) per query.

    Returns: "hit@5", "recall@5", "precision@5", "mrr@5", "ndcg@5", "map@5" and "paper_map@5" for k = 5.
    """
    metrics = {
        "hit": hit_at,
        "recall": recall_at,
        "precision": precision_at,
        "mrr": reciprocal_rank_at,
        "ndcg": ndcg_at,
        "map": average_precision,
        "paper_map": paper_average_precision,
    }
    return {f"{name}@{k}": metric(ranking, k) for name, metric in metrics.items() for k in ks}


def retrieval_scores(ranking: Ranking, ks: Sequence[int]) -> dict[str, float]:
    """The means of `retrieval_values`, and how many queries they are of: "queries", "without_relevant"."""
    scores = {name: known_mean(values) for name, values in retrieval_values(ranking, ks).items()}
    without = int((ranking.total == 0).sum())
    return scores | {"queries": len(ranking.total) - without, "without_relevant": without}


def _sum(ranking: Ranking, k: int | None, weights: NDArray[Any]) -> Array:
    """(Q,) sum of the weights of the relevant candidates up to rank k, or of all."""
    if k is None:
        _check_whole(ranking, int(ranking.candidates.max(initial=0)))
    else:
        ranking.check(k)
        weights = np.where(ranking.rank <= k, weights, 0)
    return np.bincount(ranking.query, weights, len(ranking.total)).astype(np.float64)


def _check_whole(ranking: Ranking, last: int) -> None:
    if ranking.depth < last:
        raise ValueError(f"expected a ranking down to {last}, got the first {ranking.depth} candidates; rank deeper")


def _known(ranking: Ranking, values: Array) -> Array:
    return np.where(ranking.total > 0, values, np.nan)
