"""A store in LanceDB (Apache-2.0, https://lancedb.com): a plain folder, or one in an object store, without a server.

    store = LanceStore.create("garments-index/pictures-1", schema)      # or s3://bucket/garments-index/pictures-1

Many processes read while others write: every write is a new version, and a reader looks for one every few seconds. In
an object store a version is written by a conditional PUT (If-None-Match), which S3 and most of its like have.
Up to `EXACT_UP_TO` rows every vector is compared, in memory where they are asked for more than once; above, IVF_RQ
(inverted lists of 4-bit codes, RaBitQ, https://arxiv.org/abs/2405.12497) chooses candidates that are compared exactly.
How many lists are looked through is measured when the index is built.

LanceDB's asynchronous interface is used, in its own thread: a search of its synchronous one waits six times for that
thread, which takes as long as searching does.
"""

from __future__ import annotations

import os
import re
import shutil
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fclip.errors import StoreUnavailableError, UserError
from fclip.store import Hit, Queries, Tuning
from fclip.store.filters import Between, Condition, OneOf, Value
from fclip.store.held import Held, matrix
from fclip.store.recall import ENOUGH, recall, true_neighbours

T = TypeVar("T")
TABLE = "pictures"
EXACT_UP_TO = 20_000  # rows: two milliseconds to compare, and some 200 MB of memory with thumbnails of 2 KB
SEEN_WITHIN = timedelta(seconds=2)  # what others wrote
KEPT_FOR = timedelta(hours=1)  # versions, for those who still read them
NOW = timedelta(milliseconds=1)
PAUSES_SECONDS = (0.1, 0.4, 1.6)  # before the tries after the first; an object store's client makes four of its own
UNREACHED = "Failed to connect"  # begins a ValueError of LanceDB that is of no value
REASON = re.compile(r'<Code>(\w+)|message: "([^"]+)"|(HTTP error: [^,\n]+)')
"""Where LanceDB says, deep in a page of text, why an object store cannot be reached."""
GET_AT_ONCE = 1000  # ids
EFFORTS = (*((p, c) for c in (20, 40, 80, 160, 320) for p in (8, 16, 32, 64, 128)), (256, 640), (512, 640))
"""Lists to look through, and candidates that are compared exactly, which cost more; the first that suffice are kept."""
FITTING = 3500  # rows that fit, in the lists that are looked through: what fits may lie far from the question
CODES = 190  # that are compared in the lists in the time that one row takes which is read and compared exactly
MOST_COUNTED = 1000  # filters whose rows are counted and remembered
BITS = 4  # of each number of a vector: with one, eight times as many candidates must be compared
LEAST_REFINED = 2  # candidates for each answer, when many answers are wanted
MOST_OUTSIDE = 5_000  # rows that are in no list yet and are compared one by one
MOST_IN_BITMAP = 1000  # values of a column
ALL_LISTS = 0


