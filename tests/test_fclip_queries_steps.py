"""Feedback, phrases to avoid, diversity and reasons: each against its definition."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fclip.queries.avoidance import CAP, WEIGHT, away_from, penalties
from fclip.queries.diversity import POOL, diversify
from fclip.queries.explanation import Wish, explain, names
from fclip.queries.feedback import DISLIKED, LIKED, moved
from fclip.queries.fusion import Background, units

seeds = st.integers(0, 1000)


def rows(seed, n, dimension=5):
    return units(np.random.default_rng(seed).normal(size=(n, dimension)))


def background(seed=0, n=50):
    sample = rows(seed, n)
    return Background(sample.mean(0), sample)


# --- feedback ---


def test_feedback_is_rocchio_around_the_catalogues_mean() -> None:
    parts, liked, disliked, mean = rows(0, 2), rows(1, 3), rows(2, 2), rows(3, 1)[0] / 2
    for part, now in zip(parts, moved(parts, liked, disliked, mean), strict=True):
        expected = part.copy()
        for vector in liked:
            expected += LIKED * (vector - mean) / 3
        for vector in disliked:
            expected -= DISLIKED * (vector - mean) / 2
        np.testing.assert_allclose(now, expected / math.sqrt(sum(expected**2)), atol=1e-12)


def test_without_verdicts_nothing_moves() -> None:
    parts = rows(0, 3)
    np.testing.assert_array_equal(moved(parts, rows(0, 0), rows(0, 0), rows(1, 1)[0]), parts)


@given(seeds)
@settings(max_examples=30, deadline=None)
def test_a_like_comes_nearer_and_a_dislike_goes_farther(seed) -> None:
    part, other, mean = rows(seed, 1), rows(seed + 1, 1), np.zeros(5)
    nothing = rows(0, 0)
    before = (part @ other.T).item()
    assert (moved(part, other, nothing, mean) @ other.T).item() >= before - 1e-9
    assert (moved(part, nothing, other, mean) @ other.T).item() <= before + 1e-9


# --- avoid ---


def naive_penalty(phrases, vector, sample):
    worst = 0.0
    for phrase in phrases:
        usual = [float(phrase @ v) for v in sample]
        mean = sum(usual) / len(usual)
        deviation = math.sqrt(sum((u - mean) ** 2 for u in usual) / len(usual))
        worst = max(worst, (float(phrase @ vector) - mean) / deviation)
    return min(CAP, WEIGHT * worst)


def test_a_penalty_is_the_capped_excess_of_the_worst_phrase() -> None:
    phrases, vectors, behind = rows(0, 2), rows(1, 40), background()
    found = penalties(phrases, vectors, behind)
    np.testing.assert_allclose(found, [naive_penalty(phrases, v, behind.sample) for v in vectors], atol=1e-9)
    assert 0 == found.min() < found.max()


@given(seeds, st.integers(1, 3))
@settings(max_examples=40, deadline=None)
def test_avoiding_never_raises_what_is_avoided(seed, phrases) -> None:
    avoided, vectors, behind = rows(seed, phrases), rows(seed + 1, 30), background(seed + 2)
    scores, paid = rows(seed + 3, 30, 2)[:, 0], penalties(avoided, vectors, behind)
    assert (paid >= 0).all()
    assert (paid <= CAP).all()
    worst = int(paid.argmax())
    after = scores - 0.2 * paid
    assert (scores > scores[worst]).sum() <= (after > after[worst]).sum()


def test_an_exact_likeness_pays_no_more_than_the_cap() -> None:
    behind = Background(np.zeros(5), np.vstack([np.eye(5)[1:]] * 20 + [np.eye(5)[:1]]))
    assert penalties(np.eye(5)[:1], np.eye(5), behind).tolist() == [CAP, 0, 0, 0, 0]


def test_nothing_to_avoid_costs_nothing() -> None:
    assert penalties(rows(0, 0), rows(1, 4), background()).tolist() == [0, 0, 0, 0]


def test_the_way_away_from_a_phrase_is_the_score_less_the_uncapped_penalty() -> None:
    way, phrase, behind, vectors = rows(0, 1)[0], rows(1, 1), background(), rows(2, 30)
    score, usual = (float((v @ behind.sample.T).std()) for v in (way, phrase[0]))
    expected = vectors @ way / score - WEIGHT * (vectors @ phrase[0]) / usual
    assert np.corrcoef(vectors @ away_from(way, phrase, behind)[0], expected)[0, 1] == pytest.approx(1)


# --- diversity ---


def naive_mmr(scores, vectors, k, d):
    """Carbonell & Goldstein's algorithm, over all pairs."""
    n = len(scores)
    like = [[float(a @ b) for b in vectors] for a in vectors]
    low, high = min(map(min, like)), max(map(max, like))
    relevance = [(s - min(scores)) / (max(scores) - min(scores)) for s in scores]
    chosen: list[int] = []
    while len(chosen) < min(k, n):

        def worth(i):
            nearest = max(((like[i][j] - low) / (high - low) for j in chosen), default=0)
            return (1 - d) * relevance[i] - d * nearest

        first = max(range(n), key=lambda i: scores[i])
        chosen.append(max((i for i in range(n) if i not in chosen), key=worth) if chosen else first)
    return chosen


