"""From per-picture answers to named scores with intervals: the one place where numerators meet denominators.

A score is {"value", "low", "high"}, null where there is nothing to divide by, low and high also without resamples.
`surfacing` makes the scores of one model with it, `compare` the differences of two.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eval.metrics.means import known_mean, share
from eval.metrics.uncertainty import interval, ratio_samples

LEVEL = 0.95
Score = dict[str, float | None]


@dataclass(frozen=True)
class Answers:
    """How N pictures were answered."""

    groups: tuple[str, ...]
    items: Sequence[str]  # (N,) products, the unit of resampling
    correct: NDArray[Any]  # (N,) 0 … 1, the own caption
    hits: NDArray[Any]  # (N, G) 0 … 1, agreeing attributes
    known: NDArray[np.bool_]  # (N, G)
    means: Mapping[str, NDArray[Any]]  # name → (N,), further scores that are means over pictures

    @property
    def names(self) -> list[str]:
        """The scores, in the order of `ratios` and `samples`."""
        return [*self.means, "text_sfa", "attribute_sfa", *map(of_group, self.groups), "attribute_sfa_macro"]

    def ratios(self) -> NDArray[np.float64]:
        """(K,) the scores."""
        part, whole = self.sums()
        return self._with_macro(share(part.sum(0), whole.sum(0))[None])[0]

    def samples(self, resamples: int, seed: int) -> NDArray[np.float64]:
        """(resamples, K) bootstrap over products; two models on the same pictures and seed see the same draws."""
        part, whole = self.sums()
        return self._with_macro(ratio_samples(part, whole, self.items, resamples, seed))

    def sums(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Numerators and denominators (N, K - 1) of all scores but the macro, which is no ratio of sums."""
        part = [*self.means.values(), self.correct, self.hits.sum(1), *self.hits.T]
        ones = np.ones(len(self.items))
        whole = [*[ones] * (len(self.means) + 1), self.known.sum(1), *self.known.T]
        return np.stack(part, 1).astype(np.float64), np.stack(whole, 1).astype(np.float64)

    def _with_macro(self, ratios: NDArray[np.float64]) -> NDArray[np.float64]:
        groups = ratios[:, ratios.shape[1] - len(self.groups) :]
        return np.column_stack([ratios, known_mean(groups)])


def of_group(group: str) -> str:
    """The name of a group's score; a group may be called like another score."""
    return f"attribute_sfa:{group}"


def scores(answers: Answers, resamples: int, seed: int) -> dict[str, Any]:
    """Every score with its interval; those of the groups under "attribute_sfa_by_group"."""
    low, high = interval(answers.samples(resamples, seed), LEVEL)
    columns = zip(answers.names, answers.ratios(), low, high, strict=True)
    flat = {name: score(*numbers) for name, *numbers in columns}
    by_group = {group: flat.pop(of_group(group)) for group in answers.groups}
    return flat | {"attribute_sfa_by_group": by_group}


def find(metrics: Mapping[str, Any], name: str) -> Score | None:
    """A score by its name, a group's by `of_group`; None when it does not apply."""
    by_group = {of_group(group): found for group, found in metrics.get("attribute_sfa_by_group", {}).items()}
    return by_group.get(name) or metrics.get(name)


def score(value: float, low: float = np.nan, high: float = np.nan) -> Score:
    """A score for JSON, which has no nan."""
    return {k: None if np.isnan(v) else round(float(v), 6) for k, v in (("value", value), ("low", low), ("high", high))}
