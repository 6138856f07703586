"""Ranking metrics against trec_eval (pytrec_eval, ir_measures), torchmetrics and loops that say the definitions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eval.metrics import retrieval
from eval.metrics.ranking import ranking_of_flags, ranking_of_scores
from eval.metrics.relevance import Relevance
from eval.metrics.retrieval import (
    average_precision,
    graded_ndcg_at,
    hit_at,
    ndcg_at,
    paper_average_precision,
    precision_at,
    r_precision,
    recall_at,
    reciprocal_rank_at,
    retrieval_scores,
)

AT_K = [hit_at, recall_at, precision_at, reciprocal_rank_at, ndcg_at, average_precision, paper_average_precision]


@pytest.fixture(scope="module")
def matrix():
    """40 queries, 30 candidates; the scores differ, so every library ranks alike."""
    rng = np.random.default_rng(0)
    scores = rng.permuted(np.tile(np.arange(30.0), (40, 1)), axis=1)
    relevant = rng.random((40, 30)) < rng.random((40, 1)) * 0.6
    relevant[:, 0] = True
    return scores, relevant


@pytest.mark.parametrize("k", [1, 5, 20])
def test_agrees_with_trec_eval_by_ir_measures(matrix, k):
    import ir_measures
    from ir_measures import AP, RR, P, R, Rprec, Success, nDCG

    scores, relevant = matrix
    ranking = ranking_of_scores(scores, relevant)
    expected = {
        nDCG @ k: ndcg_at(ranking, k),
        P @ k: precision_at(ranking, k),
        R @ k: recall_at(ranking, k),
        RR @ k: reciprocal_rank_at(ranking, k),
        Success @ k: hit_at(ranking, k),
        AP @ k: average_precision(ranking, k),
        AP: average_precision(ranking),
        RR: reciprocal_rank_at(ranking),
        Rprec: r_precision(ranking),
    }
    names = [(str(q), f"{d:02}") for q in range(40) for d in range(30)]
    qrels = [ir_measures.Qrel(q, d, int(r)) for (q, d), r in zip(names, relevant.ravel(), strict=True)]
    run = [ir_measures.ScoredDoc(q, d, float(s)) for (q, d), s in zip(names, scores.ravel(), strict=True)]
    found = {measure: np.zeros(40) for measure in expected}
    for metric in ir_measures.iter_calc(list(expected), qrels, run):
        found[metric.measure][int(metric.query_id)] = metric.value
    for measure, values in expected.items():
        np.testing.assert_allclose(values, found[measure], atol=1e-9, err_msg=str(measure))


@pytest.mark.slow  # its import takes seconds
def test_agrees_with_torchmetrics(matrix):
    import torch
    from torchmetrics.functional import retrieval as theirs

    scores, relevant = matrix
    ranking, pairs = ranking_of_scores(scores, relevant), list(zip(*map(torch.tensor, matrix), strict=True))
    for mine, other in (
        (recall_at(ranking, 5), theirs.retrieval_recall),
        (precision_at(ranking, 5), theirs.retrieval_precision),
        (hit_at(ranking, 5), theirs.retrieval_hit_rate),
        (ndcg_at(ranking, 5), theirs.retrieval_normalized_dcg),
    ):
        np.testing.assert_allclose(mine, [float(other(s, r, top_k=5)) for s, r in pairs], atol=1e-6)
    np.testing.assert_allclose(
        r_precision(ranking), [float(theirs.retrieval_r_precision(s, r)) for s, r in pairs], atol=1e-6
    )


@pytest.mark.parametrize("k", [1, 4, 30])
def test_the_papers_average_precision_is_the_mean_of_the_precisions(matrix, k):
    ranking = ranking_of_scores(*matrix)
    expected = np.mean([precision_at(ranking, i) for i in range(1, k + 1)], axis=0)
    np.testing.assert_allclose(paper_average_precision(ranking, k), expected)


def test_the_papers_average_precision_of_people_by_hand():
    liked = np.array([[1, 0, 1, 0], [0, 0, 0, 0], [1, 1, 1, 1]], bool)
    ranking = ranking_of_flags(liked, total=np.full(3, 4))
    np.testing.assert_allclose(paper_average_precision(ranking, 4), [(1 + 1 / 2 + 2 / 3 + 2 / 4) / 4, 0, 1])


def test_graded_gains_agree_with_scikit_learn_and_with_the_binary_metric(matrix):
    from sklearn.metrics import ndcg_score

    scores, relevant = matrix
    gains = np.random.default_rng(1).integers(0, 4, scores.shape)
    order = np.argsort(-scores, axis=1)
    for k in (1, 5, 30):
        mine = graded_ndcg_at(np.take_along_axis(gains, order, 1), gains, k)
        expected = [ndcg_score(g[None], s[None], k=k) for g, s in zip(gains, scores, strict=True)]
        np.testing.assert_allclose(mine, expected)
        binary = graded_ndcg_at(np.take_along_axis(relevant, order, 1), relevant, k)
        np.testing.assert_allclose(binary, ndcg_at(ranking_of_scores(scores, relevant), k))
    assert np.isnan(graded_ndcg_at(np.zeros((1, 3)), np.zeros((1, 3)), 2)).all()
    for bad in ([[np.nan, 1.0]], [[-1.0, 1.0]], [[1.0]]):
        with pytest.raises(ValueError, match="expected"):
            graded_ndcg_at(np.array(bad), np.array(bad), 2)


# Few values: ties are common.
tables = st.tuples(st.integers(1, 5), st.integers(1, 6)).flatmap(
    lambda shape: st.tuples(
        *[
            st.lists(st.lists(values, min_size=shape[1], max_size=shape[1]), min_size=shape[0], max_size=shape[0])
            for values in (st.integers(0, 2), st.booleans())
        ]
    )
)


@settings(max_examples=25, deadline=None)
@given(tables, st.permutations(range(6)))
def test_bounds_growth_with_k_and_order_of_candidates(table, order):
    scores, relevant = np.array(table[0], float), np.array(table[1])
    m = scores.shape[1]
    ranking, order = ranking_of_scores(scores, relevant), [i for i in order if i < m]
    moved = ranking_of_scores(scores[:, order], relevant[:, order])
    for metric in AT_K:
        values = np.array([metric(ranking, k) for k in range(1, m + 1)])
        none = ~relevant.any(1)
        assert np.isnan(values[:, none]).all()
        assert ((values[:, ~none] >= 0) & (values[:, ~none] <= 1 + 1e-12)).all()
        np.testing.assert_array_equal(metric(moved, m), values[-1])
        if metric in (hit_at, recall_at, reciprocal_rank_at, average_precision):
            assert (np.diff(values[:, ~none], axis=0) >= 0).all(), metric
    np.testing.assert_array_equal(ranking.flags(m).sum(1), relevant.sum(1))


@settings(max_examples=25, deadline=None)
@given(tables)
def test_ties_are_the_worst_of_all_orders(table):
    scores, relevant = np.array(table[0], float), np.array(table[1])
    ranking = ranking_of_scores(scores, relevant)
    for q, (row, flags) in enumerate(zip(scores, relevant, strict=True)):
        found = enumerate(sorted(row[flags], reverse=True), start=1)
        ranks = [place + int((row[~flags] >= value).sum()) for place, value in found]
        assert ranking.rank[ranking.query == q].tolist() == ranks


def test_asking_a_query_twice_gives_the_same_value_twice(matrix):
    once, twice = (ranking_of_scores(*(np.tile(part, (n, 1)) for part in matrix)) for n in (1, 2))
    for metric in AT_K:
        np.testing.assert_array_equal(np.tile(metric(once, 5), 2), metric(twice, 5))


def test_equal_scores_everywhere_score_nearly_nothing():
    relevant = np.zeros((3, 100), bool)
    relevant[:, 7] = True
    for scores, tie in ((np.ones((3, 100)), 0), (np.random.default_rng(0).random((3, 100)) * 1e-7, 1e-6)):
        ranking = ranking_of_scores(scores, relevant, tie)
        assert ranking.rank.tolist() == [100, 100, 100]
        assert average_precision(ranking).max() == pytest.approx(0.01)


def test_a_query_without_relevant_candidates_is_left_out_and_counted():
    ranking = ranking_of_flags(np.array([[True, False], [False, False]]), np.array([1, 0]))
    scores = retrieval_scores(ranking, [1, 2])
    assert (scores["hit@1"], scores["paper_map@2"], scores["queries"], scores["without_relevant"]) == (1, 0.75, 1, 1)
    assert np.isnan(r_precision(ranking)[1])
    nothing = retrieval_scores(ranking_of_flags(np.zeros((2, 2), bool), np.zeros(2, int)), [1])
    assert np.isnan(nothing["mrr@1"])
    assert nothing["queries"] == 0


@pytest.mark.parametrize("metric", AT_K)
def test_fewer_than_k_candidates_is_an_error(metric):
    ranking = ranking_of_flags(np.ones((1, 3), bool), np.array([3]), candidates=2)
    for k, said in ((0, "at least 1"), (3, "only 2 candidates"), (4, "rank deeper")):
        with pytest.raises(ValueError, match=said):
            metric(ranking, k)


def test_what_needs_the_whole_ranking_refuses_its_beginning():
    ranking = ranking_of_flags(np.array([[True, False]]), np.array([3]), candidates=9)
    for metric in (average_precision, reciprocal_rank_at, r_precision):
        with pytest.raises(ValueError, match="rank deeper"):
            metric(ranking)
    assert average_precision(ranking, 2).tolist() == [1 / 3]
    assert ranking.first.tolist() == [1]


def test_scores_and_lists_that_make_no_sense_are_errors():
    for bad in (np.nan, np.inf):
        with pytest.raises(ValueError, match="finite scores"):
            ranking_of_scores(np.array([[1, bad]]), np.array([[True, False]]))
    with pytest.raises(ValueError, match=r"\(Q, M\)"):
        ranking_of_scores(np.ones((1, 2)), np.ones((1, 3), bool))
    with pytest.raises(ValueError, match="finds 2 relevant candidates of 1"):
        ranking_of_flags(np.ones((1, 2), bool), np.array([1]))
    with pytest.raises(ValueError, match="totals"):
        ranking_of_flags(np.ones((1, 2), bool), np.array([1, 1]))


def test_scores_in_parts_are_those_at_once(matrix):
    np.testing.assert_array_equal(ranking_of_scores(*matrix).rank, ranking_of_scores(*matrix, cells=70).rank)


def test_relevance_in_its_three_forms():
    labels = Relevance.of_labels(["a", "x", "b", "a"], ["b", "a", "a"])
    assert labels.total.tolist() == [2, 0, 1, 2]
    pairs = list(zip(*(part.tolist() for part in labels.pairs()), strict=True))
    assert pairs == [(0, 1), (0, 2), (2, 0), (3, 1), (3, 2)]
    same = Relevance.of_pairs([3, 0, 0, 2, 3, 0], [2, 2, 1, 0, 1, 1], 4, 3)
    expected = np.array([[0, 1, 1], [0, 0, 0], [1, 0, 0], [0, 1, 1]], bool)
    for relevance in (labels, same):
        np.testing.assert_array_equal(relevance.mask(slice(0, 4), slice(0, 3)), expected)
        np.testing.assert_array_equal(relevance.mask(slice(1, 4), slice(1, 3)), expected[1:, 1:])
        assert relevance.holds(np.array([1, 1, -1, 0])).tolist() == [True, False, False, False]
    own = Relevance.of_own([2, 0, 2], 4)
    np.testing.assert_array_equal(own.mask(slice(0, 3), slice(0, 4)), np.eye(4, dtype=bool)[[2, 0, 2]])


def test_relevance_of_what_is_not_there_is_an_error():
    with pytest.raises(ValueError, match=r"gallery places in 0 … 2, got 0 … 3"):
        Relevance.of_own([0, 3], 3)
    with pytest.raises(ValueError, match="query places"):
        Relevance.of_pairs([2], [0], 2, 3)
    with pytest.raises(ValueError, match="expected pairs"):
        Relevance.of_pairs([0, 1], [0], 2, 3)
    with pytest.raises(ValueError, match="labels of one kind"):
        Relevance.of_labels([1, 2], ["1", "2"])


def test_every_metric_is_documented_with_its_formula():
    for metric in AT_K:
        assert metric.__name__ in (retrieval.__doc__ or "")
