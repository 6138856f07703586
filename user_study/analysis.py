"""Everything that is computed of a study, in one place: what the page shows and the JSON holds.

analysis = analyse(read_answers("export"), resamples=1000, seed=0)
write_json("scores.json", as_json(analysis))
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from user_study.agreement import Calibration, Guesses, Repeats, calibrations, guesses, repeats
from user_study.answers import Answers, SystemRow
from user_study.effects import Crossover, FilterEffect, Minutes, crossover, filter_effects, judgements, minutes
from user_study.ranking import choices, worths
from user_study.scoring import MEASURES, Estimates, Measured, estimate, measure
from user_study.statistics import Friedman, critical_difference, friedman, nemenyi, wilcoxon_holm

Array = NDArray[np.float64]
TESTED = ("rank", "rating", "map")
"""The measures of the paper's table; each has its own tests."""


@dataclass(frozen=True)
class RankTests:
    """The tests of one measure."""

    friedman: Friedman
    critical_difference: float  # nan below two participants
    nemenyi: Array  # (S, S)
    wilcoxon: Array  # (S, S), Holm


@dataclass(frozen=True)
class Worths:
    """Plackett-Luce, each (S,)."""

    values: Array
    lows: Array
    highs: Array


@dataclass(frozen=True)
class Analysis:
    """A study's results."""

    measured: Measured
    estimates: Estimates
    tests: Mapping[str, RankTests]
    worths: Worths
    crossover: Mapping[str, Crossover]  # of ranks and ratings
    filters: Sequence[FilterEffect]
    minutes: Minutes | None
    calibrations: Sequence[Calibration]
    repeats: Repeats | None
    guesses: Guesses | None
    comments: Sequence[SystemRow]  # of all kinds of queries, in the order of the answers
    ratings: Sequence[Array]  # (S,) of arrays: what each system was rated, once for each page
    ranks: Sequence[Array]
    kinds: tuple[str, ...]
    resamples: int
    seed: int


def analyse(
    answers: Answers,
    k: int | None = None,
    kinds: Sequence[str] = ("own",),
    systems: Sequence[str] | None = None,
    resamples: int = 1000,
    seed: int = 0,
    stage: Callable[[str], None] = lambda _: None,
) -> Analysis:
    """Computes everything.

    Args:
        k, kinds, systems: as `user_study.scoring.measure`.
        resamples: of the participants, for intervals.
        stage: told what is done next.

    Raises:
        ValueError: as `measure`, or no answer counts.
    """
    stage("scores")
    measured = measure(answers, k, kinds, systems)
    names = measured.systems
    if not measured.participants:
        raise ValueError(f"no submitted query of the kind {' or '.join(kinds)}: nothing to score")
    estimates = estimate(measured, resamples, seed)
    stage("tests")
    tests = {name: _tests(measured.values[name], MEASURES[name]) for name in TESTED}
    rows = [row for row in answers.submitted().systems if row.kind in kinds and row.kind != "repeat"]
    stage("worths")
    strengths = Worths(*worths(choices(rows, names), len(names), resamples, seed))
    stage("effects and agreement")
    return Analysis(
        measured,
        estimates,
        tests,
        strengths,
        {name: crossover(judgements(answers, name, kinds)) for name in ("rank", "rating")},
        filter_effects(answers, measured),
        minutes(answers, kinds),
        calibrations(answers),
        repeats(answers),
        guesses(answers),
        [row for row in answers.submitted().systems if row.comment],
        [np.array([r.rating for r in rows if r.system == name and r.rating is not None]) for name in names],
        [np.array([r.rank for r in rows if r.system == name and r.rank is not None]) for name in names],
        tuple(kinds),
        resamples,
        seed,
    )


def as_json(analysis: Analysis) -> dict[str, Any]:
    """The results as plain values: systems by name, null for what is not known."""
    names, estimates = analysis.measured.systems, analysis.estimates
    measures = {
        name: {
            system: {
                "value": _plain(estimates.means[m, s]),
                "low": _plain(estimates.lows[m, s]),
                "high": _plain(estimates.highs[m, s]),
                "variance": _plain(estimates.variances[m, s]),
                "participants": int(estimates.known[m, s]),
            }
            for s, system in enumerate(names)
        }
        for m, name in enumerate(estimates.names)
    }
    differences = {
        name: {
            f"{names[a]} - {names[b]}": _bounds(estimates.difference(name, a, b))
            for a in range(len(names))
            for b in range(a + 1, len(names))
        }
        for name in estimates.names
    }
    best = {name: estimates.best(name) for name in estimates.names}
    return {
        "schema": 1,
        "systems": list(names),
        "k": analysis.measured.k,
        "kinds": list(analysis.kinds),
        "resamples": analysis.resamples,
        "seed": analysis.seed,
        "counts": {**analysis.measured.counts, "failures": dict(zip(names, analysis.measured.failures, strict=True))},
        "measures": measures,
        "differences": differences,
        "surely_best": {name: None if place is None else names[place] for name, place in best.items()},
        "worths": {key: dict(zip(names, _plain(value), strict=True)) for key, value in vars(analysis.worths).items()},
        **{
            name: _plain(getattr(analysis, name))
            for name in ("tests", "crossover", "filters", "minutes", "calibrations", "repeats", "guesses")
        },
    }


def _tests(values: Array, more_is_better: bool) -> RankTests:
    whole = friedman(values, more_is_better)
    apart = critical_difference(whole.participants, values.shape[1]) if whole.participants > 1 else math.nan
    return RankTests(whole, apart, nemenyi(values, more_is_better), wilcoxon_holm(values))


def _bounds(found: tuple[float, float, float]) -> dict[str, float | None]:
    return dict(zip(("value", "low", "high"), map(_plain, found), strict=True))


def _plain(value: Any) -> Any:
    """A value that JSON can hold."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {name: _plain(one) for name, one in vars(value).items()}
    if isinstance(value, Mapping):
        return {str(name): _plain(one) for name, one in value.items()}
    if isinstance(value, (np.ndarray, list, tuple)):
        return [_plain(one) for one in (value.tolist() if isinstance(value, np.ndarray) else value)]
    if isinstance(value, (float, np.floating)):
        return float(value) if math.isfinite(value) else None
    return value.item() if isinstance(value, np.generic) else value
