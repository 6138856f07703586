"""Fréchet and kernel distance against torchmetrics and closed formulas; likeness against loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from eval.metrics.distribution import frechet_distance, frechet_samples, kernel_distance, kernel_samples
from eval.metrics.likeness import mean_similarity, nearest, within_similarity


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.mark.parametrize(("n", "m"), [(60, 80), (500, 300), (12, 400)])
def test_the_frechet_distance_is_torchmetrics(rng, n, m):
    from torchmetrics.image.fid import _compute_fid

    mix = rng.normal(size=(24, 24))
    first, second = rng.normal(size=(n, 24)) @ mix + 1, rng.exponential(size=(m, 24))
    moments = [torch.from_numpy(part) for v in (first, second) for part in (v.mean(0), np.cov(v, rowvar=False))]
    assert frechet_distance(first, second) == pytest.approx(_compute_fid(*moments).item(), rel=1e-6)


def test_the_frechet_distance_of_normal_distributions_is_its_formula(rng):
    means, deviations = rng.normal(size=(2, 5)), rng.uniform(0.5, 2, (2, 5))
    first, second = (rng.normal(size=(200_000, 5)) * d + m for m, d in zip(means, deviations, strict=True))
    expected = ((means[0] - means[1]) ** 2).sum() + ((deviations[0] - deviations[1]) ** 2).sum()
    assert frechet_distance(first, second) == pytest.approx(expected, rel=0.02)


def test_the_frechet_distance_of_a_set_to_itself_is_zero_and_too_large_for_few(rng):
    real = rng.normal(size=(2000, 32))
    assert frechet_distance(real, real) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(real, real[::-1] + 3) == pytest.approx(9 * 32)
    few, many = frechet_distance(real[:50], real[1000:]), frechet_distance(real[:1000], real[1000:])
    assert few > 5 * many > 0
    assert np.isnan(frechet_distance(real[:1], real))
    with pytest.raises(ValueError, match="expected finite features"):
        frechet_distance(real * np.nan, real)
    with pytest.raises(ValueError, match="expected features of one network"):
        frechet_distance(real[:, :3], real)


def test_its_spread_lies_about_the_distance_and_wants_several_participants(rng):
    ours, real = rng.normal(size=(60, 8)), rng.normal(size=(300, 8))
    people = np.repeat(np.arange(15), 4)
    samples = frechet_samples(ours, real, people, 40, 0)
    assert samples.mean() == pytest.approx(frechet_distance(ours, real))
    assert 0 < samples.std() < frechet_distance(ours, real)
    np.testing.assert_array_equal(samples, frechet_samples(ours, real, people, 40, 0))
    assert np.isnan(frechet_samples(ours, real, np.zeros(60), 3, 0)).all()


@pytest.mark.parametrize(("n", "width"), [(60, 8), (30, 64)])
def test_each_sample_is_the_distance_of_the_pictures_drawn(rng, n, width):
    ours, real, people = rng.normal(size=(n, width)) + 5, rng.normal(size=(300, width)), rng.integers(12, size=n)
    names = np.unique(people)
    draws = np.random.default_rng(3)
    drawn = [
        np.concatenate([np.flatnonzero(people == names[i]) for i in draws.integers(len(names), size=len(names))])
        for _ in range(20)
    ]
    naive = np.array([frechet_distance(ours[rows], real) for rows in drawn])
    found = frechet_samples(ours, real, people, 20, 3)
    np.testing.assert_allclose(found - found.mean(), naive - naive.mean(), atol=1e-4)


def test_the_kernel_distance_is_torchmetrics_and_a_loop(rng):
    from torchmetrics.image.kid import poly_mmd

    first, second = rng.normal(size=(40, 16)), rng.exponential(size=(40, 16))
    theirs = poly_mmd(torch.from_numpy(first), torch.from_numpy(second)).item()
    assert kernel_distance(first, second) == pytest.approx(theirs, rel=1e-6)
    a, b = first[:5], second[:7]
    kernel = lambda x, y: (x @ y / 16 + 1) ** 3  # noqa: E731
    within = sum(kernel(a[i], a[j]) for i in range(5) for j in range(5) if i != j) / 20
    within += sum(kernel(b[i], b[j]) for i in range(7) for j in range(7) if i != j) / 42
    across = sum(kernel(x, y) for x in a for y in b) / 35
    assert kernel_distance(a, b) == pytest.approx(within - 2 * across)


def test_the_kernel_distance_does_not_depend_on_the_number(rng):
    first, second = rng.normal(size=(400, 8)), rng.normal(size=(400, 8)) + 0.5
    small, size = kernel_samples(first, second, 200, 20)
    assert size == 20
    whole = kernel_distance(first, second)
    assert small.mean() == pytest.approx(whole, abs=4 * small.std() / np.sqrt(200) + 0.1 * whole)
    assert kernel_samples(first[:30], second, 5, 1000)[1] == 30
    assert np.isnan(kernel_samples(first[:1], second, 5)[0]).all()


def test_likeness_is_what_loops_say(rng):
    vectors, others = rng.normal(size=(9, 6)), rng.normal(size=(20_000, 6))
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    pairs = [unit[i] @ unit[j] for i in range(9) for j in range(9) if i != j]
    assert mean_similarity(vectors) == pytest.approx(np.mean(pairs))
    names, within = within_similarity(vectors, list("bbaabbbbc"))
    assert names == ["a", "b", "c"]
    assert within[0] == pytest.approx(unit[2] @ unit[3])
    assert np.isnan(within[2])
    others[12_345] = 3 * vectors[4]
    place, cosine = nearest(vectors, others)
    every = unit @ (others / np.linalg.norm(others, axis=1, keepdims=True)).T
    np.testing.assert_array_equal(place, every.argmax(1))
    np.testing.assert_allclose(cosine, every.max(1))
    assert (place[4], cosine[4]) == (12_345, pytest.approx(1))
    with pytest.raises(ValueError, match="expected pictures to look for"):
        nearest(vectors, others[:0])
