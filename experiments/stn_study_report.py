"""The tables and pictures of `experiments.stn_study`."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from eval.compare import answers_of
from eval.figures import COLOURS
from eval.metrics.uncertainty import interval
from eval.report import Cell, Table, markdown, score
from eval.scores import LEVEL
from eval.scores import score as as_score
from experiments.stn_study import CONDITIONS
from fclip.checkpoint import load_checkpoint
from fclip.files import write_text

if TYPE_CHECKING:
    from datasets import Dataset

    from fclip.model import Model

TITLES = {
    "a": "(a) trained and tested as they are",
    "b": "(b) trained as they are, tested posed",
    "c": "(c) trained and tested posed",
    "d": "(d) plain of (a) trained on posed, tested posed",
    "e": "(e) plain of (a) trained on posed, tested as they are",
}
METRICS = {"text_sfa": "Text SFA", "attribute_sfa": "Attr. SFA"}
PICTURES = 8  # in the figure of what the transformers see
Results = Mapping[str, Mapping[str, Any]]


def write_report(out: Path, results: Results, tests: Mapping[str, Dataset], settings: Mapping[str, Any]) -> None:
    """Writes OUT/table.md, OUT/scores.png and, where a variant has a transformer, OUT/looks.png."""
    told = ", ".join(f"{key} {value}" for key, value in settings.items())
    tables = [table(found, TITLES[condition]) for condition, found in results.items()]
    write_text(out / "table.md", "\n".join([f"{told}\n", *map(markdown, tables)]))
    draw_scores(out / "scores.png", results)
    checkpoints = {
        f"{variant} ({condition})": out / f"{variant}-{trained}" / "last"
        for condition, (trained, tested) in CONDITIONS.items()
        if tested == "posed"
        for variant in results.get(condition, {})
    }
    models = {name: load_checkpoint(folder) for name, folder in checkpoints.items()}
    looking = {name: model for name, model in models.items() if "stn" in model.card.architecture}
    if looking:
        draw_looks(out / "looks.png", looking, tests["posed"])


def table(results: Mapping[str, Any], title: str) -> Table:
    """One row per variant: scores with intervals, and the paired difference to the first variant."""
    counts = next(iter(results.values()))["counts"]
    headers = ["Variant", "minutes", *METRICS.values(), *[f"Δ {shown}" for shown in METRICS.values()]]
    made = Table(f"{title}: {counts['pictures']} pictures, {counts['products']} products", headers)
    first = next(iter(results.values()))
    for variant, result in results.items():
        cells = [Cell(variant), Cell(f"{result['minutes']:.1f}")]
        cells += [score(result["metrics"][name]) for name in METRICS]
        cells += [Cell("–")] * len(METRICS) if result is first else [difference(result, first, m) for m in METRICS]
        made.rows.append(cells)
    return made


def difference(result: Any, other: Any, name: str, resamples: int = 1000) -> Cell:
    """A score minus another model's on the same pictures; bold where the paired interval excludes 0."""
    ours, theirs = answers_of(result), answers_of(other)
    column = ours.names.index(name)
    value = ours.ratios()[column] - theirs.ratios()[column]
    low, high = interval((ours.samples(resamples, 0) - theirs.samples(resamples, 0))[:, [column]], LEVEL)
    return score(as_score(value, low[0], high[0]), bold=bool(low[0] > 0 or high[0] < 0))


def draw_scores(file: Path, results: Results) -> None:
    """Bars with intervals: one panel per metric, conditions side by side."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    variants = list(dict.fromkeys(variant for found in results.values() for variant in found))
    width = 0.8 / len(variants)
    for axes, (name, shown) in zip(figure.subplots(1, len(METRICS)), METRICS.items(), strict=True):
        for i, variant in enumerate(variants):
            there = [place for place, found in enumerate(results.values()) if variant in found]
            scores = [found[variant]["metrics"][name] for found in results.values() if variant in found]
            values = np.array([s["value"] for s in scores])
            errors = np.abs(np.array([[s["low"], s["high"]] for s in scores]).T - values)
            places = np.array(there) + (i - (len(variants) - 1) / 2) * width
            axes.bar(places, values, width * 0.92, yerr=errors, capsize=2, color=COLOURS[i], label=variant)
        titles = [textwrap.fill(TITLES[condition], 20) for condition in results]
        axes.set_xticks(range(len(titles)), titles, fontsize=7)
        axes.set_title(shown)
        axes.set_ylim(0, 1)
        axes.grid(axis="y", alpha=0.3)
        axes.set_axisbelow(True)
    figure.axes[0].legend(frameon=False, fontsize=8)
    figure.savefig(file, dpi=150)


def draw_looks(file: Path, models: Mapping[str, Model], pictures: Dataset) -> None:
    """A row of posed pictures with the field that each transformer chose, and a row of what it makes of them."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown = pictures.select(range(min(PICTURES, len(pictures))))
    figure = Figure(figsize=(1.5 * len(shown), 3.4 * len(models)), layout="constrained")
    FigureCanvasAgg(figure)
    rows = np.atleast_2d(figure.subplots(2 * len(models), len(shown)))
    for place, (variant, model) in enumerate(models.items()):
        inputs, outlines, outputs = look(model, shown)
        for column in range(len(shown)):
            above, below = rows[2 * place][column], rows[2 * place + 1][column]
            above.imshow(inputs[column])
            above.plot(*outlines[column].T, color=COLOURS[1], linewidth=1.2)
            above.set_xlim(-0.5, inputs[column].shape[1] - 0.5)
            above.set_ylim(inputs[column].shape[0] - 0.5, -0.5)
            below.imshow(outputs[column])
        rows[2 * place][0].set_ylabel(f"{variant}\nlooks at", fontsize=8)
        rows[2 * place + 1][0].set_ylabel("sees", fontsize=8)
    for axes in rows.ravel():
        axes.set_xticks([])
        axes.set_yticks([])
    figure.savefig(file, dpi=150)


def look(model: Model, pictures: Dataset) -> tuple[list[Any], list[Any], list[Any]]:
    """What goes in (H, W, 3), the corners (5, 2) in pixels of the field it chose, and what comes out (h, w, 3)."""
    import torch

    from fclip.images import decode

    pixels = torch.stack([model.preprocess(decode(cell)) for cell in pictures["image"][:]])
    with torch.inference_mode():
        normal = model.preprocess.normalise(pixels)
        stn = model.clip.visual.stn.eval()
        grid, seen = stn.grid(normal), stn(normal)
    height, width = pixels.shape[-2:]
    corners = grid[:, [0, 0, -1, -1, 0], [0, -1, -1, 0, 0]]
    in_pixels = (corners + 1) / 2 * torch.tensor([width, height]) - 0.5
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (model.preprocess.mean, model.preprocess.std))
    outputs = (seen * std + mean).clamp(0, 1)
    return (
        [p.permute(1, 2, 0).numpy() for p in pixels],
        list(in_pixels.numpy()),
        [o.permute(1, 2, 0).numpy() for o in outputs],
    )
