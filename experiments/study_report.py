"""Scores of a study's variants: means over seeds, paired differences, tables, bars.

A variant's results are those of `eval.surfacing` on the same pictures, one for each seed. Intervals are of the products
(a bootstrap that draws the same products for all): they do not hold how much another seed would change.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from eval.compare import answers_of
from eval.figures import COLOURS
from eval.pairs import Contender, contender, difference, excludes_zero
from eval.report import Cell, Table, score
from eval.scores import Score

METRICS = {"text_sfa": "Text SFA", "attribute_sfa": "Attr. SFA"}
RESAMPLES = 1000
Seeds = Sequence[Any]  # results of one variant


def mean_score(results: Seeds, name: str, resamples: int = RESAMPLES) -> Score:
    """A score's mean over seeds, with the interval of that mean."""
    found = _contender(results, resamples).score(name)
    return {key: found[key] for key in ("value", "low", "high")}


def mean_difference(results: Seeds, others: Seeds, name: str, resamples: int = RESAMPLES) -> Score:
    """A mean score minus another variant's on the same pictures, with the paired interval."""
    return difference(_contender(results, resamples), _contender(others, resamples), name)


def _contender(results: Seeds, resamples: int) -> Contender:
    return contender("", [answers_of(result) for result in results], resamples)


def difference_cell(results: Seeds, others: Seeds, name: str) -> Cell:
    """Bold where the paired interval excludes 0."""
    found = mean_difference(results, others, name)
    return score(found, bold=excludes_zero(found))


def table(results: Mapping[str, Seeds], title: str) -> Table:
    """One row per variant: scores with intervals, and the paired difference to the first variant."""
    first = next(iter(results.values()))
    counts = first[0]["counts"]
    headers = ["Variant", "epochs", *METRICS.values(), *[f"Δ {shown}" for shown in METRICS.values()]]
    made = Table(f"{title}: {counts['pictures']} pictures, {counts['products']} products", headers)
    for variant, of_seeds in results.items():
        cells = [
            Cell(variant),
            Cell(f"{of_seeds[0]['epochs']:.1f}"),
            *[score(mean_score(of_seeds, name)) for name in METRICS],
        ]
        cells += [Cell("–") if of_seeds is first else difference_cell(of_seeds, first, name) for name in METRICS]
        made.rows.append(cells)
    return made


def draw_scores(file: Path, results: Mapping[str, Mapping[str, Seeds]]) -> None:
    """Bars with intervals: one panel per metric, the conditions, by their titles, side by side."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    variants = list(dict.fromkeys(variant for found in results.values() for variant in found))
    width = 0.8 / len(variants)
    for axes, (name, shown) in zip(figure.subplots(1, len(METRICS)), METRICS.items(), strict=True):
        for i, variant in enumerate(variants):
            there = [place for place, found in enumerate(results.values()) if variant in found]
            scores = [mean_score(found[variant], name) for found in results.values() if variant in found]
            values, low, high = (np.array([s[key] for s in scores], float) for key in ("value", "low", "high"))
            places = np.array(there) + (i - (len(variants) - 1) / 2) * width
            errors = np.abs([values - low, high - values])
            axes.bar(places, values, width * 0.92, yerr=errors, capsize=2, color=COLOURS[i], label=variant)
        axes.set_xticks(range(len(results)), [textwrap.fill(title, 20) for title in results], fontsize=7)
        axes.set_title(shown)
        axes.set_ylim(0, 1)
        axes.grid(axis="y", alpha=0.3)
        axes.set_axisbelow(True)
    figure.axes[0].legend(frameon=False, fontsize=8)
    figure.savefig(file, dpi=150)
