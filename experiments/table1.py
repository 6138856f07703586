"""The paper's Table 1 (Dress-UP, section 6.1) on any catalogue: cosine similarity, text SFA, attribute SFA.

    python -m experiments.table1 --catalogue garments --split test --out runs/table1
    python -m experiments.table1 --catalogue garments --model "CLIP*=clip-vit-b-32" --model "Ours=runs/fclip/best"

Without --model: the paper's six rows. All rows answer the same captions. Results are kept in OUT/results and used again
while model, catalogue, split and captions are the same. Writes OUT/table1.md and OUT/pca.png.
"""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fclip.errors import UserError, run_program

if TYPE_CHECKING:
    from datasets import Dataset

    from fclip.captions import Captions

PAPER = {  # row → what is measured for it here, and the paper's own numbers
    "CLIP* (ViT-B/32)": ("clip-vit-b-32", "0.276", "0.22", "0.589"),
    "FCLIP*": ("fashionclip", "0.272", "0.074", "0.672"),
    "Finetuned FCLIP": ("runs/fclip/best", "0.288", "0.338", "0.819"),
    "STN-FCLIP": ("runs/stn/best", "0.284", "0.142", "0.707"),
    "Swin-FCLIP": ("runs/swin/best", "0.160", "0.058", "0.584"),
    "STN+Swin-FCLIP": ("runs/stn_swin/best", "0.164", "0.047", "0.577"),
}
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@dataclass(frozen=True)
class Row:
    """A row of the table: its label, what `fclip.pretrained.open_model` is asked for, where its result is kept."""

    label: str
    source: str
    file: Path


@dataclass(frozen=True)
class Setting:
    """What all rows share.

    Attributes:
        catalogue: all splits.
        paths: where it came from.
        split: what is measured.
        captions: what every model is asked about.
        key: what a kept result must agree with, besides the model.
        bootstrap: resamples for the intervals.
        batch_size: pictures embedded at once.
    """

    catalogue: Dataset
    paths: list[str]
    split: str
    captions: Captions
    key: dict[str, Any]
    bootstrap: int
    batch_size: int


@app.command()
def table1_command(
    catalogue: Annotated[list[str], typer.Option(metavar="PATH", help="A catalogue; repeat it for several.")],
    split: Annotated[str, typer.Option(help="train, val, test or all.")] = "test",
    model: Annotated[
        list[str] | None,
        typer.Option(metavar="LABEL=SOURCE", help="A row: a checkpoint, a folder or a name of `fclip models`."),
    ] = None,
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="For table, figure and results.")] = Path("runs/table1"),
    catalogue_format: Annotated[
        str | None, typer.Option("--format", metavar="NAME", help="Of the catalogue, e.g. deepfashion-fine.")
    ] = None,
    bootstrap: Annotated[int, typer.Option(min=0, help="Resamples of the products for the intervals.")] = 1000,
    batch_size: Annotated[int, typer.Option(min=1, help="Pictures embedded at once.")] = 64,
    again: Annotated[bool, typer.Option("--again", help="Measure also what was measured before.")] = False,
) -> None:
    """The paper's Table 1 on a catalogue; without --model its six rows.

    \b
    python -m experiments.table1 --catalogue garments --split test
    python -m experiments.table1 --catalogue deepfashion --format deepfashion-fine --model "FCLIP*=fashionclip"

    Rows whose weights cannot be had are listed below the table with the reason.
    """
    from rich.console import Console

    from eval.compare import printable
    from fclip.files import writable
    from fclip.machine import tune_cpu

    rows = read_rows(model or [f"{label}={entry[0]}" for label, entry in PAPER.items()], out)
    writable(out / "table1.md")
    writable(out / "results" / "any")
    tune_cpu()
    setting = prepare(catalogue, split, rows, catalogue_format, bootstrap, batch_size)
    missing = measure_rows(rows, setting, again)
    tables, notes = write_table(rows, setting, missing, out)
    Console().print(*printable(tables), crop=False)
    print("\n".join([*notes, *(f"no row {label}: {why}" for label, why in missing.items())]))
    print(f"written: {out / 'table1.md'}, {out / 'pca.png'}")


def read_rows(models: Sequence[str], out: Path) -> list[Row]:
    """LABEL=SOURCE, several → rows.

    Raises:
        UserError: no such form, or a label twice.
    """
    rows: list[Row] = []
    for text in models:
        label, equals, source = (part.strip() for part in text.rpartition("="))
        if not equals or not label or not source:
            raise UserError(f"expected --model LABEL=SOURCE, e.g. 'Ours=runs/fclip/best', got {text!r}")
        if label in [row.label for row in rows]:
            raise UserError(f"--model names the row {label!r} twice; give each another label")
        name = re.sub(r"[^A-Za-z0-9]+", "-", label).strip("-").lower()
        tail = hashlib.sha256(label.encode()).hexdigest()[:4]  # CLIP and CLIP* are two
        rows.append(Row(label, source, out / "results" / f"{name}-{tail}.json"))
    return rows


def prepare(
    paths: Sequence[str], split: str, rows: Sequence[Row], catalogue_format: str | None, bootstrap: int, batch_size: int
) -> Setting:
    """Opens the catalogue and chooses the captions.

    Raises:
        UserError: no such catalogue or split.
    """
    from eval.surfacing import SCHEMA
    from fclip.catalogue import open_catalogue
    from fclip.catalogue.kinds import word_groups
    from fclip.catalogue.schema import select_split

    paths = list(paths)
    catalogue = open_catalogue(paths[0] if len(paths) == 1 else paths, format=catalogue_format)
    select_split(catalogue, split)
    captions = _captions(rows, word_groups(catalogue))
    key = {"schema": SCHEMA, "catalogue": digest(catalogue), "split": split, "bootstrap": bootstrap}
    key["captions"] = captions.template
    return Setting(catalogue, paths, split, captions, key, bootstrap, batch_size)


