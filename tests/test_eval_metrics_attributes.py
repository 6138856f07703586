"""Attribute recall against loops over pictures, average precision against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from eval.metrics.attributes import attribute_average_precision, attribute_recall, group_hits

GROUPS = {"sleeve": [0, 3, 5], "fit": [1, 2, 4, 6]}


def naive_hits(scores, positive, columns, k, known):
    """A positive is found when fewer than k others stand before it, the negatives of its score too."""
    hits = total = 0
    for row, flags, sure in zip(scores, positive, known, strict=True):
        mine = sorted((row[c] for c in columns if flags[c] and sure[c]), reverse=True)
        others = [row[c] for c in columns if sure[c] and not flags[c]]
        hits += sum(place + sum(other >= s for other in others) < k for place, s in enumerate(mine))
        total += len(mine)
    return hits, total


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 3), st.sampled_from([3, 1000]))
def test_agrees_with_loops_whatever_the_ties(seed, k, values):
    rng = np.random.default_rng(seed)
    scores, positive, known = rng.integers(values, size=(9, 7)) / 7, rng.random((9, 7)) < 0.4, rng.random((9, 7)) < 0.8
    found = attribute_recall(scores, positive, GROUPS, k, known)
    pairs = {name: naive_hits(scores, positive, columns, k, known) for name, columns in GROUPS.items()}
    joint = naive_hits(scores, positive, range(7), k, known)
    recalls = {name: hits / of if of else np.nan for name, (hits, of) in pairs.items()}
    assert found["groups"] == pytest.approx(recalls, nan_ok=True)
    if joint[1]:
        assert found["all_joint"] == pytest.approx(joint[0] / joint[1])
        assert found["all_pooled"] == pytest.approx(sum(h for h, _ in pairs.values()) / joint[1])
        assert found["all_mean"] == pytest.approx(np.nanmean(list(recalls.values())))
        assert found["all_joint"] <= found["all_pooled"]  # a rank among all is no better than one within the group


def test_the_three_ways_of_all_by_hand():
    scores = np.array([[9, 8, 7, 0, 0, 0, 6.0]])  # sleeve: 0 before 3 and 5; fit: 1, 2, 6, 4
    positive = np.array([[1, 0, 1, 0, 0, 0, 1]], bool)
    found = attribute_recall(scores, positive, GROUPS, 1)
    assert found == {"groups": {"sleeve": 1, "fit": 0}, "all_joint": 1 / 3, "all_pooled": 1 / 3, "all_mean": 1 / 2}
    found = attribute_recall(scores, positive, GROUPS, 3)
    assert found == {"groups": {"sleeve": 1, "fit": 1}, "all_joint": 2 / 3, "all_pooled": 1, "all_mean": 1}


def test_recall_of_everything_and_of_a_constant():
    positive = np.eye(4, dtype=bool)[[0, 1, 2, 1]]
    assert attribute_recall(np.zeros((4, 4)), positive, {"all": range(4)}, 3)["all_pooled"] == 0
    assert attribute_recall(np.zeros((4, 4)), positive, {"all": range(4)}, 4)["all_pooled"] == 1
    hits, of = group_hits(positive + 0.0, positive, [1, 2], 1)
    assert (hits.tolist(), of.tolist()) == ([0, 1, 1, 1], [0, 1, 1, 1])
    none = attribute_recall(np.zeros((1, 2)), np.zeros((1, 2), bool), {"all": [0, 1]}, 1)
    assert np.isnan([none["all_joint"], none["all_pooled"], none["all_mean"], none["groups"]["all"]]).all()


def test_average_precision_agrees_with_scikit_learn():
    rng = np.random.default_rng(1)
    scores, positive, known = rng.random((80, 5)), rng.random((80, 5)) < 0.3, rng.random((80, 5)) < 0.7
    positive[:, 4] = False
    found = attribute_average_precision(scores, positive, known)
    expected = [average_precision_score(positive[known[:, a], a], scores[known[:, a], a]) for a in range(4)]
    np.testing.assert_allclose(found[:4], expected)
    assert np.isnan(found[4])
    whole = [average_precision_score(positive[:, a], scores[:, a]) for a in range(4)]
    np.testing.assert_allclose(attribute_average_precision(scores, positive)[:4], whole)


def test_average_precision_of_a_constant_is_the_worst():
    positive = np.arange(10)[:, None] < 2
    assert attribute_average_precision(np.ones((10, 1)), positive).tolist() == [(1 / 9 + 2 / 10) / 2]


def test_bad_input_is_an_error():
    good, flags = np.ones((2, 3)), np.ones((2, 3), bool)
    with pytest.raises(ValueError, match="number of attributes in the group"):
        attribute_recall(good, flags, {"fit": [0, 1]}, 3)
    with pytest.raises(ValueError, match="finite"):
        attribute_recall(good * np.inf, flags, {"fit": [0, 1]}, 1)
    with pytest.raises(ValueError, match=r"\(N, A\)"):
        group_hits(good, flags[:, :2], [0], 1)
    with pytest.raises(ValueError, match=r"\(N, A\)"):
        group_hits(good, flags, [0], 1, known=flags[:1])
