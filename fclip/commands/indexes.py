"""`fclip index` and `fclip search`: embed a catalogue, ask it."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fclip.commands.options import (
    SOURCE,
    Columns,
    Format,
    Overwrite,
    columns_of,
    progress_shown,
)
from fclip.errors import UserError, nearest
from fclip.files import writable, write_json

if TYPE_CHECKING:
    from datasets import Dataset

    from fclip.index import Answer, Index


def index(
    catalogue: Annotated[list[str], typer.Option(metavar="PATH", help=SOURCE)],
    checkpoint: Annotated[
        Path, typer.Option(metavar="FOLDER", help="A checkpoint, e.g. runs/demo/best, or a name of `fclip models`.")
    ],
    out: Annotated[str, typer.Option(metavar="FOLDER", help="The index to write; also s3://… or gs://….")],
    split: Annotated[str, typer.Option(help="train, val, test or all.")] = "all",
    catalogue_format: Format = None,
    columns: Columns = None,
    overwrite: Overwrite = False,
    batch_size: Annotated[int, typer.Option(min=1, help="Pictures embedded at once.")] = 64,
    workers: Annotated[int, typer.Option(min=0, help="Processes that decode pictures; 0: no further one.")] = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Continue what was killed; if nothing was, begin.")] = False,
    update: Annotated[bool, typer.Option("--update", help="Embed what is new, remove what is gone.")] = False,
    store: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Vectors in Qdrant: http://HOST:6333/NAME; its key in QDRANT_API_KEY."),
    ] = None,
) -> None:
    """Embed a catalogue into an index that can be asked.

    \b
    fclip index --checkpoint runs/demo/best --catalogue garments --out garments-index
    fclip index --checkpoint runs/demo/best --catalogue garments --out garments-index --update
    torchrun --nproc_per_node 4 -m fclip.cli index --checkpoint runs/demo/best --catalogue garments --out s3://shop/index

    Pictures that cannot be read are left out and listed in the index's index.json. An index that is replaced stays in
    use until the new one is complete. A large one is searched approximately; its recall is measured and printed.
    """
    from fclip.index import open_index
    from fclip.indexing import check_target
    from fclip.machine import tune_cpu
    from fclip.processes import joined

    if update and (overwrite or resume or store):
        raise UserError("--update works on the index that is there; leave out --overwrite, --resume and --store")
    if update:
        open_index(out)
    else:
        check_target(out, overwrite, resume)
    tune_cpu()
    with joined():
        pictures = _pictures(catalogue, catalogue_format, columns, split)
        built, said = _built(pictures, checkpoint, out, overwrite, batch_size, workers, resume, update, store)
        _tell(built, said, out)


def _pictures(catalogue: list[str], catalogue_format: str | None, columns: list[str] | None, split: str) -> Dataset:
    from fclip.catalogue import open_catalogue
    from fclip.catalogue.schema import select_split

    return select_split(open_catalogue(catalogue, format=catalogue_format, columns=columns_of(columns)), split)


def _built(
    pictures: Dataset,
    checkpoint: Path,
    out: str,
    overwrite: bool,
    batch_size: int,
    workers: int,
    resume: bool,
    update: bool,
    store: str | None,
) -> tuple[Index, str]:
    """The index, and what an update changed."""
    from fclip.catalogue.schema import groups_of
    from fclip.index_updates import update_index
    from fclip.indexing import build_index
    from fclip.pretrained import open_model
    from fclip.processes import on_device

    progress = progress_shown()
    model = on_device(open_model(checkpoint, groups_of(pictures)))
    if not update:
        origin = str(checkpoint)
        return build_index(out, model, pictures, origin, overwrite, progress, batch_size, workers, resume, store), ""
    built, changes = update_index(out, model, pictures, progress, batch_size, workers)
    return built, f"{changes.added} added, {changes.changed} changed, {changes.removed} removed; "


def _tell(built: Index, said: str, out: str) -> None:
    """What was left out, how many pictures there are, and how they are searched; once, however many processes."""
    from fclip.processes import is_main

    if not is_main():
        return
    skipped, search = built.about["skipped"], built.about["search"]
    for identity, reason in skipped[:10]:
        print(f"skipped {identity}: {reason}", file=sys.stderr)
    more = f"; {len(skipped)} unreadable, listed in {out}/index.json" if skipped else ""
    print(f"{said}{len(built)} pictures in {out}{more}", file=sys.stderr)
    if search["recall"]:
        shares = ", ".join(f"{share:.3f} of {kind}" for kind, share in search["recall"].items())
        print(f"searched by {search['kind']}, recall@10: {shares}", file=sys.stderr)


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
