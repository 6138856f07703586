"""A store in Qdrant (Apache-2.0, https://qdrant.tech): a server, or a cluster of them, that many ask at once.

    export QDRANT_API_KEY=…                                             # where the server wants one
    store = QdrantStore.create("https://vectors.shop.example:6333/garments-1", schema)

A row is a point: its number is made of its id, its columns are the payload (bytes as base64). `qdrant:FOLDER/NAME` is
the client's own stand-in without a server, for tests; it compares every vector in Python.
"""

from __future__ import annotations

import base64
import os
import re
import time
import uuid
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa

from fclip.errors import StoreUnavailableError, UserError
from fclip.store import Hit, Queries, Tuning
from fclip.store.filters import Between, Condition, OneOf, Value
from fclip.store.recall import ENOUGH, recall, true_neighbours

T = TypeVar("T")
KEY = "QDRANT_API_KEY"
ALONE = "qdrant:"  # without a server
AT_ONCE = 256  # points in a request: about 5 MB with their thumbnails
PAUSES_SECONDS = (0.1, 0.4, 1.6)  # before the tries after the first
PROBES = (128, 256, 512, 1024)  # candidates kept while searching (hnsw_ef); the fewest that find enough are kept
EXACT_UP_TO = 5_000  # rows: comparing all of them is quick
MOST_VALUES = 100_000  # of a column that are counted
INDEXED_WITHIN_SECONDS = 3600
_LOCAL: dict[str, Any] = {}  # folder → client: a folder can be open once


