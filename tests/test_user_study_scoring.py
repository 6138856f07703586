"""Scores against the paper's table, trec_eval and plain loops; what counts and what does not, one by one."""

from __future__ import annotations

import dataclasses
import statistics
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from study_fakes import SYSTEMS, by_hand, study

from user_study.answers import Answers, QueryRow
from user_study.reading import read_answers
from user_study.scoring import MEASURES, Measured, estimate, measure

MODELS = ("Baseline", "Finetuned FCLIP", "STN FCLIP", "Stable Diffusion")
# Nineteen participants: Table 2's averages are whole sums over 19, not over the 20 that were asked.
RANKS = (
    "2431 1432 1243 3142 3142 4312 4132 4231 3142 2143 4132 4231 1342 2341 1243 2143 2143 3142 4231",
    "4 6 4 4 6 8 7 8 10 1 1 7 7 4 6 2 6 4 10",
    "8 7 6 6 6 7 5 5 7 6 5 6 6 7 6 7 8 5 7",
    "5 4 3 3 2 2 5 4 4 2 4 4 4 4 2 4 2 3 4",
    "6 6 7 9 7 7 6 6 6 7 7 4 7 6 7 6 9 6 6",
)
LIKED = (
    "1000 0100 0110 1000 0011 0101 1100 1010 0001 0001 1100 0100 1110 0011 0000 1101 0100 1000 0011",
    "0001 1011 1101 1110 0010 1001 0101 1111 1110 0011 1111 1001 1110 0011 0101 0010 0111 1011 0110",
    "1001 1000 1001 0100 0000 0001 0001 0001 0000 0000 1001 0000 0000 1000 0110 0001 0000 0000 0010",
    "1010 0010 0000 1111 1101 1000 0000 1101 1111 0100 1101 1111 1111 0100 1010 1110 0011 0010 0011",
)


def table2(folder: Path) -> Answers:
    ranks = np.array([list(map(int, one)) for one in RANKS[0].split()])
    ratings = np.array([list(map(int, one.split())) for one in RANKS[1:]]).T
    liked = np.array([[list(map(int, verdicts)) for verdicts in one.split()] for one in LIKED]).transpose(1, 0, 2)
    file = folder / "answers.csv"
    file.write_text(by_hand(ranks, ratings, liked, MODELS))
    return read_answers(file)


def test_the_papers_table_2_comes_out_of_answers_that_give_it(tmp_path):
    found = estimate(measure(table2(tmp_path)))
    means = dict(zip(found.names, found.means, strict=True))
    assert np.round(means["map"], 3).tolist() == [0.417, 0.559, 0.204, 0.558]
    assert np.round(means["rank"], 2).tolist() == [2.63, 1.89, 3.47, 2.0]
    assert np.round(means["rating"], 2).tolist() == [5.53, 6.32, 3.42, 6.58]
    for system, ratings in enumerate(RANKS[1:]):
        expected = statistics.variance(map(int, ratings.split()))
        assert found.variances[found.names.index("rating"), system] == pytest.approx(expected)
    assert [found.best(name) for name in ("map", "rank", "rating")] == [None, None, None]  # as the paper should have it


@pytest.mark.parametrize(
    ("verdicts", "paper", "standard"),
    [("1000", 0.5208, 1.0), ("1010", 0.6667, 0.8333), ("0111", 0.4792, 0.6389), ("0001", 0.0625, 0.25), ("0000", 0, 0)],
)
def test_average_precision_by_hand(tmp_path, verdicts, paper, standard):
    file = tmp_path / "a.csv"
    liked = np.array(list(map(int, verdicts * 2))).reshape(1, 2, 4)
    file.write_text(by_hand(np.array([[1, 2]]), np.array([[5, 5]]), liked, ("a", "b")))
    values = measure(read_answers(file)).values
    assert values["map"][0, 0] == pytest.approx(paper, abs=5e-5)
    assert values["standard_map"][0, 0] == pytest.approx(standard, abs=5e-5)


