"""All stores keep the same contract: what plain Python over the same rows would answer."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import timedelta

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import fclip.store.lance
import fclip.store.qdrant
from fclip.errors import StoreUnavailableError, UserError
from fclip.store import Store, create_store, open_store
from fclip.store.filters import Between, Group, NoneOf, OneOf, parse_where
from fclip.store.recall import ASKED, ENOUGH, filters_of, recall_under_filters, true_neighbours

D = 8
NASTY = ["plain", "it's", 'a "b"', "a/b", "", "x' OR 1=1 --", "été", "back\\slash", "100 %"]
SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("item", pa.string()),
        ("thumbnail", pa.binary()),
        ("vector", pa.list_(pa.float32(), D)),
        ("group_0", pa.string()),
        ("group_1", pa.list_(pa.string())),
        ("group_2", pa.float64()),
    ]
)
SLOW_START = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]


def rows_of(numbers, seed: int = 0) -> list[dict]:
    """Rows that depend on their numbers alone; some values are unknown."""
    rows = []
    for n in numbers:
        rng = np.random.default_rng([seed, n])
        vector = rng.normal(size=D)
        rows.append(
            {
                "id": f"{NASTY[n % len(NASTY)]}/{n}",
                "item": f"product {n // 2}",
                "thumbnail": rng.bytes(5),
                "vector": (vector / np.linalg.norm(vector)).astype(np.float32).tolist(),
                "group_0": None if n % 5 == 4 else NASTY[int(rng.integers(len(NASTY)))],
                "group_1": None if n % 7 == 6 else [NASTY[i] for i in rng.permutation(len(NASTY))[: rng.integers(3)]],
                "group_2": None if n % 3 == 2 else float(rng.integers(-4, 5)) / 2,
            }
        )
    return rows


def table(rows: list[dict]) -> pa.Table:
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def fits(row: dict, condition) -> bool:
    """What a condition means."""
    value = row[condition.column]
    values = value if isinstance(value, list) else [] if value is None else [value]
    if isinstance(condition, OneOf):
        return any(v in condition.values for v in values)
    if isinstance(condition, NoneOf):
        return not any(v in condition.values for v in values)
    low, high = condition.low, condition.high
    return any((low is None or v >= low) and (high is None or v <= high) for v in values)


@pytest.fixture(scope="module", params=["lance in memory", "lance in a folder", "lance in S3", "qdrant"])
def address(request, tmp_path_factory) -> Iterator[Callable[[str], str]]:
    """address(name) → where a store of that name may be."""
    folder = tmp_path_factory.mktemp("stores")
    with pytest.MonkeyPatch.context() as patched:
        if request.param == "lance in memory":
            patched.setattr(fclip.store.lance, "SEEN_WITHIN", timedelta(0))  # read again whenever it has changed
        else:
            patched.setattr(fclip.store.lance, "EXACT_UP_TO", -1)
        if request.param == "lance in S3":
            request.getfixturevalue("s3")
            yield lambda name: f"s3://shop/{name}"
        elif request.param == "qdrant":
            yield lambda name: f"qdrant:memory/{name}"
        else:
            yield lambda name: str(folder / name)


@pytest.fixture(scope="module")
def full(address) -> tuple[Store, list[dict]]:
    """A store of 60 rows, which no test may change, and the rows."""
    rows = rows_of(range(60))
    store = create_store(address("full"), SCHEMA)
    store.add(table(rows[:35]))
    store.add(table(rows[35:]))
    opened = open_store(store.uri)
    for _ in range(2):  # what is asked more than once may be held in memory
        opened.search(query(), 1)
    return opened, rows


@pytest.fixture
def store(address) -> Store:
    made = create_store(address("changed"), SCHEMA)
    made.add(table(rows_of(range(10))))
    return made


def query(seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=D).astype(np.float32)


def nearest(rows: list[dict], vector: np.ndarray, limit: int) -> list[tuple[str, float]]:
    cosines = [(row["id"], float(np.dot(row["vector"], vector) / np.linalg.norm(vector))) for row in rows]
    return sorted(cosines, key=lambda pair: -pair[1])[:limit]


WORDS = st.lists(st.sampled_from([*NASTY, "nowhere"]), min_size=1, max_size=3, unique=True).map(tuple)
NUMBERS = st.sampled_from([-2.0, -1.0, -0.5, 0.0, 0.5, 2.0, 9.0])
CONDITIONS = st.one_of(
    st.builds(OneOf, st.sampled_from(["group_0", "group_1"]), WORDS),
    st.builds(NoneOf, st.sampled_from(["group_0", "group_1"]), WORDS),
    st.builds(OneOf, st.just("group_2"), st.lists(NUMBERS, min_size=1, max_size=2).map(tuple)),
    st.builds(NoneOf, st.just("group_2"), st.lists(NUMBERS, min_size=1, max_size=2).map(tuple)),
    st.tuples(NUMBERS, NUMBERS).map(lambda ends: Between("group_2", min(ends), max(ends))),
    st.builds(Between, st.just("group_2"), NUMBERS, st.none()),
    st.builds(Between, st.just("group_2"), st.none(), NUMBERS),
)


@settings(max_examples=40, deadline=None, suppress_health_check=SLOW_START)
@given(where=st.lists(CONDITIONS, max_size=3))
def test_filters_choose_what_plain_python_does(full, where) -> None:
    store, rows = full
    fitting = [row for row in rows if all(fits(row, condition) for condition in where)]
    assert store.count(where) == len(fitting)
    found = store.search(query(), 7, where)
    expected = nearest(fitting, query(), 7)
    assert [hit.id for hit in found] == [name for name, _ in expected]
    assert [hit.score for hit in found] == pytest.approx([score for _, score in expected], abs=1e-5)
    counted: dict = {}
    for row in fitting:
        for value in row["group_1"] or []:
            counted[value] = counted.get(value, 0) + 1
    assert store.facet("group_1", where) == counted


def test_a_hit_has_what_was_asked_for(full) -> None:
    store, rows = full
    (name, score), *_ = nearest(rows, query(), 1)
    row = next(row for row in rows if row["id"] == name)
    (hit,) = store.search(query(), 1, vectors=True, columns=["thumbnail", "group_1", "group_2"])
    assert (hit.id, hit.item) == (name, row["item"])
    assert hit.score == pytest.approx(score, abs=1e-5)
    assert hit.vector == pytest.approx(row["vector"], abs=1e-6)
    assert hit.fields == {"thumbnail": row["thumbnail"], "group_1": row["group_1"], "group_2": row["group_2"]}
    (plain,) = store.search(query(), 1)
    assert plain.vector is None
    assert plain.fields == {}


def test_facets_count_values_and_the_most_frequent_come_first(full) -> None:
    store, rows = full
    for column in ("group_0", "group_2"):
        values = [row[column] for row in rows if row[column] is not None]
        counts = store.facet(column)
        assert counts == {value: values.count(value) for value in values}
        assert list(counts.items()) == sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))


def test_rows_are_got_by_any_id_in_the_order_asked_for(full) -> None:
    store, rows = full
    wanted = [rows[8], rows[1], rows[40]]
    found = store.get([rows[8]["id"], "nobody's", rows[1]["id"], rows[40]["id"]])
    assert [row["id"] for row in found] == [row["id"] for row in wanted]
    for row, expected in zip(found, wanted, strict=True):
        assert row.pop("vector") == pytest.approx(expected["vector"], abs=1e-6)
        assert row == {name: value for name, value in expected.items() if name != "vector"}
    assert store.get([rows[2]["id"]], ["item"]) == [{"id": rows[2]["id"], "item": rows[2]["item"]}]
    assert store.get([]) == []


def test_a_scan_gives_every_row_once(full) -> None:
    store, rows = full
    parts = list(store.scan(["id", "vector", "group_2"]))
    found = {row["id"]: row for part in parts for row in part.to_pylist()}
    assert sum(map(len, parts)) == len(found) == len(rows)
    for row in rows:
        assert found[row["id"]]["vector"] == pytest.approx(row["vector"], abs=1e-6)
        assert found[row["id"]]["group_2"] == row["group_2"]
    some = [row for part in store.scan(["id"], [Between("group_2", 0, None)]) for row in part["id"].to_pylist()]
    assert sorted(some) == sorted(row["id"] for row in rows if fits(row, Between("group_2", 0, None)))


def test_upserting_replaces_by_id_and_doubles_nothing(store) -> None:
    changed = [row | {"group_0": "new"} for row in rows_of(range(8, 13))]
    store.upsert(table(changed))
    store.upsert(table(changed))
    assert store.count() == 13
    assert store.count([OneOf("group_0", ("new",))]) == 5
    assert [row["group_0"] for row in store.get([changed[0]["id"]])] == ["new"]


def test_deleting_tells_how_many_there_were(store) -> None:
    rows = rows_of(range(10))
    assert store.delete([rows[1]["id"], rows[5]["id"], "nobody's", "' OR 1=1 --"]) == 2
    assert store.count() == 8
    assert store.get([rows[1]["id"]]) == []
    assert rows[5]["id"] not in [hit.id for hit in store.search(query(), 20)]


def ids_in(store: Store) -> set[str]:
    return {hit.id for hit in store.search(query(), 100)}


def test_what_one_writes_it_reads_at_once_and_others_soon(store) -> None:
    other, before, after = open_store(store.uri), rows_of(range(10)), rows_of(range(10, 12))
    for asked in (store, other):
        for _ in range(3):
            assert ids_in(asked) == {row["id"] for row in before}
    store.add(table(after))
    assert ids_in(store) == {row["id"] for row in before + after}
    wait_until(lambda: other.count() == 12 and ids_in(other) == ids_in(store))
    store.upsert(table([after[0] | {"group_0": "new"}]))
    wanted = [OneOf("group_0", ("new",))]
    assert store.count(wanted) == 1
    wait_until(lambda: other.count(wanted) == 1)
    for asked in (store, other):
        assert [hit.id for hit in asked.search(query(), 5, wanted)] == [after[0]["id"]]
        assert asked.facet("group_0")["new"] == 1
        assert [row["group_0"] for row in asked.get([after[0]["id"]])] == ["new"]
    store.delete([before[0]["id"]])
    assert before[0]["id"] not in ids_in(store)
    assert store.get([before[0]["id"]]) == []
    wait_until(lambda: before[0]["id"] not in ids_in(other))


def wait_until(reached) -> None:
    deadline = time.monotonic() + 30
    while not reached():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_creating_begins_anew_and_dropping_leaves_nothing(store, address) -> None:
    assert create_store(store.uri, SCHEMA).count() == 0
    store.drop()
    with pytest.raises(UserError, match="no vectors in"):
        open_store(store.uri)


class Clock:
    """A clock for the store, which stands still but for `later`."""

    now = 100.0
    sleep = staticmethod(time.sleep)

    def monotonic(self) -> float:
        return self.now

    def later(self) -> None:
        """The time passes within which what others write may be unseen."""
        self.now += 10
        time.sleep(0.1)  # LanceDB has a clock of its own


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(fclip.store.lance, "time", clock)
    return clock


@pytest.fixture
def asked_often(tmp_path, monkeypatch, clock) -> Store:
    """A store whose ten rows are in memory."""
    monkeypatch.setattr(fclip.store.lance, "EXACT_UP_TO", 100)
    monkeypatch.setattr(fclip.store.lance, "SEEN_WITHIN", timedelta(seconds=0.05))
    store = create_store(str(tmp_path / "often"), SCHEMA)
    store.add(table(rows_of(range(10))))
    opened = open_store(store.uri)
    assert len(ids_in(opened)) == 10
    assert opened._held is None
    clock.later()
    assert len(ids_in(opened)) == 10
    assert opened._held is not None
    return opened


def test_rows_are_held_from_the_second_look_and_until_they_change(asked_often, clock, monkeypatch) -> None:
    """Who asks once, or writes between questions, does not read them all."""
    other = open_store(asked_often.uri)
    other.add(table(rows_of(range(10, 12))))
    assert len(ids_in(asked_often)) == 10
    clock.later()
    assert len(ids_in(asked_often)) == 12
    assert asked_often._held is None
    clock.later()
    assert len(ids_in(asked_often)) == 12
    assert asked_often._held is not None


def test_what_is_written_during_a_look_is_not_hidden_by_what_was_held(asked_often, clock, monkeypatch) -> None:
    """Others may have been answered from it already."""
    now = asked_often._now

    def written_behind() -> tuple[int, int]:
        state = now()
        if state[1] == 10:
            open_store(asked_often.uri).add(table(rows_of(range(10, 12))))
            time.sleep(0.1)  # LanceDB's own clock
        return state

    clock.later()
    monkeypatch.setattr(asked_often, "_now", written_behind)
    assert len(ids_in(asked_often)) == 12


def test_while_one_thread_looks_others_ask_lancedb(asked_often) -> None:
    asked_often.delete(["plain/0"])
    with asked_often._looking:
        assert "plain/0" not in ids_in(asked_often)
        assert asked_often.get(["plain/0"]) == []
    assert "plain/0" not in ids_in(asked_often)


def test_a_look_that_fails_leaves_nothing_old_behind(asked_often, clock, monkeypatch) -> None:
    open_store(asked_often.uri).add(table(rows_of(range(10, 12))))
    clock.later()
    with monkeypatch.context() as broken:
        broken.setattr(asked_often, "count", lambda: (_ for _ in ()).throw(StoreUnavailableError("gone")))
        for _ in range(2):
            with pytest.raises(StoreUnavailableError):
                asked_often.search(query(), 1)
    assert len(ids_in(asked_often)) == 12


def test_a_folder_made_anew_is_seen(asked_often, clock, monkeypatch) -> None:
    create_store(asked_often.uri, SCHEMA).add(table(rows_of(range(20, 27))))
    clock.later()
    assert ids_in(asked_often) == {row["id"] for row in rows_of(range(20, 27))}


def test_minus_zero_is_zero(address) -> None:
    rows = [row | {"group_2": zero} for row, zero in zip(rows_of(range(2)), (0.0, -0.0), strict=True)]
    store = create_store(address("zeros"), SCHEMA)
    store.add(table(rows))
    for _ in range(2):
        for zero in (0.0, -0.0):
            assert (
                store.count([OneOf("group_2", (zero,))])
                == len(store.search(query(), 5, [OneOf("group_2", (zero,))]))
                == 2
            )
            assert store.search(query(), 5, [NoneOf("group_2", (zero,))]) == []


def test_a_large_store_reports_the_recall_it_has(address, monkeypatch) -> None:
    for module in (fclip.store.lance, fclip.store.qdrant):
        monkeypatch.setattr(module, "EXACT_UP_TO", 300)
    uri = address("large")
    store, rng = create_store(uri, SCHEMA), np.random.default_rng(0)
    rows = [row | {"vector": rng.normal(size=D).astype(np.float32).tolist()} for row in rows_of(range(600))]
    store.add(table(rows))
    asked = {"some": rng.normal(size=(20, D)).astype(np.float32), "none": np.empty((0, D), np.float32)}
    tuning = store.optimise(lambda: asked, fresh=True)
    assert tuning.kind == ("HNSW" if uri.startswith("qdrant") else "IVF_RQ")
    reopened = open_store(uri, tuning.settings)
    shares = []
    for vector in asked["some"]:
        true = {name for name, _ in nearest_by_cosine(rows, vector, 10)}
        shares.append(len(true & {hit.id for hit in reopened.search(vector, 10)}) / 10)
    assert tuning.recall == {"some": pytest.approx(np.mean(shares))}
    assert np.mean(shares) > 0.9
    where = [OneOf("group_0", ("plain",))]
    fitting = [row for row in rows if fits(row, where[0])]
    expected = [name for name, _ in nearest_by_cosine(fitting, asked["some"][0], 10)]
    assert [hit.id for hit in reopened.search(asked["some"][0], 10, where, exact=True)] == expected
    assert len({hit.id for hit in reopened.search(asked["some"][0], 10, where)} & set(expected)) >= 8
    store.upsert(table(rows_of(range(600, 620), seed=1)))
    assert store.optimise(lambda: asked).recall["some"] > 0.9
    assert store.count() == 620


def test_where_the_nearest_lists_hold_too_little_all_lists_are_looked_through(tmp_path, monkeypatch) -> None:
    """Few fit, or more are wanted than the lists hold: an answer is as long as it can be, whatever the settings."""
    monkeypatch.setattr(fclip.store.lance, "EXACT_UP_TO", 300)
    monkeypatch.setattr(fclip.store.lance, "FITTING", 1)
    monkeypatch.setattr(fclip.store.lance, "CODES", 10**9)
    store = create_store(str(tmp_path / "lists"), SCHEMA)
    rows = rows_of(range(600))
    store.add(table(rows))
    store.optimise(lambda: {}, fresh=True)
    for tuned in ({"probes": 1, "candidates": 10, "lists": 24}, {"probes": 1, "candidates": 10}):
        opened = open_store(store.uri, tuned)
        assert len(opened.search(query(), 500)) == 500
        few = [OneOf("group_0", ("été",)), Between("group_2", 0.5, None)]
        fitting = [row for row in rows if all(fits(row, condition) for condition in few)]
        assert 0 < len(fitting) < 100
        assert {hit.id for hit in opened.search(query(), 100, few)} == {row["id"] for row in fitting}


@pytest.mark.parametrize(
    ("facets", "expected"),
    [
        ({"a": {"x": 900, "y": 90, "z": 10}, "b": {"u": 120, "v": 5}}, [("a", "y"), ("a", "z")]),  # z: 1 %
        ({"a": {"x": 110}, "b": {"u": 91}, "c": {"w": 91}}, [("b", "u")]),  # 110 is farther by ratio; the first of two
        ({"a": {"x": 200, "y": 4}, "b": {1.5: 990}}, [("a", "x")]),  # 4 rows are fewer than are asked for
        ({"a": {"x": 201, "y": 49, "z": 21}}, []),  # more than twice as much or as little
        ({"a": {}}, []),
        ({}, []),
    ],
)
def test_filters_to_measure_with_leave_about_a_tenth_and_a_two_hundredth(facets, expected) -> None:
    assert filters_of(facets, 1000) == expected


def test_recall_under_filters_is_that_of_numpy_over_the_rows_that_fit(tmp_path, monkeypatch) -> None:
    """Poor settings, so that there is something to measure: one list of eight, in which enough rows fit."""
    monkeypatch.setattr(fclip.store.lance, "EXACT_UP_TO", 300)
    monkeypatch.setattr(fclip.store.lance, "_lists_of", lambda rows: 8)
    monkeypatch.setattr(fclip.store.lance, "EFFORTS", ((1, 10),))
    monkeypatch.setattr(fclip.store.lance, "FITTING", 1)
    monkeypatch.setattr(fclip.store.lance, "CODES", 10**9)
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(4000, D)).astype(np.float32)
    groups = {
        "group_0": ["some" if n % 11 == 0 else "most" for n in range(4000)],
        "group_1": [["belt", "lace"] if n % 3 == 0 else None for n in range(4000)],
        "group_2": [9.5 if n % 190 == 0 else 1.0 for n in range(4000)],
    }
    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), D)
    names = pa.array([f"row {n}" for n in range(4000)])
    columns = {"id": names, "item": names, "thumbnail": pa.array([b""] * 4000), "vector": column, **groups}
    store = create_store(str(tmp_path / "large"), SCHEMA)
    store.add(pa.table(columns, schema=SCHEMA))
    asked = {"words": rng.normal(size=(ASKED + 9, D)).astype(np.float32), "none": np.empty((0, D), np.float32)}
    store.optimise(lambda: asked, fresh=True)
    schema = {"a group": Group("group_0", "text"), "b": Group("group_1", "texts"), "c": Group("group_2", "number")}

    found = recall_under_filters(store, asked, schema)

    assert [one["where"] for one in found] == [{"a group": "some"}, {"c": 9.5}]
    for one, column, value in zip(found, ("group_0", "group_2"), ("some", 9.5), strict=True):
        fitting = np.flatnonzero([held == value for held in groups[column]])
        assert one["share"] == len(fitting) / 4000
        shares = []
        for vector in asked["words"][:ASKED]:
            cosines = vectors[fitting] @ vector / np.linalg.norm(vectors[fitting], axis=1)
            true = {f"row {n}" for n in fitting[np.argsort(-cosines)[:10]]}
            hits = store.search(vector, 10, parse_where(one["where"], schema))
            shares.append(len(true & {hit.id for hit in hits}) / 10)
        assert one["recall"] == {"words": pytest.approx(np.mean(shares))}
    assert found[0]["recall"]["words"] < ENOUGH


def nearest_by_cosine(rows, vector, limit):
    normed = [row | {"vector": np.array(row["vector"]) / np.linalg.norm(row["vector"])} for row in rows]
    return nearest(normed, vector, limit)


def test_true_neighbours_are_those_of_sorting() -> None:
    rng = np.random.default_rng(3)
    vectors, queries = rng.normal(size=(50, D)).astype(np.float32), rng.normal(size=(4, D)).astype(np.float32)
    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), D)
    whole = pa.table({"id": [str(i) for i in range(50)], "vector": column})
    cosines = queries @ (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).T
    for k in (1, 10, 50, 70):
        found = true_neighbours(queries, [whole.slice(0, 3), whole.slice(3, 30), whole.slice(33)], k)
        assert found == [[str(i) for i in np.argsort(-row)[:k]] for row in cosines]


def test_a_folder_that_went_away_is_said_after_several_tries(tmp_path, monkeypatch) -> None:
    import shutil

    store = create_store(str(tmp_path / "gone"), SCHEMA)
    store.add(table(rows_of(range(4))))
    opened, pauses = open_store(store.uri), []
    shutil.rmtree(store.uri)
    monkeypatch.setattr("fclip.store.lance.time.sleep", pauses.append)
    with pytest.raises(StoreUnavailableError, match="gone cannot be reached"):
        opened.search(query(), 3)
    assert pauses == list(fclip.store.lance.PAUSES_SECONDS)


def test_a_server_that_went_away_is_said_after_several_tries(monkeypatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr("fclip.store.qdrant.time.sleep", pauses.append)
    with pytest.raises(StoreUnavailableError, match=r"http://localhost:9/garments cannot be reached"):
        open_store("http://localhost:9/garments")
    assert pauses == list(fclip.store.qdrant.PAUSES_SECONDS)


@pytest.mark.parametrize("uri", ["http://localhost:6333", "http://localhost:6333/", "https:///x"])
def test_a_server_without_a_collection_is_refused(uri) -> None:
    with pytest.raises(UserError, match="expected http://HOST:PORT/COLLECTION"):
        open_store(uri)
