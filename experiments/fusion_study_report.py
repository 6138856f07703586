"""The tables and the picture of `experiments.fusion_study`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from eval.figures import COLOURS
from eval.metrics.uncertainty import paired_interval
from eval.pairs import excludes_zero
from eval.report import Cell, Table, markdown, score
from eval.scores import Score
from eval.subject import mean_scores
from experiments.fusion_study import Gallery, Questions, Results, chosen_shares, tuning_half
from fclip.files import write_json, write_text
from fclip.queries.defaults import DEFAULT_FUSION


def write_report(
    out: Path,
    results: Results,
    asked: Questions,
    gallery: Gallery,
    settings: Mapping[str, Any],
    resamples: int,
    seed: int,
) -> None:
    """Writes OUT/table.md, OUT/results.json and OUT/weights.png."""
    out.mkdir(parents=True, exist_ok=True)
    tuning = tuning_half(gallery, asked)
    shares = chosen_shares(results, tuning)
    items = [gallery.names[product] for product in gallery.products[asked.photo]]
    rows = scores_of(results, shares, ~tuning, items, resamples, seed)
    counts = f"{(~tuning).sum()} questions; weights chosen on {tuning.sum()} others; {len(gallery.products)} pictures"
    told = ", ".join(f"{key} {value}" for key, value in settings.items())
    tables = [main_table(rows, shares, counts, settings["k"]), group_table(results, shares, asked, ~tuning)]
    write_text(out / "table.md", "\n".join([f"{told}\n", *map(markdown, tables)]))
    grid = {name: {f"{share:g}": numbers(by[share]) for share in by} for name, by in results.items()}
    write_json(out / "results.json", {"settings": dict(settings), "shares": shares, "scores": rows, "grid": grid})
    draw_weights(out / "weights.png", results, settings["k"])


def scores_of(
    results: Results, shares: Mapping[str, float], kept: np.ndarray, items: list[str], resamples: int, seed: int
) -> dict[str, dict[str, Score]]:
    """Fusion → hit, map, and the differences of both to the default fusion, on the questions that are kept."""
    own = [item for item, keep in zip(items, kept, strict=True) if keep]
    base = results[DEFAULT_FUSION][shares[DEFAULT_FUSION]]
    rows: dict[str, dict[str, Score]] = {}
    for name, share in shares.items():
        found = results[name][share]
        rows[name] = mean_scores({"hit": found.hit[kept], "map": found.ap[kept]}, own, resamples, seed)
        if name != DEFAULT_FUSION:
            rows[name]["hit_difference"] = _difference(found.hit[kept], base.hit[kept], own, resamples, seed)
            rows[name]["map_difference"] = _difference(found.ap[kept], base.ap[kept], own, resamples, seed)
    return rows


def _difference(a: np.ndarray, b: np.ndarray, items: list[str], resamples: int, seed: int) -> Score:
    low, high = paired_interval(a[:, None], b[:, None], np.ones((len(a), 1)), items, resamples, seed)
    bounds = [None if np.isnan(x[0]) else float(x[0]) for x in (low, high)]
    return {"value": float((a - b).mean()), "low": bounds[0], "high": bounds[1]}


def main_table(rows: Mapping[str, Mapping[str, Score]], shares: Mapping[str, float], counts: str, k: int) -> Table:
    """Scores with intervals, and paired differences to the default, bold where they are sure."""
    made = Table(
        f"A photograph and a changed attribute: {counts}", ["Fusion", "words", f"hit@{k}", f"MAP@{k}", "Δ hit", "Δ MAP"]
    )
    for name, found in rows.items():
        differences = [found.get("hit_difference"), found.get("map_difference")]
        cells = [score(d, bold=d is not None and excludes_zero(d)) for d in differences]
        made.rows.append([Cell(name), Cell(f"{shares[name]:g}"), score(found["hit"]), score(found["map"]), *cells])
    return made


def group_table(results: Results, shares: Mapping[str, float], asked: Questions, kept: np.ndarray) -> Table:
    """MAP by the attribute that changes."""
    groups = list(dict.fromkeys(asked.group.tolist()))
    counts = {group: (kept & (asked.group == group)).sum() for group in groups}
    made = Table("MAP by what changes", ["Fusion", *[f"{group} ({counts[group]})" for group in groups]])
    for name, share in shares.items():
        found = results[name][share].ap
        made.rows.append(
            [
                Cell(name),
                *[Cell(f"{found[kept & (asked.group == g)].mean():.3f}" if counts[g] else "–") for g in groups],
            ]
        )
    return made


def numbers(found: Any) -> dict[str, float]:
    """Means over all questions, of both halves."""
    return {"hit": float(found.hit.mean()), "map": float(found.ap.mean())}


def draw_weights(file: Path, results: Results, k: int) -> None:
    """MAP against the share of words: a curve for each fusion, both halves together."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.5, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    alone = {share: found.ap.mean() for by in results.values() if len(by) == 1 for share, found in by.items()}
    curves = {name: by for name, by in results.items() if len(by) > 1}
    for (name, by), colour in zip(curves.items(), COLOURS, strict=False):
        points = sorted((alone | {share: found.ap.mean() for share, found in by.items()}).items())
        axes.plot(*zip(*points, strict=True), marker=".", color=colour, label=name)
    axes.set_xlabel("share of the words")
    axes.set_ylabel(f"MAP@{k}")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figure.savefig(file, dpi=150)
