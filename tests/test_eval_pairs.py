"""Contenders: means over runs, differences and their p-values, against computing them by hand."""

from __future__ import annotations

import numpy as np
import pytest

from eval.metrics.significance import sign_flip
from eval.metrics.uncertainty import paired_interval
from eval.pairs import contender, difference, differences, winners
from eval.scores import Answers

N = 60
ITEMS = [f"p{i // 2}" for i in range(N)]


def answers(seed, share):
    rng = np.random.default_rng(seed)
    known = rng.random((N, 2)) < 0.8
    hits = known & (rng.random((N, 2)) < share)
    return Answers(("a", "b"), ITEMS, rng.random(N) < share, hits, np.ones((N, 2), bool), {})


def test_a_score_over_runs_is_their_mean_with_the_deviation_beside_it():
    runs = [answers(seed, 0.5) for seed in range(3)]
    found = contender("m", runs).score("text_sfa")
    values = [run.correct.mean() for run in runs]
    assert found["value"] == pytest.approx(np.mean(values), abs=1e-6)
    assert found["deviation"] == pytest.approx(np.std(values, ddof=1), abs=1e-6)
    assert found["low"] < found["value"] < found["high"]
    assert "deviation" not in contender("m", runs[:1]).score("text_sfa")


def test_a_difference_is_the_paired_one():
    ours, theirs = answers(0, 0.7), answers(1, 0.5)
    found = difference(contender("", [ours], 400, 3), contender("", [theirs], 400, 3), "text_sfa")
    ones = np.ones((N, 1))
    low, high = paired_interval(ours.correct[:, None], theirs.correct[:, None], ones, ITEMS, 400, 3)
    assert found["value"] == pytest.approx(ours.correct.mean() - theirs.correct.mean(), abs=1e-6)
    assert (found["low"], found["high"]) == pytest.approx((low[0], high[0]), abs=1e-6)


def test_p_values_are_corrected_for_the_number_of_models():
    first, others = answers(0, 0.5), [answers(seed, share) for seed, share in ((1, 0.5), (2, 0.6), (3, 0.8))]
    found = differences([contender("", [one], 50) for one in others], contender("", [first], 50), "attribute_sfa")
    ones = np.full((N, 1), 2.0)
    sums = [one.hits.sum(1, keepdims=True) for one in (first, *others)]
    p = [sign_flip(one, sums[0], ones, ITEMS)[0] for one in sums[1:]]
    order, expected, so_far = np.argsort(p), np.zeros(3), 0.0
    for place, model in enumerate(order):  # Holm's by hand
        so_far = max(so_far, min(1.0, p[model] * (3 - place)))
        expected[model] = so_far
    assert [one.p for one in found] == pytest.approx(expected.tolist())


def test_a_mean_of_shares_is_not_tested_by_flipping_signs():
    one = contender("", [answers(0, 0.5)], 50)
    [found] = differences([contender("", [answers(1, 0.9)], 50)], one, "attribute_sfa_macro")
    assert found.p is None
    assert found.sure


def test_no_run_and_one_model_have_no_winner():
    with pytest.raises(ValueError, match="one run or more"):
        contender("", [])
    assert winners([contender("", [answers(0, 0.9)], 20)], {}) == {}
