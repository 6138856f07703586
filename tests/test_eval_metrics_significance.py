"""Paired tests against scipy's permutation test and the definition of Holm's correction in a loop."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eval.metrics.significance import holm, over_seeds, sign_flip


def pictures(seed, products, better=0.0):
    """Two models' hits; several pictures of a product are alike."""
    rng = np.random.default_rng(seed)
    clusters = np.repeat(np.arange(products), rng.integers(1, 4, products))
    ease = rng.random(products)[clusters]
    a, b = rng.random(len(clusters)) < ease + better, rng.random(len(clusters)) < ease
    return a[:, None] + 0.0, b[:, None] + 0.0, np.ones((len(clusters), 1)), clusters


def test_agrees_with_scipy_when_all_signs_are_tried():
    from scipy.stats import permutation_test

    for seed in range(5):
        a, b, ones, clusters = pictures(seed, 9, better=0.3)
        totals = np.bincount(clusters, (a - b)[:, 0])
        expected = permutation_test((totals,), np.sum, permutation_type="samples", n_resamples=np.inf).pvalue
        assert sign_flip(a, b, ones, clusters).item() == pytest.approx(expected)


def test_drawn_signs_agree_with_all_of_them():
    a, b, ones, clusters = pictures(6, 12, better=0.2)
    exact, drawn = (sign_flip(a, b, ones, clusters, permutations=n).item() for n in (1 << 12, 4000))
    assert drawn == pytest.approx(exact, abs=0.02)


def test_alike_models_are_told_apart_five_times_in_a_hundred():
    p = [sign_flip(*pictures(seed, 25), permutations=300, seed=seed).item() for seed in range(200)]
    assert np.mean(np.array(p) <= 0.05) < 0.09
    assert 0.4 < np.mean(p) < 0.65


def test_a_better_model_is_found_and_p_is_never_zero():
    a, b, ones, clusters = pictures(7, 300, better=0.3)
    assert sign_flip(a, b, ones, clusters, permutations=500).item() == 1 / 501
    assert sign_flip(b, a, ones, clusters, permutations=500).item() == 1 / 501


def test_products_are_exchanged_not_pictures():
    """Forty pictures of two products cannot show more than two products can."""
    a, ones = np.ones((40, 1)), np.ones((40, 1))
    assert sign_flip(a, 0 * a, ones, np.repeat([0, 1], 20)).item() == 0.5
    assert sign_flip(a, 0 * a, ones, np.arange(40)).item() < 0.001


def test_seeded_and_independent_of_the_block_size():
    a, b, ones, clusters = pictures(8, 40)
    p = sign_flip(a, b, ones, clusters, 300, seed=1)
    assert p == sign_flip(a, b, ones, clusters, 300, seed=1, cells=90)
    both = sign_flip(np.hstack([a, b]), np.hstack([b, b]), np.hstack([ones, ones]), clusters, 300, seed=1)
    assert both.tolist() == [p.item(), 1]


def test_nothing_to_divide_by_is_nan_and_bad_input_an_error():
    zero = np.zeros((2, 1))
    assert np.isnan(sign_flip(zero, zero, zero, [0, 1])).all()
    with pytest.raises(ValueError, match=r"\(N, K\)"):
        sign_flip(zero, zero[:1], zero, [0, 1])
    with pytest.raises(ValueError, match="N products"):
        sign_flip(zero, zero, zero, [0])
    with pytest.raises(ValueError, match="finite scores"):
        sign_flip(zero + np.nan, zero, zero, [0, 1])


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(0, 1) | st.just(float("nan")), max_size=6), st.sampled_from([0.01, 0.05, 0.3]))
def test_holm_rejects_what_stepping_down_rejects(p, level):
    known = sorted((value, i) for i, value in enumerate(p) if value == value)
    rejected = set()
    for step, (value, i) in enumerate(known):
        if value * (len(known) - step) > level:
            break
        rejected.add(i)
    adjusted = holm(np.array(p))
    assert {i for i, value in enumerate(adjusted) if value <= level} == rejected
    assert np.array_equal(np.isnan(adjusted), np.isnan(p))
    assert all(value >= raw for value, raw in zip(adjusted, p, strict=True) if raw == raw)


def test_holm_by_hand():
    np.testing.assert_allclose(holm(np.array([0.01, 0.04, 0.03, np.nan])), [0.03, 0.06, 0.06, np.nan])


def test_seeds_are_aggregated():
    import statistics

    found = over_seeds([0.4, 0.5, 0.7])
    assert found.mean == pytest.approx(statistics.mean([0.4, 0.5, 0.7]))
    assert found.deviation == pytest.approx(statistics.stdev([0.4, 0.5, 0.7]))
    several = over_seeds([[0.4, 1], [0.5, np.nan]])
    np.testing.assert_allclose(several.mean, [0.45, np.nan])
    assert (several.runs, several.deviation.shape) == (2, (2,))
    assert np.isnan(over_seeds([0.4]).deviation)
    with pytest.raises(ValueError, match="one run or more"):
        over_seeds([])
