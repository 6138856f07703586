"""Landmark errors against loops over the visible points."""

from __future__ import annotations

import numpy as np
import pytest

from eval.metrics.landmarks import landmark_distances, normalised_error, pdj


@pytest.fixture(scope="module")
def points():
    rng = np.random.default_rng(0)
    visible = rng.random((30, 8)) < 0.6
    visible[:, 7] = False
    return rng.random((30, 8, 2)) * 100, rng.random((30, 8, 2)) * 100, visible, rng.uniform(50, 200, (30, 2))


def test_agrees_with_loops_over_visible_points(points):
    predicted, truth, visible, sizes = points
    by_landmark = [
        [float(np.hypot(*((predicted[i, j] - truth[i, j]) / sizes[i]))) for i in range(30) if visible[i, j]]
        for j in range(8)
    ]
    pooled = [distance for distances in by_landmark for distance in distances]
    far = landmark_distances(*points)
    error = normalised_error(far)
    np.testing.assert_allclose(error["landmarks"][:7], [np.mean(d) for d in by_landmark[:7]])
    assert np.isnan(error["landmarks"][7])
    assert error["mean"] == pytest.approx(np.mean([np.mean(d) for d in by_landmark[:7]]))
    assert error["pooled"] == pytest.approx(np.mean(pooled))
    curve = pdj(far, [0, 0.2, 0.5, 5])
    for t, limit in enumerate((0, 0.2, 0.5, 5)):
        shares = [np.mean([d <= limit for d in distances]) for distances in by_landmark[:7]]
        np.testing.assert_allclose(curve["landmarks"][t, :7], shares)
        assert curve["all"][t] == pytest.approx(np.mean([d <= limit for d in pooled]))
    assert (np.diff(curve["all"]) >= 0).all()
    assert curve["all"][-1] == 1
    assert np.isnan(curve["landmarks"][:, 7]).all()


def test_invisible_points_count_nowhere(points):
    predicted, truth, visible, sizes = points
    hidden = ~visible[..., None]
    elsewhere = landmark_distances(np.where(hidden, 1e6, predicted), np.where(hidden, np.nan, truth), visible, sizes)
    np.testing.assert_array_equal(elsewhere, landmark_distances(*points))
    wrong = landmark_distances(truth + 100, truth, visible, 1.0)
    assert pdj(wrong, [1])["all"].tolist() == [0]


def test_scales_and_the_threshold_itself():
    predicted, truth, visible = np.array([[[3.0, 4.0]]]), np.zeros((1, 1, 2)), np.ones((1, 1), bool)
    assert landmark_distances(predicted, truth, visible).item() == 5
    assert landmark_distances(predicted, truth, visible, np.array([10.0])).item() == 0.5
    assert landmark_distances(predicted, truth, visible, np.array([[1.0, 2.0]])).item() == pytest.approx(13**0.5)
    assert pdj(np.array([[5.0]]), [5, 4.99])["all"].tolist() == [1, 0]


def test_nothing_visible_is_nan():
    far = landmark_distances(np.zeros((2, 3, 2)), np.zeros((2, 3, 2)), np.zeros((2, 3), bool))
    assert np.isnan([normalised_error(far)["mean"], normalised_error(far)["pooled"], *pdj(far, [1])["all"]]).all()


def test_bad_input_is_an_error(points):
    predicted, truth, visible, sizes = points
    with pytest.raises(ValueError, match="finite predicted landmarks"):
        landmark_distances(predicted * np.nan, truth, visible, sizes)
    with pytest.raises(ValueError, match="finite visible landmarks"):
        landmark_distances(predicted, truth * np.nan, visible, sizes)
    with pytest.raises(ValueError, match=r"\(N, L, 2\)"):
        landmark_distances(predicted[:, :, :1], truth, visible, sizes)
    for scale in (sizes * 0, sizes[:3], np.ones((30, 3))):
        with pytest.raises(ValueError, match="positive scales"):
            landmark_distances(predicted, truth, visible, scale)
