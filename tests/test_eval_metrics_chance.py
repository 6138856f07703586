"""The expectations against every possible order."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest

from eval.metrics.chance import expected_values, expected_whole
from eval.metrics.ranking import ranking_of_flags
from eval.metrics.retrieval import average_precision, r_precision, retrieval_values


@pytest.mark.parametrize(("relevant", "candidates"), [(1, 4), (2, 5), (5, 5), (3, 6)])
def test_expectations_are_means_over_all_orders(relevant, candidates):
    flags = [1] * relevant + [0] * (candidates - relevant)
    orders = np.array(sorted(set(permutations(flags))), bool)
    ranking = ranking_of_flags(orders, np.full(len(orders), relevant))
    ks = [1, 2, 4]
    total, m = np.array([relevant]), np.array([candidates])
    found = expected_values(total, m, ks)
    simulated = retrieval_values(ranking, ks)
    assert found.keys() == simulated.keys()
    for name, values in simulated.items():
        assert found[name] == pytest.approx(values.mean()), name
    whole = expected_whole(total, m)
    assert whole["map"] == pytest.approx(average_precision(ranking).mean())
    assert whole["r_precision"] == pytest.approx(r_precision(ranking).mean())


def test_queries_without_relevant_candidates_are_nan():
    found = expected_values(np.array([0, 1]), np.array([3, 3]), [1, 3])
    assert all(np.isnan(values).tolist() == [True, False] for values in found.values())
