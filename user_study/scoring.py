"""What the answers say of each system: MAP@k, average rank, average rating, with intervals over participants.

A participant is the unit. Each gives one value per measure and system, the mean over the counted queries; a measure is
the mean over participants. P participants, S systems, M measures; nan is what is not known.

    measured = measure(read_answers("export"))
    estimates = estimate(measured, resamples=1000, seed=0)       # participants drawn, jointly for all systems

What counts:

- Queries of the kinds asked for that were submitted. A repeated query is judged twice, and never counts.
- A verdict that is missing makes the list unknown, not irrelevant. A list that is shorter than k lacks pictures that
  the system owed: they count as not relevant.
- A rank counts when every system of the study was ranked on that page; equal ranks become the mean of the places they
  take (1, 2, 2, 4 → 1, 2.5, 2.5, 4). Ratings count singly.
- A system that failed was not judged: its values are unknown.

Source: the paper's section 6.3 (MAP@k, ranks, ratings); Efron & Tibshirani, An Introduction to the Bootstrap, 1993.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from eval.metrics.means import known_mean
from eval.metrics.ranking import ranking_of_flags
from eval.metrics.retrieval import average_precision, paper_average_precision, precision_at
from eval.metrics.uncertainty import interval, ratio_samples
from user_study.answers import Answers, SystemRow

Array = NDArray[np.float64]
Key = tuple[str, int, str]  # participant, query, system
MEASURES = {"map": True, "rank": False, "rating": True, "precision": True, "standard_map": True}
"""Name → whether more is better."""


@dataclass(frozen=True)
class Measured:
    """One value for each participant, system and measure."""

    participants: tuple[str, ...]
    systems: tuple[str, ...]
    k: int  # pictures in a list
    values: Mapping[str, Array]  # measure → (P, S)
    counts: Mapping[str, int]  # what was left out, and why
    failures: tuple[int, ...]  # (S,) pages on which each system failed


@dataclass(frozen=True)
class Estimates:
    """Means with intervals, and the samples they come from."""

    names: tuple[str, ...]  # (M,)
    means: Array  # (M, S)
    lows: Array  # (M, S)
    highs: Array  # (M, S)
    variances: Array  # (M, S) over participants, divided by n - 1; nan for one
    known: NDArray[np.int64]  # (M, S) participants behind each mean
    samples: Array  # (resamples, M, S); the same participants are drawn for all measures and systems

    def difference(self, name: str, a: int, b: int) -> tuple[float, float, float]:
        """System a minus system b: difference of the means, and its interval."""
        m = self.names.index(name)
        low, high = interval((self.samples[:, m, a] - self.samples[:, m, b])[:, None])
        return float(self.means[m, a] - self.means[m, b]), float(low[0]), float(high[0])

    def best(self, name: str) -> int | None:
        """The system that is better than every other by more than its interval; None when no one is."""
        m, sign = self.names.index(name), 1 if MEASURES[name] else -1
        if np.isnan(self.means[m]).any():
            return None
        first = int((sign * self.means[m]).argmax())
        rivals = [self.difference(name, first, b)[1:] for b in range(self.means.shape[1]) if b != first]
        sure = all((low if sign > 0 else -high) > 0 for low, high in rivals)
        return first if sure else None


def measure(
    answers: Answers, k: int | None = None, kinds: Sequence[str] = ("own",), systems: Sequence[str] | None = None
) -> Measured:
    """Scores every participant.

    Args:
        k: pictures of a list that count; None: as many as the longest list has.
        kinds: of queries that count: own, calibration.
        systems: their order; None: as in the answers.

    Raises:
        ValueError: k is longer than every list, or the systems are not those of the answers.
    """
    submitted = answers.submitted()
    names = tuple(systems or answers.names)
    if sorted(names) != sorted(answers.names):
        raise ValueError(f"expected the systems {', '.join(answers.names)}, got {', '.join(names)}")
    rows = [row for row in submitted.systems if row.kind in kinds and row.kind != "repeat"]
    verdicts = _verdicts(submitted)
    longest = max((max(places, default=0) for places in verdicts.values()), default=0)
    if k is not None and not 1 <= k <= longest:
        raise ValueError(f"expected k from 1 to {longest}, the pictures that were shown, got {k}")
    people = tuple(dict.fromkeys(row.participant for row in rows))
    lists = _lists(map(_key, rows), verdicts, k or longest)
    values = _of_lists(lists, k or longest) | {
        "rank": _ranks(rows, len(names)),
        "rating": {_key(row): row.rating for row in rows if row.rating is not None},
    }
    matrices = {name: _matrix(values[name], people, names) for name in MEASURES}
    failures = tuple(sum(row.failed for row in rows if row.system == name) for name in names)
    counts = _counts(answers, rows, verdicts, lists, values["rank"], k or longest)
    return Measured(people, names, k or longest, matrices, counts, failures)


def estimate(measured: Measured, resamples: int = 1000, seed: int = 0) -> Estimates:
    """Means over participants with 95 % percentile intervals; participants are drawn jointly for all systems."""
    names = tuple(MEASURES)
    values = np.stack([measured.values[name] for name in names], 1)  # (P, M, S)
    people, m, s = values.shape
    known = ~np.isnan(values)
    flat, ones = np.where(known, values, 0).reshape(people, m * s), known.reshape(people, m * s)
    samples = ratio_samples(flat, ones, range(people), resamples, seed)
    lows, highs = interval(samples)
    means = known_mean(np.moveaxis(values, 0, -1))
    spread = np.where(known, (values - means) ** 2, 0).sum(0)
    count = known.sum(0)
    variances = np.divide(spread, count - 1, out=np.full((m, s), np.nan), where=count > 1)
    bounds = lows.reshape(m, s), highs.reshape(m, s)
    return Estimates(names, means, *bounds, variances, count, samples.reshape(resamples, m, s))


def pages_of(rows: Iterable[SystemRow]) -> dict[tuple[str, int], list[SystemRow]]:
    """Rows by participant and query."""
    found = defaultdict(list)
    for row in rows:
        found[row.participant, row.query].append(row)
    return dict(found)


def _key(row: SystemRow) -> Key:
    return row.participant, row.query, row.system


def _verdicts(answers: Answers) -> dict[Key, dict[int, bool | None]]:
    """Place → verdict, of every list."""
    found: dict[Key, dict[int, bool | None]] = defaultdict(dict)
    for row in answers.pictures:
        found[row.participant, row.query, row.system][row.place] = row.relevant
    return dict(found)


def _lists(keys: Iterable[Key], verdicts: Mapping[Key, Mapping[int, bool | None]], k: int) -> dict[Key, list[bool]]:
    """The first k verdicts of the lists that have them all; a picture that was not shown is not relevant."""
    shown = {key: [verdicts[key].get(place, False) for place in range(1, k + 1)] for key in keys if key in verdicts}
    return {key: list(map(bool, found)) for key, found in shown.items() if None not in found}


def _of_lists(lists: Mapping[Key, list[bool]], k: int) -> dict[str, dict[Key, float]]:
    if not lists:
        return {name: {} for name in ("map", "precision", "standard_map")}
    found = np.array([*lists.values()], bool)
    whole = ranking_of_flags(found, np.full(len(found), k))  # who likes nothing scores 0 and is not left out
    standard = ranking_of_flags(found, found.sum(1))
    scores = {
        "map": paper_average_precision(whole, k),
        "precision": precision_at(whole, k),
        "standard_map": np.nan_to_num(average_precision(standard)),  # as trec_eval: nothing relevant is 0
    }
    return {name: dict(zip(lists, values.tolist(), strict=True)) for name, values in scores.items()}


def _ranks(rows: Iterable[SystemRow], systems: int) -> dict[Key, float]:
    found: dict[Key, float] = {}
    for page in pages_of(rows).values():
        ranks = [row.rank for row in page if row.rank is not None]
        if len(ranks) == systems:
            found |= dict(zip(map(_key, page), rankdata(ranks).tolist(), strict=True))
    return found


def _matrix(values: Mapping[Key, float], people: Sequence[str], systems: Sequence[str]) -> Array:
    """(P, S) the mean over a participant's queries."""
    sums, counts = np.zeros((2, len(people), len(systems)))
    rows, columns = ({name: i for i, name in enumerate(names)} for names in (people, systems))
    for (participant, _, system), value in values.items():
        sums[rows[participant], columns[system]] += value
        counts[rows[participant], columns[system]] += 1
    return np.divide(sums, counts, out=np.full(sums.shape, np.nan), where=counts > 0)


def _counts(
    answers: Answers,
    rows: Sequence[SystemRow],
    verdicts: Mapping[Key, Mapping[int, bool | None]],
    lists: Mapping[Key, object],
    ranks: Mapping[Key, float],
    k: int,
) -> dict[str, int]:
    pages, people = pages_of(rows), {row.participant for row in rows}
    judged = [row for row in rows if not row.failed]
    ranked = [[row.rank for row in page] for page in pages.values() if _key(page[0]) in ranks]
    return {
        "participants": len(people),
        "not_submitted": len(set(answers.participants) - people),
        "pages": len(pages),
        "failed": len(rows) - len(judged),
        "absent": len(pages) * len(answers.names) - len(rows),
        "lists_unanswered": sum(_key(row) not in lists for row in judged),
        "lists_short": sum(_key(row) in lists and max(verdicts[_key(row)]) < k for row in judged),
        "pages_unranked": len(pages) - len(ranked),
        "pages_tied": sum(len(set(page)) < len(page) for page in ranked),
        "unrated": sum(row.rating is None for row in judged),
    }
