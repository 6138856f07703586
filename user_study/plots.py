"""The report's figures: critical differences, ratings, ranks, intervals.

    figure = critical_difference_figure(analysis)       # matplotlib; colours as in the other reports

Each system keeps its colour and its place in all of them but the first, where the place is the mean rank.

Source of the diagram: Demšar, Statistical comparisons of classifiers over multiple data sets, 2006, figure 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from eval.figures import COLOURS
from user_study.analysis import Analysis
from user_study.answers import LARGEST_RATING
from user_study.tables import PAPER, named

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from user_study.power import Power

HUES = tuple(colour for colour in COLOURS if colour != "#000000")  # black is invisible on a dark page
GREY = "#8a8a94"


def figures(analysis: Analysis) -> Mapping[str, tuple[str, Callable[[], Figure]]]:
    """Name → what it shows and how to draw it; those that the answers are enough for."""
    found: dict[str, tuple[str, Callable[[], Figure]]] = {
        "intervals": (
            "Means of every system with 95 % intervals over participants; arrows say where better is",
            lambda: intervals_figure(analysis),
        )
    }
    if not math.isnan(analysis.tests["rank"].critical_difference) and len(analysis.measured.systems) > 2:
        found["critical-difference"] = (
            "Mean ranks, 1 is the best; systems under one bar do not differ by Nemenyi's test at 0.05",
            lambda: critical_difference_figure(analysis),
        )
    if any(map(len, analysis.ranks)):
        found["ranks"] = ("How often each system was put in each place", lambda: ranks_figure(analysis))
    if any(map(len, analysis.ratings)):
        says = "How often each system got each rating; the line is the mean"
        found["ratings"] = (says, lambda: ratings_figure(analysis))
    return found


def critical_difference_figure(analysis: Analysis) -> Figure:
    """Mean ranks on a line, with bars over those that Nemenyi's test does not tell apart."""
    from pandas import DataFrame
    from scikit_posthocs import critical_difference_diagram

    names, tests = analysis.measured.systems, analysis.tests["rank"]
    ranks = dict(zip(names, tests.friedman.mean_ranks.tolist(), strict=True))
    figure, axes = _axes(7.6, 1.6 + 0.26 * len(names))
    ink = axes.xaxis.label.get_color()
    axes.set(xlim=(1, len(names)), xticks=range(1, len(names) + 1))
    critical_difference_diagram(
        ranks,
        DataFrame(tests.nemenyi, index=names, columns=names),
        ax=axes,
        label_fmt_left="{label}  {rank:.2f}",
        label_fmt_right="{rank:.2f}  {label}",
        label_props={"size": 10},
        color_palette={name: HUES[i % len(HUES)] for i, name in enumerate(names)},
        crossbar_props={"color": ink, "linewidth": 2.5},
        marker_props={"s": 36},
        elbow_props={"linewidth": 1.2, "clip_on": False},
        text_h_margin=0.04 * len(names),
    )
    _ruler(axes, tests.critical_difference, ink)
    return figure


def _ruler(axes: Any, length: float, ink: str) -> None:
    """The critical difference as a ruler above the axis."""
    place = axes.get_xaxis_transform()
    for x, y in (([1, 1 + length], [1.3, 1.3]), ([1, 1], [1.26, 1.34]), ([1 + length, 1 + length], [1.26, 1.34])):
        axes.plot(x, y, color=ink, linewidth=1.2, transform=place, clip_on=False)
    axes.text(1 + length, 1.3, f"  critical difference {length:.2f}", va="center", size=9, transform=place)


def ratings_figure(analysis: Analysis) -> Figure:
    """A histogram for each system on the same axes."""
    names = analysis.measured.systems
    figure, rows = _axes(6.4, 0.5 + 1.05 * len(names), len(names))
    steps = np.arange(1, LARGEST_RATING + 1)
    shares = [_shares(rated, LARGEST_RATING) for rated in analysis.ratings]
    for i, (name, axes, rated) in enumerate(zip(names, rows, analysis.ratings, strict=True)):
        axes.bar(steps, shares[i], width=0.86, color=HUES[i % len(HUES)], alpha=0.85)
        if len(rated):
            axes.axvline(rated.mean(), color=axes.xaxis.label.get_color(), linewidth=1.6)
        axes.set(ylim=(0, 1.1 * max(map(max, shares))), xlim=(0.4, LARGEST_RATING + 0.6), xticks=steps)
        told = f"{name}: mean {rated.mean():.2f}, {len(rated)} ratings" if len(rated) else f"{name}: no ratings"
        axes.set_title(told, fontsize=10, loc="left")
        axes.yaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
        axes.tick_params(labelbottom=i == len(names) - 1)
        axes.spines[["top", "right"]].set_visible(False)
    rows[-1].set_xlabel("rating, 10 is the best")
    return figure


