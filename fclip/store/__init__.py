"""Where vectors lie: one small interface over LanceDB (a folder or an object store) and Qdrant (a server).

    store = open_store("garments-index/pictures-1")                        # or s3://bucket/garments/pictures-1
    store = open_store("http://localhost:6333/garments")                   # Qdrant; its key in QDRANT_API_KEY
    hits = store.search(vector, 10, parse_where({"gender": "Women"}, schema), columns=["title"])

A store knows rows: "id", "item", "vector", and whatever other columns its schema has; what they mean is the index's.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from fclip.errors import StoreUnavailableError
from fclip.store.filters import Condition, Value

__all__ = ["Hit", "Store", "StoreUnavailableError", "Tuning", "create_store", "open_store"]

Queries = Callable[[], Mapping[str, np.ndarray]]


@dataclass(frozen=True)
class Hit:
    """One row found.

    Attributes:
        id, item: of the picture and its product.
        score: cosine similarity to the query, -1..1.
        vector: the row's own (D,), when it was asked for.
        fields: the other columns that were asked for.
    """

    id: str
    item: str
    score: float
    vector: np.ndarray | None = None
    fields: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Tuning:
    """How a store searches, and what that costs in recall.

    Attributes:
        kind: "exact", or the approximate index's type.
        settings: what `open_store` needs to search like this again.
        recall: share of the true 10 nearest that are found, by kind of query; empty where the search is exact.
    """

    kind: str
    settings: dict[str, Any]
    recall: dict[str, float]


class Store(Protocol):
    """Rows with vectors. What is written is seen by others within seconds; one writes while many read.

    Every method raises StoreUnavailableError when the store cannot be reached, after several tries.
    """

    uri: str

    def add(self, rows: pa.Table) -> None:
        """Appends rows whose ids are not there."""

    def upsert(self, rows: pa.Table) -> None:
        """Writes rows in place of those with the same ids."""

    def delete(self, ids: Sequence[str]) -> int:
        """Removes rows; returns how many there were."""

    def search(
        self,
        vector: np.ndarray,
        limit: int,
        where: Sequence[Condition] = (),
        vectors: bool = False,
        columns: Sequence[str] = (),
        exact: bool = False,
    ) -> list[Hit]:
        """The rows nearest to a vector (D,) by cosine, best first, of those that fit all conditions."""

    def get(self, ids: Sequence[str], columns: Sequence[str] | None = None) -> list[dict[str, Any]]:
        """Rows in the order of the ids, with all columns or some; ids that are not there are left out."""

    def scan(self, columns: Sequence[str], where: Sequence[Condition] = ()) -> Iterator[pa.Table]:
        """All rows in parts, in no particular order."""

    def count(self, where: Sequence[Condition] = ()) -> int:
        """Rows that fit."""

    def facet(self, column: str, where: Sequence[Condition] = ()) -> dict[Value, int]:
        """The known values of a column and how many rows have each, the most frequent first."""

    def optimise(self, queries: Queries, fresh: bool = False) -> Tuning:
        """Indexes what was written, and measures recall.

        Args:
            queries: gives kind → query vectors (N, D) to measure with, where that is needed.
            fresh: nobody reads this store yet, so that nothing of its past need be kept.
        """

    def drop(self) -> None:
        """Removes the store and all that is in it."""


def create_store(uri: str, schema: pa.Schema) -> Store:
    """An empty store, in place of any that is there.

    Args:
        uri: a folder, s3://… or gs://… for LanceDB; http(s)://HOST:PORT/COLLECTION for Qdrant.
        schema: "id", "item" (strings), "vector" (fixed-size list of float32), and other columns.

    Raises:
        UserError: a URI of another form.
    """
    if is_server(uri):
        from fclip.store.qdrant import QdrantStore

        return QdrantStore.create(uri, schema)
    from fclip.store.lance import LanceStore

    return LanceStore.create(uri, schema)


def open_store(uri: str, settings: Mapping[str, Any] | None = None) -> Store:
    """A store that is there.

    Args:
        uri: as it was created.
        settings: of its `Tuning`; None: those of a store that was never optimised.

    Raises:
        UserError: nothing there, or a damaged one.
        StoreUnavailableError: its server cannot be reached.
    """
    if is_server(uri):
        from fclip.store.qdrant import QdrantStore

        return QdrantStore.open(uri, settings or {})
    from fclip.store.lance import LanceStore

    return LanceStore.open(uri, settings or {})


def is_server(uri: str) -> bool:
    """Whether a URI is of a Qdrant server, or of its stand-in without one (qdrant:FOLDER/COLLECTION)."""
    return bool(re.match(r"https?://|qdrant:", uri))
