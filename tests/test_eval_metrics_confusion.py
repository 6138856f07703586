"""Confusions against scikit-learn, accuracy by frequency against loops."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import confusion_matrix

from eval.metrics.confusion import commonest, confusion, renumbered
from eval.metrics.long_tail import bin_names, by_frequency, edges_of, training_counts

codes = st.lists(st.tuples(st.integers(-1, 4), st.integers(-1, 4)), max_size=30)


@settings(deadline=None)
@given(codes)
def test_confusion_is_scikit_learns_with_a_column_for_nothing_found(pairs):
    true, found = (np.array([pair[i] for pair in pairs], np.int64) for i in (0, 1))
    known = true >= 0
    if not known.any():
        assert not confusion(true, found, 5).any()
        return
    expected = confusion_matrix(true[known], np.where(found < 0, 5, found)[known], labels=range(6))
    np.testing.assert_array_equal(confusion(true, found, 5), expected[:5])


@pytest.mark.parametrize(("true", "found"), [([0], [0, 1]), ([5], [0]), ([0], [-2])])
def test_codes_that_cannot_be(true, found):
    with pytest.raises(ValueError, match="expected"):
        confusion(np.array(true), np.array(found), 5)


def test_the_commonest_values_keep_their_order_and_the_others_become_one():
    values = np.array([7, 7, 3, 3, 9, -1, 2])
    assert commonest(values, 3).tolist() == [3, 7, 2]
    assert renumbered(values, commonest(values, 2)).tolist() == [1, 1, 0, 0, 2, -1, 2]
    assert renumbered(np.array([99, 3]), np.array([3])).tolist() == [1, 0]


def test_bins_are_powers_of_ten_and_one_for_never():
    assert edges_of(np.array([0, 1000])) == [0, 1, 10, 100, 1000]
    assert edges_of(np.array([], np.int64)) == [0, 1]
    assert bin_names([0, 1, 10, 100]) == ["0", "1–9", "10–99", "100 or more"]


@settings(deadline=None)
@given(st.integers(0, 1000))
def test_attributes_are_counted_in_the_bin_of_their_value(seed):
    rng = np.random.default_rng(seed)
    train, here = rng.integers(-1, 6, (40, 2)), rng.integers(-1, 6, (9, 2))
    train, here = (np.where(part >= 0, part + np.array([0, 6]), -1) for part in (train, here))
    hits = (here >= 0) & (rng.random(here.shape) < 0.5)
    counts, edges = training_counts(train, 12), [0, 1, 4, 7]
    found, known = by_frequency(hits, here, counts, edges)
    for picture in range(9):
        for place, low in enumerate(edges):
            high = [*edges[1:], 10**9][place]
            inside = [g for g in (0, 1) if here[picture, g] >= 0 and low <= (train == here[picture, g]).sum() < high]
            assert known[picture, place] == len(inside)
            assert found[picture, place] == sum(hits[picture, g] for g in inside)
