"""How many of the true nearest neighbours a store finds, among all rows and among those that a filter leaves.

truth = true_neighbours(queries, store.scan(["id", "vector"]))
print(recall(store, queries, truth))
print(recall_under_filters(store, {"photographs": queries}, schema))
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from fclip.store.filters import Condition, Schema, Value, parse_where

if TYPE_CHECKING:
    from fclip.store import Store

K = 10
ENOUGH = 0.985  # recall to reach, where it can be
SHARES = (0.1, 0.005)  # of the rows, which the filters leave that recall is measured under
FARTHEST = 2.0  # times more or less than such a share a filter may leave
ASKED = 32  # queries of a kind under each filter


def true_neighbours(queries: np.ndarray, parts: Iterable[pa.Table], k: int = K) -> list[list[str]]:
    """The ids of the k rows with the greatest cosine to each query, the best first.

    Args:
        queries: (N, D).
        parts: tables with "id" and "vector"; one is held in memory at a time.
        k: neighbours; fewer where there are fewer rows.
    """
    best = np.empty((len(queries), 0), np.float32)
    names = np.empty((len(queries), 0), object)
    for part in parts:
        vectors = part["vector"].combine_chunks().flatten().to_numpy().reshape(len(part), queries.shape[1])
        cosines = queries @ vectors.T / np.maximum(np.linalg.norm(vectors, axis=1), 1e-12)
        near = _greatest(cosines, k)
        best = np.concatenate([best, np.take_along_axis(cosines, near, axis=1)], axis=1)
        names = np.concatenate([names, np.array(part["id"].to_pylist(), object)[near]], axis=1)
        near = _greatest(best, k)
        best, names = np.take_along_axis(best, near, axis=1), np.take_along_axis(names, near, axis=1)
    return [list(row) for row in names]


def _greatest(values: np.ndarray, k: int) -> np.ndarray:
    """The places of the k greatest of each row, the greatest first."""
    if values.shape[1] > k:
        some = np.argpartition(-values, k - 1, axis=1)[:, :k]
    else:
        some = np.broadcast_to(np.arange(values.shape[1]), values.shape)
    return np.take_along_axis(some, np.argsort(-np.take_along_axis(values, some, axis=1), axis=1), axis=1)


def recall(store: Store, queries: np.ndarray, truth: Sequence[Sequence[str]], where: Sequence[Condition] = ()) -> float:
    """Mean share of each query's true neighbours that the store's search returns among as many; 1 without queries.

    Args:
        store: as it searches now.
        queries: (N, D).
        truth: of each query; of the rows that fit.
        where: which rows fit.
    """
    shares = []
    for query, true in zip(queries, truth, strict=True):
        if true:
            found = {hit.id for hit in store.search(query, len(true), where)}
            shares.append(len(found & set(true)) / len(true))
    return float(np.mean(shares)) if shares else 1.0


def recall_under_filters(store: Store, queries: Mapping[str, np.ndarray], schema: Schema) -> list[dict[str, Any]]:
    """Recall under filters of one value that leave about `SHARES` of the rows; a share that none leaves is left out.

    Args:
        store: as it searches now.
        queries: kind → (N, D), of which the first `ASKED` are asked.
        schema: the groups whose values are looked at.

    Returns:
        For each filter {"where": {group: value}, "share": of the rows that fit, "recall": {kind: recall}}.
    """
    facets = {name: store.facet(group.column) for name, group in schema.items()}
    rows, told = store.count(), []
    for name, value in filters_of(facets, rows):
        where = parse_where({name: value}, schema)
        asked = {kind: vectors[:ASKED] for kind, vectors in queries.items() if len(vectors)}
        reached = {
            kind: recall(store, vectors, true_neighbours(vectors, store.scan(["id", "vector"], where)), where)
            for kind, vectors in asked.items()
        }
        told.append({"where": {name: value}, "share": store.count(where) / rows, "recall": reached})
    return told


def filters_of(facets: Mapping[str, Mapping[Value, int]], rows: int) -> list[tuple[str, Value]]:
    """For each of `SHARES` the group and value whose rows are nearest to it, as a ratio; the first of equals.

    None for a share from which even that is more than `FARTHEST` times away. Values of fewer than K rows do not count:
    all of them are among the answers.

    Args:
        facets: group → value → rows that have it.
        rows: of the store.
    """
    counts = {(name, value): count for name, facet in facets.items() for value, count in facet.items() if count >= K}
    found = []
    for share in SHARES:
        away = {key: abs(math.log(count / rows / share)) for key, count in counts.items()}
        best = min(away, key=away.__getitem__, default=None)
        if best is not None and away[best] <= math.log(FARTHEST):
            found.append(best)
    return found
