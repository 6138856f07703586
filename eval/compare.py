"""The paper's table 1 from results of `python -m eval surfacing`, with intervals, paired tests and an honest bold.

    python -m eval compare plain.json stn.json swin.json --markdown table.md --figure pca.png
    python -m eval compare plain=seed0.json plain=seed1.json stn=other0.json stn=other1.json --against plain

Rows stand in the order given, the baselines of the first result below them. The best model of a column is bold only
when the paired bootstrap interval of its difference to the runner-up excludes 0 and its own interval lies above every
baseline's. Results that are given one name by NAME=FILE (or, by `group_by`, bear one) are runs of one model: its score
is their mean ± deviation.
Results about different pictures, attribute groups or captions are refused, or on request set side by side without
bold. A higher cosine similarity is the paper's column, not a better model: a temperature or a collapse raises it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from eval.pairs import Contender, contender, differences, winners
from eval.report import Cell, Table, probability, rich_table, score, signed, write_tables
from eval.scores import Answers, Score, find, of_group
from fclip.errors import UserError, nearest
from fclip.files import read_json

Result = dict[str, Any]
HEADLINE = {"cosine": "Cos Simil.", "text_sfa": "Text SFA", "attribute_sfa": "Attr. SFA"}
PAIRED = {"text_sfa": "Text SFA", "attribute_sfa": "Attr. SFA"}  # higher is better
BASELINES = {"chance": "chance", "most_frequent": "most frequent", "pixels": "16x16 pixels"}
SCHEMA = 1


@dataclass(frozen=True)
class Comparison:
    """M models, each with the results of one or several training runs."""

    names: list[str]  # (M,)
    runs: list[list[Result]]  # (M,)
    contenders: list[Contender]  # (M,), or empty when the results cannot be compared
    best: dict[str, int]  # score's name → the model that is surely best
    apart: str | None  # what keeps them from being compared

    def score(self, model: int, name: str) -> Score | None:
        """A model's score; the mean over its runs where there are several."""
        runs = self.runs[model]
        return find(runs[0]["metrics"], name) if len(runs) == 1 else self.contenders[model].score(name)

    def place(self, name: str | None) -> int:
        """The model of a name, the first for None.

        Raises:
            UserError: there is none.
        """
        if name is not None and name not in self.names:
            raise UserError(f"no model {name!r} among the results; {nearest(name, self.names)}")
        return 0 if name is None else self.names.index(name)


def compare(
    paths: Sequence[str | Path],
    markdown_path: str | Path | None = None,
    figure: str | Path | None = None,
    allow_different: bool = False,
    resamples: int = 1000,
    seed: int = 0,
    *,
    csv_path: str | Path | None = None,
    latex_path: str | Path | None = None,
    against: str | None = None,
    group_by: str | None = None,
) -> tuple[list[Table], list[str]]:
    """Compares results; writes what is asked for.

    Args:
        paths: files, or NAME=FILE.
        against: the model that the others' differences are told to; the first when None.
        group_by: "name": results whose models are called alike are runs of one model.

    Returns: table 1, the table per attribute group and, of several models, the paired differences; notes to read with
        them.

    Raises:
        UserError: a file is no such result, or they are about different data and `allow_different` is not set.
    """
    found = gather(paths, allow_different, resamples, seed, group_by)
    tables, notes = tables_of(found, against, seed), notes_of(found)
    write_tables(tables, notes, markdown_path, csv_path, latex_path)
    if figure is not None:
        from eval.figures import draw

        draw(first_embeddings(found), figure)
    return tables, notes


def gather(
    paths: Sequence[str | Path],
    allow_different: bool = False,
    resamples: int = 1000,
    seed: int = 0,
    group_by: str | None = None,
) -> Comparison:
    """Reads results and finds who is best; arguments and errors as `compare`."""
    if group_by not in (None, "name"):
        raise UserError(f"expected name for --group-by, got {group_by!r}")
    named = [split_name(path) for path in paths]
    results = [read_result(path) for _, path in named]
    apart = next((found for other in results[1:] if (found := difference(results[0], other))), None)
    if apart and not allow_different:
        raise UserError(f"not comparable: {apart}; evaluate on the same data or pass --allow-different")
    names, runs = _grouped(named, results, group_by)
    if apart:
        if any(len(of_model) > 1 for of_model in runs):
            raise UserError(f"no mean over runs on different data: {apart}; evaluate all on the same")
        return Comparison(names, runs, [], {}, apart)
    contenders = [
        contender(name, [answers_of(result) for result in of_model], resamples, seed)
        for name, of_model in zip(names, runs, strict=True)
    ]
    return Comparison(names, runs, contenders, winners(contenders, _baselines(results[0])), None)


def split_name(path: str | Path) -> tuple[str | None, Path]:
    """NAME=FILE in two; a file whose name holds "=" is taken as it is."""
    name, equals, file = str(path).partition("=")
    return (name, Path(file)) if equals and name and file and not Path(path).exists() else (None, Path(path))


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
    one, other = a["model"]["name"], b["model"]["name"]
    who = f"{one} and {other}" if one != other else f"{one} (a) and {other} (b)"
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