def test_precision_and_both_average_precisions_against_trec_eval():
    import pytrec_eval

    answers, k = study(30, calibration=0, repeat=False), 4
    measured = measure(answers)
    qrels: dict[str, dict[str, int]] = {}
    for row in answers.pictures:
        qrels.setdefault(f"{row.participant} {row.system}", {})[f"d{row.place}"] = int(bool(row.relevant))
    run = {query: {f"d{place}": 1.0 / place for place in range(1, k + 1)} for query in qrels}
    cuts = ",".join(map(str, range(1, k + 1)))
    for query, scores in pytrec_eval.RelevanceEvaluator(qrels, {f"P.{cuts}", "map"}).evaluate(run).items():
        who, system = query.split()
        at = measured.participants.index(who), measured.systems.index(system)
        precisions = [scores[f"P_{i}"] for i in range(1, k + 1)]
        assert measured.values["map"][at] == pytest.approx(statistics.fmean(precisions))
        assert measured.values["precision"][at] == pytest.approx(precisions[-1])
        assert measured.values["standard_map"][at] == pytest.approx(scores["map"])


def test_k_takes_the_first_pictures_only():
    answers = study(8, calibration=0, repeat=False)
    first = dataclasses.replace(answers, pictures=tuple(row for row in answers.pictures if row.place <= 2))
    np.testing.assert_equal(measure(answers, k=2).values["map"], measure(first).values["map"])
    with pytest.raises(ValueError, match="k from 1 to 4"):
        measure(answers, k=5)


def changed(answers: Answers, **changes) -> Answers:
    """The first row of the systems with other values."""
    first, *others = answers.systems
    return dataclasses.replace(answers, systems=(dataclasses.replace(first, **changes), *others))


def test_a_missing_verdict_makes_the_list_unknown_and_nothing_else():
    answers = study(6, calibration=0, repeat=False)
    first, *others = answers.pictures
    hole = dataclasses.replace(answers, pictures=(dataclasses.replace(first, relevant=None), *others))
    whole, measured = measure(answers), measure(hole)
    at = measured.participants.index(first.participant), measured.systems.index(first.system)
    assert np.isnan(measured.values["map"][at])
    assert np.isnan(measured.values["map"]).sum() == 1
    assert measured.counts["lists_unanswered"] == 1
    np.testing.assert_equal(measured.values["rank"], whole.values["rank"])
    others_known = np.arange(6) != at[0]
    found = estimate(measured)
    assert found.means[0, at[1]] == pytest.approx(whole.values["map"][others_known, at[1]].mean())
    assert found.known[0].tolist() == [6 - (system == at[1]) for system in range(4)]


def test_a_picture_that_was_not_shown_is_not_relevant():
    answers = study(6, calibration=0, repeat=False)
    gone = answers.pictures[3]
    assert gone.place == 4
    short = measure(dataclasses.replace(answers, pictures=(*answers.pictures[:3], *answers.pictures[4:])))
    as_no = measure(
        dataclasses.replace(
            answers,
            pictures=(*answers.pictures[:3], dataclasses.replace(gone, relevant=False), *answers.pictures[4:]),
        )
    )
    np.testing.assert_equal(short.values["map"], as_no.values["map"])
    assert (short.counts["lists_short"], as_no.counts["lists_short"]) == (1, 0)


def test_a_failed_system_is_unknown_and_its_pages_ranks_do_not_count():
    answers = study(6, calibration=0, repeat=False)
    row = answers.systems[0]
    failed = changed(answers, failed=True, rank=None, rating=None)
    kept = [p for p in failed.pictures if (p.participant, p.query, p.system) != (row.participant, 0, row.system)]
    measured = measure(dataclasses.replace(failed, pictures=tuple(kept)))
    who, system = measured.participants.index(row.participant), measured.systems.index(row.system)
    assert np.isnan([measured.values[name][who, system] for name in MEASURES]).all()
    assert np.isnan(measured.values["rank"][who]).all()
    assert np.isnan(measured.values["rating"]).sum() == 1
    assert measured.failures == tuple(int(i == system) for i in range(4))
    assert (measured.counts["failed"], measured.counts["pages_unranked"], measured.counts["unrated"]) == (1, 1, 0)


def test_equal_ranks_share_the_mean_of_their_places(tmp_path):
    file = tmp_path / "a.csv"
    ranks = np.array([[1, 2, 2, 4], [1, 1, 1, 1], [2, 1, 3, 3]])
    file.write_text(by_hand(ranks, np.full((3, 4), 5), np.ones((3, 4, 2), int)))
    measured = measure(read_answers(file))
    assert measured.values["rank"].tolist() == [[1, 2.5, 2.5, 4], [2.5] * 4, [2, 1, 3.5, 3.5]]
    assert measured.counts["pages_tied"] == 3


