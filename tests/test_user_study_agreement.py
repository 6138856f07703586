"""Agreement against its definitions in loops, and against answers that were made to agree."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from scipy.stats import binomtest
from study_fakes import SYSTEMS, study

from user_study.agreement import calibrations, fleiss, guesses, repeats
from user_study.answers import UNSURE


def test_fleiss_kappa_by_its_formula():
    verdicts = np.random.default_rng(0).random((7, 12)) < np.linspace(0.1, 0.9, 12)
    counts = np.stack([7 - verdicts.sum(0), verdicts.sum(0)], 1)
    shares = counts.sum(0) / counts.sum()
    agree = np.mean([(sum(n**2 for n in row) - 7) / (7 * 6) for row in counts])
    assert fleiss(verdicts.astype(float)) == pytest.approx((agree - (shares**2).sum()) / (1 - (shares**2).sum()))
    assert np.isnan(fleiss(np.ones((4, 5))))
    assert np.isnan(fleiss(np.eye(1)))


def test_a_calibration_query_is_one_whoever_was_asked_it_first():
    found = calibrations(study(20, worths=(1, 1e6, 1e3, 1e9), calibration=2))
    assert sorted(one.query for one in found) == ["a red dress", "a warm coat"]
    for one in found:
        assert (one.people, one.judges) == (20, 20)
        assert one.w > 0.9
        assert sorted(one.mean_ranks, key=one.mean_ranks.__getitem__) == ["diffusion", "tuned", "stn", "baseline"]
        assert one.p < 0.001
    assert calibrations(study(3, calibration=0)) == []


def test_who_repeats_exactly_agrees_wholly():
    answers = study(12, seed=1)
    again = repeats(answers)
    assert again is not None
    assert (again.people, again.rank_correlation, again.same_first, again.verdicts) == (12, 1, 1, 12 * 16)
    assert again.same_verdict < 0.9  # verdicts of these participants are coins
    first = {(row.participant, row.system, row.item): row.relevant for row in answers.pictures if row.query == 0}
    same = tuple(
        dataclasses.replace(row, relevant=first[row.participant, row.system, row.item]) for row in answers.pictures
    )
    steady = repeats(dataclasses.replace(answers, pictures=same))
    assert steady is not None
    assert (steady.same_verdict, steady.kappa) == (1, pytest.approx(1))
    assert repeats(study(3, repeat=False)) is None


def test_who_turns_the_ranks_round_agrees_with_nobody():
    answers = study(6)
    turned = tuple(
        dataclasses.replace(row, rank=5 - row.rank, rating=row.rating) if row.kind == "repeat" and row.rank else row
        for row in answers.systems
    )
    found = repeats(dataclasses.replace(answers, systems=turned))
    assert found is not None
    assert (found.rank_correlation, found.same_first) == (pytest.approx(-1), 0)


def test_guesses_against_chance():
    answers = study(40, seed=2)
    found = guesses(answers)
    assert found is not None
    letters = {(row.participant, row.query, row.letter): row.system for row in answers.systems}
    asked = [query for query in answers.queries if query.guess]
    right = sum(letters[query.participant, query.query, query.guess] == SYSTEMS[-1] for query in asked)
    expected = binomtest(right, 40, 0.25)
    interval = expected.proportion_ci(method="exact")
    assert (found.asked, found.right, found.chance, found.unsure) == (40, right, 0.25, 0)
    assert (found.p, found.low, found.high) == pytest.approx((expected.pvalue, interval.low, interval.high))
    assert found.share == right / 40


def test_who_is_unsure_has_not_guessed():
    answers = study(4)
    unsure = tuple(dataclasses.replace(q, guess=q.guess and UNSURE) for q in answers.queries)
    found = guesses(dataclasses.replace(answers, queries=unsure))
    assert found is not None
    assert (found.asked, found.unsure, found.guessed) == (4, 4, 0)
    assert np.isnan(found.p)
    assert guesses(dataclasses.replace(answers, queries=())) is None
