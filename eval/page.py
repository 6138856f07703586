"""A report as one page: what `python -m eval report` writes. It needs nothing but itself, on a telephone too.

    python -m eval report plain.json stn.json --out report.html \
        --checkpoint runs/plain/best --catalogue data/catalogue --split val

From the results alone: scores with intervals and baselines, differences, bars, the first embeddings, counts, commands.
With a checkpoint and a catalogue also, of that model: embeddings coloured by an attribute, confusions, pictures that
went right and wrong, and accuracy by frequency in training.
Results of other protocols (`eval.subject`) get a table and bars; they hold no answers per query, so that no difference
of theirs is tested and none is bold.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from eval.compare import BASELINES, Comparison, first_embeddings, gather, notes_of, split_name, tables_of
from eval.html import figure_uris, render, small_jpeg_uri
from eval.report import Cell, Table, score, write_tables
from eval.scores import Score, find, of_group
from eval.summary import sentences
from fclip.errors import UserError, nearest
from fclip.files import read_json, writable, write_text

if TYPE_CHECKING:
    from eval.insight import Failure, Insight
    from eval.subject import Subject

Result = dict[str, Any]
DRAWN = 1000  # pictures in a figure of embeddings
SKIPPED = 20  # unreadable pictures that are named
COUNTS = {
    "pictures": "pictures",
    "products": "products",
    "captions": "candidate captions",
    "ties": "ties, settled against the model",
    "without_caption": "left out: no caption",
    "unreadable": "left out: unreadable",
    "mixed_captions": "captions of several values",
}


@dataclass(frozen=True)
class Bar:
    """A score as a bar."""

    group: str
    model: str
    cell: Cell
    plain: bool  # a baseline's


@dataclass(frozen=True)
class Part:
    """What one protocol's results show."""

    title: str
    tables: list[Table]
    notes: list[str]
    bars: list[list[Bar]]  # one list for each group


def write_report(
    paths: Sequence[str | Path],
    out: str | Path,
    subject: Subject | None = None,
    *,
    group: str | None = None,
    against: str | None = None,
    group_by: str | None = None,
    resamples: int = 1000,
    seed: int = 0,
    markdown_path: str | Path | None = None,
    csv_path: str | Path | None = None,
    latex_path: str | Path | None = None,
) -> None:
    """Writes the page, and its tables where asked for.

    Args:
        paths: results, files or NAME=FILE, of any protocols.
        subject: the model and split to look at more closely, one of the results'.
        group: the attribute that colours the embeddings; the first when None.
        against, group_by: as `eval.compare.compare`.

    Raises:
        UserError: a file is no result, or the subject is not what any of the results measured.
    """
    target = writable(out)
    named = [(path, read_shared(split_name(path)[1])) for path in paths]
    surfaced = [path for path, result in named if result["protocol"] == "surfacing"]
    found = gather(surfaced, True, resamples, seed, group_by) if surfaced else None
    parts = [surfacing_part(found, against, seed)] if found else []
    protocols = dict.fromkeys(result["protocol"] for _, result in named if result["protocol"] != "surfacing")
    for protocol in protocols:
        parts.append(shared_part(protocol, [(p, result) for p, result in named if result["protocol"] == protocol]))
    close = None if subject is None else closer(subject, [result for _, result in named], group, resamples, seed)
    results = [result for _, result in named]
    values = {
        "sentences": sentences(found, results),
        "parts": parts,
        "first": _first(found),
        "close": close,
        "counts": counts_table(results),
        "skipped": [(result["model"]["name"], *entry) for result in results for entry in result.get("skipped", [])],
        "most": SKIPPED,
        "commands": list(dict.fromkeys(result["command"] for result in results if result.get("command"))),
    }
    write_text(target, render("report.html.j2", **values))
    tables, notes = [t for part in parts for t in part.tables], [note for part in parts for note in part.notes]
    write_tables(tables, notes, markdown_path, csv_path, latex_path)