@given(seeds, st.sampled_from([0.1, 0.5, 0.9, 1.0]), st.integers(1, 12))
@settings(max_examples=40, deadline=None)
def test_diversity_is_maximal_marginal_relevance(seed, diversity, k) -> None:
    scores, vectors = rows(seed, 10, 2)[:, 0], rows(seed + 1, 10)
    assert diversify(scores, vectors, k, diversity).tolist() == naive_mmr(scores, vectors, k, diversity)


@given(seeds, st.integers(1, 12))
@settings(max_examples=20, deadline=None)
def test_no_diversity_is_the_order_of_the_scores(seed, k) -> None:
    scores = rows(seed, 10, 2)[:, 0]
    assert diversify(scores, rows(seed, 10), k, 0).tolist() == sorted(range(10), key=lambda i: -scores[i])[:k]


def test_of_two_alike_the_second_waits() -> None:
    vectors = np.array([[1, 0, 0], [0.99, 0.14, 0], [0, 1, 0]])
    assert diversify(np.array([1, 0.9, 0.5]), vectors, 3, 0.5).tolist() == [0, 2, 1]


def test_diversity_chooses_among_the_best_only() -> None:
    scores = -np.arange(POOL + 50.0)
    assert diversify(scores, rows(0, POOL + 50), 10, 1.0).max() < POOL
    assert sorted(diversify(scores, rows(0, POOL + 50), POOL + 20, 0.5)) == list(range(POOL + 20))


def test_answers_that_are_all_the_same_are_still_answers() -> None:
    assert diversify(np.ones(3), np.ones((3, 2)), 3, 0.5).tolist() == [0, 1, 2]
    assert diversify(np.ones(0), np.ones((0, 2)), 3, 0.5).tolist() == []


# --- reasons ---


def test_shares_are_of_what_lies_above_the_usual() -> None:
    wishes = [Wish("text", "a"), Wish("image", "b"), Wish("item", "c")]
    why = explain({}, wishes, np.array([3.0, -5.0, 1.0]))
    assert [(s.kind, s.name, s.share) for s in why.shares] == [
        ("text", "a", 0.75),
        ("image", "b", 0),
        ("item", "c", 0.25),
    ]
    assert [s.share for s in explain({}, wishes, np.array([-1.0, 0, 0])).shares] == [0, 0, 0]


def test_attributes_are_named_with_who_asked_for_them() -> None:
    seen = [{"kind": "shirt", "colour": "red"}] * 3 + [{"kind": "shirt", "colour": "blue"}] * 2
    wishes = [
        Wish("text", "“Red dresses”", "Red dresses"),
        Wish("image", "photo.jpg", attributes=seen),
        Wish("item", "7", attributes=[{"trim": ["belt", "lace"]}]),
        Wish("liked", "what was liked", attributes=[]),
    ]
    why = explain({"colour": "red", "kind": "dress", "trim": ["lace", "bow"], "fit": "x"}, wishes, np.array([1, 1, 2]))
    assert [(r.group, r.value, r.asked_by) for r in why.reasons] == [
        ("colour", "red", ("“Red dresses”", "photo.jpg")),
        ("kind", "dress", ("“Red dresses”",)),
        ("trim", "lace", ("7",)),
    ]
    assert str(why) == (
        "25 % “Red dresses”, 25 % photo.jpg, 50 % 7; "
        "colour red (“Red dresses”, photo.jpg), kind dress (“Red dresses”), trim lace (7)"
    )
    assert (
        str(explain({}, wishes[:1], np.ones(1), 1.25)) == "100 % “Red dresses”; lost 1.2 deviations for what to avoid"
    )


@pytest.mark.parametrize(
    ("words", "value", "said"),
    [
        ("a red summer dress", "Dresses", True),
        ("women's casual shoes", "Casual Shoes", True),
        ("boys' watches", "Boys", True),
        ("shoes, casual", "Casual Shoes", False),
        ("reddish", "Red", False),
        ("a dress", "dres", False),
        ("robe d’été", "ÉTÉ", True),
        ("anything", "!", False),
    ],
)
def test_words_name_a_value(words, value, said) -> None:
    assert names(words, value) is said
