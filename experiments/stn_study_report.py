"""The tables and pictures of `experiments.stn_study`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from eval.figures import COLOURS
from eval.report import markdown
from experiments.stn_study import CONDITIONS
from experiments.study_report import draw_scores, table
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
PICTURES = 8  # in the figure of what the transformers see
Results = Mapping[str, Mapping[str, Any]]


def write_report(out: Path, results: Results, tests: Mapping[str, Dataset], settings: Mapping[str, Any]) -> None:
    """Writes OUT/table.md, OUT/scores.png and, where a variant has a transformer, OUT/looks.png."""
    told = ", ".join(f"{key} {value}" for key, value in settings.items())
    by_title = {TITLES[condition]: {v: [r] for v, r in found.items()} for condition, found in results.items()}
    tables = [table(found, title) for title, found in by_title.items()]
    write_text(out / "table.md", "\n".join([f"{told}\n", *map(markdown, tables)]))
    draw_scores(out / "scores.png", by_title)
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
