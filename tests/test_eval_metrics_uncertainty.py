"""The vectorised bootstrap over products against a plain one in a loop."""

from __future__ import annotations

import numpy as np
import pytest

from eval.metrics.uncertainty import interval, paired_interval, ratio_interval, ratio_samples, resampled_sums


def plain_samples(numerators, denominators, clusters, resamples, seed):
    """Draws products, takes all their pictures, divides the sums."""
    rng, names = np.random.default_rng(seed), sorted(set(clusters))
    samples = []
    for _ in range(resamples):
        rows = [i for name in rng.choice(names, len(names)) for i, c in enumerate(clusters) if c == name]
        samples.append(numerators[rows].sum() / denominators[rows].sum())
    return np.array(samples)


def pictures(seed=0, products=40):
    """Pictures that err together with the others of their product; products of different size."""
    rng = np.random.default_rng(seed)
    clusters = [f"p{p}" for p in range(products) for _ in range(rng.integers(1, 5))]
    ease = {name: rng.random() for name in sorted(set(clusters))}
    correct = np.array([rng.random() < ease[name] for name in clusters])
    return correct[:, None], np.ones((len(clusters), 1)), clusters


def test_the_same_distribution_as_a_plain_loop():
    correct, ones, clusters = pictures()
    plain = plain_samples(correct, ones, clusters, 1500, seed=1)
    fast = ratio_samples(correct, ones, clusters, 6000, seed=2)[:, 0]
    assert fast.mean() == pytest.approx(plain.mean(), abs=0.01)
    assert fast.std() == pytest.approx(plain.std(), rel=0.1)
    low, high = interval(fast[:, None])
    assert [low[0], high[0]] == pytest.approx(np.percentile(plain, [2.5, 97.5]), abs=0.015)


def test_pictures_of_one_product_err_together_so_the_interval_is_wider_than_over_pictures():
    correct = np.repeat(np.random.default_rng(3).random((50, 1)) < 0.5, 8, axis=0)
    ones = np.ones(correct.shape)
    products = ratio_samples(correct, ones, np.repeat(np.arange(50), 8)).std()
    singly = ratio_samples(correct, ones, np.arange(400)).std()
    assert products == pytest.approx(singly * np.sqrt(8), rel=0.1)


def test_the_interval_covers_the_truth_about_95_times_in_100():
    rng, covered = np.random.default_rng(4), 0
    for trial in range(300):
        correct = rng.random((200, 1)) < 0.3
        low, high = ratio_interval(correct, np.ones((200, 1)), np.arange(200), 300, seed=trial)
        covered += low[0] <= 0.3 <= high[0]
    assert 0.91 <= covered / 300 <= 0.985


def test_several_ratios_at_once_are_those_one_by_one():
    correct, ones, clusters = pictures(5)
    both = ratio_samples(np.hstack([correct, ones]), np.hstack([ones, ones * 2]), clusters, 50, seed=6)
    np.testing.assert_allclose(both[:, [0]], ratio_samples(correct, ones, clusters, 50, seed=6))
    np.testing.assert_allclose(both[:, 1], 0.5)


def test_seeded_and_independent_of_the_block_size():
    totals = np.random.default_rng(7).random((30, 2))
    first = resampled_sums(totals, 25, seed=8)
    np.testing.assert_allclose(first, resampled_sums(totals, 25, seed=8, cells=70))
    assert not np.allclose(first, resampled_sums(totals, 25, seed=9))


def test_the_weights_are_draws_with_replacement_of_as_many_clusters():
    weights = resampled_sums(np.eye(20), 4000, seed=10)  # totals that give the weights themselves
    assert (weights.sum(1) == 20).all()
    np.testing.assert_allclose(weights.mean(0), 1, atol=0.08)
    np.testing.assert_allclose(weights.var(0), 0.95, atol=0.1)  # multinomial: n p (1 - p)


def test_paired_differences_are_narrower_than_unpaired_ones_when_models_err_alike():
    rng = np.random.default_rng(11)
    a = rng.random((300, 1)) < 0.5
    b = a & (rng.random((300, 1)) < 0.9)  # b is wrong wherever a is, and a little more
    ones, clusters = np.ones((300, 1)), np.arange(300) // 2
    low, high = paired_interval(a, b, ones, clusters)
    assert low[0] > 0
    assert low[0] <= (a.mean() - b.mean()) <= high[0]
    (low_a, high_a), (low_b, high_b) = ratio_interval(a, ones, clusters), ratio_interval(b, ones, clusters)
    assert high[0] - low[0] < (high_a - low_a + high_b - low_b)[0] / 2


def test_paired_difference_is_the_plain_loop_over_the_same_products():
    a, ones, clusters = pictures(12)
    b = ~a
    plain = plain_samples(a.astype(float) - b, ones, clusters, 1500, seed=13)
    low, high = paired_interval(a, b, ones, clusters, 6000, seed=14)
    assert [low[0], high[0]] == pytest.approx(np.percentile(plain, [2.5, 97.5]), abs=0.03)


def test_a_model_against_itself_differs_by_nothing():
    correct, ones, clusters = pictures(15)
    assert [float(bound[0]) for bound in paired_interval(correct, correct, ones, clusters)] == [0, 0]


def test_one_product_and_no_resamples_give_no_interval():
    ones = np.ones((3, 1))
    for bounds in (ratio_interval(ones, ones, ["a"] * 3), ratio_interval(ones, ones, ["a", "b", "c"], resamples=0)):
        assert np.isnan(bounds).all()


def test_resamples_without_a_known_value_are_left_out():
    known = np.array([[1.0, 0], [0, 0], [0, 0]])  # only one of three products knows the first group, none the second
    low, high = ratio_interval(known, known, ["a", "b", "c"])
    assert low[0] == high[0] == 1
    assert np.isnan([low[1], high[1]]).all()
