"""The search benchmark measures what it says: recall against the truth, filters that let through what they should."""

from __future__ import annotations

import numpy as np
import pytest

from experiments.bench_search import FILTERS, K, draw, measure, table


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bench")
    draw(folder, size=400, dimension=16, queries=4)
    return folder


def test_what_is_drawn_is_alike_and_of_unit_length(drawn) -> None:
    vectors, values = np.load(drawn / "vectors.npy"), np.load(drawn / "values.npy")
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1, abs=1e-6)
    assert (vectors @ vectors.T).mean() > 0.1
    assert (values.min(axis=0).tolist(), values.max(axis=0).tolist()) == ([0, 0], [9, 199])


def test_exact_engines_find_everything_and_the_truth_is_that_of_sorting(drawn) -> None:
    figures = [
        {"size": 400, "engine": engine} | measure(engine, str(drawn), thumbnail_bytes=10, url="")
        for engine in ("numpy", "lance")
    ]
    for figure in figures:
        assert {name: found["recall"] for name, found in figure["filters"].items()} == dict.fromkeys(FILTERS, 1.0)
        assert figure["disk_mb"] > 400 * 16 * 4 / 1e6
        assert all(found["against"] > 0 for found in figure["filters"].values())
    vectors, queries = np.load(drawn / "vectors.npy"), np.load(drawn / "queries.npy")
    fits = np.flatnonzero(np.load(drawn / "values.npy")[:, 0] == 0)
    truth = np.load(drawn / "truth.npz")
    for place, query in enumerate(queries):
        assert truth["1"][place].tolist() == np.argsort(-(vectors @ query))[:K].tolist()
        assert truth["10"][place].tolist() == fits[np.argsort(-(vectors[fits] @ query))[:K]].tolist()
    lines = table([*figures, {"size": 400, "engine": "faiss", "error": "no memory"}]).splitlines()
    assert lines[2].startswith("| 400 | numpy exact |")
    assert lines[3].startswith("| 400 | fclip index, exact |")
    assert "no memory" in lines[4]
    assert len({line.count("|") for line in lines}) == 1
