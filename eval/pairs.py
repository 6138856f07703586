"""Models against each other on the same pictures: paired differences, p-values, and who is surely best.

A contender is a model with the results of one or several training runs; its score is the mean over the runs. Intervals
and tests are over products, drawn alike for all contenders; how much another run would change is the deviation, which
is told beside and is not in the interval.

    best = winners([contender("plain", [answers]), contender("stn", [first, second])], baselines)

Definitions and sources: `eval.metrics.uncertainty` and `eval.metrics.significance`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eval.metrics.significance import holm, over_seeds, sign_flip
from eval.metrics.uncertainty import interval
from eval.scores import LEVEL, Answers, Score, find
from eval.scores import score as as_score

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Contender:
    """A model's K scores on N pictures, means over its runs."""

    name: str
    names: list[str]  # (K,) of the scores
    ratios: Array  # (K,)
    deviation: Array  # (K,) over the runs, nan for one
    samples: Array  # (resamples, K)
    parts: Array  # (N, K - 1) numerators, means over the runs
    wholes: Array  # (N, K - 1) denominators
    items: Sequence[str]  # (N,)

    def score(self, name: str) -> Score:
        """A score by its name, with the deviation over runs where there are several."""
        column = self.names.index(name)
        low, high = interval(self.samples[:, [column]], LEVEL)
        found = as_score(self.ratios[column], low[0], high[0])
        spread = self.deviation[column]
        return found if np.isnan(spread) else found | {"deviation": round(float(spread), 6)}


@dataclass(frozen=True)
class Difference:
    """A contender's score minus another's."""

    score: Score
    p: float | None  # Holm's over all the contenders compared; None where no test applies

    @property
    def sure(self) -> bool:
        """The interval excludes 0."""
        return excludes_zero(self.score)


def excludes_zero(score: Score) -> bool:
    """Whether the interval of a difference is known and 0 is not in it."""
    low, high = score["low"], score["high"]
    return low is not None and high is not None and (low > 0 or high < 0)


def contender(name: str, runs: Sequence[Answers], resamples: int = 1000, seed: int = 0) -> Contender:
    """A model from the answers of its runs, all on the same pictures.

    Raises:
        ValueError: no run.
    """
    seeds = over_seeds(np.stack([run.ratios() for run in runs]) if runs else [])
    samples = np.mean([run.samples(resamples, seed) for run in runs], axis=0)
    parts = np.mean([run.sums()[0] for run in runs], axis=0)
    first = runs[0]
    return Contender(name, first.names, seeds.mean, seeds.deviation, samples, parts, first.sums()[1], first.items)


def difference(ours: Contender, theirs: Contender, name: str) -> Score:
    """The difference of a score, with its paired interval."""
    column = ours.names.index(name)
    low, high = interval((ours.samples - theirs.samples)[:, [column]], LEVEL)
    return as_score(ours.ratios[column] - theirs.ratios[column], low[0], high[0])


def differences(contenders: Sequence[Contender], against: Contender, name: str, seed: int = 0) -> list[Difference]:
    """Each contender's difference to one of them in a score; p-values by sign flips, Holm's over the contenders."""
    column = against.names.index(name)
    p = np.full(len(contenders), np.nan)
    if column < against.parts.shape[1]:
        pick = [column]
        for i, ours in enumerate(contenders):
            tested = ours.parts[:, pick], against.parts[:, pick], against.wholes[:, pick]
            p[i] = sign_flip(*tested, against.items, seed=seed)[0]
    corrected = [None if np.isnan(value) else float(value) for value in holm(p)]
    scores = [difference(ours, against, name) for ours in contenders]
    return [Difference(score, value) for score, value in zip(scores, corrected, strict=True)]


def winners(contenders: Sequence[Contender], baselines: Mapping[str, Any]) -> dict[str, int]:
    """Score's name → the contender that is surely best: better than the runner-up and than every baseline.

    The paired interval of its difference to the runner-up lies above 0; where two are equally second, the first of them
    is the runner-up. Of baselines only intervals are known: the contender's must lie above theirs, which implies the
    same of the difference however the two depend on each other.
    """
    if len(contenders) < 2:
        return {}
    found = {}
    for column, name in enumerate(contenders[0].names):
        values = np.array([one.ratios[column] for one in contenders])
        if np.isnan(values).any():
            continue
        best, second = np.argsort(-values, kind="stable")[:2].tolist()
        low = difference(contenders[best], contenders[second], name)["low"]
        if low is not None and low > 0 and _beats(contenders[best], baselines, name):
            found[name] = best
    return found


def _beats(best: Contender, baselines: Mapping[str, Any], name: str) -> bool:
    """Whether its interval lies above every baseline's; a baseline without an interval is not surely beaten."""
    low = best.score(name)["low"]
    rivals = [find(metrics, name) for metrics in baselines.values()]
    highs = [rival["high"] for rival in rivals if rival and rival["value"] is not None]
    return all(low is not None and high is not None and low > high for high in highs)
