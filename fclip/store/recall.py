"""How many of the true nearest neighbours a store finds.

truth = true_neighbours(queries, store.scan(["id", "vector"]))
print(recall(store, queries, truth))
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

if TYPE_CHECKING:
    from fclip.store import Store

K = 10


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
        vectors = part["vector"].combine_chunks().flatten().to_numpy().reshape(len(part), -1)
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


def recall(store: Store, queries: np.ndarray, truth: Sequence[Sequence[str]]) -> float:
    """Mean share of each query's true neighbours that the store's search returns among as many; 1 without queries."""
    shares = []
    for query, true in zip(queries, truth, strict=True):
        if true:
            found = {hit.id for hit in store.search(query, len(true))}
            shares.append(len(found & set(true)) / len(true))
    return float(np.mean(shares)) if shares else 1.0
