"""Can the answers be trusted? Do people agree with each other and with themselves, and was the blinding kept?

    calibration  queries that all judged: Kendall's W of the systems' ranks, Fleiss' kappa of the pictures' verdicts
    repeats      a query judged twice by the same person: ranks, verdicts, ratings
    guesses      which system was held to be generated, against chance

When everybody judges a query of their own there is no item that two people saw, and agreement on pictures is not
defined; only the calibration queries have it.

Sources: Kendall & Babington Smith, The problem of m rankings, 1939; Fleiss, Measuring nominal scale agreement among
many raters, 1971; Cohen, A coefficient of agreement for nominal scales, 1960; Clopper & Pearson, 1934.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest, spearmanr

from eval.metrics.means import known_mean
from user_study.answers import UNSURE, Answers, QueryRow, SystemRow
from user_study.scoring import pages_of
from user_study.statistics import friedman

Array = NDArray[np.float64]
Page = tuple[str, int]  # participant, query
NAN = float("nan")


@dataclass(frozen=True)
class Calibration:
    """Agreement on one query that all were asked."""

    query: str
    people: int  # who ranked all systems
    w: float  # Kendall's
    p: float  # of Friedman's test: is it more than chance?
    mean_ranks: Mapping[str, float]
    judges: int  # who judged every picture
    kappa: float  # Fleiss' of the pictures; 1 all alike, 0 chance


@dataclass(frozen=True)
class Repeats:
    """How steady answers are; means over the participants, verdicts pooled."""

    people: int
    rank_correlation: float  # Spearman's
    same_first: float  # share whose best system stayed the best
    rating_difference: float  # absolute
    verdicts: int  # pictures judged twice
    same_verdict: float  # share
    kappa: float  # Cohen's of the verdicts


@dataclass(frozen=True)
class Guesses:
    """Could they tell which pictures were generated?"""

    asked: int  # who answered
    unsure: int  # who would not say; not in what follows
    guessed: int
    right: int
    share: float
    low: float  # 95 %, Clopper & Pearson
    high: float
    chance: float
    p: float  # exact binomial, two-sided


def calibrations(answers: Answers) -> list[Calibration]:
    """One for each calibration query; those of one text are one, whoever was asked when."""
    told, found = answers.submitted(), defaultdict(set)
    texts = {(query.participant, query.query): query.text for query in told.queries}
    for row in told.systems:
        if row.kind == "calibration":
            key = row.participant, row.query
            found[texts.get(key) or f"query {row.query}"].add(key)
    return [_calibration(told, text, keys) for text, keys in found.items()]


def repeats(answers: Answers) -> Repeats | None:
    """Each repeated query against the one it repeats, or the participant's first; None without any."""
    told = answers.submitted()
    pages, asked = pages_of(told.systems), {(q.participant, q.query): q.repeats for q in told.queries}
    pairs = []
    for (who, query), page in pages.items():
        if page[0].kind == "repeat":
            own = [number for name, number in pages if name == who and pages[name, number][0].kind == "own"]
            first = asked.get((who, query))
            first = min(own, default=None) if first is None else first
            if first is not None and (who, first) in pages:
                pairs.append(((who, first), (who, query)))
    return _repeats(told, pairs) if pairs else None


def guesses(answers: Answers) -> Guesses | None:
    """The guesses against chance, the share of generated systems on the page; None when nobody was asked."""
    told = answers.submitted()
    pages = pages_of(told.systems)
    asked = [query for query in told.queries if query.guess is not None]
    if not asked:
        return None
    said = [query for query in asked if query.guess != UNSURE]
    right = sum(_is_right(query, pages) for query in said)
    shown = [row.generated for query in asked for row in pages.get((query.participant, query.query), [])]
    chance = float(np.mean(shown)) if shown else NAN
    if not said or not 0 < chance < 1:
        return Guesses(len(asked), len(asked) - len(said), len(said), right, NAN, NAN, NAN, chance, NAN)
    test = binomtest(right, len(said), chance)
    low, high = test.proportion_ci(0.95, "exact")
    unsure = len(asked) - len(said)
    return Guesses(len(asked), unsure, len(said), right, right / len(said), low, high, chance, float(test.pvalue))