class LanceStore:
    """Use `create_store` or `open_store`."""

    def __init__(self, uri: str, table: Any, settings: Mapping[str, Any]) -> None:
        self.uri, self._table, self._settings = uri, table, dict(settings)
        self._schema: pa.Schema = None if table is None else _wait(table.schema())
        self._counts: dict[str | None, int] = {}
        self._held: Held | None = None
        self._state: tuple[int, int] | None = None  # version and rows that `_held` is of
        self._writes, self._seen = 0, -1  # of this store's own: all, and those that `_held` knows
        self._looked = 0.0  # when, by the clock of `time.monotonic`
        self._looking, self._counting = threading.Lock(), threading.Lock()

    @classmethod
    def create(cls, uri: str, schema: pa.Schema) -> LanceStore:
        cls(uri, None, {}).drop()

        async def created() -> Any:
            return await (await _connect(uri)).create_table(TABLE, schema=schema)

        return cls(uri, _retried(uri, lambda: _wait(created())), {})

    @classmethod
    def open(cls, uri: str, settings: Mapping[str, Any]) -> LanceStore:
        if "://" not in uri and not Path(uri).is_dir():
            raise UserError(f"no vectors in {uri}")

        async def opened() -> Any:
            return await (await _connect(uri)).open_table(TABLE)

        try:
            return cls(uri, _retried(uri, lambda: _wait(opened())), settings)
        except (ValueError, KeyError) as error:  # what LanceDB raises when there is no such table
            raise UserError(f"no vectors in {uri}: {_line(error)}") from None
        except StoreUnavailableError as error:
            if "://" in uri:
                raise
            raise UserError(str(error)) from None

    def add(self, rows: pa.Table) -> None:
        # No second try: one that seems to have failed may have been committed, and would be doubled.
        with self._writing():
            self._once(lambda: self._table.add(rows))

    def upsert(self, rows: pa.Table) -> None:
        merge = self._table.merge_insert("id").when_matched_update_all().when_not_matched_insert_all()
        with self._writing():
            self._do(lambda: merge.execute(rows))

    def delete(self, ids: Sequence[str]) -> int:
        before = self.count()
        with self._writing():
            for part in _parts(ids):
                self._do(lambda part=part: self._table.delete(_one_of("id", part)))  # type: ignore[misc]
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
        names = list(dict.fromkeys(["id", "item", *columns, *["vector"] * vectors]))
        if held := self._in_memory():
            return _hits(held.nearest(vector, limit, where, names), columns, vectors)
        query = self._table.query().nearest_to(vector.astype(np.float32)).distance_type("cosine").limit(limit)
        query = query.select([*names, "_distance"])
        sql = self._sql(where) if where else None
        query = query.where(sql) if sql else query
        if self._settings and not exact:
            return _hits(self._near(query, limit, sql), columns, vectors)
        return _hits(self._do(query.bypass_vector_index().to_arrow), columns, vectors)

    def _near(self, query: Any, limit: int, sql: str | None) -> pa.Table:
        """What the nearest lists hold; all lists, where those hold too little."""
        probes, lists = self._settings["probes"], self._settings.get("lists", 0)
        if sql and lists:
            fitting = self._counted(sql)
            probes = max(probes, -(-FITTING * lists // max(1, fitting)))
            if fitting * CODES * lists <= self._counted(None) * min(probes, lists):
                return self._do(query.bypass_vector_index().to_arrow)
        query = query.refine_factor(max(LEAST_REFINED, -(-self._settings["candidates"] // limit)))
        query = query.maximum_nprobes(ALL_LISTS).minimum_nprobes(probes)
        if probes < lists:  # not in an index from before "lists": its recall was measured with all of them
            found = self._do(query.maximum_nprobes(probes).to_arrow)
            if len(found) == limit:
                return found
        return self._do(query.maximum_nprobes(ALL_LISTS).to_arrow)

    def _counted(self, sql: str | None) -> int:
        """Rows that fit, as they were when it was asked first: it only tells how hard to search."""
        known = self._counts.get(sql)
        if known is None:
            known = self._do(lambda: self._table.count_rows(sql))
            if len(self._counts) >= MOST_COUNTED:
                self._counts.clear()
            self._counts[sql] = known
        return known

    def get(self, ids: Sequence[str], columns: Sequence[str] | None = None) -> list[dict[str, Any]]:
        names = self._schema.names if columns is None else list(dict.fromkeys(["id", *columns]))
        if held := self._in_memory():
            return _rows(held.get(ids, names))
        found: dict[str, dict[str, Any]] = {}
        for part in _parts(ids):
            query = self._table.query().where(_one_of("id", part)).select(names)
            found |= {row["id"]: row for row in _rows(self._do(query.to_arrow))}
        return [found[name] for name in ids if name in found]

    def scan(self, columns: Sequence[str], where: Sequence[Condition] = ()) -> Iterator[pa.Table]:
        query = self._table.query().select(list(columns))
        if where:
            query = query.where(self._sql(where))
        batches = self._do(query.to_batches)
        while (batch := self._do(lambda: _following(batches))) is not None:
            yield pa.Table.from_batches([batch])

    def count(self, where: Sequence[Condition] = ()) -> int:
        if where and (held := self._in_memory()):
            return len(held.column("id", where))
        return self._do(lambda: self._table.count_rows(self._sql(where) if where else None))

    def facet(self, column: str, where: Sequence[Condition] = ()) -> dict[Value, int]:
        if held := self._in_memory():
            found = held.column(column, where)
        else:
            query = self._table.query().select([column])
            found = self._do((query.where(self._sql(where)) if where else query).to_arrow)[column]
        flat = pc.list_flatten(found) if pa.types.is_list(found.type) else found
        counts = {c["values"]: c["counts"] for c in flat.value_counts().to_pylist() if c["values"] is not None}
        return dict(sorted(counts.items(), key=lambda pair: (-pair[1], pair[0])))

    def optimise(self, queries: Queries, fresh: bool = False) -> Tuning:
        rows = self.count()
        lists = next((index for index in self._do(self._table.list_indices) if "vector" in index.columns), None)
        # LanceDB 0.40's optimize() also merges new rows into the lists, and a tenth to a third of the recall is lost:
        # it is only called where the lists are made anew afterwards. Rows in no list are compared exactly.
        outside = rows if lists is None else lists.num_unindexed_rows
        if lists is None or outside > MOST_OUTSIDE:
            kept = NOW if fresh else KEPT_FOR
            self._once(lambda: self._table.optimize(cleanup_older_than=kept, delete_unverified=fresh))
            if rows > EXACT_UP_TO or lists is not None:
                self._index_columns()
                self._index_vectors(rows)
        if rows <= EXACT_UP_TO and lists is None:
            self._settings = {}
            return Tuning("exact", {}, {})
        return self._tuned(queries(), rows)

    def drop(self) -> None:
        if "://" not in self.uri:
            shutil.rmtree(self.uri, ignore_errors=True)
        else:

            async def dropped() -> None:
                await (await _connect(self.uri)).drop_all_tables()

            _retried(self.uri, lambda: _wait(dropped()))

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """What is held in memory is no longer right, even if it failed: it may have been written."""
        try:
            yield
        finally:
            with self._counting:
                self._writes += 1

    def _in_memory(self) -> Held | None:
        """The rows as they were within `SEEN_WITHIN`, all writes of this store's own included.

        None: more than `EXACT_UP_TO`, a state that was not there at the look before (who asks once or writes between
        questions need not read all rows), or another thread is looking. Then LanceDB is asked, which is always right.
        """
        if self._settings:
            return None
        if self._seen == self._writes and time.monotonic() - self._looked < SEEN_WITHIN.total_seconds():
            return self._held
        if not self._looking.acquire(blocking=False):
            return None
        try:
            writes, looked = self._writes, time.monotonic()
            self._do(self._table.checkout_latest)
            state = self._now()
            if state != self._state:
                self._held, self._state = None, state
            elif self._held is None and state[1] <= EXACT_UP_TO:
                self._held = Held(self._do(self._table.query().to_arrow))
            if self._now() != state:  # others may have been answered from a newer one meanwhile
                self._held = self._state = None
            self._seen, self._looked = writes, looked
            return self._held
        finally:
            self._looking.release()

    def _now(self) -> tuple[int, int]:
        """Version and rows: a number alone may come back in a folder that is made anew."""
        return self._do(self._table.version), self.count()

    def _index_columns(self) -> None:
        """An index for every column that is filtered on, of the kind that fits its values."""
        from lancedb.index import Bitmap, BTree, LabelList

        there = {column for index in self._do(self._table.list_indices) for column in index.columns}
        for field in self._schema:
            if field.name in there or not (field.name == "id" or field.name.startswith("group_")):
                continue
            config: Any = BTree()
            if pa.types.is_list(field.type):
                config = LabelList()
            elif field.name != "id" and pa.types.is_string(field.type) and len(self.facet(field.name)) < MOST_IN_BITMAP:
                config = Bitmap()
            self._once(partial(self._table.create_index, field.name, config=config))

    def _index_vectors(self, rows: int) -> None:
        from lancedb.index import IvfRq

        config = IvfRq(distance_type="cosine", num_partitions=_lists_of(rows), num_bits=BITS)
        self._once(lambda: self._table.create_index("vector", config=config))

    def _tuned(self, queries: Mapping[str, np.ndarray], rows: int) -> Tuning:
        """Tries harder and harder until enough of the true neighbours are found for every kind of query."""
        asked = {kind: vectors for kind, vectors in queries.items() if len(vectors)}
        truth = {kind: true_neighbours(vectors, self.scan(["id", "vector"])) for kind, vectors in asked.items()}
        reached: dict[str, float] = {}
        for probes, candidates in EFFORTS:
            self._settings = {"probes": probes, "candidates": candidates, "lists": _lists_of(rows)}
            reached = {kind: recall(self, asked[kind], true) for kind, true in truth.items()}
            if min(reached.values(), default=1.0) >= ENOUGH:
                break
        return Tuning("IVF_RQ", dict(self._settings), reached)

    def _sql(self, where: Sequence[Condition]) -> str:
        """SQL of column names of our own and of literals of LanceDB's making: its expressions know no lists (0.40)."""
        return " AND ".join(f"({self._test(condition)})" for condition in where)

    def _test(self, condition: Condition) -> str:
        from lancedb.expr import col, lit

        field = self._schema.field(condition.column)  # raises KeyError for what is no column
        if isinstance(condition, Between):
            ends = [(">=", condition.low), ("<=", condition.high)]
            return " AND ".join(
                f"{field.name} {sign} {lit(float(end)).to_sql()}" for sign, end in ends if end is not None
            )
        if pa.types.is_list(field.type):
            test = " OR ".join(f"array_has({field.name}, {lit(value).to_sql()})" for value in condition.values)
        else:
            test = col(field.name).isin(list(condition.values)).to_sql()
        return test if isinstance(condition, OneOf) else f"{field.name} IS NULL OR NOT ({test})"

    def _do(self, call: Callable[[], Coroutine[Any, Any, T]]) -> T:
        return _retried(self.uri, lambda: _wait(call()))

    def _once(self, call: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """A folder's errors stay what they are: a full disk is known by its own."""
        return self._do(call) if "://" in self.uri else _wait(call())


def _lists_of(rows: int) -> int:
    """As many lists as the square root of the rows."""
    return max(1, round(rows**0.5))


async def _connect(uri: str) -> Any:
    import lancedb

    options = _endpoint() if uri.startswith("s3://") else None
    return await lancedb.connect_async(uri, read_consistency_interval=SEEN_WITHIN, storage_options=options)


def _endpoint() -> dict[str, str]:
    """The address of an S3 server that is not Amazon's, from where pyarrow has it too (`fclip.places`)."""
    url = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
    return {"aws_endpoint": url, "allow_http": str(url.startswith("http://")).lower()} if url else {}


def _wait(work: Coroutine[Any, Any, T]) -> T:
    """What LanceDB's thread makes of it. The thread is not public: setup.cfg names the release that has it."""
    from lancedb.background_loop import LOOP

    return LOOP.run(work)


async def _following(batches: Any) -> pa.RecordBatch | None:
    return await anext(batches, None)


def _retried(uri: str, call: Callable[[], T]) -> T:
    """What the call returns, tried again after a while when the disk fails."""
    for pause in (*(() if "://" in uri else PAUSES_SECONDS), None):
        try:
            return call()
        except (OSError, RuntimeError, ValueError) as error:  # what LanceDB raises for a disk and a network
            if isinstance(error, ValueError) and UNREACHED not in str(error):
                raise
            if pause is None:
                raise StoreUnavailableError(f"the store {uri} cannot be reached: {_line(error)}") from error
            time.sleep(pause)
    raise AssertionError


def _line(error: Exception) -> str:
    if found := REASON.search(str(error)):
        return next(part for part in found.groups() if part)
    return str(error).splitlines()[0][:200] if str(error) else type(error).__name__


def _one_of(column: str, values: Sequence[str]) -> str:
    from lancedb.expr import col

    return col(column).isin(list(values)).to_sql()


def _parts(ids: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(ids), GET_AT_ONCE):
        yield ids[start : start + GET_AT_ONCE]


def _hits(found: pa.Table, columns: Sequence[str], vectors: bool) -> list[Hit]:
    own = matrix(found["vector"]) if vectors else None
    plain = found.select([*dict.fromkeys(["id", "item", *columns])]).to_pylist()
    scores = 1 - found["_distance"].to_numpy()
    return [
        Hit(row["id"], row["item"], float(score), None if own is None else own[place], {c: row[c] for c in columns})
        for place, (row, score) in enumerate(zip(plain, scores, strict=True))
    ]


def _rows(table: pa.Table) -> list[dict[str, Any]]:
    """Rows as dicts, their vectors as arrays and not as lists of numbers."""
    if "vector" not in table.column_names:
        return table.to_pylist()
    vectors = matrix(table["vector"])
    return [row | {"vector": vectors[i]} for i, row in enumerate(table.drop_columns(["vector"]).to_pylist())]
