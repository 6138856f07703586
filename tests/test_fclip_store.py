"""All stores keep the same contract: what plain Python over the same rows would answer."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import timedelta

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from store_rows import NASTY, SCHEMA, D, fits, ids_in, nearest, query, rows_of, table

import fclip.store.lance
import fclip.store.qdrant
from fclip.errors import StoreUnavailableError, UserError
from fclip.store import Store, create_store, open_store
from fclip.store.filters import Between, NoneOf, OneOf

SLOW_START = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]


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


def nearest_by_cosine(rows, vector, limit):
    normed = [row | {"vector": np.array(row["vector"]) / np.linalg.norm(row["vector"])} for row in rows]
    return nearest(normed, vector, limit)


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
