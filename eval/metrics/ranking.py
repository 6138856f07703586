"""On which ranks the relevant candidates stand: the one thing that every ranking metric is computed from.

Ties are settled against the model: a relevant candidate stands behind every irrelevant one that scores as high, or less
than `tie` below it. A constant embedding so scores about 0, not 100 %. (Equivalent: every relevant candidate's score is
lowered by `tie`, and at equal scores the irrelevant come first.) Relevant candidates among each other keep their order;
no metric depends on it.

    >>> ranking = ranking_of_scores(scores, relevant)       # a small matrix; `eval.metrics.search` for large ones
    >>> hit_at(ranking, 5).mean()                           # metrics: `eval.metrics.retrieval`
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eval.metrics.means import finite

Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.integer[Any]]
Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class Ranking:
    """R relevant candidates of Q queries and their ranks, by query and within a query by rank."""

    query: Ints  # (R,) 0 … Q-1, ascending
    rank: Ints  # (R,) from 1
    total: Ints  # (Q,) relevant candidates in all, also those below `depth`
    candidates: Ints  # (Q,) how many candidates were ranked
    depth: int  # the rank down to which relevant candidates are told

    @property
    def place(self) -> Ints:
        """(R,) the how-manieth relevant candidate of its query, from 1."""
        found = np.bincount(self.query, minlength=len(self.total))
        return np.arange(len(self.query)) - np.repeat(np.cumsum(found) - found, found) + 1

    @property
    def first(self) -> Ints:
        """(Q,) rank of the first relevant candidate; 0: there is none down to `depth`."""
        rank, start = np.zeros(len(self.total), np.int64), self.place == 1
        rank[self.query[start]] = self.rank[start]
        return rank

    def flags(self, k: int) -> Flags:
        """(Q, k) is the candidate on this rank relevant?"""
        self.check(k)
        found, near = np.zeros((len(self.total), k), bool), self.rank <= k
        found[self.query[near], self.rank[near] - 1] = True
        return found

    def check(self, k: int) -> None:
        """Can a metric at k be computed?

        Raises:
            ValueError: k is below 1, deeper than what is known, or a query has fewer than k candidates.
        """
        if k < 1:
            raise ValueError(f"expected k of at least 1, got {k}")
        if k > self.depth:
            raise ValueError(f"expected k up to {self.depth}, the depth of the ranking, got {k}; rank deeper")
        if len(self.candidates) and k > self.candidates.min():
            raise ValueError(f"a query has only {self.candidates.min()} candidates, fewer than k = {k}; lower k")


def ranking_of_scores(scores: Floats, relevant: Flags, tie: float = 0.0, cells: int = 1 << 22) -> Ranking:
    """Ranks a matrix of scores.

    Args:
        scores: (Q, M), higher is better.
        relevant: (Q, M).
        tie: scores this close are equal; 1e-6 for float32 cosines.
        cells: scores sorted at once.

    Raises:
        ValueError: shapes disagree, or scores are not finite.
    """
    scores, relevant = finite(scores, "scores"), np.asarray(relevant, bool)
    if scores.ndim != 2 or scores.shape != relevant.shape:
        raise ValueError(f"expected scores and relevance (Q, M), got {scores.shape} and {relevant.shape}")
    (q, m), step, found = scores.shape, max(1, cells // max(1, scores.shape[1])), []
    for start in range(0, q, step):
        part = slice(start, start + step)
        order = order_of(scores[part], relevant[part], tie)
        found.append(np.take_along_axis(relevant[part], order, axis=1))
    flags = np.concatenate(found) if found else np.zeros((0, m), bool)
    return ranking_of_flags(flags, relevant.sum(1), m)


def order_of(scores: Floats, relevant: Flags, tie: float) -> Ints:
    """(n, M) candidates from best to worst, ties against the model; equally relevant ones in their own order."""
    return np.lexsort((relevant, -(scores - tie * relevant)), axis=-1)


def ranking_of_flags(found: Flags, total: Ints, candidates: int | Ints | None = None) -> Ranking:
    """Takes ranked lists as they are: a search engine's, or people's verdicts.

    Args:
        found: (Q, K) is the candidate on rank 1 … K relevant?
        total: (Q,) relevant candidates of each query in all.
        candidates: how many candidates there were; None: K.

    Raises:
        ValueError: shapes disagree, or a list finds more relevant candidates than there are.
    """
    found, total = np.asarray(found, bool), np.asarray(total, np.int64)
    if found.ndim != 2 or total.shape != found.shape[:1]:
        raise ValueError(f"expected lists (Q, K) and totals (Q,), got {found.shape} and {total.shape}")
    if (found.sum(1) > total).any():
        worst = int((found.sum(1) - total).argmax())
        raise ValueError(f"query {worst} finds {found[worst].sum()} relevant candidates of {total[worst]}")
    query, rank = np.nonzero(found)
    ranked = np.broadcast_to(np.asarray(found.shape[1] if candidates is None else candidates, np.int64), total.shape)
    return Ranking(query, rank + 1, total, ranked, found.shape[1])