def ranks_figure(analysis: Analysis) -> Figure:
    """A bar for each system, divided by the places that it was put in."""
    names = analysis.measured.systems
    figure, axes = _axes(7.2, 1.1 + 0.5 * len(names))
    left = np.zeros(len(names))
    for place in range(1, len(names) + 1):
        shares = np.array([_shares(ranked, len(names))[place - 1] for ranked in analysis.ranks])
        shade = 1 - 0.8 * (place - 1) / max(1, len(names) - 1)
        axes.barh(names, shares, left=left, color=HUES[0], alpha=shade, label=f"{place}", height=0.72)
        for row, share in enumerate(shares):
            if share >= 0.04:
                ink = "white" if shade > 0.6 else axes.xaxis.label.get_color()
                axes.text(left[row] + share / 2, row, f"{share:.0%}", ha="center", va="center", fontsize=9, color=ink)
        left += shares
    axes.set(xlim=(0, 1), xticks=[])
    axes.invert_yaxis()
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.legend(
        title="place, 1 is the best",
        loc="upper center",
        bbox_to_anchor=(0.5, 0),
        ncols=len(names),
        frameon=False,
        fontsize=9,
    )
    return figure


def intervals_figure(analysis: Analysis) -> Figure:
    """Means and intervals of the three measures of the paper's table."""
    names, estimates = analysis.measured.systems, analysis.estimates
    figure, panels = _axes(9.6, 1.1 + 0.42 * len(names), len(PAPER), beside=True)
    for axes, name in zip(panels, PAPER, strict=True):
        m = estimates.names.index(name)
        for row in range(len(names)):
            mean, low, high = (float(values[m, row]) for values in (estimates.means, estimates.lows, estimates.highs))
            look: dict[str, Any] = {"color": HUES[row % len(HUES)]}
            axes.plot([low, high], [row, row], linewidth=2.4, solid_capstyle="round", **look)
            axes.plot([mean], [row], "o", markersize=7, **look)
        axes.set(ylim=(len(names) - 0.5, -0.5), yticks=range(len(names)))
        axes.set_yticklabels(names if axes is panels[0] else [])
        better = "← better" if name == "rank" else "better →"
        axes.set_xlabel(f"{named(name, analysis.measured.k)}  ({better})")
        axes.grid(axis="x", alpha=0.5)
        axes.tick_params(axis="y", length=0)
        axes.spines[["top", "right", "left"]].set_visible(False)
    return figure


def power_figure(found: list[Power]) -> Figure:
    """Power against the number of participants."""
    figure, axes = _axes(7.2, 4.2)
    rows = sorted(found, key=lambda row: row.participants)
    told = {
        "friedman": "the systems differ (Friedman)",
        "nemenyi": "the best beats the second (Nemenyi)",
        "wilcoxon": "the best beats the second (Wilcoxon, Holm)",
    }
    for (name, label), colour, marker in zip(told.items(), HUES, "osD", strict=False):
        places = [row.participants for row in rows], [getattr(row, name) for row in rows]
        axes.plot(*places, marker=marker, color=colour, label=label)
    axes.axhline(0.8, color=GREY, linestyle="--", linewidth=1)
    axes.set(ylim=(0, 1.03), xlabel="participants who complete the study", ylabel="power")
    axes.yaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
    axes.grid(alpha=0.4)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="lower right", frameon=False)
    return figure


def _shares(values: Any, most: int) -> list[float]:
    """How often 1, 2, … `most` was given; a half goes to the even neighbour."""
    return [float((np.rint(values) == step).mean()) if len(values) else 0.0 for step in range(1, most + 1)]


def _axes(width: float, height: float, number: int = 1, beside: bool = False) -> tuple[Figure, Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    figure = Figure(figsize=(width, height), layout=ConstrainedLayoutEngine(h_pad=0.1, wspace=0.07))
    FigureCanvasAgg(figure)
    if number == 1:
        return figure, figure.subplots()
    axes = figure.subplots(*((1, number) if beside else (number, 1)), squeeze=False)
    return figure, axes.ravel().tolist()
