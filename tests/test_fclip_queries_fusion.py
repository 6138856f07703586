"""Every fusion against its definition in plain loops, and what must hold for all of them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fclip.errors import UserError
from fclip.queries.defaults import DEFAULT_FUSION, TEXT_SHARE
from fclip.queries.fusion import FUSIONS, KINDS, Background, Parts, directions, fuse, units

DIMENSION = 6


def random_units(rng, n):
    return units(rng.normal(1.5 * (np.arange(DIMENSION) == 0), size=(n, DIMENSION)))  # around one direction, as CLIP's


def scene(seed=0, kinds=("text", "text", "image", "item"), weights=(0.5, 0.3, 0.2), n=40):
    rng = np.random.default_rng(seed)
    sample = random_units(rng, n)
    parts = Parts(random_units(rng, len(kinds)), kinds, dict(zip(KINDS, weights, strict=True)))
    return parts, random_units(rng, 15), Background(sample.mean(0), sample)


def dot(a, b):
    return sum(float(x) * float(y) for x, y in zip(a, b, strict=True))


def unit(v):
    return np.array(v) / math.sqrt(dot(v, v))


def kind_mean(parts, kind):
    return unit(np.mean([v for v, k in zip(parts.vectors, parts.kinds, strict=True) if k == kind], axis=0))


def naive_mean(parts, vectors, background):
    total = sum(parts.weights[kind] * kind_mean(parts, kind) for kind in set(parts.kinds))
    return [dot(unit(total), v) for v in vectors]


def naive_slerp(parts, vectors, background):
    words = kind_mean(parts, "text")
    pictures = unit(sum(parts.weights[kind] * kind_mean(parts, kind) for kind in ("image", "item")))
    share = parts.weights["text"] / sum(parts.weights.values())
    angle = math.acos(dot(words, pictures))
    mixed = (math.sin(share * angle) * words + math.sin((1 - share) * angle) * pictures) / math.sin(angle)
    assert dot(mixed, mixed) == pytest.approx(1)
    return [dot(mixed, v) for v in vectors]


def naive_late(parts, vectors, background):
    totals = [0.0] * len(vectors)
    for q, kind in zip(parts.vectors, parts.kinds, strict=True):
        asked = q if kind == "text" else unit(q - background.mean)
        usual = [dot(asked, unit(v - background.mean)) for v in background.sample]
        mean = sum(usual) / len(usual)
        deviation = math.sqrt(sum((u - mean) ** 2 for u in usual) / len(usual))
        weight = parts.weights[kind] / parts.kinds.count(kind)
        for place, v in enumerate(vectors):
            totals[place] += weight * (dot(asked, unit(v - background.mean)) - mean) / deviation
    return totals


def naive_rrf(parts, vectors, background):
    totals = [0.0] * len(vectors)
    for q, kind in zip(parts.vectors, parts.kinds, strict=True):
        cosines = [dot(q, v) for v in vectors]
        for place, cosine in enumerate(cosines):
            rank = 1 + sum(other > cosine for other in cosines)
            totals[place] += parts.weights[kind] / parts.kinds.count(kind) / (60 + rank)
    return totals


NAIVE = {"mean": naive_mean, "slerp": naive_slerp, "late": naive_late, "rrf": naive_rrf}


@pytest.mark.parametrize("name", FUSIONS)
@pytest.mark.parametrize("seed", range(3))
def test_it_is_its_definition(name, seed) -> None:
    parts, vectors, background = scene(seed)
    np.testing.assert_allclose(
        fuse(name, parts, vectors, background).scores, NAIVE[name](parts, vectors, background), atol=1e-9
    )


@pytest.mark.parametrize("name", FUSIONS)
def test_contributions_add_up_to_the_score_but_for_a_constant(name) -> None:
    parts, vectors, background = scene()
    found = fuse(name, parts, vectors, background)
    assert np.ptp(found.scores - found.contributions.sum(0)) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("name", ["mean", "slerp", "late"])
def test_a_contribution_is_what_a_part_adds_beyond_the_usual_picture(name) -> None:
    parts, _, background = scene()
    over_the_catalogue = fuse(name, parts, background.sample, background)
    np.testing.assert_allclose(over_the_catalogue.contributions.mean(1), 0, atol=1e-9)
    assert over_the_catalogue.deviation == pytest.approx(over_the_catalogue.scores.std())


@pytest.mark.parametrize("name", ["mean", "slerp"])
def test_the_neighbours_of_the_direction_are_the_best(name) -> None:
    parts, vectors, background = scene()
    (way,) = directions(name, parts, background)
    np.testing.assert_allclose(vectors @ way, fuse(name, parts, vectors, background).scores, atol=1e-9)


def test_the_neighbours_of_late_fusion_are_the_best_but_for_the_lengths_of_centred_vectors() -> None:
    parts, vectors, background = scene()
    (way,) = directions("late", parts, background)
    scores = fuse("late", parts, vectors, background).scores
    lengths = np.linalg.norm(vectors - background.mean, axis=1)
    undone = (vectors - background.mean) @ way / lengths
    assert np.corrcoef(undone, scores)[0, 1] == pytest.approx(1)
    assert np.corrcoef(vectors @ way, scores)[0, 1] > 0.9


def test_reciprocal_ranks_search_for_each_part() -> None:
    parts, _, background = scene()
    np.testing.assert_array_equal(directions("rrf", parts, background), parts.vectors)


@given(seed=st.integers(0, 50), name=st.sampled_from(list(FUSIONS)), kind=st.sampled_from(["text", "image"]))
@settings(max_examples=40, deadline=None)
def test_weight_on_one_part_alone_reduces_to_that_part(seed, name, kind) -> None:
    parts, vectors, background = scene(seed, ("text", "image"), (1.0 * (kind == "text"), 1.0 * (kind == "image"), 1))
    own = parts.vectors[0 if kind == "text" else 1]
    found = fuse(name, parts, vectors, background)
    np.testing.assert_allclose(found.scores, vectors @ own, atol=1e-9)
    np.testing.assert_allclose(directions(name, parts, background), own[None], atol=1e-9)
    assert (found.contributions[1 if kind == "text" else 0] == 0).all()


@given(seed=st.integers(0, 50), name=st.sampled_from(list(FUSIONS)), order=st.permutations(range(5)))
@settings(max_examples=40, deadline=None)
def test_the_order_of_the_parts_does_not_matter(seed, name, order) -> None:
    parts, vectors, background = scene(seed, ("text", "image", "image", "image", "item"))
    shuffled = Parts(parts.vectors[list(order)], tuple(parts.kinds[i] for i in order), parts.weights)
    there, here = (fuse(name, p, vectors, background) for p in (parts, shuffled))
    np.testing.assert_allclose(there.scores, here.scores, atol=1e-9)
    np.testing.assert_allclose(there.contributions[list(order)], here.contributions, atol=1e-9)


@pytest.mark.parametrize("name", FUSIONS)
def test_four_photographs_do_not_outvote_one_sentence(name) -> None:
    parts, vectors, background = scene(0, ("text", "image"))
    four = Parts(parts.vectors[[0, 1, 1, 1, 1]], ("text", *["image"] * 4), parts.weights)
    np.testing.assert_allclose(
        fuse(name, four, vectors, background).scores, fuse(name, parts, vectors, background).scores, atol=1e-9
    )


@pytest.mark.parametrize("name", FUSIONS)
@pytest.mark.parametrize("opposite", [1, -1])
def test_words_and_pictures_on_one_line_are_no_fault(name, opposite) -> None:
    parts, vectors, background = scene(0, ("text", "image"))
    parts = Parts(np.stack([parts.vectors[0], opposite * parts.vectors[0]]), parts.kinds, parts.weights)
    assert np.isfinite(fuse(name, parts, vectors, background).scores).all()


@pytest.mark.parametrize("name", FUSIONS)
def test_a_catalogue_of_one_picture_can_be_asked(name) -> None:
    parts, vectors, _ = scene()
    alone = Background(vectors[0], vectors[:1])
    assert np.isfinite(fuse(name, parts, vectors[:1], alone).scores).all()
    assert np.isfinite(directions(name, parts, alone)).all()


def test_late_fusion_does_not_care_how_far_apart_words_and_pictures_lie() -> None:
    """The modality gap: words moved away from all pictures together rank them as before."""
    rng = np.random.default_rng(0)
    sample = units(np.hstack([rng.normal(size=(40, 5)), np.zeros((40, 1))]))
    background, gap = Background(sample.mean(0), sample), np.array([[0, 0, 0, 0, 0, 3.0]])
    near = Parts(sample[:2], ("text", "image"), {"text": 0.5, "image": 0.5, "item": 0})
    far = Parts(np.concatenate([units(sample[:1] + gap), sample[1:2]]), near.kinds, near.weights)
    late = [fuse("late", p, sample, background).scores for p in (near, far)]
    np.testing.assert_allclose(late[0], late[1], atol=1e-9)
    mean = [np.argsort(fuse("mean", p, sample, background).scores) for p in (near, far)]
    assert (mean[0] != mean[1]).any()


def test_an_unknown_fusion_names_the_nearest() -> None:
    with pytest.raises(UserError, match="no fusion 'slurp'; did you mean 'slerp'"):
        fuse("slurp", *scene())


def test_every_fusion_has_a_tuned_share_of_words() -> None:
    assert list(TEXT_SHARE) == list(FUSIONS)
    assert DEFAULT_FUSION in FUSIONS
    assert all(0 < share < 1 for share in TEXT_SHARE.values())