def tables_of(found: Comparison, against: str | None = None, seed: int = 0) -> list[Table]:
    """Table 1, attributes per group and, where there are several comparable models, differences."""
    first = found.place(against)
    tables = [headline_table(found), group_table(found)]
    return [*tables, difference_table(found, first, seed)] if len(found.contenders) > 1 else tables


def headline_table(found: Comparison) -> Table:
    """Table 1: Model, Cos Simil., Text SFA, Attr. SFA."""
    counts = found.runs[0][0]["counts"]
    title = f"Surfacing, {counts['pictures']} pictures, {counts['products']} products, {counts['captions']} captions"
    return _table(title, dict(HEADLINE), found)


def group_table(found: Comparison) -> Table:
    """Attribute SFA per group of the first result, and their mean."""
    groups = {of_group(group): group for group in found.runs[0][0]["groups"]}
    return _table("Attribute SFA per group", groups | {"attribute_sfa_macro": "macro"}, found)


def difference_table(found: Comparison, first: int, seed: int = 0) -> Table:
    """What the other models have more than one of them, bold where that is sure, with p-values."""
    headers = [header for shown in PAIRED.values() for header in (f"Δ {shown}", f"p ({shown})")]
    made = Table(f"Differences to {found.names[first]}", ["Model", *headers])
    others = [i for i in range(len(found.names)) if i != first]
    made.rows.extend([Cell(found.names[i])] for i in others)
    for name in PAIRED:
        told = differences([found.contenders[i] for i in others], found.contenders[first], name, seed)
        for row, one in zip(made.rows, told, strict=True):
            row += [signed(one.score, one.sure), probability(one.p)]
    return made


def first_embeddings(found: Comparison) -> dict[str, Any]:
    """What `eval.figures.draw` takes, of each model's first run."""
    return {name: runs[0]["first"] for name, runs in zip(found.names, found.runs, strict=True)}


def unique_names(results: Sequence[Result], paths: Sequence[str | Path]) -> list[str]:
    """The models' names, with the file's or the place where two are called alike."""
    names = [result["model"]["name"] for result in results]
    names = [f"{n} ({Path(p).stem})" if names.count(n) > 1 else n for n, p in zip(names, paths, strict=True)]
    return [f"{n} #{i}" if names.count(n) > 1 else n for i, n in enumerate(names, 1)]


def answers_of(result: Result) -> Answers:
    """The per-picture answers that a result tells, for paired intervals."""
    pictures, groups = result["pictures"], tuple(result["groups"])
    marks = np.array([list(pictures["attributes"][group]) for group in groups]).T  # (N, G)
    means = {"cosine": np.array(pictures["cosine"])}
    correct = np.array(pictures["rank"]) == 1
    return Answers(groups, pictures["item"], correct, marks == "1", marks != "-", means)


def notes_of(found: Comparison) -> list[str]:
    """What to read with the tables."""
    if found.apart:
        return [f"nothing is bold: {found.apart}"]
    if len(found.names) < 2:
        notes = ["nothing is bold: there is one model only"]
    elif found.best:
        notes = [
            "bold: the paired 95 % interval against the runner-up excludes 0, and no baseline's interval is reached"
        ]
    else:
        notes = [
            "nothing is bold: no model's paired 95 % interval against the runner-up excludes 0 with all baselines below"
        ]
    if len(found.names) > 1:
        told = ", Holm's over the models of a column" if len(found.names) > 2 else ""
        notes.append(f"differences: bold where the interval excludes 0; p: sign flips of products{told}")
    if any(len(runs) > 1 for runs in found.runs):
        told = ", ".join(f"{name} {len(runs)}" for name, runs in zip(found.names, found.runs, strict=True))
        notes.append(f"±: deviation over training runs ({told}); it is not in the intervals, which are over products")
    return notes


def printable(tables: Sequence[Table]) -> list[Any]:
    """The tables for the terminal."""
    return [rich_table(table) for table in tables]


def _grouped(
    named: Sequence[tuple[str | None, Path]], results: Sequence[Result], group_by: str | None
) -> tuple[list[str], list[list[Result]]]:
    """The models' names and the results of each, in the order of first appearance."""
    own = unique_names(results, [path for _, path in named])
    if group_by == "name":
        own = [result["model"]["name"] for result in results]
    models: dict[str, list[Result]] = {}
    for (given, _), name, result in zip(named, own, results, strict=True):
        models.setdefault(given or name, []).append(result)
    for name, runs in models.items():
        weights = [run["model"]["fingerprint"] for run in runs]
        if len(set(weights)) < len(weights):
            raise UserError(f"two of the {len(runs)} runs of {name} have the same weights; name each run once")
    return list(models), list(models.values())


def _baselines(result: Result) -> dict[str, Any]:
    found = result.get("baselines", {})
    return {key: found[key] for key in BASELINES if key in found}


def _table(title: str, columns: dict[str, str], found: Comparison) -> Table:
    table = Table(title, ["Model", *columns.values()])
    for i, name in enumerate(found.names):
        table.rows.append(
            [Cell(name), *[score(found.score(i, column), found.best.get(column) == i) for column in columns]]
        )
    for key, metrics in _baselines(found.runs[0][0]).items():
        table.rows.append([Cell(BASELINES[key]), *[score(find(metrics, column)) for column in columns]])
    return table
