"""What else moves the answers: where a system stood, what stood before it, filters, and haste.

    >>> crossover(judgements(answers, "rating"))                   # position and carry-over, each given the other
    >>> filter_effects(answers, measured), minutes(answers)

A Williams design keeps positions from favouring a system; these tests tell whether they mattered at all. The model is
that of crossover trials: value = page + system + position + system on the left, by least squares; the F test compares
it with and without the term. Ratings and ranks are not normal: read p as a warning light, not as a finding.

Filters are chosen by the participants, so that who filters may differ in other ways: what is told is an association.

Sources: Williams 1949 (`user_study.design`); Jones & Kenward, Design and analysis of cross-over trials, 2014, chapter
5; Mann & Whitney, On a test of whether one of two random variables is stochastically larger than the other, 1947.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import f as f_distribution
from scipy.stats import mannwhitneyu

from eval.metrics.means import known_mean
from user_study.answers import Answers
from user_study.scoring import Measured, pages_of

Array = NDArray[np.float64]
HURRIED = 1 / 3
"""Of the median time: who was faster is counted."""


@dataclass(frozen=True)
class Judgement:
    """A value that somebody gave to a system on a page."""

    page: tuple[str, int]
    system: str
    position: int
    before: str | None  # the system on its left; None: it was first
    value: float


@dataclass(frozen=True)
class Crossover:
    """Do position and neighbour matter? p is nan where the answers cannot tell."""

    judgements: int
    by_position: Mapping[int, float]  # mean value, minus what the systems there get on average
    position_p: float
    carry_over_p: float


@dataclass(frozen=True)
class FilterEffect:
    """Participants who used a filter against those who did not; means over participants of means over systems."""

    name: str
    used: int
    unused: int
    means: Mapping[str, tuple[float, float]]  # measure → with, without
    p: Mapping[str, float]  # measure → Mann-Whitney


@dataclass(frozen=True)
class Minutes:
    """How long queries took from the first page to the last answer."""

    queries: int
    quartiles: tuple[float, float, float]
    fastest: float
    slowest: float
    hurried: int  # faster than a third of the median


def judgements(answers: Answers, name: str, kinds: Sequence[str] = ("own",)) -> list[Judgement]:
    """The ratings or ranks whose place on the page was recorded; pages on which a system failed are left out."""
    found = []
    for key, page in pages_of(row for row in answers.submitted().systems if row.kind in kinds).items():
        at = {row.position: row.system for row in page}
        if None in at or any(getattr(row, name) is None for row in page):
            continue
        for row in page:
            assert row.position is not None  # said above
            before = at.get(row.position - 1)
            found.append(Judgement(key, row.system, row.position, before, float(getattr(row, name))))
    return found


def crossover(judged: Sequence[Judgement]) -> Crossover:
    """F tests of position given the neighbour, and of the neighbour given the position."""
    values = np.array([one.value for one in judged])
    systems = sorted({one.system for one in judged})
    base = np.hstack([_dummies([one.page for one in judged]), _dummies([one.system for one in judged])])
    position, left = _dummies([one.position for one in judged]), _dummies([one.before for one in judged], systems)
    # Contrasts between neighbours: that the first position has none at all is an effect of position, not of them.
    before = left[:, :-1] - left[:, -1:]
    usual = {name: np.mean([one.value for one in judged if one.system == name]) for name in systems}
    above = values - np.array([usual[one.system] for one in judged])
    places = sorted({one.position for one in judged})
    by_position = {p: float(above[[one.position == p for one in judged]].mean()) for p in places}
    return Crossover(
        len(judged),
        by_position,
        f_test(values, np.hstack([base, before]), position),
        f_test(values, np.hstack([base, position]), before),
    )


def f_test(values: Array, base: Array, term: Array) -> float:
    """p of a term beside others; nan where nothing is left to tell it from them.

    Args:
        values: (N,); base: (N, A); term: (N, B) columns, of any rank.
    """
    if not len(values):
        return float("nan")
    (rest, rank), (smaller, full) = _residual(values, base), _residual(values, np.hstack([base, term]))
    if full == rank or full == len(values) or smaller <= 1e-12 * max(rest, 1e-300):
        return float("nan")
    statistic = (rest - smaller) / (full - rank) / (smaller / (len(values) - full))
    return float(f_distribution.sf(statistic, full - rank, len(values) - full))


def filter_effects(
    answers: Answers, measured: Measured, names: Sequence[str] = ("map", "rating")
) -> list[FilterEffect]:
    """For any filter at all, then for each: do participants who used it on a query of their own score otherwise?"""
    used: dict[str, set[str]] = {}
    for query in answers.submitted().queries:
        for name in query.filters or () if query.kind == "own" else ():
            used.setdefault(name, set()).add(query.participant)
    groups = {"any filter": set().union(*used.values()), **dict(sorted(used.items()))} if used else {}
    return [_filter_effect(name, people, measured, names) for name, people in groups.items()]


def minutes(answers: Answers, kinds: Sequence[str] = ("own",)) -> Minutes | None:
    """Of the submitted queries whose times are known; None without any."""
    queries = [query for query in answers.queries if query.kind in kinds and query.started and query.submitted]
    took = np.array([(q.submitted - q.started).total_seconds() / 60 for q in queries])  # type: ignore[operator]
    if not len(took):
        return None
    low, middle, high = np.percentile(took, [25, 50, 75]).tolist()
    hurried = int((took < HURRIED * middle).sum())
    return Minutes(len(took), (low, middle, high), float(took.min()), float(took.max()), hurried)


def _filter_effect(name: str, people: set[str], measured: Measured, names: Sequence[str]) -> FilterEffect:
    users = np.array([participant in people for participant in measured.participants], bool)
    means, p = {}, {}
    for measure in names:
        values = known_mean(measured.values[measure])
        sides = [side[~np.isnan(side)] for side in (values[users], values[~users])]
        means[measure] = float(known_mean(sides[0])), float(known_mean(sides[1]))
        p[measure] = float(mannwhitneyu(*sides).pvalue) if all(map(len, sides)) else float("nan")
    return FilterEffect(name, int(users.sum()), int((~users).sum()), means, p)


def _dummies(levels: Sequence[object], among: Sequence[object] | None = None) -> Array:
    """(N, L) a column for each level; None, or what is not among them, is 0 in all."""
    known = list(dict.fromkeys(levels)) if among is None else list(among)
    return np.array([[float(level == one) for one in known] for level in levels]).reshape(len(levels), len(known))


def _residual(values: Array, columns: Array) -> tuple[float, int]:
    """Sum of squares that the columns leave, and their rank."""
    fitted, _, rank, _ = np.linalg.lstsq(columns, values, rcond=None)
    return float(((values - columns @ fitted) ** 2).sum()), int(rank)
