"""The paper's table 1 from results of `python -m eval surfacing`, with intervals and an honest bold.

    python -m eval compare plain.json stn.json swin.json --markdown table.md --figure pca.png

Rows stand in the order given, the baselines of the first result below them. The best model of a column is bold only
when the paired bootstrap interval of its difference to the runner-up excludes 0 and no baseline is as good.
Results about different pictures, attribute groups or captions are refused, or on request set side by side without
bold. A higher cosine similarity is the paper's column, not a better model: a temperature or a collapse raises it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from eval.metrics.uncertainty import interval
from eval.report import Cell, Table, markdown, rich_table, score
from eval.scores import LEVEL, Answers, find, of_group
from fclip.errors import UserError
from fclip.files import read_json, write_text

Result = dict[str, Any]
HEADLINE = {"cosine": "Cos Simil.", "text_sfa": "Text SFA", "attribute_sfa": "Attr. SFA"}
BASELINES = {"chance": "chance", "most_frequent": "most frequent", "pixels": "16x16 pixels"}
SCHEMA = 1


def compare(
    paths: Sequence[str | Path],
    markdown_path: str | Path | None = None,
    figure: str | Path | None = None,
    allow_different: bool = False,
    resamples: int = 1000,
    seed: int = 0,
) -> tuple[list[Table], list[str]]:
    """Compares results; writes what is asked for.

    Returns: table 1 and the table per attribute group, and notes to read with them.

    Raises:
        UserError: a file is no such result, or they are about different data and `allow_different` is not set.
    """
    results = [read_result(path) for path in paths]
    differences = [found for other in results[1:] if (found := difference(results[0], other))]
    if differences and not allow_different:
        raise UserError(f"not comparable: {differences[0]}; evaluate on the same data or pass --allow-different")
    names = unique_names(results, paths)
    winners = {} if differences else bold(results, resamples, seed)
    notes = [f"nothing is bold: {differences[0]}"] if differences else _notes(results, winners)
    tables = [headline_table(results, names, winners), group_table(results, names, winners)]
    if markdown_path is not None:
        write_text(markdown_path, "\n".join([*map(markdown, tables), *(f"- {note}" for note in notes)]) + "\n")
    if figure is not None:
        from eval.figures import draw

        draw({name: result["first"] for name, result in zip(names, results, strict=True)}, figure)
    return tables, notes


def read_result(path: str | Path) -> Result:
    """Reads a result of `python -m eval surfacing`."""
    result = read_json(path, "a result of `python -m eval surfacing --json`")
    if not isinstance(result, dict) or result.get("protocol") != "surfacing":
        raise UserError(f"expected a surfacing result, got another JSON: {path}; name what surfacing --json wrote")
    if result.get("schema") != SCHEMA:
        raise UserError(f"expected schema {SCHEMA}, got {result.get('schema')!r}: {path}; evaluate again")
    return result


def difference(a: Result, b: Result) -> str | None:
    """What keeps two results from being compared, None when nothing does."""
    who = f"{a['model']['name']} and {b['model']['name']}"
    ids, others = a["pictures"]["id"], b["pictures"]["id"]
    if ids != others:
        shared = len(set(ids) & set(others))
        return f"{who} saw different pictures ({len(ids)} and {len(others)}, {shared} in common)"
    if a["pictures"]["item"] != b["pictures"]["item"]:
        return f"{who} saw the same pictures under different products"
    if a["groups"] != b["groups"]:
        return f"{who} name different attributes in captions ({', '.join(a['groups'])} and {', '.join(b['groups'])})"
    if a["captions_sha256"] != b["captions_sha256"] or a["counts"]["known"] != b["counts"]["known"]:
        return f"{who} saw different captions of the same pictures"
    return None


def bold(results: Sequence[Result], resamples: int, seed: int) -> dict[str, int]:
    """Score's name → the model that is surely best: its paired interval against the runner-up excludes 0.

    Where two are equally second, the first of them is the runner-up.
    """
    if len(results) < 2:
        return {}
    answers = [answers_of(result) for result in results]
    values = np.stack([answer.ratios() for answer in answers])  # (models, K)
    samples: dict[int, Any] = {}  # of the models that are needed
    winners = {}
    for column, name in enumerate(answers[0].names):
        if np.isnan(values[:, column]).any():
            continue
        best, second = np.argsort(-values[:, column], kind="stable")[:2].tolist()
        for model in (best, second):
            if model not in samples:
                samples[model] = answers[model].samples(resamples, seed)
        low, _ = interval((samples[best] - samples[second])[:, [column]], LEVEL)
        if low[0] > 0 and values[best, column] > _best_baseline(results[0], name):
            winners[name] = best
    return winners


def headline_table(results: Sequence[Result], names: Sequence[str], winners: dict[str, int]) -> Table:
    """Table 1: Model, Cos Simil., Text SFA, Attr. SFA."""
    counts = results[0]["counts"]
    title = f"Surfacing, {counts['pictures']} pictures, {counts['products']} products, {counts['captions']} captions"
    return _table(title, dict(HEADLINE), results, names, winners)


def group_table(results: Sequence[Result], names: Sequence[str], winners: dict[str, int]) -> Table:
    """Attribute SFA per group of the first result, and their mean."""
    groups = {of_group(group): group for group in results[0]["groups"]}
    return _table("Attribute SFA per group", groups | {"attribute_sfa_macro": "macro"}, results, names, winners)


def unique_names(results: Sequence[Result], paths: Sequence[str | Path]) -> list[str]:
    """The models' names, with the file's or the place where two are called alike."""
    names = [result["model"]["name"] for result in results]
    names = [f"{n} ({Path(p).stem})" if names.count(n) > 1 else n for n, p in zip(names, paths, strict=True)]
    return [f"{n} #{i}" if names.count(n) > 1 else n for i, n in enumerate(names, 1)]


def _table(
    title: str, columns: dict[str, str], results: Sequence[Result], names: Sequence[str], winners: dict[str, int]
) -> Table:
    table = Table(title, ["Model", *columns.values()])
    for i, (name, result) in enumerate(zip(names, results, strict=True)):
        cells = [score(find(result["metrics"], column), winners.get(column) == i) for column in columns]
        table.rows.append([Cell(name), *cells])
    for key, shown in BASELINES.items():
        if found := results[0].get("baselines", {}).get(key):
            table.rows.append([Cell(shown), *[score(find(found, column)) for column in columns]])
    return table


def answers_of(result: Result) -> Answers:
    """The per-picture answers that a result tells, for paired intervals."""
    pictures, groups = result["pictures"], tuple(result["groups"])
    marks = np.array([list(pictures["attributes"][group]) for group in groups]).T  # (N, G)
    means = {"cosine": np.array(pictures["cosine"])}
    correct = np.array(pictures["rank"]) == 1
    return Answers(groups, pictures["item"], correct, marks == "1", marks != "-", means)


def _best_baseline(result: Result, name: str) -> float:
    found = [find(result.get("baselines", {}).get(key, {}), name) for key in BASELINES]
    values = [f["value"] for f in found if f]
    return max((value for value in values if value is not None), default=-np.inf)


def _notes(results: Sequence[Result], winners: dict[str, int]) -> list[str]:
    if len(results) < 2:
        return ["nothing is bold: there is one model only"]
    if not winners:
        return ["nothing is bold: no model's paired 95 % interval against the runner-up excludes 0"]
    return ["bold: the paired 95 % interval against the runner-up excludes 0, and no baseline is as good"]


def printable(tables: Sequence[Table]) -> list[Any]:
    """The tables for the terminal."""
    return [rich_table(table) for table in tables]