def read_shared(path: Path) -> Result:
    """Reads the result of any protocol."""
    result = read_json(path, "a result of `python -m eval … --json`")
    if not isinstance(result, dict) or not {"protocol", "model", "metrics"} <= result.keys():
        raise UserError(f"expected a result with protocol, model and metrics, got another JSON: {path}")
    if result.get("schema") != 1:
        raise UserError(f"expected schema 1, got {result.get('schema')!r}: {path}; evaluate again")
    return result


def surfacing_part(found: Comparison, against: str | None, seed: int) -> Part:
    """Tables, notes and bars of surfacing."""
    names = {"text_sfa": "text", "attribute_sfa": "attributes, all"}
    names |= {of_group(group): group for group in found.runs[0][0]["groups"]}
    bars = []
    for name, shown in names.items():
        rows = [
            Bar(shown, model, score(found.score(i, name), found.best.get(name) == i), False)
            for i, model in enumerate(found.names)
        ]
        baselines = found.runs[0][0].get("baselines", {})
        rivals = [(BASELINES[key], find(baselines[key], name)) for key in BASELINES if key in baselines]
        known = [(key, value) for key, value in rivals if value and value["value"] is not None]
        if known:
            key, best = max(known, key=lambda rival: rival[1]["value"] or 0)
            rows.append(Bar(shown, f"best baseline: {key}", score(best), True))
        bars.append(rows)
    return Part("Surfacing accuracy", tables_of(found, against, seed), notes_of(found), bars)


def shared_part(protocol: str, named: Sequence[tuple[str | Path, Result]]) -> Part:
    """The scores of a protocol in the shared form: one table, rows are models and the first result's baselines."""
    rows = [(split_name(path)[0] or result["model"]["name"], result["metrics"]) for path, result in named]
    first = named[0][1]
    baselines = {k: v for k, v in first.get("baselines", {}).items() if isinstance(v, Mapping) and k != "left_out"}
    everyone = [*((name, flat(m), False) for name, m in rows), *((k, flat(m), True) for k, m in baselines.items())]
    names = list(dict.fromkeys(name for _, metrics, _ in everyone for name in metrics))
    told = ", ".join(f"{value} {key}" for key, value in first.get("counts", {}).items() if isinstance(value, int))
    # Rows are scores: other protocols have many, and a telephone is narrow.
    table = Table(f"{protocol}: {told}" if told else protocol, ["Score", *[name for name, _, _ in everyone]])
    table.rows.extend([Cell(name), *[score(metrics.get(name)) for _, metrics, _ in everyone]] for name in names)
    shares = [name for name in names if all(_is_share(metrics.get(name)) for _, metrics, _ in everyone)]
    bars = [[Bar(name, who, score(m.get(name)), plain) for who, m, plain in everyone] for name in shares]
    notes = ["nothing is bold: these results hold no answers per query, so that differences are not tested"]
    data = {(str(result.get("catalogue")), result.get("split"), str(result.get("counts"))) for _, result in named}
    if len(data) > 1:
        notes.append("these results are about different data: their scores must not be compared")
    return Part(protocol, [table], notes, bars)


def flat(metrics: Mapping[str, Any], prefix: str = "") -> dict[str, Score]:
    """Scores by name; nested ones as "outer: inner"."""
    found: dict[str, Score] = {}
    for name, value in metrics.items():
        if isinstance(value, Mapping):
            found |= {prefix + name: dict(value)} if "value" in value else flat(value, f"{prefix}{name}: ")
    return found


def counts_table(results: Sequence[Result]) -> Table:
    """What was measured, and what was left out or tied."""
    names = dict.fromkeys(name for result in results for name, n in result.get("counts", {}).items() if _is_number(n))
    table = Table("Counts", ["", *[f"{r['model']['name']}, {r['protocol']}" for r in results]])
    for name in names:
        told = [result.get("counts", {}).get(name, "–") for result in results]
        table.rows.append([Cell(COUNTS.get(name, name.replace("_", " "))), *[Cell(str(value)) for value in told]])
    leaks = [result.get("products_in_train") for result in results]
    if any(leak is not None for leak in leaks):
        row = [Cell("–" if leak is None else str(leak)) for leak in leaks]
        table.rows.append([Cell("products that are in the train split too"), *row])
    return table