class QdrantStore:
    """Use `create_store` or `open_store`."""

    def __init__(self, uri: str, client: Any, name: str, settings: Mapping[str, Any]) -> None:
        self.uri, self._client, self._name, self._settings = uri, client, name, dict(settings)
        self._held: pa.Schema | None = None

    @classmethod
    def create(cls, uri: str, schema: pa.Schema) -> QdrantStore:
        from qdrant_client import models

        client, name = _connect(uri)
        store = cls(uri, client, name, {})
        dimension = schema.field("vector").type.list_size
        store._do(lambda: client.delete_collection(name))
        # The payload stays on the disk: thumbnails are many times as large as vectors.
        shape = models.VectorParams(size=dimension, distance=models.Distance.COSINE)
        told = {"columns": {field.name: str(field.type) for field in schema}}
        store._do(lambda: client.create_collection(name, vectors_config=shape, on_disk_payload=True, metadata=told))
        for field in schema:
            if field.name == "id" or field.name.startswith("group_"):
                number = pa.types.is_floating(field.type)
                kind = models.PayloadSchemaType.FLOAT if number else models.PayloadSchemaType.KEYWORD
                store._index(field.name, kind)
        return store

    @classmethod
    def open(cls, uri: str, settings: Mapping[str, Any]) -> QdrantStore:
        client, name = _connect(uri)
        store = cls(uri, client, name, settings)
        if not store._do(lambda: client.collection_exists(name)):
            raise UserError(f"no vectors in {uri}")
        return store

    def add(self, rows: pa.Table) -> None:
        self.upsert(rows)  # by id in any case: a second try doubles nothing

    def upsert(self, rows: pa.Table) -> None:
        for start in range(0, len(rows), AT_ONCE):
            points = _points(rows.slice(start, AT_ONCE))
            self._do(lambda points=points: self._client.upsert(self._name, points, wait=True))  # type: ignore[misc]

    def delete(self, ids: Sequence[str]) -> int:
        from qdrant_client import models

        before = self.count()
        for start in range(0, len(ids), AT_ONCE):
            points = models.PointIdsList(points=[_number(name) for name in ids[start : start + AT_ONCE]])
            self._do(lambda points=points: self._client.delete(self._name, points, wait=True))  # type: ignore[misc]
        return before - self.count()

    def search(
        self,
        vector: np.ndarray,
        limit: int,
        where: Sequence[Condition] = (),
        vectors: bool = False,
        columns: Sequence[str] = (),
        exact: bool = False,
    ) -> list[Hit]:
        from qdrant_client import models

        parameters = None
        if not self.uri.startswith(ALONE):  # which compares every vector in any case, and would warn
            parameters = models.SearchParams(exact=exact or not self._settings, hnsw_ef=self._settings.get("ef"))
        found = self._do(
            lambda: self._client.query_points(
                self._name,
                query=vector.astype(np.float32),
                query_filter=_filter(where),
                limit=limit,
                search_params=parameters,
                with_payload=["id", "item", *columns],
                with_vectors=vectors,
            )
        )
        return [_hit(point, columns) for point in found.points]

    def get(self, ids: Sequence[str], columns: Sequence[str] | None = None) -> list[dict[str, Any]]:
        found: dict[str, dict[str, Any]] = {}
        vector = columns is None or "vector" in columns
        payload = True if columns is None else ["id", *columns]
        for start in range(0, len(ids), AT_ONCE):
            numbers = [_number(name) for name in ids[start : start + AT_ONCE]]
            points = self._do(
                lambda numbers=numbers: self._client.retrieve(  # type: ignore[misc]
                    self._name, numbers, with_payload=payload, with_vectors=vector
                )
            )
            found |= {point.payload["id"]: self._row(point, columns) for point in points}
        return [found[name] for name in ids if name in found]

    def scan(self, columns: Sequence[str], where: Sequence[Condition] = ()) -> Iterator[pa.Table]:
        following = None
        while True:
            points, following = self._do(
                lambda following=following: self._client.scroll(  # type: ignore[misc]
                    self._name,
                    scroll_filter=_filter(where),
                    limit=AT_ONCE,
                    offset=following,
                    with_payload=list(columns),
                    with_vectors="vector" in columns,
                )
            )
            if points:
                schema = pa.schema([self._schema().field(name) for name in columns])
                yield pa.Table.from_pylist([self._row(point, columns) for point in points], schema=schema)
            if following is None:
                return

    def count(self, where: Sequence[Condition] = ()) -> int:
        return self._do(lambda: self._client.count(self._name, _filter(where), exact=True)).count

    def facet(self, column: str, where: Sequence[Condition] = ()) -> dict[Value, int]:
        counts: dict[Value, int] = {}
        if pa.types.is_floating(self._schema().field(column).type):  # Qdrant counts words only
            for part in self.scan([column], where):
                for value in part[column].drop_null().to_pylist():
                    counts[value] = counts.get(value, 0) + 1
        else:
            found = self._do(
                lambda: self._client.facet(self._name, column, _filter(where), limit=MOST_VALUES, exact=True)
            )
            counts = {hit.value: hit.count for hit in found.hits}
        return dict(sorted(counts.items(), key=lambda pair: (-pair[1], pair[0])))

    def optimise(self, queries: Queries, fresh: bool = False) -> Tuning:
        """Waits until the server has indexed what was written, and measures recall."""
        if self.count() <= EXACT_UP_TO:
            self._settings = {}
            return Tuning("exact", {}, {})
        until = time.monotonic() + INDEXED_WITHIN_SECONDS
        while self._do(lambda: self._client.get_collection(self._name)).status != "green" and time.monotonic() < until:
            time.sleep(1)
        asked = {kind: vectors for kind, vectors in queries().items() if len(vectors)}
        truth = {kind: true_neighbours(vectors, self.scan(["id", "vector"])) for kind, vectors in asked.items()}
        reached: dict[str, float] = {}
        for probes in PROBES:
            self._settings = {"ef": probes}
            reached = {kind: recall(self, asked[kind], true) for kind, true in truth.items()}
            if min(reached.values(), default=1.0) >= ENOUGH:
                break
        return Tuning("HNSW", dict(self._settings), reached)

    def drop(self) -> None:
        self._do(lambda: self._client.delete_collection(self._name))

    def _index(self, column: str, kind: Any) -> None:
        with warnings.catch_warnings():  # without a server there are none, and the client warns
            warnings.filterwarnings("ignore", "Payload indexes have no effect")
            self._do(lambda: self._client.create_payload_index(self._name, column, kind))

    def _schema(self) -> pa.Schema:
        """The columns as they were created, kept with the collection."""
        if self._held is None:
            about = self._do(lambda: self._client.get_collection(self._name)).config
            size, known = about.params.vectors.size, about.metadata["columns"]
            types = {"string": pa.string(), "binary": pa.binary(), "double": pa.float64()}
            vector = pa.list_(pa.float32(), size)
            self._held = pa.schema(
                [(n, vector if n == "vector" else types.get(t, pa.list_(pa.string()))) for n, t in known.items()]
            )
        return self._held

    def _row(self, point: Any, columns: Sequence[str] | None) -> dict[str, Any]:
        row = {"id": point.payload.get("id")}
        row |= {name: _from_payload(point.payload.get(name)) for name in columns or self._schema().names}
        if "vector" in row:
            row["vector"] = np.array(point.vector, np.float32)
        return row

    def _do(self, call: Callable[[], T]) -> T:
        """What the call returns, tried again after a while when the server cannot be reached."""
        from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse

        for pause in (*PAUSES_SECONDS, None):
            try:
                return call()
            except ResponseHandlingException as error:
                reason: Exception = error
            except UnexpectedResponse as error:
                status = error.status_code or 0
                if status in (401, 403):
                    raise UserError(f"{self.uri} refuses the API key; set {KEY}") from None
                if status < 500:
                    raise
                reason = error
            if pause is None:
                line = str(reason).strip().splitlines()[0][:200] if str(reason).strip() else type(reason).__name__
                raise StoreUnavailableError(f"the store {self.uri} cannot be reached: {line}") from reason
            time.sleep(pause)
        raise AssertionError