def _captions(rows: Sequence[Row], groups: Sequence[str]) -> Captions:
    """Those of the first trained checkpoint, else those that fit the catalogue."""
    from fclip.captions import captions_for
    from fclip.checkpoint import is_checkpoint, load_checkpoint
    from fclip.files import expand

    for row in rows:
        if is_checkpoint(expand(row.source)):
            try:
                return load_checkpoint(row.source).captions
            except UserError:  # its row will say so
                continue
    return captions_for(groups)


def digest(catalogue: Dataset) -> str:
    """Sixteen hex digits that change when a row, a picture in the table or a picture file changes."""
    import pyarrow as pa

    found, table = hashlib.sha256(), catalogue.with_format("arrow")
    for start in range(0, len(catalogue), 1000):
        part = table[start : start + 1000].combine_chunks()
        stream = pa.BufferOutputStream()
        with pa.ipc.new_stream(stream, part.schema) as writer:
            writer.write_table(part)
        found.update(stream.getvalue())
        for cell in part["image"].to_pylist():
            if cell and not cell["bytes"] and cell["path"] and Path(cell["path"]).is_file():
                about = Path(cell["path"]).stat()
                found.update(f"{about.st_size} {about.st_mtime_ns}\n".encode())
    return found.hexdigest()[:16]


def measure_rows(rows: Sequence[Row], setting: Setting, again: bool = False) -> dict[str, str]:
    """Measures the rows that were not measured before, and keeps each as soon as it is there.

    Returns: label → reason, of the rows that cannot be measured.

    Raises:
        UserError: no row could be measured.
    """
    missing: dict[str, str] = {}
    baselines = None
    for row in rows:
        print(f"{row.label}: {row.source}", file=sys.stderr)
        try:
            baselines = _measure(row, setting, again, baselines)["baselines"]
        except UserError as error:
            missing[row.label] = str(error)
    if len(missing) == len(rows):
        label, why = next(iter(missing.items()))
        raise UserError(f"none of {len(rows)} models could be measured; {label}: {why}")
    return missing


def _measure(row: Row, setting: Setting, again: bool, baselines: dict[str, Any] | None) -> dict[str, Any]:
    """One row's result, kept or new; the baselines know nothing of the model, so those of another row will do."""
    from eval.compare import read_result
    from eval.surfacing import surfacing_of
    from fclip.catalogue.kinds import word_groups
    from fclip.files import write_json
    from fclip.pretrained import open_model

    model = open_model(row.source, word_groups(setting.catalogue))
    key = {"model": model.fingerprint, "preprocess": repr(model.preprocess), **setting.key}
    if row.file.is_file() and not again:
        kept = read_result(row.file)
        if kept.get("table1") == key:
            print("  measured before; --again measures it again", file=sys.stderr)
            return kept
    model.card = replace(model.card, captions=setting.captions)
    options: dict[str, Any] = {"bootstrap": setting.bootstrap, "batch_size": setting.batch_size}
    options["progress"] = sys.stderr.isatty()
    result = surfacing_of(model, setting.catalogue, setting.split, baselines is None, **options)
    result.setdefault("baselines", baselines)
    result["model"]["name"] = row.label
    result |= {"checkpoint": row.source, "catalogue": setting.paths, "split": setting.split, "table1": key}
    write_json(row.file, result, indent=None)
    return result


def write_table(
    rows: Sequence[Row], setting: Setting, missing: dict[str, str], out: Path
) -> tuple[list[Any], list[str]]:
    """Writes OUT/table1.md and OUT/pca.png.

    Returns: the tables (the paper's last) and notes, for the terminal.
    """
    from eval.compare import HEADLINE, compare, read_result
    from eval.report import Cell, Table, markdown
    from fclip.files import write_text

    there = [row for row in rows if row.label not in missing]
    tables, notes = compare([row.file for row in there], figure=out / "pca.png")
    leaked = read_result(there[0].file).get("products_in_train", 0)
    if leaked:
        notes.append(f"{leaked} products are in the train split too: trained models look better than they are")
    paper = Table("The paper's own numbers", ["Model", *HEADLINE.values()])
    paper.rows.extend([Cell(label), *map(Cell, numbers)] for label, (_, *numbers) in PAPER.items())
    parts = [
        f"# Table 1 on {', '.join(setting.paths)}, split {setting.split}\n",
        markdown(tables[0]),
        "".join(f"- no row {label}: {why}\n" for label, why in missing.items())
        + "".join(f"- {note}\n" for note in notes)
        + f"- every model was asked about the same captions, from the template `{setting.captions.template}`\n",
        "![the first 50 embeddings in two dimensions](pca.png)\n",
        markdown(tables[1]),
        markdown(paper),
        "Measured on DeepFashion's fine annotations; on another catalogue they are for reading beside, no target.\n",
        "### Sources\n",
        "".join(f"- {row.label}: `{row.source}`\n" for row in rows),
    ]
    write_text(out / "table1.md", "\n".join(part for part in parts if part))
    return [*tables, paper], notes


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the program."""
    run_program(app, argv, "python -m experiments.table1")


if __name__ == "__main__":
    main()
