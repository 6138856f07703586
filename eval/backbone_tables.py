"""The result of `eval.backbones` as tables: scores, every attribute, cost, differences.

tables, notes = tables_of(result), notes_of(result)
write_tables(tables, notes, "towers.md")
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from eval.pairs import excludes_zero
from eval.protocol import BASELINES
from eval.report import Cell, Table, probability, score, signed

COST = {"dimension": "dimension", "millions": "M parameters", "images_per_s": "images/s"}


def tables_of(result: Mapping[str, Any]) -> list[Table]:
    """What the towers find and cost; agreement by attribute; differences to one of them."""
    last = max(result["k"])
    names = [name for name in next(iter(result["metrics"].values())) if name.endswith(f"@{last}")]
    whole = [name for name in names if name.split(":")[0] in ("product", "category", "attributes")]
    single = [name for name in names if name not in whole]
    counts = result["counts"]
    about = f"{counts['pictures']} pictures of {counts['products']} products, split {result['split']}"
    tables = [_scores(result, f"Neighbours: {about}", whole), _cost(result)]
    if single:
        tables.insert(1, _scores(result, f"Agreement of the {last} nearest by attribute", single))
    return [*tables, _differences(result, whole)] if result["differences"] else tables


def _scores(result: Mapping[str, Any], title: str, names: Sequence[str]) -> Table:
    table = Table(title, ["", *map(_shown, names)])
    for model, scores in result["metrics"].items():
        cells = [score(scores[name], result["best"].get(name) == model) for name in names]
        table.rows.append([Cell(model), *cells])
    for key, scores in result["baselines"].items():
        table.rows.append([Cell(BASELINES[key]), *[score(scores.get(name)) for name in names]])
    return table


def _cost(result: Mapping[str, Any]) -> Table:
    table = Table("What they cost", ["", "model", *COST.values()])
    for name, about in result["models"].items():
        size = "x".join(map(str, about["size_px"]))
        table.rows.append([Cell(name), Cell(f"{about['model']}, {size} px"), *[_number(about[key]) for key in COST]])
    return table


def _differences(result: Mapping[str, Any], names: Sequence[str]) -> Table:
    headers = [text for name in names for text in (f"Δ {_shown(name)}", "p")]
    table = Table(f"Difference to {result['against']}, paired by picture", ["", *headers])
    for model, scores in result["differences"].items():
        cells = [Cell(model)]
        for name in names:
            cells += [signed(scores[name], excludes_zero(scores[name])), probability(scores[name]["p"])]
        table.rows.append(cells)
    return table


def _shown(name: str) -> str:
    """A score's name in a table."""
    group, _, metric = name.partition(":")
    return f"{group} {metric.replace('map@', 'MAP@')}"


def _number(value: float | None) -> Cell:
    return Cell("–") if value is None else Cell(f"{value:g}", number={"value": value})


def notes_of(result: Mapping[str, Any]) -> list[str]:
    """What to know of the numbers."""
    notes = [f"measured by `{result['command']}`"]
    if len(result["k"]) > 1:
        notes.append(f"scores at {', '.join(map(str, result['k'][:-1]))} are in the JSON")
    if result["best"]:
        notes.append("bold: better than the runner-up (paired) and than every baseline, 95 % intervals over products")
    if skipped := len(result["skipped"]):
        notes.append(f"{skipped} pictures could not be read; `skipped` in --json FILE names them")
    speeds = [about["images_per_s"] for about in result["models"].values()]
    if None not in speeds:
        notes.append("images/s: the tower alone, batches of 16 ready pictures, on the machine that measured")
    return notes
