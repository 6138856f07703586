"""Surfacing accuracy against loops that say the definition word for word."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eval.metrics.surfacing import TIE, attribute_accuracy, recall_at, reflected, surface


def naive(images, captions, own, codes, caption_codes):
    """The definitions, one picture at a time."""
    images, captions = ([v / np.linalg.norm(v) for v in rows.astype(np.float64)] for rows in (images, captions))
    scores = [[float(np.dot(i, c)) for c in captions] for i in images]
    out = {"correct": [], "tied": [], "agree": [], "rank": [], "caption_rank": []}
    for n, row in enumerate(scores):
        best = max(row)
        nearest = [c for c, s in enumerate(row) if s >= best - TIE]
        out["tied"].append(len(nearest) > 1)
        out["correct"].append(nearest == [own[n]])
        agree = [sum(a == b for a, b in zip(codes[n], caption_codes[c], strict=True) if a != -1) for c in nearest]
        out["agree"].append(min(agree))
        out["rank"].append(1 + sum(s >= row[own[n]] - TIE for c, s in enumerate(row) if c != own[n]))
    for c in range(len(captions)):
        best = max((scores[n][c] for n in range(len(images)) if own[n] == c), default=-np.inf)
        strangers = [scores[n][c] for n in range(len(images)) if own[n] != c]
        out["caption_rank"].append(1 + sum(s >= best - TIE for s in strangers))
    return out


def unit(rows):
    rows = np.array(rows, np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


# Directions of a coarse grid: exact ties are common, near ties impossible.
directions = st.tuples(*[st.integers(-1, 1)] * 3).filter(any)


@st.composite
def cases(draw):
    n, m = draw(st.integers(1, 8)), draw(st.integers(1, 6))
    images = unit(draw(st.lists(directions, min_size=n, max_size=n)))
    captions = unit(draw(st.lists(directions, min_size=m, max_size=m)))
    own = np.array(draw(st.lists(st.integers(0, m - 1), min_size=n, max_size=n)))
    values = st.lists(st.integers(-1, 2), min_size=2, max_size=2)
    codes = np.array(draw(st.lists(values, min_size=n, max_size=n)))
    caption_codes = np.array(draw(st.lists(values, min_size=m, max_size=m)))
    return images, captions, own, codes, caption_codes


@settings(max_examples=100, deadline=None)
@given(cases(), st.sampled_from([1, 7, 1 << 20]))
def test_agrees_with_loops_whatever_the_ties_and_the_chunks(case, cells):
    images, captions, own, codes, caption_codes = case
    shown, expected = surface(*case, cells=cells), naive(*case)
    assert shown.correct.tolist() == expected["correct"]
    assert shown.tied.tolist() == expected["tied"]
    assert shown.rank.tolist() == expected["rank"]
    assert shown.caption_rank.tolist() == expected["caption_rank"]
    assert shown.hits.sum(1).tolist() == expected["agree"]
    assert ((caption_codes[shown.nearest] == codes) & (codes != -1)).tolist() == shown.hits.tolist()
    np.testing.assert_allclose(shown.cosine, [i @ captions[c] for i, c in zip(images, own, strict=True)], atol=1e-6)


def test_agrees_with_loops_on_ordinary_embeddings():
    rng = np.random.default_rng(0)
    own = np.concatenate([np.arange(9), rng.integers(9, size=31)])
    case = unit(rng.normal(size=(40, 8))), unit(rng.normal(size=(9, 8))), own
    case += rng.integers(-1, 3, (40, 3)), rng.integers(-1, 3, (9, 3))
    shown, expected = surface(*case, cells=100), naive(*case)
    assert shown.rank.tolist() == expected["rank"]
    assert shown.caption_rank.tolist() == expected["caption_rank"]
    assert shown.hits.sum(1).tolist() == expected["agree"]


@pytest.mark.parametrize("cells", [1, 100, 1 << 20])
def test_what_float32_cannot_tell_apart_is_told_apart(cells):
    """Cosines a millionth from each other: as far as a tie goes, ten times as far as float32 errs."""
    rng = np.random.default_rng(5)
    middle = rng.normal(size=16)
    near = unit([middle + 3e-3 * rng.normal(size=16) for _ in range(90)])
    own, codes, stated = rng.integers(30, size=60), rng.integers(-1, 3, (60, 3)), rng.integers(-1, 3, (30, 3))
    shown, expected = (
        surface(near[:60], near[60:], own, codes, stated, cells),
        naive(near[:60], near[60:], own, codes, stated),
    )
    for name in ("correct", "tied", "rank", "caption_rank"):
        assert getattr(shown, name).tolist() == expected[name]
    assert shown.hits.sum(1).tolist() == expected["agree"]
    assert len(set(expected["tied"])) == 2  # else it would tell nothing
    float32 = near[:60] @ near[60:].T
    ranks = (float32 >= float32[np.arange(60), own][:, None] - TIE).sum(1)
    assert ranks.tolist() != expected["rank"]


def test_embeddings_may_be_mapped_and_the_answers_do_not_depend_on_the_blocks(tmp_path):
    rng = np.random.default_rng(6)
    np.save(tmp_path / "images.npy", unit(rng.normal(size=(70, 12))))
    images, captions = np.load(tmp_path / "images.npy", mmap_mode="r"), unit(rng.normal(size=(20, 12)))
    own, codes, stated = rng.integers(20, size=70), rng.integers(-1, 3, (70, 2)), rng.integers(-1, 3, (20, 2))
    whole, *cut = (surface(images, captions, own, codes, stated, cells) for cells in (1 << 20, 1, 60, 333))
    for other in cut:
        for name, values in vars(whole).items():
            np.testing.assert_array_equal(getattr(other, name), values)


def test_a_small_case_by_hand():
    captions = unit([[1, 0], [0, 1], [-1, 0]])
    images = unit([[2, 1], [1, 2], [1, 3]])  # nearest captions 0, 1, 1
    own, codes = np.array([0, 1, 0]), np.array([[0, 5], [1, -1], [0, 6]])
    shown = surface(images, captions, own, codes, np.array([[0, 5], [1, 6], [2, 7]]))
    assert shown.nearest.tolist() == [0, 1, 1]
    assert shown.correct.tolist() == [True, True, False]
    scores = attribute_accuracy(shown.hits, codes)
    assert scores["micro"] == pytest.approx(4 / 5)  # known: 2 + 1 + 2; agreeing: 2 + 1 + 1
    assert scores["groups"] == pytest.approx([2 / 3, 1])
    assert scores["macro"] == pytest.approx(5 / 6)
    assert [recall_at(shown.rank, k) for k in (1, 2)] == pytest.approx([2 / 3, 1])


@pytest.mark.parametrize("m", [2, 17, 130, 1000])
@pytest.mark.parametrize("noise", [0, 1e-8])
def test_a_collapsed_model_scores_zero_not_all(m, noise):
    rng = np.random.default_rng(m)
    vector = rng.normal(size=64)
    captions = unit(vector + noise * rng.normal(size=(m, 64)))
    own = np.arange(m)
    codes = np.stack([own, own], 1)
    shown = surface(unit(np.tile(vector, (m, 1))), captions, own, codes, codes)
    assert not shown.correct.any()
    assert shown.tied.all()
    assert not shown.hits.any()
    assert (shown.rank == m).all()
    assert (shown.caption_rank == m).all()


def test_two_unknowns_do_not_agree_when_ties_are_settled():
    captions, picture = unit([[1, 1], [1, -1], [-1, 0]]), unit([[1, 0]])  # captions 0 and 1 are equally near
    shown = surface(picture, captions, np.array([2]), np.array([[-1, 1]]), np.array([[0, 1], [-1, 0], [5, 5]]))
    assert shown.nearest.tolist() == [1]
    assert not shown.hits.any()


def test_a_perfect_model_scores_one():
    vectors, own = np.eye(5, dtype=np.float32), np.arange(5)
    shown = surface(vectors, vectors, own, own[:, None], own[:, None])
    assert shown.correct.all()
    assert shown.hits.all()
    assert (shown.caption_rank == 1).all()


@given(st.permutations(range(6)))
def test_the_order_of_pictures_and_captions_does_not_matter(order):
    rng = np.random.default_rng(1)
    images, captions, own = unit(rng.normal(size=(6, 4))), unit(rng.normal(size=(6, 4))), np.arange(6)
    codes = rng.integers(-1, 2, (6, 2))
    plain = surface(images, captions, own, codes, codes)
    moved = surface(images[order], captions[order], own, codes[order], codes[order])
    assert moved.rank.tolist() == plain.rank[order].tolist()
    assert moved.hits.tolist() == plain.hits[order].tolist()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("which", ["image", "caption"])
def test_embeddings_that_are_not_finite_are_an_error(bad, which):
    good, broken = np.eye(2, dtype=np.float32), np.array([[1, 0], [0, bad]], np.float32)
    own, codes = np.arange(2), np.zeros((2, 1), int)
    with pytest.raises(ValueError, match=f"finite {which}"):
        surface(*((broken, good) if which == "image" else (good, broken)), own, codes, codes)


def test_wrong_lengths_and_shapes_are_errors():
    good, own, codes = np.eye(2, dtype=np.float32), np.arange(2), np.zeros((2, 1), int)
    with pytest.raises(ValueError, match="unit length"):
        surface(2 * good, good, own, codes, codes)
    with pytest.raises(ValueError, match="one row per picture"):
        surface(good, good, own[:1], codes, codes)
    with pytest.raises(ValueError, match="own captions in"):
        surface(good, good, own + 1, codes, codes)


def test_no_pictures_give_nan_never_zero():
    none = surface(np.zeros((0, 4)), np.zeros((0, 4)), np.zeros(0, int), np.zeros((0, 2), int), np.zeros((0, 2), int))
    scores = attribute_accuracy(none.hits, np.zeros((0, 2), int))
    assert np.isnan([recall_at(none.rank, 1), scores["micro"], scores["macro"], *scores["groups"]]).all()


def test_a_group_nobody_knows_is_nan_and_left_out_of_the_macro_mean():
    scores = attribute_accuracy(np.array([[True, False], [False, False]]), np.array([[3, -1], [4, -1]]))
    assert np.isnan(scores["groups"][1])
    assert scores["macro"] == scores["micro"] == 0.5


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(-1, 3)), max_size=20))
def test_a_caption_states_the_commonest_value_of_its_pictures(pairs):
    own, codes = np.array([p[0] for p in pairs], int), np.array([[p[1]] for p in pairs], int).reshape(-1, 1)
    for caption, [stated] in enumerate(reflected(own, codes, 4)):
        values = [code for o, code in pairs if o == caption and code != -1]
        assert stated == (min(values, key=lambda v: (-values.count(v), v)) if values else -1)
