"""The `fclip` command: look at a catalogue, draw one, index it, ask it; mix two models, take one elsewhere.

    fclip search garments-index --text "red summer dress" --image photo.jpg --where gender=Women -k 4

Training is `accelerate launch -m experiments.train`, measuring `python -m eval`.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fclip.catalogue.readers import FORMATS
from fclip.errors import UserError, nearest, run_program
from fclip.files import writable, write_json

if TYPE_CHECKING:
    from fclip.index import Answer, Index

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)

SOURCE = "A table, folder, shards, hub name or drawn:ITEMS; several are joined."
Format = Annotated[
    str | None,
    typer.Option("--format", metavar="NAME", help=f"Recognised when not given; one of: {', '.join(FORMATS)}."),
]
Columns = Annotated[
    list[str] | None,
    typer.Option(
        "--map",
        metavar="NAME=COLUMN",
        help="Columns of a table: id=sku, item=style, image=file, attributes=colour,size.",
    ),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what an earlier run of this command wrote.")]


@app.callback()
def _program() -> None:
    """Look at a catalogue of products, index it, and ask it with words, photographs and filters.

    \b
    fclip draw garments --items 1000
    fclip catalogue garments
    fclip index --checkpoint runs/demo/best --catalogue garments --out garments-index
    fclip search garments-index --text "red dress" --where category=dress
    fclip export runs/demo/best --to onnx --out garments-onnx

    Train with `accelerate launch -m experiments.train`, measure with `python -m eval`.
    """


@app.command()
def catalogue(
    path: Annotated[list[str], typer.Argument(metavar="PATH", help=SOURCE)],
    catalogue_format: Format = None,
    columns: Columns = None,
    save: Annotated[Path | None, typer.Option(metavar="FOLDER", help="Write it as one portable folder.")] = None,
    overwrite: Overwrite = False,
    json: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the report as JSON.")] = None,
    check_images: Annotated[bool, typer.Option(help="Decode every picture to find unreadable ones.")] = True,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 2 when anything is wrong with it.")] = False,
    to: Annotated[
        str | None, typer.Option(metavar="FORM", help="Write it as shards too: webdataset or parquet.")
    ] = None,
    out: Annotated[Path | None, typer.Option(metavar="FOLDER", help="Where the shards go.")] = None,
    shard_size: Annotated[int, typer.Option(min=1, help="Pictures in a shard.")] = 1000,
    stream: Annotated[bool, typer.Option("--stream", help="Read shards where they are; nothing is copied.")] = False,
) -> None:
    """Print what is inside a catalogue, and what is wrong with it.

    \b
    fclip catalogue garments.csv --map id=sku --map image=file --save garments
    fclip catalogue garments --to webdataset --out garments-shards

    Items, splits, attribute groups and values, missing values, unreadable pictures, duplicate ids, and products that
    are in two splits.
    """
    from fclip.catalogue import open_catalogue, save_catalogue
    from fclip.catalogue.report import describe, problems, render
    from fclip.catalogue.writing import damaged_shards

    _check_free_for_catalogue(save, overwrite)
    _check_shards(to, out, overwrite)
    if json is not None:
        writable(json)
    progress = _progress()
    opened = open_catalogue(path, format=catalogue_format, columns=_columns(columns), stream=stream)
    report = describe(opened, check_images, progress)
    render(report)
    if json is not None:
        write_json(json, report)
    if save is not None:
        save_catalogue(opened, save, overwrite=overwrite)
        print(f"saved {len(opened)} pictures to {save}", file=sys.stderr)
    if to is not None and out is not None:
        _write_shards(opened, to, out, shard_size, overwrite)
    damaged = [line for p in path for line in damaged_shards(p)] if check_images else []
    for line in damaged:
        print(line, file=sys.stderr)
    if strict and (damaged or problems(report)):
        raise UserError(f"{' '.join(path)}: {'; '.join([*damaged, *problems(report)])}")


@app.command()
def draw(
    out: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where it goes.")],
    items: Annotated[int, typer.Option(help="Products.")] = 1000,
    views: Annotated[int, typer.Option(help="Pictures of each product.")] = 2,
    size_px: Annotated[int, typer.Option("--size", help="Width and height in pixels.")] = 128,
    seed: Annotated[int, typer.Option(help="The same seed draws the same garments.")] = 0,
    pose: Annotated[float, typer.Option(help="Strength of shift, scale and rotation; 0: none.")] = 1.0,
    overwrite: Overwrite = False,
) -> None:
    """Draw garments with known attributes, boxes and landmarks.

    \b
    fclip draw garments --items 2000
    """
    from fclip.catalogue import save_catalogue
    from fclip.catalogue.drawn import draw_catalogue

    _check_free_for_catalogue(out, overwrite)
    drawn = draw_catalogue(items, views, size_px, seed, pose, progress=_progress())
    save_catalogue(drawn, out, overwrite=overwrite)
    print(f"{len(drawn)} pictures of {items} products in {out}", file=sys.stderr)


@app.command()
def index(
    catalogue: Annotated[list[str], typer.Option(metavar="PATH", help=SOURCE)],
    checkpoint: Annotated[
        Path, typer.Option(metavar="FOLDER", help="A checkpoint, e.g. runs/demo/best, or a name of `fclip models`.")
    ],
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="The index to write.")],
    split: Annotated[str, typer.Option(help="train, val, test or all.")] = "all",
    catalogue_format: Format = None,
    columns: Columns = None,
    overwrite: Overwrite = False,
    batch_size: Annotated[int, typer.Option(min=1, help="Pictures embedded at once.")] = 64,
    workers: Annotated[int, typer.Option(min=0, help="Processes that decode pictures; 0: no further one.")] = 0,
) -> None:
    """Embed a catalogue into an index that can be asked.

    \b
    fclip index --checkpoint runs/demo/best --catalogue garments --out garments-index

    Pictures that cannot be read are left out and listed in the index's index.json.
    """
    from fclip.catalogue import open_catalogue
    from fclip.catalogue.schema import groups_of, select_split
    from fclip.index import build_index
    from fclip.machine import tune_cpu
    from fclip.pretrained import open_model

    _check_free(out, overwrite)
    tune_cpu()
    progress = _progress()
    pictures = select_split(open_catalogue(catalogue, format=catalogue_format, columns=_columns(columns)), split)
    model = _on_accelerator(open_model(checkpoint, groups_of(pictures)))
    built = build_index(out, model, pictures, str(checkpoint), overwrite, progress, batch_size, workers)
    skipped = built.about["skipped"]
    for identity, reason in skipped[:10]:
        print(f"skipped {identity}: {reason}", file=sys.stderr)
    more = f"; {len(skipped)} unreadable, listed in {out / 'index.json'}" if skipped else ""
    print(f"{len(built)} pictures in {out}{more}", file=sys.stderr)


@app.command()
def search(
    index: Annotated[Path, typer.Argument(metavar="INDEX", help="Its folder.")],
    text: Annotated[list[str] | None, typer.Option(metavar="WORDS", help="May be repeated.")] = None,
    image: Annotated[list[Path] | None, typer.Option(metavar="FILE", help="A photograph; may be repeated.")] = None,
    where: Annotated[
        list[str] | None,
        typer.Option(metavar="GROUP=VALUE", help="Only such products; or GROUP=ONE|OTHER. May be repeated."),
    ] = None,
    k: Annotated[int, typer.Option("-k", help="Number of products.")] = 4,
    text_weight: Annotated[float, typer.Option(help="Weight of the words against the photographs, 0 to 1.")] = 0.5,
    sheet: Annotated[Path, typer.Option(metavar="FILE", help="The contact sheet to write (PNG).")] = Path("search.png"),
    json: Annotated[Path | None, typer.Option(metavar="FILE", help="Write question and answers as JSON.")] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="The model, when it has moved since indexing.")
    ] = None,
) -> None:
    """Ask an index with words, photographs and filters.

    \b
    fclip search garments-index --text "red summer dress" -k 8
    fclip search garments-index --image photo.jpg --where "colour=red|pink"
    fclip search garments-index --image photo.jpg --text "in green" --json out.json

    Prints the answers and draws them on a contact sheet. The score is the cosine similarity of question and picture,
    -1 to 1. Every product is shown once, with the picture that fits best.
    """
    from fclip.contact_sheet import contact_sheet, save_contact_sheet
    from fclip.machine import tune_cpu
    from fclip.recommend import Recommender

    texts, images, filters = text or [], image or [], parse_where(where or [])
    for file in (sheet, *([json] if json is not None else [])):
        writable(file)
    tune_cpu()
    recommender = Recommender.open(index, checkpoint)
    answers = recommender.ask(texts, images, filters, k, text_weight)
    for note in [*_unknown_words(recommender.model, texts), *_unknown_values(recommender.index, filters)]:
        print(f"note: {note}", file=sys.stderr)
    _print_answers(answers, filters)
    save_contact_sheet(sheet, contact_sheet(answers, texts, images, in_words(filters)))
    print(f"contact sheet: {sheet}", file=sys.stderr)
    if json is not None:
        question = {"texts": texts, "images": list(map(str, images)), "where": filters, "text_weight": text_weight}
        write_json(json, {"index": str(index), **question, "answers": list(map(_plain, answers))})
        print(f"written: {json}", file=sys.stderr)


@app.command("interpolate")
def interpolate_command(
    start: Annotated[
        Path,
        typer.Argument(metavar="START", help="What training began with: a checkpoint, or a model by name or folder."),
    ],
    trained: Annotated[Path, typer.Argument(metavar="TRAINED", help="The checkpoint that it made of it.")],
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="The checkpoint to write.")],
    alpha: Annotated[float, typer.Option(help="Share of the trained weights, 0 to 1.")] = 0.5,
    overwrite: Overwrite = False,
) -> None:
    """Mix the weights of a model and of its fine-tuned self (WiSE-FT).

    \b
    fclip interpolate fashionclip runs/mine/best --alpha 0.5 --out runs/between

    A mixture often knows more of other pictures than the fine-tuned model does, and no less of its own. Both must have
    the same architecture, preprocessing and tokenizer.
    """
    from fclip.checkpoint import is_checkpoint, save_checkpoint
    from fclip.interpolate import interpolate_checkpoints

    _check_free(out, overwrite)
    if out.is_dir() and any(out.iterdir()) and not is_checkpoint(out):
        raise UserError(f"{out} is no checkpoint, so it is not overwritten; choose another name")
    save_checkpoint(interpolate_checkpoints(start, trained, alpha), out, overwrite)
    print(f"{1 - alpha:g} of {start} and {alpha:g} of {trained} in {out}", file=sys.stderr)


@app.command()
def export(
    checkpoint: Annotated[Path, typer.Argument(help="A checkpoint, or a model by name or folder.")],
    to: Annotated[str, typer.Option(metavar="FORM", help="transformers, open_clip or onnx.")],
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Where it goes.")],
    overwrite: Overwrite = False,
) -> None:
    """Write a model as another library loads it, with tokenizer and preprocessing.

    \b
    fclip export runs/demo/best --to transformers --out garments-for-transformers
    fclip export runs/demo/best --to open_clip --out garments-for-open_clip
    fclip export runs/demo/best --to onnx --out garments-onnx

    \b
    transformers  CLIP ViTs: CLIPModel.from_pretrained(FOLDER)
    open_clip     all but spatial transformers: open_clip.create_model_and_transforms("local-dir:FOLDER")
    onnx          everything: image.onnx takes uint8 pixels, text.onnx token ids; fclip.json describes both

    What was written is loaded by that library, and removed unless it gives the same embeddings.
    """
    from fclip.export import export as write

    _check_free(out, overwrite)
    differences = write(checkpoint, to, out, overwrite)
    said = ", ".join(f"{name} {difference:.1e}" for name, difference in differences.items())
    print(f"{out} for {to}; largest difference of an embedding from fclip's: {said}", file=sys.stderr)


@app.command()
def models() -> None:
    """Print the published models that go by name, wherever a model or checkpoint is asked for.

    \b
    fclip models
    fclip index --checkpoint fashionclip --catalogue garments --out garments-index

    On a machine that cannot reach the hub: copy a model's folder there and name that folder in its place.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from fclip.published import PUBLISHED

    table = Table("name", "what", "where from", "licence", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("parameters", justify="right", no_wrap=True)
    for name, entry in PUBLISHED.items():
        cells = (name, entry.what, entry.where, entry.licence, f"{entry.millions} M")
        table.add_row(*[Text(cell, overflow="fold") for cell in cells])
    Console().print(table)


def parse_where(conditions: Sequence[str]) -> dict[str, list[str]]:
    """GROUP=VALUE and GROUP=ONE|OTHER → group → values.

    Raises:
        UserError: no such form, or a group twice.
    """
    filters: dict[str, list[str]] = {}
    for condition in conditions:
        group, _, rest = condition.partition("=")
        group, values = group.strip(), [value.strip() for value in rest.split("|")]
        if not group or not all(values):
            raise UserError(f"expected --where GROUP=VALUE or GROUP=ONE|OTHER, got {condition!r}")
        if group in filters:
            raise UserError(f"--where names {group} twice; write --where '{group}=ONE|OTHER'")
        filters[group] = values
    return filters


def in_words(filters: Mapping[str, Sequence[str]]) -> str:
    """Filters as one line, e.g. "colour=red|pink, gender=Women"."""
    return ", ".join(f"{group}={'|'.join(values)}" for group, values in filters.items())


def _columns(pairs: list[str] | None) -> Any:
    from fclip.catalogue.table import columns_from_pairs

    return columns_from_pairs(pairs) if pairs else None


def _check_free(folder: Path | None, overwrite: bool) -> None:
    """Fails before the work rather than after it."""
    if folder is not None and folder.exists() and not overwrite:
        raise UserError(f"{folder} exists already; choose another name, or replace it with --overwrite")


def _check_free_for_catalogue(folder: Path | None, overwrite: bool) -> None:
    from fclip.catalogue.storage import is_saved

    _check_free(folder, overwrite)
    if folder is not None and folder.is_dir() and any(folder.iterdir()) and not is_saved(folder):
        raise UserError(f"{folder} is not a saved catalogue, so it is not overwritten; choose another name")


def _check_shards(form: str | None, out: Path | None, overwrite: bool) -> None:
    from fclip.catalogue.writing import WRITERS, check_replaceable

    if (form is None) != (out is None):
        raise UserError("expected --to FORM and --out FOLDER together, got one of them")
    if form is not None and form not in WRITERS:
        raise UserError(f"unknown form {form!r} of shards; {nearest(form, WRITERS)}")
    _check_free(out, overwrite)
    if out is not None:
        check_replaceable(out)


def _write_shards(opened: Any, form: str, out: Path, shard_size: int, overwrite: bool) -> None:
    from fclip.catalogue.writing import write_shards

    index = write_shards(opened, form, out, shard_size, overwrite)
    skipped = index["skipped"]
    more = f"; {len(skipped)} unreadable, listed in {out / 'index.json'}" if skipped else ""
    print(f"{index['pictures']} pictures in {len(index['shards'])} shards in {out}{more}", file=sys.stderr)


def _progress() -> bool:
    """Whether to show bars; a log file gets none, not even those of the datasets library."""
    from datasets import disable_progress_bars

    if not sys.stderr.isatty():
        disable_progress_bars()
    return sys.stderr.isatty()


def _on_accelerator(model: Any) -> Any:
    import torch

    return model.to("cuda") if torch.cuda.is_available() else model


def _unknown_words(model: Any, texts: Sequence[str]) -> list[str]:
    unknown = [word for words in texts for word in model.tokenizer.unknown_words(words)]
    return [f"the model never saw {', '.join(unknown)} in training"] if unknown else []


def _unknown_values(index: Index, filters: Mapping[str, Sequence[str]]) -> list[str]:
    """A sentence for every value that no product of the index has."""
    notes = []
    for group, values in filters.items():
        known = index.values(group)
        notes += [f"no product has {group}={value}; {nearest(value, known)}" for value in values if value not in known]
    return notes


def _print_answers(answers: Sequence[Answer], filters: Mapping[str, Sequence[str]]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from fclip import contact_sheet

    if not answers:
        print(f"no product fits {in_words(filters)}")
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("", justify="right")
    table.add_column("score", justify="right", no_wrap=True)
    table.add_column("id", overflow="fold", max_width=24)
    table.add_column("product", overflow="fold", max_width=28)
    table.add_column("attributes", overflow="fold")
    for place, answer in enumerate(answers, start=1):
        told = (answer.id, answer.title or answer.item, contact_sheet.in_words(answer.attributes))
        table.add_row(str(place), f"{answer.score:.3f}", *map(Text, told))
    Console().print(table)


def _plain(answer: Answer) -> dict[str, Any]:
    """An answer for JSON: all but the thumbnail."""
    return {name: getattr(answer, name) for name in ("id", "item", "title", "score", "attributes")}


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the program."""
    run_program(app, argv, "fclip")
