"""Measure checkpoints and compare them: `python -m eval --help`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from eval.backbone_command import backbones
from eval.generation_command import generation
from eval.options import (
    Against,
    Baselines,
    BatchSize,
    Bootstrap,
    Cache,
    Catalogues,
    Checkpoint,
    Csv,
    Format,
    GroupBy,
    Json,
    Latex,
    Markdown,
    NoCache,
    Results,
    Seed,
    Split,
)
from eval.protocols import COMMANDS
from eval.retrieval_protocols import RETRIEVAL_COMMANDS

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.callback()
def _program(context: typer.Context, cache: Cache = None, no_cache: NoCache = False) -> None:
    """Measure checkpoints on a catalogue and compare them.

    \b
    python -m eval surfacing --checkpoint runs/plain --catalogue data/catalogue --split val --json plain.json
    python -m eval surfacing --checkpoint runs/stn   --catalogue data/catalogue --split val --json stn.json
    python -m eval compare plain.json stn.json --markdown table.md --figure pca.png
    python -m eval report plain.json stn.json --out report.html

    \b
    python -m eval retrieval --checkpoint runs/plain --catalogue data/catalogue --split test --untuned fashionclip
    python -m eval zero-shot --checkpoint runs/plain --catalogue data/catalogue --split test
    python -m eval inshop --checkpoint runs/plain --catalogue data/inshop

    Embeddings are kept on the disk, by model and pictures: a second protocol does not compute them again.
    `torchrun --nproc_per_node 2 -m eval …` divides the embedding; the scores are the same to the last digit
    (torchrun gives each process one thread: with more, a tower's last bits may differ).
    """
    from eval.cache import cached, default_folder
    from fclip.machine import keep_freed_memory, tune_products
    from fclip.processes import joined

    keep_freed_memory()
    tune_products()
    context.with_resource(joined())
    folder = cache or default_folder()
    context.obj = folder
    context.with_resource(cached(None if no_cache else folder))


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
    results: Results,
    markdown: Markdown = None,
    figure: Annotated[Path | None, typer.Option(help="Draw PCA of the first 50 embeddings here (.png).")] = None,
    allow_different: Annotated[
        bool, typer.Option("--allow-different", help="Set results of different data side by side, nothing bold.")
    ] = False,
    against: Against = None,
    group_by: GroupBy = None,
    csv: Csv = None,
    latex: Latex = None,
) -> None:
    """The paper's table 1 of several results, the best in bold where the difference is sure; differences and p-values.

    \b
    python -m eval compare plain.json stn.json --markdown table.md --figure pca.png
    python -m eval compare plain=p0.json plain=p1.json stn=s0.json stn=s1.json --against plain --latex table.tex

    Results under one name are training runs of one model: mean ± deviation. Intervals resample products.
    """
    from rich.console import Console

    from eval.compare import compare as compare_results
    from eval.compare import printable

    options: dict[str, Any] = {"csv_path": csv, "latex_path": latex, "against": against, "group_by": group_by}
    tables, notes = compare_results(results, markdown, figure, allow_different, **options)
    console = Console()
    console.print(*printable(tables), crop=False)
    for note in notes:
        print(note)


@app.command()
def report(
    results: Results,
    out: Annotated[Path, typer.Option(help="The page.")] = Path("report.html"),
    checkpoint: Annotated[
        Path | None, typer.Option(help="One of the results' models, to look at more closely; needs --catalogue.")
    ] = None,
    catalogue: Annotated[
        list[str] | None, typer.Option(metavar="PATH", help="What the results measured; repeat it for several.")
    ] = None,
    split: Split = "val",
    group: Annotated[str | None, typer.Option(help="The attribute that colours the embeddings.")] = None,
    against: Against = None,
    group_by: GroupBy = None,
    markdown: Markdown = None,
    csv: Csv = None,
    latex: Latex = None,
    seed: Seed = 0,
    catalogue_format: Format = None,
) -> None:
    """One page of results that needs nothing but itself: tables, bars, embeddings, confusions, pictures.

    \b
    python -m eval report plain.json stn.json --out report.html
    python -m eval report stn.json --checkpoint runs/stn/best --catalogue data/catalogue --split val

    Confusions, pictures that went right and wrong, and rare attributes are shown of the checkpoint.
    """
    from eval.page import write_report
    from eval.subject import open_subject
    from fclip.errors import UserError

    if (checkpoint is None) != (not catalogue):
        raise UserError("expected --checkpoint and --catalogue together, or neither")
    subject = None
    if checkpoint is not None and catalogue:
        subject = open_subject(checkpoint, catalogue, split, catalogue_format)
    options: dict[str, Any] = {"markdown_path": markdown, "csv_path": csv, "latex_path": latex, "seed": seed}
    write_report(results, out, subject, group=group, against=against, group_by=group_by, **options)
    print(f"written: {out}")


@app.command()
def card(
    results: Annotated[list[Path], typer.Argument(help="Results of `--json`, of this checkpoint.")],
    checkpoint: Annotated[Path, typer.Option(help="The checkpoint's folder, or an export of it for transformers.")],
    out: Annotated[Path | None, typer.Option(help="The card; README.md in the checkpoint's folder when not given.")] = (
        None
    ),
    licence: Annotated[
        str | None, typer.Option("--license", help="Of the weights, as the hub calls it, e.g. apache-2.0.")
    ] = None,
) -> None:
    """A model card in the Hugging Face hub's format: what it is, how it was trained, how good it is, its limits.

    \b
    python -m eval card plain.json --checkpoint runs/plain/best --license apache-2.0
    """
    from eval.card import write_card

    print(f"written: {write_card(checkpoint, results, out, licence)}")


@app.command("cache")
def show_cache(
    context: typer.Context, clear: Annotated[bool, typer.Option("--clear", help="Remove them.")] = False
) -> None:
    """How many embeddings are kept, and where.

    \b
    python -m eval cache --clear
    """
    from eval.cache import clear as clear_cache
    from eval.cache import files

    folder = context.obj
    if folder is None:
        print("no cache: $FCLIP_CACHE is empty")
        return
    sizes = [file.stat().st_size for file in files(folder)]
    print(f"{folder}: {len(sizes)} sets of embeddings, {sum(sizes) / 1e6:.1f} MB{', removed' if clear else ''}")
    if clear:
        clear_cache(folder)


for _command in (*RETRIEVAL_COMMANDS, backbones, *COMMANDS, generation):
    app.command()(_command)


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the program."""
    from fclip.errors import run_program
    from fclip.processes import said_once

    run_program(said_once(app), argv, "python -m eval")


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
        "pictures could not be read; `skipped` in --json FILE names them": counts["unreadable"],
        "pictures had tied nearest captions, settled against the model": counts["ties"],
        "captions stand for different values of an attribute; the commonest counts": counts["mixed_captions"],
        "products are in the train split too: these scores are too good": result.get("products_in_train", 0),
    }
    lines = [f"{number} {text}" for text, number in said.items() if number]
    left_out = result.get("baselines", {}).get("left_out", {})
    return lines + [f"no {name} baseline: {why}" for name, why in left_out.items()]


if __name__ == "__main__":
    main()
