"""Embedding health against the papers' one-line definitions on the whole matrix."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from eval.metrics.health import alignment, effective_rank, modality_gap, uniformity


@pytest.fixture(scope="module")
def clouds():
    rng = np.random.default_rng(0)
    return rng.normal(size=(50, 6)) + 0.5, rng.normal(size=(50, 6))


def unit(rows):
    return torch.nn.functional.normalize(torch.tensor(rows), dim=1)


def test_agrees_with_the_authors_code(clouds):
    """Wang & Isola's appendix: `pdist` and its exponential; `norm` and its power."""
    first, second = map(unit, clouds)
    expected = torch.pdist(first).pow(2).mul(-2).exp().mean().log()
    for step in (7, 50):
        assert uniformity(clouds[0], step=step) == pytest.approx(float(expected))
    assert alignment(*clouds) == pytest.approx(float((first - second).norm(dim=1).pow(2).mean()))
    assert alignment(*clouds, alpha=1) == pytest.approx(float((first - second).norm(dim=1).mean()))
    assert modality_gap(*clouds) == pytest.approx(float((first.mean(0) - second.mean(0)).norm()))


def test_effective_rank_agrees_with_singular_values(clouds):
    singular = np.linalg.svd(clouds[0], compute_uv=False)
    p = singular / singular.sum()
    assert effective_rank(clouds[0]) == pytest.approx(np.exp(-(p * np.log(p)).sum()))
    assert effective_rank(np.eye(7)) == pytest.approx(7)
    assert effective_rank(np.eye(7)[[0, 1, 2, 0, 1, 2]]) == pytest.approx(3)
    assert effective_rank(np.outer(np.arange(1, 99.0), [3, 2, 1])) == pytest.approx(1, abs=1e-5)


def test_a_collapse_shows():
    vectors = np.tile(np.random.default_rng(1).normal(size=16), (30, 1))
    assert uniformity(vectors) == pytest.approx(0, abs=1e-6)
    assert effective_rank(vectors) == pytest.approx(1, abs=1e-5)
    assert alignment(vectors, 3 * vectors) == pytest.approx(0, abs=1e-12)
    assert modality_gap(vectors, -vectors) == pytest.approx(2)


def test_too_few_rows_are_nan_and_bad_ones_errors(clouds):
    none = np.zeros((0, 6))
    assert np.isnan([uniformity(clouds[0][:1]), alignment(none, none), effective_rank(none)]).all()
    assert np.isnan(modality_gap(none, clouds[0]))
    for call in (uniformity, effective_rank, lambda v: alignment(v, v), lambda v: modality_gap(v, v)):
        for bad in (np.nan, 0):
            with pytest.raises(ValueError, match=r"finite|direction"):
                call(np.array([[1, 1], [bad, bad]], float))
    with pytest.raises(ValueError, match="go together"):
        alignment(clouds[0], clouds[1][:3])
    with pytest.raises(ValueError, match="go together"):
        modality_gap(clouds[0], np.ones((3, 2)))
