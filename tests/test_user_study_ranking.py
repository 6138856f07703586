"""Worths against a likelihood written out and maximised by scipy; simulated participants' worths are found again."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from scipy.optimize import minimize
from study_fakes import SYSTEMS, WORTHS, study

from user_study.ranking import choices, plackett_luce, worths
from user_study.scoring import pages_of


def likelihood(logs: np.ndarray, rankings: list[list[int]]) -> float:
    """Minus the log-probability of rankings, best first, by the definition."""
    total = 0.0
    for ranking in rankings:
        for place, system in enumerate(ranking):
            total += logs[system] - np.log(np.exp(logs[ranking[place:]]).sum())
    return -total


def test_worths_maximise_the_likelihood():
    answers = study(40, calibration=0, repeat=False)
    rankings = []
    for page in pages_of(answers.systems).values():
        rankings.append([SYSTEMS.index(row.system) for row in sorted(page, key=lambda row: row.rank or 0)])
    best = minimize(lambda logs: likelihood(np.append(logs, 0.0), rankings), np.zeros(3)).x
    expected = np.exp(np.append(best, 0.0))
    found = plackett_luce(choices(answers.systems, SYSTEMS).values(), 4, alpha=1e-6)
    np.testing.assert_allclose(found, expected / expected.sum(), atol=1e-4)


def test_known_worths_are_found_again():
    answers = study(600, seed=3, calibration=0, repeat=False)
    found = plackett_luce(choices(answers.systems, SYSTEMS).values(), 4)
    np.testing.assert_allclose(found, np.array(WORTHS) / sum(WORTHS), atol=0.04)


def test_intervals_hold_the_truth_and_are_seeded():
    by_participant = choices(study(60, seed=6, calibration=0, repeat=False).systems, SYSTEMS)
    found, lows, highs = worths(by_participant, 4, resamples=100, seed=1)
    assert ((lows < found) & (found < highs)).all()
    truth = np.array(WORTHS) / sum(WORTHS)
    assert ((lows < truth) & (truth < highs)).all()
    np.testing.assert_equal(worths(by_participant, 4, resamples=100, seed=1)[1], lows)
    assert not np.array_equal(worths(by_participant, 4, resamples=100, seed=2)[1], lows)
    assert np.isnan(worths(by_participant, 4, resamples=0)[1]).all()


def test_who_always_wins_has_a_finite_worth():
    data = {str(i): [(0, (1, 2)), (1, (2,)) if i % 3 else (2, (1,))] for i in range(30)}
    found = plackett_luce(data.values(), 3)
    assert np.isfinite(found).all()
    assert found[0] > 0.98
    assert found.sum() == pytest.approx(1)


def test_equal_ranks_are_no_choice_between_the_two_and_a_missing_system_was_not_there():
    rows = study(1, calibration=0, repeat=False).systems
    tied = [dataclasses.replace(row, rank=rank) for row, rank in zip(rows, (1, 2, 2, 4), strict=True)]
    assert choices(tied, SYSTEMS) == {"p000": [(0, (1, 2, 3)), (1, (3,)), (2, (3,))]}
    failed = [dataclasses.replace(row, rank=rank) for row, rank in zip(rows, (2, None, 1, 3), strict=True)]
    assert choices(failed, SYSTEMS) == {"p000": [(0, (3,)), (2, (0, 3))]}
    assert np.isnan(plackett_luce([], 3)).all()