def closer(
    subject: Subject, results: Sequence[Result], group: str | None, resamples: int = 1000, seed: int = 0
) -> dict[str, Any]:
    """What the page shows of one model beside its scores.

    Raises:
        UserError: no result is of this model, or none of its surfacing results is about these pictures; no such group.
    """
    from eval.insight import by_value, confusions, galleries, long_tail, look
    from eval.plots import frequency_figure

    weights = [result["model"]["fingerprint"] for result in results]
    if subject.model.fingerprint not in weights:
        told = ", ".join(sorted({result["model"]["name"] for result in results}))
        raise UserError(f"{subject.checkpoint} is none of the models of the results ({told}); name one of theirs")
    insight = look(subject)
    mine = [
        r for r in results if r["protocol"] == "surfacing" and r["model"]["fingerprint"] == subject.model.fingerprint
    ]
    if mine and insight.labels.ids not in [result["pictures"]["id"] for result in mine]:
        raise UserError(f"the result of {subject.model.name} is about other pictures; name its catalogue and split")
    values, bins = by_value(insight), long_tail(insight, resamples, seed)
    shown = galleries(insight, seed=seed)
    return {
        "name": subject.model.name,
        "checkpoint": subject.checkpoint,
        "split": subject.split,
        "pictures": len(insight.labels.ids),
        "layouts": layouts(insight, group, seed),
        "confusions": confusions(insight),
        "galleries": {name: [_shown(insight, failure) for failure in found] for name, found in shown.items()},
        "bins": bins_table(bins),
        "frequency": figure_uris(lambda: frequency_figure(values, bins)),
        "unseen": [f"{v.group}: {v.value}" for v in values if not v.trained],
    }


def layouts(insight: Insight, group: str | None, seed: int = 0) -> list[tuple[str, Mapping[str, str]]]:
    """Figures of the embeddings of at most `DRAWN` pictures and their captions, each with what it is."""
    from eval.plots import linear_layout, neighbour_layout, scatter

    groups = insight.labels.groups
    if group is not None and group not in groups:
        raise UserError(f"no attribute group {group!r} in the captions; {nearest(group, groups)}")
    column = groups.index(group or groups[0])
    count = len(insight.own)
    rows = np.sort(np.random.default_rng(seed).permutation(count)[:DRAWN])
    captions, first = np.unique(insight.own[rows], return_index=True)
    names = [insight.values[code] if code >= 0 else "" for code in insight.labels.codes[rows, column].tolist()]
    vectors = insight.images[rows], insight.texts[captions]
    if len(captions) + len(rows) < 3:
        return []
    found = [linear_layout(*vectors), neighbour_layout(*vectors, seed=seed)]
    drawn = []
    for layout in filter(None, found):
        uris = figure_uris(partial(scatter, layout, names, [names[i] for i in first], groups[column]))
        drawn.append(
            (f"{layout.method} of {len(rows)} pictures and {len(captions)} captions by {groups[column]}", uris)
        )
    return drawn


def bins_table(bins: Sequence[Any]) -> Table:
    """Accuracy by frequency in training."""
    headers = ["Training pictures with the value", "values", "attributes", "found"]
    rows = [[Cell(b.name), Cell(str(b.values)), Cell(str(b.known)), score(b.score)] for b in bins]
    return Table("Attributes found, by how often training saw them", headers, rows)


def _first(found: Comparison | None) -> Mapping[str, str] | None:
    from eval.figures import embeddings_figure

    named = {} if found is None else first_embeddings(found)
    if not named or any(len(first["text"]) < 2 for first in named.values()):
        return None
    return figure_uris(lambda: embeddings_figure(named), dpi=90)


def _shown(insight: Insight, failure: Failure) -> dict[str, Any]:
    row = int(insight.labels.rows[failure.row])
    picture = small_jpeg_uri(insight.subject.pictures[row]["image"])
    return {"picture": picture, "about": failure}


def _is_share(value: Score | None) -> bool:
    return value is None or value["value"] is None or 0 <= value["value"] <= 1


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
