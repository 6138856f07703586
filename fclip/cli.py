"""The `fclip` command: look at a catalogue, draw one, index it, ask it.

Training is `accelerate launch -m experiments.train`, measuring `python -m eval`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from fclip.errors import UserError

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    help="Catalogues, indexes and questions. Train with `accelerate launch -m experiments.train`, measure with "
    "`python -m eval`.",
)

Catalogues = Annotated[
    list[str],
    typer.Option(
        "--catalogue", help="A table, folder, shards, hub name or drawn:ITEMS; several are joined.", show_default=False
    ),
]
Format = Annotated[str | None, typer.Option(help="The catalogue's format, when it cannot be told from the path.")]
Mapping = Annotated[
    list[str] | None,
    typer.Option("--map", help="Columns of a table: id=sku, item=style, image=file, attributes=colour,size."),
]


@app.command()
def catalogue(
    path: Annotated[list[str], typer.Argument(help="A table, folder, shards, hub name or drawn:ITEMS.")],
    format: Format = None,  # noqa: A002
    map: Mapping = None,  # noqa: A002
    save: Annotated[Path | None, typer.Option(help="Write it as one portable folder.")] = None,
    json: Annotated[Path | None, typer.Option(help="Write the report as JSON.")] = None,
    check_images: Annotated[bool, typer.Option(help="Decode every picture to find unreadable ones.")] = True,
    strict: Annotated[bool, typer.Option(help="Exit with 2 when anything is wrong with it.")] = False,
) -> None:
    """Print what is inside a catalogue, and what is wrong with it.

    Items, splits, attribute groups and values, missing values, unreadable pictures, duplicate ids, and products that
    are in two splits.

    Example: fclip catalogue garments.csv --map id=sku --map image=file --save garments
    """
    from fclip.catalogue import open_catalogue, save_catalogue
    from fclip.catalogue.report import describe, problems, render
    from fclip.catalogue.table import columns_from_pairs
    from fclip.files import write_json

    opened = open_catalogue(path, format=format, columns=columns_from_pairs(map) if map else None)
    report = describe(opened, check_images=check_images)
    render(report)
    if json:
        write_json(json, report)
    if save:
        save_catalogue(opened, save)
        print(f"saved {len(opened)} pictures to {save}", file=sys.stderr)
    if strict and problems(report):
        raise UserError(f"{' '.join(path)}: {'; '.join(problems(report))}")


@app.command()
def draw(
    out: Annotated[Path, typer.Argument(help="The folder to write.")],
    items: Annotated[int, typer.Option(help="Products.")] = 1000,
    views: Annotated[int, typer.Option(help="Pictures of each product.")] = 2,
    size_px: Annotated[int, typer.Option("--size", help="Width and height in pixels.")] = 128,
    seed: Annotated[int, typer.Option(help="The same seed draws the same garments.")] = 0,
    pose: Annotated[float, typer.Option(help="Strength of shift, scale and rotation; 0: none.")] = 1.0,
) -> None:
    """Draw a catalogue of garments with known attributes, boxes and landmarks.

    Example: fclip draw garments --items 2000
    """
    from fclip.catalogue import save_catalogue
    from fclip.catalogue.drawn import draw_catalogue

    drawn = draw_catalogue(items, views, size_px, seed, pose, progress=True)
    save_catalogue(drawn, out)
    print(f"{len(drawn)} pictures of {items} products in {out}", file=sys.stderr)


@app.command()
def index(
    catalogue: Catalogues,
    checkpoint: Annotated[Path, typer.Option(help="A checkpoint folder, e.g. runs/demo/best.")],
    out: Annotated[Path, typer.Option(help="The index folder to write.")],
    split: Annotated[str, typer.Option(help="train, val, test or all.")] = "all",
    format: Format = None,  # noqa: A002
    overwrite: Annotated[bool, typer.Option(help="Replace an index that is there.")] = False,
) -> None:
    """Embed a catalogue into an index that can be asked.

    Example: fclip index --checkpoint runs/demo/best --catalogue garments --out garments-index
    """
    from fclip.catalogue import open_catalogue
    from fclip.catalogue.schema import select_split
    from fclip.checkpoint import load_checkpoint
    from fclip.index import build_index
    from fclip.machine import tune_cpu

    tune_cpu()
    pictures = select_split(open_catalogue(catalogue, format=format), split)
    built = build_index(out, load_checkpoint(checkpoint), pictures, str(checkpoint), overwrite, progress=True)
    skipped = built.about["skipped"]
    for identity, reason in skipped[:10]:
        print(f"skipped {identity}: {reason}", file=sys.stderr)
    more = f"; {len(skipped)} unreadable, listed in {out / 'index.json'}" if skipped else ""
    print(f"{len(built)} pictures in {out}{more}", file=sys.stderr)


@app.command()
def search(
    index: Annotated[Path, typer.Argument(help="An index folder.")],
    text: Annotated[list[str] | None, typer.Option(help="Words; may be repeated.")] = None,
    image: Annotated[list[Path] | None, typer.Option(help="A photograph; may be repeated.")] = None,
    where: Annotated[list[str] | None, typer.Option(help="COLUMN=VALUE, or COLUMN=ONE|OTHER; may be repeated.")] = None,
    k: Annotated[int, typer.Option("-k", help="Number of products.")] = 4,
    text_weight: Annotated[float, typer.Option(help="Weight of the words against the photographs, 0 to 1.")] = 0.5,
    sheet: Annotated[Path, typer.Option(help="The contact sheet to write (PNG).")] = Path("search.png"),
    checkpoint: Annotated[Path | None, typer.Option(help="The model, when it has moved since indexing.")] = None,
) -> None:
    """Ask an index with words, photographs and filters; prints a table and writes a contact sheet.

    Example: fclip search garments-index --text "red summer dress" --image photo.jpg --where "gender=Women" -k 4
    """
    from fclip.contact_sheet import contact_sheet, save_contact_sheet
    from fclip.machine import tune_cpu
    from fclip.recommend import Recommender

    tune_cpu()
    recommender = Recommender.open(index, checkpoint)
    filters = parse_where(where or [])
    texts, images = text or [], image or []
    for words in texts:
        unknown = recommender.model.tokenizer.unknown_words(words)
        if unknown:
            print(f"note: the model never saw {', '.join(unknown)} in training", file=sys.stderr)
    answers = recommender.ask(texts, images, filters, k, text_weight)
    _print_answers(answers)
    shown = ", ".join(where or [])
    save_contact_sheet(sheet, contact_sheet(answers, texts, images, shown))
    print(f"contact sheet: {sheet}", file=sys.stderr)


def parse_where(conditions: Sequence[str]) -> dict[str, list[str]]:
    """COLUMN=VALUE and COLUMN=ONE|OTHER → column → values.

    Raises:
        UserError: no such form, or a column twice.
    """
    filters: dict[str, list[str]] = {}
    for condition in conditions:
        column, equals, values = condition.partition("=")
        if not equals or not column.strip() or not values.strip():
            raise UserError(f"expected --where COLUMN=VALUE, got {condition!r}")
        if column.strip() in filters:
            raise UserError(f"--where names {column.strip()} twice; write {column.strip()}=ONE|OTHER")
        filters[column.strip()] = [v.strip() for v in values.split("|")]
    return filters


def _print_answers(answers: Sequence[Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("", "score", "id", "product", "attributes")
    for place, answer in enumerate(answers, start=1):
        words = ", ".join(" and ".join(v) if isinstance(v, list) else str(v) for v in answer.attributes.values())
        table.add_row(str(place), f"{answer.score:.3f}", answer.id, answer.title or answer.item, words)
    Console().print(table if answers else "no product fits these filters")


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command; a user's mistake is one line and exit code 2."""
    try:
        app(args=list(argv) if argv is not None else None)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
