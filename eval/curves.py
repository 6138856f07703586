"""Curves of scores against severity, for `python -m eval robustness --figure curves.png`.

One row of panels for text SFA and one for attribute SFA; corruptions on the left, geometric shifts on the right. Bars
are 95 % intervals over products; the dotted line is chance.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from eval.corruptions import CORRUPTIONS, SHIFTS
from eval.figures import COLOURS, MARKERS
from fclip.errors import UserError

SCORES = {"text_sfa": "text SFA", "attribute_sfa": "attribute SFA"}


def check_ending(path: str | Path) -> None:
    """Raises UserError where a picture of this ending cannot be drawn: before the work rather than after it."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    ending = Path(path).suffix.lstrip(".").lower()
    if ending not in FigureCanvasAgg(Figure()).get_supported_filetypes():
        raise UserError(f"cannot draw a {ending or 'nameless'!r} picture: {path}; name it .png, .pdf or .svg")


def draw_curves(result: Mapping[str, Any], path: str | Path) -> None:
    """Draws the result of `eval.robustness`.

    Raises:
        UserError: the file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    check_ending(path)
    families = {"corruptions": CORRUPTIONS, "geometric shifts": SHIFTS}
    panels = {name: [k for k in result["curves"] if k in family] for name, family in families.items()}
    panels = {name: kinds for name, kinds in panels.items() if kinds}
    figure = Figure(figsize=(6 * len(panels), 8), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(len(SCORES), len(panels), squeeze=False, sharex=True, sharey="row")
    for row, (key, shown) in zip(grid, SCORES.items(), strict=True):
        for axes, (name, kinds) in zip(row, panels.items(), strict=True):
            _panel(axes, {kind: result["curves"][kind] for kind in kinds}, key)
            axes.axhline(result["baselines"]["chance"][key]["value"] or 0, color="grey", linestyle=":", linewidth=1)
            axes.set_title(f"{shown}, {name}")
    for axes in grid[-1]:
        axes.set_xlabel("severity (0: as it is)")
    figure.suptitle(f"{result['model']['name']}, {result['counts']['pictures']} pictures")
    try:
        figure.savefig(path, dpi=150)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}; choose another place") from None


def _panel(axes: Any, curves: Mapping[str, list[Mapping[str, Any]]], key: str) -> None:
    for n, (kind, points) in enumerate(curves.items()):
        known = [point for point in points if point[key]["value"] is not None]
        beside = (n - (len(curves) - 1) / 2) * 0.04  # so that bars do not hide each other
        x = [point["severity"] + beside for point in known]
        look: dict[str, Any] = {"color": COLOURS[n % len(COLOURS)], "marker": MARKERS[n % len(MARKERS)]}
        axes.plot(x, [point[key]["value"] for point in known], label=kind, markersize=5, **look)
        sure = [i for i, point in enumerate(known) if point[key]["low"] is not None]
        ends = [[known[i][key][end] for i in sure] for end in ("low", "high")]
        axes.vlines([x[i] for i in sure], *ends, color=look["color"], alpha=0.4)
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.25)
    axes.legend(frameon=False, fontsize="small")