def fleiss(verdicts: Array) -> float:
    """Kappa of (judges, pictures) verdicts 0 or 1; nan for fewer than two judges, or when all verdicts are one."""
    from statsmodels.stats.inter_rater import fleiss_kappa

    if len(verdicts) < 2 or len(np.unique(verdicts)) < 2:
        return NAN
    liked = verdicts.sum(0)
    return float(fleiss_kappa(np.column_stack([len(verdicts) - liked, liked])))


def _calibration(told: Answers, text: str, keys: set[Page]) -> Calibration:
    names = told.names
    ranks = []
    for page in pages_of(row for row in told.systems if (row.participant, row.query) in keys).values():
        of = {row.system: row.rank for row in page}
        ranks.append([NAN if (rank := of.get(name)) is None else rank for name in names])
    test = friedman(np.array(ranks, np.float64).reshape(-1, len(names)), more_is_better=False)
    verdicts: dict[Page, dict[tuple[str, int], bool | None]] = defaultdict(dict)
    for row in told.pictures:
        if (row.participant, row.query) in keys:
            verdicts[row.participant, row.query][row.system, row.place] = row.relevant
    shown = sorted({place for of_one in verdicts.values() for place in of_one})
    whole = [[v[p] for p in shown] for v in verdicts.values() if all(v.get(p) is not None for p in shown)]
    mean_ranks = dict(zip(names, test.mean_ranks.tolist(), strict=True))
    kappa = fleiss(np.array(whole, np.float64).reshape(len(whole), len(shown)))
    return Calibration(text, test.participants, test.w, test.p, mean_ranks, len(whole), kappa)


def _repeats(told: Answers, pairs: Sequence[tuple[Page, Page]]) -> Repeats:
    from sklearn.metrics import cohen_kappa_score

    pages = pages_of(told.systems)
    correlations, firsts, differences = [], [], []
    for one, two in pairs:
        before, after = _both(pages[one], pages[two], "rank")
        if len(before) > 1:
            told_apart = len(set(before)) > 1 < len(set(after))
            correlations.append(float(spearmanr(before, after).statistic) if told_apart else NAN)
            firsts.append(float(before.index(min(before)) == after.index(min(after))))
        before, after = _both(pages[one], pages[two], "rating")
        differences += [float(np.abs(np.subtract(before, after)).mean())] if before else []
    first, second = _verdicts_twice(told, pairs)
    kappa = float(cohen_kappa_score(first, second)) if len(set(first) | set(second)) > 1 else NAN
    same = float(np.mean(np.equal(first, second))) if first else NAN
    means = [float(known_mean(np.array(values))) for values in (correlations, firsts, differences)]
    return Repeats(len(pairs), means[0], means[1], means[2], len(first), same, kappa)


def _both(first: Sequence[SystemRow], second: Sequence[SystemRow], name: str) -> tuple[list[float], list[float]]:
    """The values of the systems that have one on both pages, in the same order."""
    again = {row.system: getattr(row, name) for row in second}
    known = [(getattr(row, name), again.get(row.system)) for row in first]
    kept = [(float(a), float(b)) for a, b in known if a is not None and b is not None]
    return [a for a, _ in kept], [b for _, b in kept]


def _verdicts_twice(told: Answers, pairs: Sequence[tuple[Page, Page]]) -> tuple[list[bool], list[bool]]:
    """Verdicts on pictures that were judged both times; a picture is its item where that was recorded."""
    verdicts: dict[Page, dict[tuple[str, str | int], bool]] = defaultdict(dict)
    for row in told.pictures:
        if row.relevant is not None:
            verdicts[row.participant, row.query][row.system, row.item or row.place] = row.relevant
    both = [(verdicts[a], verdicts[b], key) for a, b in pairs for key in verdicts[a] if key in verdicts[b]]
    return [a[key] for a, _, key in both], [b[key] for _, b, key in both]


def _is_right(query: QueryRow, pages: Mapping[Page, Sequence[SystemRow]]) -> bool:
    rows = pages.get((query.participant, query.query), [])
    return any(row.letter == query.guess and row.generated for row in rows)
