"""`fclip search`: ask an index with words, photographs and filters."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fclip.errors import UserError, nearest
from fclip.files import writable, write_json

if TYPE_CHECKING:
    from fclip.index import Answer, Index


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
