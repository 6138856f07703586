"""Recall is measured against plain sorting, and the filters it is measured under leave as much as they should."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from store_rows import SCHEMA, D

import fclip.store.lance
from fclip.store import create_store
from fclip.store.filters import Group, parse_where
from fclip.store.recall import ASKED, ENOUGH, filters_of, recall_under_filters, true_neighbours


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


def test_true_neighbours_are_those_of_sorting() -> None:
    rng = np.random.default_rng(3)
    vectors, queries = rng.normal(size=(50, D)).astype(np.float32), rng.normal(size=(4, D)).astype(np.float32)
    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), D)
    whole = pa.table({"id": [str(i) for i in range(50)], "vector": column})
    cosines = queries @ (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).T
    for k in (1, 10, 50, 70):
        found = true_neighbours(queries, [whole.slice(0, 3), whole.slice(3, 30), whole.slice(33)], k)
        assert found == [[str(i) for i in np.argsort(-row)[:k]] for row in cosines]
