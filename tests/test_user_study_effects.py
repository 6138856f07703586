"""Effects against statsmodels' regression, and found when they were put in and not when not."""

from __future__ import annotations

import dataclasses
from datetime import datetime, timedelta

import numpy as np
import pytest
from scipy.stats import mannwhitneyu
from study_fakes import study

from user_study.answers import Answers
from user_study.effects import crossover, filter_effects, judgements, minutes
from user_study.scoring import measure


def shifted(answers: Answers, position: int = 0, before: str = "", by: float = 0) -> Answers:
    """Ratings that are also moved by a position, or by who stands on the left."""
    at = {(row.participant, row.query, row.position): row.system for row in answers.systems}
    rows = []
    for row in answers.systems:
        left = at.get((row.participant, row.query, (row.position or 0) - 1))
        moved = by * (row.position == position) + by * (left == before)
        rows.append(dataclasses.replace(row, rating=(row.rating or 0) + moved))
    return dataclasses.replace(answers, systems=tuple(rows))


def test_position_and_neighbour_are_tested_as_statsmodels_does():
    import statsmodels.api as sm

    judged = judgements(study(16, calibration=0, repeat=False), "rating")
    y = np.array([one.value for one in judged])

    def columns(*keys):
        levels = [sorted({key(one) for one in judged} - {None}, key=str)[1:] for key in keys]
        made = [
            [float(key(one) == level) for one in judged] for key, of in zip(keys, levels, strict=True) for level in of
        ]
        return np.column_stack([np.ones(len(judged)), *made])

    page, system, position, before = (
        lambda one: one.page,
        lambda one: one.system,
        lambda one: one.position,
        lambda one: one.before,
    )
    whole = sm.OLS(y, columns(page, system, position, before)).fit()
    found = crossover(judged)
    without_before = sm.OLS(y, columns(page, system, position)).fit()
    assert found.carry_over_p == pytest.approx(whole.compare_f_test(without_before)[1])
    carry = np.column_stack(
        [[float(one.before == name) for one in judged] for name in sorted({o.system for o in judged})]
    )
    contrasts = carry[:, :-1] - carry[:, -1:]
    without_position = sm.OLS(y, np.hstack([columns(page, system), contrasts])).fit()
    assert found.position_p == pytest.approx(whole.compare_f_test(without_position)[1])


def test_an_effect_is_found_when_it_is_there_and_only_then():
    answers = study(32, seed=1, calibration=0, repeat=False)
    plain = crossover(judgements(answers, "rating"))
    first = crossover(judgements(shifted(answers, position=1, by=4), "rating"))
    after = crossover(judgements(shifted(answers, before="stn", by=8), "rating"))
    assert min(plain.position_p, plain.carry_over_p) > 0.01
    assert first.position_p < 1e-6 < 0.01 < first.carry_over_p
    assert after.carry_over_p < 1e-5
    assert first.carry_over_p == pytest.approx(plain.carry_over_p)
    assert first.by_position[1] - plain.by_position[1] == pytest.approx(3)  # 4, less what systems get on average
    assert sum(plain.by_position.values()) == pytest.approx(0)


def test_pages_without_positions_tell_nothing():
    answers = study(4, calibration=0, repeat=False)
    rows = tuple(dataclasses.replace(row, position=None) for row in answers.systems)
    assert judgements(dataclasses.replace(answers, systems=rows), "rank") == []
    nothing = crossover([])
    assert nothing.by_position == {}
    assert np.isnan([nothing.position_p, nothing.carry_over_p]).all()


def test_filters_are_scipys_comparison_of_participants():
    answers = study(30, seed=2)
    measured = measure(answers)
    any_filter, gender = filter_effects(answers, measured)
    assert (any_filter.name, gender.name, gender.used, gender.unused) == ("any filter", "gender", 10, 20)
    values = measured.values["rating"].mean(1)
    used = np.arange(30) % 3 == 0
    assert gender.means["rating"] == pytest.approx((values[used].mean(), values[~used].mean()))
    assert gender.p["rating"] == pytest.approx(mannwhitneyu(values[used], values[~used]).pvalue)
    none = dataclasses.replace(answers, queries=tuple(dataclasses.replace(q, filters=None) for q in answers.queries))
    assert filter_effects(none, measured) == []


def test_times_are_told_by_quartiles_and_haste_is_counted():
    answers, start = study(5, calibration=0, repeat=False), datetime(2026, 1, 1)
    took = (1, 9, 10, 12, 20)
    queries = [
        dataclasses.replace(query, started=start, submitted=start + timedelta(minutes=length))
        for query, length in zip(answers.queries, took, strict=True)
    ]
    found = minutes(dataclasses.replace(answers, queries=tuple(queries)))
    assert found is not None
    assert found.quartiles == tuple(np.percentile(took, [25, 50, 75]))
    assert (found.fastest, found.slowest, found.hurried, found.queries) == (1, 20, 1, 5)
    assert minutes(dataclasses.replace(answers, queries=())) is None
