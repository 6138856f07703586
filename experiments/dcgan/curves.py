"""Losses and balance of a run: lines of JSON, and a figure of two panels.

    write_curves(run.history, Path("runs/dcgan"))     # curves.jsonl, curves.png

Balance is the share of real pictures that the discriminator takes for real, and of made ones that it takes for made.
Both near 1: it has won, and the generator learns nothing. Both near 0.5: it cannot tell, which is the goal, or it is
too weak. A generator's loss says nothing about its pictures; the grids do.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from fclip.files import write_text

NAMES = ("loss_d", "loss_g", "logit_real", "logit_fake", "right_real", "right_fake")
PANELS = {
    "loss": {"loss_d": "discriminator", "loss_g": "generator"},
    "share judged rightly": {"right_real": "real pictures", "right_fake": "made pictures"},
}
MOST_POINTS = 400  # of a curve in the figure; more are averaged


def write_curves(history: Sequence[dict[str, float]], out: Path) -> None:
    """Writes both files anew.

    Raises:
        UserError: the folder cannot be written.
    """
    write_text(out / "curves.jsonl", "".join(json.dumps(point) + "\n" for point in history))
    _draw(history, out / "curves.png")


def thinned(history: Sequence[dict[str, float]]) -> list[dict[str, float]]:
    """Means of neighbours, so that at most `MOST_POINTS` are left."""
    size = -(-len(history) // MOST_POINTS)
    groups = [history[first : first + size] for first in range(0, len(history), size)] if history else []
    return [{name: sum(point[name] for point in group) / len(group) for name in group[0]} for group in groups]


def _draw(history: Sequence[dict[str, float]], file: Path) -> None:
    from matplotlib.figure import Figure

    from eval.figures import COLOURS

    points = thinned(history)
    figure = Figure(figsize=(8, 6), layout="constrained")
    panels = figure.subplots(len(PANELS), 1, sharex=True)
    for panel, (label, curves) in zip(panels, PANELS.items(), strict=True):
        for colour, (name, said) in zip(COLOURS[1:], curves.items(), strict=False):
            panel.plot([p["step"] for p in points], [p[name] for p in points], color=colour, label=said)
        panel.set_ylabel(label)
        panel.legend(frameon=False)
    panels[1].set_ylim(0, 1)
    panels[1].axhline(0.5, color="grey", linewidth=0.8, linestyle=":")
    panels[1].set_xlabel("step")
    figure.savefig(file, dpi=100)
