"""Rank tests against scipy, scikit-posthocs' other path, the studentized range by hand, and Kendall's definition."""

from __future__ import annotations

from itertools import combinations, permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import friedmanchisquare, rankdata, studentized_range, wilcoxon

from user_study.statistics import critical_difference, friedman, nemenyi, wilcoxon_holm


def ratings(seed: int, people: int = 17, systems: int = 4) -> np.ndarray:
    """Whole numbers from 1 to 10, with ties, that lean to the later systems."""
    rng = np.random.default_rng(seed)
    return np.clip(np.rint(rng.normal(5, 2, (people, systems)) + 0.7 * np.arange(systems)), 1, 10)


def kendall_w(ranks: np.ndarray) -> float:
    """Kendall & Babington Smith's formula with their correction for ties, in loops."""
    people, systems = ranks.shape
    sums = ranks.sum(0)
    spread = sum((one - sums.mean()) ** 2 for one in sums)
    ties = sum(sum(t**3 - t for t in np.unique(row, return_counts=True)[1]) for row in ranks)
    return 12 * spread / (people**2 * (systems**3 - systems) - people * ties)


@pytest.mark.parametrize("seed", range(4))
def test_friedman_is_scipys_and_w_is_kendalls(seed):
    values = ratings(seed, systems=3 + seed)
    expected = friedmanchisquare(*values.T)
    for better in (True, False):
        found = friedman(values, better)
        assert (found.chi2, found.p) == pytest.approx((expected.statistic, expected.pvalue))
        assert found.w == pytest.approx(kendall_w(rankdata(values, axis=1)))
        np.testing.assert_allclose(found.mean_ranks, rankdata(-values if better else values, axis=1).mean(0))


def test_two_systems_are_the_sign_test_and_agree_with_the_formula_for_more():
    values = ratings(1, systems=2)
    ranks, n = rankdata(values, axis=1), len(values)
    decided = (values[:, 0] != values[:, 1]).sum()
    expected = 12 / (n * 2 * 3) * (ranks.sum(0) ** 2).sum() - 3 * n * 3
    found = friedman(values, True)
    assert found.chi2 == pytest.approx(expected / (decided / n))
    assert found.w == pytest.approx(kendall_w(ranks))


def test_w_is_one_when_all_agree_and_about_nothing_when_nobody_does():
    assert friedman(np.tile([1.0, 2, 3, 4], (9, 1)), False).w == pytest.approx(1)
    every = np.array([*permutations(range(4))], float)
    assert friedman(every, False).w == pytest.approx(0)


def test_nemenyi_is_the_studentized_range_by_hand():
    from pandas import DataFrame
    from scikit_posthocs import posthoc_nemenyi_friedman

    values = ratings(2)
    n, systems = values.shape
    means = rankdata(-values, axis=1).mean(0)
    found = nemenyi(values, True)
    for a, b in combinations(range(systems), 2):
        q = abs(means[a] - means[b]) / np.sqrt(systems * (systems + 1) / (6 * n)) * np.sqrt(2)
        assert found[a, b] == found[b, a] == pytest.approx(studentized_range.sf(q, systems, np.inf))
    long = DataFrame(values).stack().reset_index()
    long.columns = ["who", "system", "value"]
    library = posthoc_nemenyi_friedman(
        long, y_col="value", block_col="who", block_id_col="who", group_col="system", melted=True
    )
    np.testing.assert_allclose(found, library, atol=1e-9)


def test_the_critical_difference_is_where_nemenyis_p_is_alpha():
    assert critical_difference(20, 4) == pytest.approx(1.05, abs=0.005)  # 2.569 * sqrt(20 / 120): Demsar's table 5
    for systems in (2, 3, 5):
        apart = critical_difference(12, systems, 0.1)
        q = apart / np.sqrt(systems * (systems + 1) / 72) * np.sqrt(2)
        assert studentized_range.sf(q, systems, np.inf) == pytest.approx(0.1)


def test_wilcoxon_is_scipys_stepped_down_by_holm():
    values = ratings(3, people=25)
    pairs = list(combinations(range(4), 2))
    raw = sorted((wilcoxon(values[:, a], values[:, b]).pvalue, (a, b)) for a, b in pairs)
    found, highest = wilcoxon_holm(values), 0.0
    for step, (p, (a, b)) in enumerate(raw):
        highest = max(highest, min(1, p * (len(pairs) - step)))
        assert found[a, b] == found[b, a] == pytest.approx(highest)
    assert (np.diag(found) == 1).all()


def test_participants_who_left_something_out_are_left_out():
    values = ratings(4)
    holes = values.copy()
    holes[[2, 5], [0, 3]] = np.nan
    whole = np.delete(values, [2, 5], axis=0)
    assert friedman(holes, True).p == friedman(whole, True).p
    assert friedman(holes, True).participants == 15
    np.testing.assert_equal(nemenyi(holes, True), nemenyi(whole, True))
    np.testing.assert_equal(wilcoxon_holm(holes), wilcoxon_holm(whole))


def test_too_few_or_too_alike_is_unknown_and_not_a_finding():
    alike = friedman(np.full((5, 3), 4.0), True)
    assert np.isnan([alike.p, alike.w, alike.chi2]).all()
    assert alike.mean_ranks.tolist() == [2, 2, 2]
    assert np.isnan(friedman(ratings(0)[:1], True).p)
    assert np.isnan(friedman(np.full((3, 4), np.nan), True).p)
    assert np.isnan(nemenyi(ratings(0)[:1], True)).all()
    assert np.isnan(wilcoxon_holm(ratings(0)[:1])[0, 1])
    assert (wilcoxon_holm(np.full((5, 3), 4.0)) == 1).all()


@settings(max_examples=5, deadline=None)
@given(st.integers(0, 999), st.permutations(range(4)), st.permutations(range(15)))
def test_names_and_order_change_nothing(seed, systems, people):
    values = ratings(seed, people=15)
    moved = values[people][:, systems]
    assert friedman(moved, True).p == pytest.approx(friedman(values, True).p)
    np.testing.assert_allclose(nemenyi(moved, True), nemenyi(values, True)[systems][:, systems], atol=1e-9)
    np.testing.assert_allclose(wilcoxon_holm(moved), wilcoxon_holm(values)[systems][:, systems], atol=1e-9)
    assert 0 <= friedman(values, True).w <= 1
