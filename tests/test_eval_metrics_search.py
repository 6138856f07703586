"""Ranks and best items block by block, against the whole matrix in float64."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eval.metrics import search
from eval.metrics.ranking import ranking_of_scores
from eval.metrics.relevance import Relevance
from eval.metrics.retrieval import hit_at
from eval.metrics.search import TIE, rank_embeddings, top_k


def unit(rows):
    rows = np.asarray(rows, np.float64)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def naive(queries, gallery, relevance, exclude):
    """Ranks of every query by a loop over the whole matrix."""
    mask = relevance.mask(slice(0, len(queries)), slice(0, len(gallery)))
    scores, ranks = unit(queries) @ unit(gallery).T, []
    for q, (row, flags) in enumerate(zip(scores, mask, strict=True)):
        keep = np.arange(len(gallery)) != exclude[q]
        row, flags = row[keep], flags[keep]
        best = -np.sort(-row[flags])
        ranks.append([1 + j + int((row[~flags] >= s - TIE).sum()) for j, s in enumerate(best)])
    return ranks


# Directions of a coarse grid: exact ties are common, near ties impossible.
directions = st.tuples(*[st.integers(-1, 1)] * 3).filter(any)


@st.composite
def cases(draw):
    q, m = draw(st.integers(1, 5)), draw(st.integers(2, 9))
    queries, gallery = (np.array(draw(st.lists(directions, min_size=n, max_size=n)), np.float32) for n in (q, m))
    of_query, of_item = (draw(st.lists(st.integers(0, 2), min_size=n, max_size=n)) for n in (q, m))
    exclude = np.array(draw(st.lists(st.integers(-1, m - 1), min_size=q, max_size=q)))
    return queries, gallery, Relevance.of_labels(of_query, of_item), exclude


@settings(max_examples=40, deadline=None)
@given(cases(), st.sampled_from([1, 7, 1 << 20]), st.integers(0, 20))
def test_agrees_with_the_whole_matrix_whatever_the_ties_and_the_blocks(case, cells, many):
    queries, gallery, relevance, exclude = case
    before, search.MANY = search.MANY, many
    try:
        ranking = rank_embeddings(queries, gallery, relevance, exclude, cells=cells)
    finally:
        search.MANY = before
    expected = naive(*case)
    assert [ranking.rank[ranking.query == q].tolist() for q in range(len(queries))] == expected
    assert ranking.total.tolist() == [len(ranks) for ranks in expected]
    k = int(ranking.candidates.min())
    found = top_k(queries, gallery, k, relevance, exclude, cells=cells)
    np.testing.assert_array_equal(found.ranking.flags(k), ranking.flags(k))
    np.testing.assert_array_equal(found.ranking.total, ranking.total)
    assert (found.item != exclude[:, None]).all()


@pytest.fixture(scope="module")
def ordinary():
    rng = np.random.default_rng(0)
    labels, products = rng.integers(0, 40, 60), rng.integers(0, 40, 500)
    return (
        rng.normal(size=(60, 24)).astype(np.float32),
        rng.normal(size=(500, 24)),
        Relevance.of_labels(labels, products),
    )


@pytest.mark.parametrize("cells", [200, 1 << 24])
def test_agrees_with_the_whole_matrix_on_ordinary_embeddings(ordinary, cells):
    queries, gallery, relevance = ordinary
    ranking = rank_embeddings(*ordinary, cells=cells)
    scores, mask = unit(queries) @ unit(gallery).T, relevance.mask(slice(0, 60), slice(0, 500))
    whole = ranking_of_scores(scores, mask, TIE)
    np.testing.assert_array_equal(ranking.rank, whole.rank)
    found = top_k(queries, gallery, 20, relevance, cells=cells)
    order = np.argsort(-scores, axis=1)[:, :20]
    np.testing.assert_array_equal(found.item, order)
    np.testing.assert_allclose(found.cosine, np.take_along_axis(scores, order, 1))
    np.testing.assert_array_equal(found.relevant, np.take_along_axis(mask, order, 1))
    np.testing.assert_array_equal(found.ranking.rank, whole.rank[whole.rank <= 20])
    assert found.ranking.depth == 20


def test_the_length_of_embeddings_their_type_and_their_order_do_not_matter(ordinary):
    queries, gallery, relevance = ordinary
    plain = rank_embeddings(unit(queries), gallery, relevance)
    np.testing.assert_array_equal(plain.rank, rank_embeddings(7 * queries, gallery / 3, relevance).rank)
    half = gallery.astype(np.float16)
    np.testing.assert_array_equal(
        rank_embeddings(queries, half, relevance).rank, rank_embeddings(queries, half.astype(float), relevance).rank
    )
    order = np.random.default_rng(1).permutation(60)
    backwards = rank_embeddings(queries[order], gallery, Relevance(relevance.classes[order], *_rest(relevance)))
    np.testing.assert_array_equal(hit_at(plain, 10)[order], hit_at(backwards, 10))


def _rest(relevance):
    return relevance.starts, relevance.members, relevance.n_gallery


@pytest.mark.parametrize("m", [2, 17, 1000])
@pytest.mark.parametrize("noise", [0, 1e-8])
def test_a_collapsed_model_finds_nothing(m, noise):
    rng = np.random.default_rng(m)
    vector = rng.normal(size=64)
    queries, gallery = np.tile(vector, (m, 1)).astype(np.float32), (vector + noise * rng.normal(size=(m, 64)))
    relevance = Relevance.of_own(np.arange(m), m)
    assert (rank_embeddings(queries, gallery.astype(np.float32), relevance).rank == m).all()
    assert not top_k(queries, gallery.astype(np.float32), 1, relevance).relevant.any()


def test_ranks_are_exact_where_float32_would_round():
    """Candidates a hair on either side of the bar, closer to it than a float32 product can tell."""
    rng, own = np.random.default_rng(3), unit(np.ones((1, 512)))[0]
    aside = unit(rng.normal(size=(400, 512)) - (rng.normal(size=(400, 512)) @ own)[:, None] * own)
    aside = unit(aside - (aside @ own)[:, None] * own)
    cosine = 0.5 - TIE + rng.uniform(-2e-8, 2e-8, 400)
    others = cosine[:, None] * own + np.sqrt(1 - cosine**2)[:, None] * aside
    mine = 0.5 * own + np.sqrt(0.75) * aside[0]
    gallery, relevance = np.vstack([mine, others]), Relevance.of_own([0], 401)
    exact = unit(gallery) @ own
    expected = 1 + int((exact[1:] >= exact[0] - TIE).sum())
    assert 100 < expected < 300
    for cells in (50, 1 << 20):
        assert rank_embeddings(own[None], gallery, relevance, cells=cells).rank.tolist() == [expected]


def test_tied_relevant_items_do_not_crowd_out_the_irrelevant_before_they_are_ordered():
    cosine = np.array([0.5 + 0.8 * TIE] * 60 + [0.5] * 5)
    gallery = np.stack([cosine, np.sqrt(1 - cosine**2)], 1)
    relevance = Relevance.of_labels([1], [1] * 60 + [0] * 5)
    found = top_k(np.array([[1.0, 0.0]]), gallery, 6, relevance)
    assert found.item[0, :5].tolist() == [60, 61, 62, 63, 64]
    assert found.relevant.tolist() == [[False] * 5 + [True]]
    assert rank_embeddings(np.array([[1.0, 0.0]]), gallery, relevance).rank.min() == 6


def test_a_query_is_not_its_own_answer_when_it_is_left_out():
    vectors, labels = np.eye(4)[[0, 0, 1, 2]] + 0.01, ["a", "a", "b", "a"]
    relevance, itself = Relevance.of_labels(labels, labels), np.arange(4)
    ranking = rank_embeddings(vectors, vectors, relevance, itself)
    assert ranking.total.tolist() == [2, 2, 0, 2]
    assert ranking.candidates.tolist() == [3] * 4
    assert hit_at(ranking, 1)[[0, 1, 3]].tolist() == [1, 1, 0]
    assert top_k(vectors, vectors, 1, relevance, itself).item[:2].ravel().tolist() == [1, 0]


def test_a_plain_search_knows_no_relevance():
    found = top_k(np.eye(3), np.eye(3)[[2, 0, 1]], 1)
    assert found.item.ravel().tolist() == [1, 2, 0]
    assert not found.relevant.any()


def test_no_queries_give_no_ranks():
    none = rank_embeddings(np.zeros((0, 3)), np.eye(3), Relevance.of_own([], 3))
    assert hit_at(none, 1).shape == (0,)
    assert top_k(np.zeros((0, 3)), np.eye(3), 2).item.shape == (0, 2)


def test_what_cannot_be_ranked_is_an_error():
    good, relevance = np.eye(2), Relevance.of_own([0, 1], 2)
    for bad in (np.nan, np.inf, 0):
        broken = np.array([[1, 0], [0, bad]])
        with pytest.raises(ValueError, match=r"expected finite query|query embeddings with a direction"):
            rank_embeddings(broken, good, relevance)
        with pytest.raises(ValueError, match=r"expected finite gallery|gallery embeddings with a direction"):
            top_k(good, broken, 1, relevance)
    with pytest.raises(ValueError, match="one width"):
        rank_embeddings(good, np.eye(3), relevance)
    with pytest.raises(ValueError, match="relevance of 1 queries"):
        rank_embeddings(good[:1], good, relevance)
    with pytest.raises(ValueError, match="exclude"):
        rank_embeddings(good, good, relevance, exclude=np.array([0, 2]))
    with pytest.raises(ValueError, match="fewer than k = 2"):
        top_k(good, good, 2, relevance, exclude=np.array([0, -1]))
    with pytest.raises(ValueError, match=r"\(N, D\)"):
        rank_embeddings(good[0], good, relevance)
