"""Measure checkpoints and compare them: `python -m eval --help`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from eval.protocols import COMMANDS

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)

Checkpoint = Annotated[Path, typer.Option(help="A checkpoint's folder, or a name of `fclip models`.")]
Catalogues = Annotated[list[str], typer.Option(metavar="PATH", help="A catalogue; repeat it for several.")]
Split = Annotated[str, typer.Option(help="train, val, test or all.")]
Json = Annotated[Path | None, typer.Option("--json", help="Where the result goes; `compare` reads it.")]
Baselines = Annotated[bool, typer.Option(help="Measure chance, the most frequent caption and 16x16 pixels too.")]
Bootstrap = Annotated[int, typer.Option(min=0, help="Resamples of the products for the 95 % intervals; 0: none.")]
Format = Annotated[str | None, typer.Option("--format", help="Of the catalogues; recognised when not given.")]
Seed = Annotated[int, typer.Option(min=0, help="Seed of the resamples.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Pictures embedded at once.")]


@app.callback()
def _program() -> None:
    """Measure checkpoints on a catalogue and compare them.

    \b
    python -m eval surfacing --checkpoint runs/plain --catalogue data/catalogue --split val --json plain.json
    python -m eval surfacing --checkpoint runs/stn   --catalogue data/catalogue --split val --json stn.json
    python -m eval compare plain.json stn.json --markdown table.md --figure pca.png
    """


@app.command()
def surfacing(
    checkpoint: Checkpoint,
    catalogue: Catalogues,
    split: Split = "val",
    json: Json = None,
    baselines: Baselines = True,
    bootstrap: Bootstrap = 1000,
    seed: Seed = 0,
    batch_size: BatchSize = 64,
    catalogue_format: Format = None,
) -> None:
    """Surfacing accuracy: how often the nearest caption is the right one, and how many of its attributes are.

    \b
    python -m eval surfacing --checkpoint runs/plain --catalogue data/catalogue --split val --json plain.json

    Text SFA is the share of pictures whose nearest caption is their own; attribute SFA the share of known attributes
    that the nearest caption states too. Ties count against the model. The intervals resample products.
    """
    from rich.console import Console

    from eval.surfacing import run_surfacing

    settings: dict[str, Any] = {
        "bootstrap": bootstrap,
        "seed": seed,
        "batch_size": batch_size,
        "catalogue_format": catalogue_format,
    }
    result = run_surfacing(checkpoint, catalogue, split, json, baselines, **settings, progress=sys.stderr.isatty())
    _show(Console(), result)
    if json is not None:
        print(f"written: {json}")


@app.command()
def compare(
    results: Annotated[list[Path], typer.Argument(help="What `surfacing --json` wrote, one file per model.")],
    markdown: Annotated[Path | None, typer.Option(help="Write the tables here too.")] = None,
    figure: Annotated[Path | None, typer.Option(help="Draw PCA of the first 50 embeddings here (.png).")] = None,
    allow_different: Annotated[
        bool, typer.Option("--allow-different", help="Set results of different data side by side, nothing bold.")
    ] = False,
) -> None:
    """The paper's table 1 of several results, the best in bold where the difference is sure.

    \b
    python -m eval compare plain.json stn.json --markdown table.md --figure pca.png
    """
    from rich.console import Console

    from eval.compare import compare as compare_results
    from eval.compare import printable

    tables, notes = compare_results(results, markdown, figure, allow_different)
    console = Console()
    console.print(*printable(tables), crop=False)
    for note in notes:
        print(note)


for _command in COMMANDS:
    app.command()(_command)


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the program."""
    from fclip.errors import run_program

    run_program(app, argv, "python -m eval")


def _show(console: Any, result: dict[str, Any]) -> None:
    from eval.compare import BASELINES
    from eval.report import Cell, Table, rich_table, score
    from eval.scores import find, of_group

    counts, found = result["counts"], result.get("baselines", {})
    columns = [result["metrics"], *[found[key] for key in BASELINES if key in found]]
    table = Table(
        f"{result['model']['name']} on {counts['pictures']} pictures, {counts['products']} products, "
        f"{counts['captions']} captions",
        ["", result["model"]["name"], *[shown for key, shown in BASELINES.items() if key in found]],
    )
    names = {"text_sfa": "Text SFA", "attribute_sfa": "Attr. SFA", "attribute_sfa_macro": "  macro"}
    names |= {of_group(group): f"  {group} ({counts['known'][group]})" for group in result["groups"]}
    names |= {"cosine": "Cos Simil."} | {f"recall_at_{k}": f"Recall@{k}" for k in (5, 10)}
    for name, shown in names.items():
        table.rows.append([Cell(shown), *[score(find(column, name)) for column in columns]])
    console.print(rich_table(table), crop=False)
    for line in _remarks(result):
        print(line)


def _remarks(result: dict[str, Any]) -> list[str]:
    counts = result["counts"]
    said = {
        "pictures without a caption were left out": counts["without_caption"],
        "pictures could not be read; the result's `skipped` names them": counts["unreadable"],
        "pictures had tied nearest captions, settled against the model": counts["ties"],
        "captions stand for different values of an attribute; the commonest counts": counts["mixed_captions"],
        "products are in the train split too: these scores are too good": result.get("products_in_train", 0),
    }
    lines = [f"{number} {text}" for text, number in said.items() if number]
    left_out = result.get("baselines", {}).get("left_out", {})
    return lines + [f"no {name} baseline: {why}" for name, why in left_out.items()]


if __name__ == "__main__":
    main()