def test_only_submitted_queries_of_the_kinds_asked_for_count():
    answers = study(8, calibration=2)
    own, both = measure(answers), measure(answers, kinds=("own", "calibration"))
    assert (own.counts["pages"], both.counts["pages"]) == (8, 24)
    rows = [row.rating for row in answers.systems if (row.participant, row.system) == ("p000", "stn")][:3]
    assert both.values["rating"][0, 2] == pytest.approx(statistics.fmean(rows))
    np.testing.assert_equal(measure(answers, kinds=("own", "repeat")).values, own.values)

    def unsent(row: QueryRow) -> QueryRow:
        return dataclasses.replace(row, submitted=None) if row.participant == "p003" else row

    left = dataclasses.replace(answers, queries=tuple(map(unsent, answers.queries)))
    assert "p003" not in measure(left).participants
    assert measure(left).counts["not_submitted"] == 1


def test_intervals_are_those_of_a_plain_loop_over_participants():
    measured = measure(study(20))
    found, rng = estimate(measured, 4000, seed=1), np.random.default_rng(2)
    for m, name in enumerate(found.names):
        values = measured.values[name]
        drawn = np.array([values[rng.integers(20, size=20)].mean(0) for _ in range(4000)])
        low, high = np.percentile(drawn, [2.5, 97.5], axis=0)
        wide = (high - low).max()
        np.testing.assert_allclose([found.lows[m], found.highs[m]], [low, high], atol=0.08 * wide)
        a_b = drawn[:, 0] - drawn[:, 1]
        bounds = found.difference(name, 0, 1)
        np.testing.assert_allclose(bounds[1:], np.percentile(a_b, [2.5, 97.5]), atol=0.12 * wide)


def test_systems_are_drawn_jointly_so_that_who_is_always_a_little_better_is_surely_the_best():
    base = np.random.default_rng(0).normal(size=(30, 1)) * 5
    values = {name: base + np.array([0, 1, 0.1]) * (1 if better else -1) for name, better in MEASURES.items()}
    measured = Measured(tuple(map(str, range(30))), ("a", "b", "c"), 4, values, {}, (0, 0, 0))
    found = estimate(measured)
    assert [found.best(name) for name in MEASURES] == [1] * 5
    assert (found.lows[:, 1] < found.highs[:, 0]).all()  # though the intervals of the means overlap
    noise = {name: base + np.random.default_rng(1).normal(size=(30, 3)) for name in MEASURES}
    assert estimate(dataclasses.replace(measured, values=noise)).best("map") is None


@settings(max_examples=10, deadline=None)
@given(st.randoms(use_true_random=False), st.permutations(range(4)))
def test_order_of_participants_and_names_of_systems_change_nothing(random, order):
    answers = study(9, seed=5)
    whole = estimate(measure(answers, systems=SYSTEMS), resamples=0)
    people = list(answers.participants)
    random.shuffle(people)
    place = {name: i for i, name in enumerate(people)}
    shuffled = {
        name: tuple(sorted(getattr(answers, name), key=lambda row: place[row.participant]))
        for name in ("pictures", "systems", "queries")
    }
    names = dict(zip(SYSTEMS, (f"x{i}" for i in order), strict=True))
    renamed = {
        name: tuple(dataclasses.replace(row, system=names[row.system]) for row in shuffled[name])
        for name in ("pictures", "systems")
    }
    other = Answers(renamed["pictures"], renamed["systems"], shuffled["queries"])
    found = estimate(measure(other, systems=[names[name] for name in SYSTEMS]), resamples=0)
    np.testing.assert_allclose(found.means, whole.means)
    np.testing.assert_allclose(found.variances, whole.variances)
    with pytest.raises(ValueError, match="expected the systems"):
        measure(other, systems=SYSTEMS)


def test_one_participant_has_means_but_no_interval():
    found = estimate(measure(study(1)), resamples=50)
    assert np.isfinite(found.means).all()
    assert np.isnan(found.lows).all()
    assert np.isnan(found.variances).all()
    assert found.best("rank") is None