def _connect(uri: str) -> tuple[Any, str]:
    """The client and the collection's name."""
    from qdrant_client import QdrantClient

    place, _, name = uri.rstrip("/").rpartition("/")
    if not re.fullmatch(r"https?://[^/]+(/.*)?|qdrant:.+", place) or not name:
        raise UserError(f"expected http://HOST:PORT/COLLECTION, got {uri}")
    if place.startswith(ALONE):
        folder = place.removeprefix(ALONE)
        if folder not in _LOCAL:
            _LOCAL[folder] = QdrantClient(path=folder) if folder != "memory" else QdrantClient(":memory:")
        return _LOCAL[folder], name
    with warnings.catch_warnings():  # of keys over http, which is what a server on the same machine has
        warnings.filterwarnings("ignore", "Api key is used with an insecure connection")
        key = os.environ.get(KEY) or None
        return QdrantClient(url=place, api_key=key, timeout=60, check_compatibility=False), name


def _number(name: str) -> str:
    """A point's number, always the same for an id."""
    return str(uuid.uuid5(uuid.NAMESPACE_OID, name))


def _points(rows: pa.Table) -> Any:
    from qdrant_client import models

    vectors = rows["vector"].combine_chunks().flatten().to_numpy().reshape(len(rows), -1)
    payload = rows.drop_columns(["vector"]).to_pylist()
    return models.Batch(
        ids=[_number(row["id"]) for row in payload],
        vectors=vectors.tolist(),
        payloads=[{name: _to_payload(value) for name, value in row.items()} for row in payload],
    )


def _to_payload(value: Any) -> Any:
    return {"base64": base64.b64encode(value).decode()} if isinstance(value, bytes) else value


def _from_payload(value: Any) -> Any:
    return base64.b64decode(value["base64"]) if isinstance(value, dict) else value


def _hit(point: Any, columns: Sequence[str]) -> Hit:
    fields = {name: _from_payload(point.payload.get(name)) for name in columns}
    vector = None if point.vector is None else np.array(point.vector, np.float32)
    return Hit(point.payload["id"], point.payload["item"], float(point.score), vector, fields)


def _filter(where: Sequence[Condition]) -> Any:
    """Qdrant's own objects: no text is made of a name or a value."""
    from qdrant_client import models

    must: list[Any] = []
    must_not: list[Any] = []
    for condition in where:
        if isinstance(condition, Between):
            reach = models.Range(gte=condition.low, lte=condition.high)
            must.append(models.FieldCondition(key=condition.column, range=reach))
        else:
            among = must if isinstance(condition, OneOf) else must_not
            among.append(_any_of(condition.column, condition.values))
    return models.Filter(must=must, must_not=must_not) if where else None


def _any_of(column: str, values: Sequence[Value]) -> Any:
    from qdrant_client import models

    words = [value for value in values if isinstance(value, str)]
    if words:
        return models.FieldCondition(key=column, match=models.MatchAny(any=words))
    numbers = [float(value) for value in values]
    same: list[Any] = [models.FieldCondition(key=column, range=models.Range(gte=n, lte=n)) for n in numbers]
    return models.Filter(should=same)
