"""Top-k accuracy against scikit-learn; its ties against the model."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import top_k_accuracy_score

from eval.metrics.classification import per_class, top_k_accuracy
from eval.metrics.means import known_mean


def test_agrees_with_scikit_learn():
    rng = np.random.default_rng(0)
    scores, labels = rng.random((200, 7)), rng.integers(7, size=200)
    for k in (1, 3, 6):
        expected = top_k_accuracy_score(labels, scores, k=k, labels=range(7))
        assert known_mean(top_k_accuracy(scores, labels, k)) == pytest.approx(expected)
    assert known_mean(top_k_accuracy(scores, labels, 7)) == 1


def test_a_constant_scores_nothing_but_among_all():
    for scores, tie in ((np.ones((4, 5)), 0), (1 + 1e-8 * np.arange(20.0).reshape(4, 5), 1e-6)):
        assert [top_k_accuracy(scores, np.arange(4), k, tie).sum() for k in (1, 4, 5)] == [0, 0, 4]


def test_unknown_labels_and_empty_classes_are_left_out():
    scores, labels = np.eye(4)[[0, 1, 1, 3]], np.array([0, 1, 0, -1])
    right = top_k_accuracy(scores, labels, 1)
    np.testing.assert_array_equal(right, [1, 1, 0, np.nan])
    np.testing.assert_array_equal(per_class(right, labels, 4), [0.5, 1, np.nan, np.nan])
    assert known_mean(right) == pytest.approx(2 / 3)
    assert known_mean(per_class(right, labels, 4)) == 0.75
    assert np.isnan(known_mean(np.full(2, np.nan)))


def test_bad_input_is_an_error():
    good = np.ones((2, 3))
    for scores, labels, k, said in (
        (good, [0, 1], 4, "number of classes"),
        (good, [0, 1], 0, "number of classes"),
        (good, [0, 3], 1, "labels in"),
        (good, [0, -2], 1, "labels in"),
        (good, [0], 1, r"labels \(N,\)"),
        (good * np.nan, [0, 1], 1, "finite"),
    ):
        with pytest.raises(ValueError, match=said):
            top_k_accuracy(scores, np.array(labels), k)
