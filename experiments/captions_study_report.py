"""The tables and the picture of `experiments.captions_study`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from eval.report import Cell, Table, markdown
from experiments.captions_study import TITLES, Results
from experiments.study_report import METRICS, difference_cell, draw_scores, mean_difference, mean_score, table
from fclip.files import write_json, write_text


def write_report(out: Path, results: Results, settings: Mapping[str, Any]) -> None:
    """Writes OUT/table.md, OUT/results.json and OUT/scores.png."""
    told = ", ".join(f"{key} {value}" for key, value in settings.items())
    tables = [table(found, TITLES[written]) for written, found in results.items()]
    if {"whole", "subsets"} <= results.keys():
        tables.append(subsets_table(results))
    write_text(out / "table.md", "\n".join([f"{told}\n", *map(markdown, tables)]))
    write_json(out / "results.json", {"settings": dict(settings), "scores": numbers(results)})
    draw_scores(out / "scores.png", {TITLES[written]: found for written, found in results.items()})


def subsets_table(results: Results) -> Table:
    """What subsets of the attributes change for each loss."""
    made = Table("Subsets against whole sentences", ["Variant", *[f"Δ {shown}" for shown in METRICS.values()]])
    for loss, of_seeds in results["subsets"].items():
        whole = results["whole"][loss]
        made.rows.append([Cell(loss), *[difference_cell(of_seeds, whole, name) for name in METRICS]])
    return made


def numbers(results: Results) -> dict[str, Any]:
    """Captions → loss → the scores' means, each seed's, and the differences to the first loss."""
    found: dict[str, Any] = {}
    for written, by_loss in results.items():
        first = next(iter(by_loss.values()))
        found[written] = {
            loss: {
                name: {
                    "mean": mean_score(of_seeds, name),
                    "seeds": [result["metrics"][name]["value"] for result in of_seeds],
                    "difference": None if of_seeds is first else mean_difference(of_seeds, first, name),
                }
                for name in METRICS
            }
            for loss, of_seeds in by_loss.items()
        }
    return found
