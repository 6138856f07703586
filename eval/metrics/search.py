"""Ranks and best candidates among embeddings, block by block: a million queries times 100 k items never is in memory.

Blocks of cosines are float32 matrix products, which err by about 1e-7, and differently by the block's shape. Wherever
that could matter, the cosine is computed again in float64. So the result does not depend on how the work is cut, on
threads or on processes, and a model that gives every picture the same vector does not win by rounding.
Ties (`eval.metrics.ranking`): cosines closer than `TIE` are equal, and settled against the model.

    >>> relevance = Relevance.of_labels(query_products, gallery_products)
    >>> ranking = rank_embeddings(queries, gallery, relevance)      # ranks of all relevant items
    >>> found = top_k(queries, gallery, 10, relevance)              # the 10 best items of every query
    >>> (hit_at(ranking, 10) == hit_at(found.ranking, 10)).all()
    True

`rank_embeddings` needs memory for every relevant pair; with few wide classes (category → product) use `top_k`.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eval.metrics.ranking import Ranking, order_of, ranking_of_flags
from eval.metrics.relevance import Relevance
from eval.metrics.vectors import Floats, Ints, UnitRows, cosines, slices, unit_rows

Exact = NDArray[np.float64]
Flags = NDArray[np.bool_]

TIE = 1e-6
BAND = 5e-7  # float32 cosines this close to a threshold are computed again; less than TIE, more than float32 errs
MARGIN = 32  # candidates kept beyond k until they are ordered in float64
MANY = 16  # relevant items of one query from which sorting the scores is cheaper than comparing all with each
CELLS = 1 << 24  # cosines in memory at once: 64 MB and as much again while they are compared
WIDTH = 8192  # gallery items per block


@dataclass(frozen=True)
class Found:
    """The k best gallery items of Q queries."""

    item: Ints  # (Q, k) best first
    cosine: Exact  # (Q, k)
    relevant: Flags  # (Q, k)
    ranking: Ranking  # what `eval.metrics.retrieval` takes


def rank_embeddings(
    queries: Floats,
    gallery: Floats,
    relevance: Relevance,
    exclude: Ints | None = None,
    tie: float = TIE,
    cells: int = CELLS,
) -> Ranking:
    """The ranks of all relevant items by cosine.

    Args:
        queries: (Q, D), normalised or not.
        gallery: (M, D).
        relevance: of Q queries to M items.
        exclude: (Q,) the item that is the query itself and so no candidate; -1: none.
        tie: cosines this close are equal.
        cells: cosines held in memory at once; changes the memory, never the ranks.

    Raises:
        ValueError: shapes disagree, or embeddings are not finite or zero.
    """
    asked, items, exclude = _checked(queries, gallery, relevance, exclude)
    query, item, cosine = _relevant_pairs(asked, items, relevance, exclude)
    bar, total = cosine - tie, np.bincount(query, minlength=len(asked))
    starts = np.concatenate([[0], np.cumsum(total)])
    place = np.arange(len(query)) - starts[query]

    ahead, step = np.zeros(len(query), np.int64), _step(len(items), cells)  # irrelevant items before each relevant one
    for cols in slices(len(items), min(WIDTH, cells)):
        block = items.fast(cols).T
        for rows in slices(len(asked), step):
            pairs = slice(starts[rows.start], starts[rows.stop])
            scores, row = asked.fast(rows) @ block, query[pairs] - rows.start
            leave_out(scores, row, item[pairs] - cols.start)
            leave_out(scores, np.arange(len(scores)), exclude[rows] - cols.start)
            ahead[pairs] += Block(asked, items, rows, cols, scores).reach(row, place[pairs], bar[pairs])
    return Ranking(query, place + 1 + ahead, total, len(items) - (exclude >= 0), len(items))


def top_k(
    queries: Floats,
    gallery: Floats,
    k: int,
    relevance: Relevance | None = None,
    exclude: Ints | None = None,
    tie: float = TIE,
    cells: int = CELLS,
) -> Found:
    """The k best items of every query by cosine; of equal ones irrelevant items come first.

    Args:
        k: items per query.
        relevance: None: nothing is relevant, a plain search. The others as `rank_embeddings`.

    Raises:
        ValueError: as `rank_embeddings`, or a query has fewer than k candidates.
    """
    if relevance is None:
        relevance = Relevance.of_pairs([], [], len(queries), len(gallery))
    asked, items, exclude = _checked(queries, gallery, relevance, exclude)
    candidates = len(items) - (exclude >= 0)
    if not 1 <= k <= (fewest := candidates.min(initial=len(items))):
        raise ValueError(f"a query has only {fewest} candidates, fewer than k = {k}; expected k in 1 … {fewest}")
    item, cosine, relevant = (
        np.zeros((len(asked), k), np.int64),
        np.zeros((len(asked), k)),
        np.zeros((len(asked), k), bool),
    )
    for rows in slices(len(asked), _step(len(items), cells)):
        best, flags = _best(asked, items, rows, relevance, exclude[rows], k + MARGIN, tie, cells)
        query = np.repeat(np.arange(rows.start, rows.stop), best.shape[1])
        exact = cosines(asked, items, query, best.ravel()).reshape(best.shape)
        exact[best == exclude[rows][:, None]] = -np.inf
        order = order_of(exact, flags, tie)[:, :k]
        item[rows], cosine[rows], relevant[rows] = (np.take_along_axis(part, order, 1) for part in (best, exact, flags))
    total = relevance.total - relevance.holds(exclude)
    return Found(item, cosine, relevant, ranking_of_flags(relevant, total, candidates))


def _best(
    asked: UnitRows,
    items: UnitRows,
    rows: slice,
    relevance: Relevance,
    exclude: Ints,
    keep: int,
    tie: float,
    cells: int,
) -> tuple[Ints, Flags]:
    """(n, keep or fewer) the best items of these queries by float32, in the gallery's order; are they relevant?"""
    wanted, n = asked.fast(rows), rows.stop - rows.start
    best = np.zeros((n, 0), np.int64), np.zeros((n, 0), np.float32), np.zeros((n, 0), bool)
    for cols in slices(len(items), min(WIDTH, cells)):
        scores, flags = wanted @ items.fast(cols).T, relevance.mask(rows, cols)
        scores[flags] -= tie
        leave_out(scores, np.arange(n), exclude - cols.start)
        places = np.broadcast_to(np.arange(cols.start, cols.stop), scores.shape)
        new = _highest((places, scores, flags), keep)
        best = _highest(tuple(np.hstack(pair) for pair in zip(best, new, strict=True)), keep)
    in_place = np.argsort(best[0], axis=1)
    return np.take_along_axis(best[0], in_place, 1), np.take_along_axis(best[2], in_place, 1)


