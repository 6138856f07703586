"""The linear probe against scikit-learn's, fitted to the end, and against the classes it never saw."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import check_grad
from sklearn.linear_model import LogisticRegression

from eval import linear_probe
from eval.attribute_groups import Group
from eval.linear_probe import STRENGTHS, cross_entropy, linear_scores


def drawn(n=300, classes=4, width=8, seed=0):
    """Clustered pictures with features of very different sizes; the last class is rare."""
    rng = np.random.default_rng(seed)
    codes = rng.choice(classes, n, p=np.array([*[1.0] * (classes - 1), 0.1]) / (classes - 0.9))
    vectors = rng.normal(size=(n, width)) + 1.5 * np.eye(width)[codes]
    return vectors * np.geomspace(1, 0.02, width) + 3, codes


def of_codes(codes, values):
    return Group("g", tuple(values), np.arange(len(codes)), np.asarray(codes))


def by_scikit_learn(known, codes, new, strength):
    mean, scale = known.mean(0), (known - known.mean(0)).std()
    fitted = LogisticRegression(C=strength, max_iter=20000, tol=1e-9).fit((known - mean) / scale, codes)
    return fitted, fitted.predict_log_proba((new - mean) / scale)


def test_the_probe_is_scikit_learns_at_its_minimum():
    known, codes = drawn()
    new, _ = drawn(60, seed=1)
    scores, strength = linear_scores(known, new, of_codes(codes, "abcd"), np.arange(300) % 5 == 0)
    _, theirs = by_scikit_learn(known, codes, new, strength)
    np.testing.assert_allclose(scores, theirs, atol=5e-3)
    assert (scores.argmax(1) == theirs.argmax(1)).all()


def test_the_strength_is_the_smallest_of_the_best_on_the_held_out():
    known, codes = drawn()
    aside = np.arange(300) % 5 == 0
    right = []
    for strength in STRENGTHS:
        mean, scale = known.mean(0), (known - known.mean(0)).std()
        fitted = LogisticRegression(C=strength, max_iter=20000, tol=1e-9)
        fitted.fit((known[~aside] - mean) / scale, codes[~aside])
        right.append(fitted.score((known[aside] - mean) / scale, codes[aside]))
    assert 0 < int(np.argmax(right)) < len(STRENGTHS)
    assert linear_scores(known, known, of_codes(codes, "abcd"), aside)[1] == STRENGTHS[int(np.argmax(right))]


def test_the_path_ends_where_accuracy_has_fallen(monkeypatch):
    fitted = []
    shown = np.random.default_rng(0).normal(size=(40, 3)), np.arange(40) % 2

    def fit(features, code, strength, *_):
        fitted.append(strength)
        weights = np.zeros((4, 2))
        weights[-1] = (1, 0) if len(fitted) == 1 else (0, 1)  # right for the only held-out class, then wrong
        return weights

    monkeypatch.setattr(linear_probe, "fit", fit)
    aside = (np.arange(40) % 2 == 0) & (np.arange(40) < 20)
    assert linear_scores(*(shown[0], shown[0]), of_codes(shown[1], "ab"), aside)[1] == STRENGTHS[0]
    assert fitted == [STRENGTHS[0], STRENGTHS[1], STRENGTHS[0]]  # the last with all of train


def test_a_value_without_train_pictures_is_below_all_others():
    known, codes = drawn()
    scores, _ = linear_scores(known, known[:9], of_codes(codes + 1, "-abcd+"), np.zeros(300, bool))
    assert (scores[:, [0, 5]] < scores[:, 1:5].min()).all()
    alone, _ = linear_scores(known, known[:9], of_codes(codes * 0 + 1, "ab"), np.zeros(300, bool))
    assert (alone.argmax(1) == 1).all()


def test_the_gradient_is_that_of_differences():
    rng = np.random.default_rng(0)
    features, code, shape = rng.normal(size=(30, 3)).astype(np.float32), rng.integers(4, size=30), (4, 4)
    weights = rng.normal(size=shape)
    off = check_grad(
        lambda flat: cross_entropy(features, code, flat.reshape(shape))[0],
        lambda flat: cross_entropy(features, code, flat.reshape(shape))[1].ravel(),
        weights.ravel(),
        epsilon=1e-3,
    )
    assert off == pytest.approx(0, abs=2e-3)
