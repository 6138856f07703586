"""Worths of the systems by Plackett and Luce: how likely is each to be put first?

A participant who ranks puts the first system before all others, the second before those that are left, and so on; each
time system i is chosen with probability w_i / Σ w over those that are left. The worths w sum to 1.

    >>> worths = plackett_luce(choices(answers.systems), systems)          # (S,)

Unlike the mean rank this uses pages on which a system is missing: it was not there to be chosen. Of two systems with
equal ranks none was chosen before the other; both come before those that are below them.

Where one system always wins, its worth has no maximum; a little regularisation (choix's `alpha`) keeps it finite.

Sources: Plackett, The analysis of permutations, 1975; Luce, Individual choice behavior, 1959; Maystre & Grossglauser,
Fast and accurate inference of Plackett-Luce models, 2015 (choix).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from eval.metrics.uncertainty import interval
from user_study.answers import SystemRow
from user_study.scoring import pages_of

Array = NDArray[np.float64]
Choice = tuple[int, tuple[int, ...]]  # the one preferred, and those it was preferred to
ALPHA = 0.01


def choices(rows: Iterable[SystemRow], systems: Sequence[str]) -> dict[str, list[Choice]]:
    """Participant → choices, from the ranks of all their pages."""
    number = {name: i for i, name in enumerate(systems)}
    found: dict[str, list[Choice]] = {}
    for (participant, _), page in pages_of(rows).items():
        ranked = [(row.rank, number[row.system]) for row in page if row.rank is not None]
        after = [(one, tuple(other for below, other in ranked if below > rank)) for rank, one in ranked]
        found.setdefault(participant, []).extend([(one, others) for one, others in after if others])
    return found


def plackett_luce(found: Iterable[Sequence[Choice]], systems: int, alpha: float = ALPHA) -> Array:
    """(S,) worths that sum to 1; nan without a choice."""
    from choix import ilsr_top1

    data = [choice for of_one in found for choice in of_one]
    if not data:
        return np.full(systems, np.nan)
    strengths = np.exp(ilsr_top1(systems, data, alpha=alpha, max_iter=1000))
    return strengths / strengths.sum()


def worths(
    by_participant: Mapping[str, Sequence[Choice]], systems: int, resamples: int = 1000, seed: int = 0
) -> tuple[Array, Array, Array]:
    """Worths and their 95 % percentile intervals over participants, each (S,)."""
    people, rng = list(by_participant.values()), np.random.default_rng(seed)
    if len(people) < 2 or not resamples:
        return plackett_luce(people, systems), *np.full((2, systems), np.nan)
    draws = rng.integers(len(people), size=(resamples, len(people)))
    samples = np.array([plackett_luce([people[i] for i in draw], systems) for draw in draws])
    return plackett_luce(people, systems), *interval(samples)