def _highest(table: tuple[Any, ...], keep: int) -> tuple[Any, ...]:
    """Of (places, scores, flags), each (n, m), the columns of the highest scores."""
    scores = table[1]
    if scores.shape[1] <= keep:
        return table
    near = np.argpartition(scores, scores.shape[1] - keep, axis=1)[:, -keep:]
    return tuple(np.take_along_axis(part, near, 1) for part in table)


@dataclass(frozen=True)
class Block:
    """Cosines (n, m) of some queries and items; -inf: no candidate, or relevant and counted elsewhere."""

    queries: UnitRows
    items: UnitRows
    rows: slice
    cols: slice
    scores: NDArray[np.float32]

    def reach(self, row: Ints, place: Ints, bar: Exact) -> Ints:
        """(r,) how many scores of each row reach the bar; `place` numbers the bars of a row from 0, highest first."""
        count = _count_sorted if place.max(initial=0) >= MANY else _count_compared
        surely, maybe = (count(self.scores, row, place, (bar + by).astype(np.float32)) for by in (BAND, -BAND))
        for pair in np.flatnonzero(surely != maybe):
            surely[pair] += self._close_ones(row[pair], bar[pair])
        return surely

    def _close_ones(self, row: int, bar: float) -> int:
        """How many of those within `BAND` of the bar reach it."""
        low, high = np.array([bar - BAND, bar + BAND]).astype(np.float32)
        close = np.flatnonzero((self.scores[row] >= low) & (self.scores[row] < high))
        query = np.full(len(close), self.rows.start + row)
        return int((cosines(self.queries, self.items, query, self.cols.start + close) >= bar).sum())


def _count_compared(scores: NDArray[np.float32], row: Ints, place: Ints, bar: NDArray[np.float32]) -> Ints:
    """One comparison of the whole block for the first bar of every row, one for the second, …"""
    count = np.zeros(len(row), np.int64)
    for number in range(place.max(initial=-1) + 1):
        pairs = np.flatnonzero(place == number)
        part = scores if len(pairs) == len(scores) else scores[row[pairs]]
        count[pairs] = (part >= bar[pairs, None]).sum(1)
    return count


def _count_sorted(scores: NDArray[np.float32], row: Ints, place: Ints, bar: NDArray[np.float32]) -> Ints:
    """Every row sorted once, however many bars it has."""
    ordered, count = np.sort(scores, axis=1), np.zeros(len(row), np.int64)
    bounds = np.flatnonzero(np.append(place == 0, True))
    for start, stop in pairwise(bounds):
        count[start:stop] = scores.shape[1] - np.searchsorted(ordered[row[start]], bar[start:stop], side="left")
    return count


def _relevant_pairs(asked: UnitRows, items: UnitRows, relevance: Relevance, exclude: Ints) -> tuple[Ints, Ints, Exact]:
    """(R,) query, item and cosine of all relevant pairs, by query and within a query from the nearest on."""
    query, item = relevance.pairs()
    keep = item != exclude[query]
    query, item = query[keep], item[keep]
    cosine = cosines(asked, items, query, item)
    order = np.lexsort((item, -cosine, query))
    return query[order], item[order], cosine[order]


def leave_out(scores: NDArray[np.float32], row: Ints, col: Ints) -> None:
    """These are no candidates; columns outside of the block are passed over."""
    inside = (col >= 0) & (col < scores.shape[1])
    scores[row[inside], col[inside]] = -np.inf


def _step(n_items: int, cells: int) -> int:
    return max(1, cells // max(1, min(WIDTH, n_items)))


def _checked(
    queries: Floats, gallery: Floats, relevance: Relevance, exclude: Ints | None
) -> tuple[UnitRows, UnitRows, Ints]:
    asked, items = unit_rows(queries, "query"), unit_rows(gallery, "gallery")
    if queries.shape[1] != gallery.shape[1]:
        raise ValueError(f"expected embeddings of one width, got {queries.shape[1]} and {gallery.shape[1]}")
    if len(relevance.classes) != len(asked) or relevance.n_gallery != len(items):
        told = f"{len(relevance.classes)} to {relevance.n_gallery}"
        raise ValueError(f"expected relevance of {len(asked)} queries to {len(items)} items, got of {told}")
    left = np.full(len(asked), -1) if exclude is None else np.asarray(exclude, np.int64)
    if left.shape != (len(asked),) or left.min(initial=-1) < -1 or left.max(initial=-1) >= len(items):
        raise ValueError(f"expected for each query one item to exclude, -1 … {len(items) - 1}, got {left.shape}")
    return asked, items, left
