"""`fclip search`: ask an index with words, photographs, items of its own and filters."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict, fields
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fclip.errors import UserError
from fclip.files import writable, write_json
from fclip.queries.defaults import DEFAULT_FUSION, TEXT_SHARE

if TYPE_CHECKING:
    from fclip.index import Answer, Index
    from fclip.queries.question import Query

MANY_IDS = 20_000  # ids among which the nearest to a mistyped one is looked for


def search(
    index: Annotated[str, typer.Argument(metavar="INDEX", help="Its folder, or the address of a store.")],
    text: Annotated[list[str] | None, typer.Option(metavar="WORDS", help="May be repeated.")] = None,
    image: Annotated[list[Path] | None, typer.Option(metavar="FILE", help="A photograph; may be repeated.")] = None,
    item: Annotated[
        list[str] | None, typer.Option(metavar="ID", help="A picture of the index: more like this. May be repeated.")
    ] = None,
    avoid: Annotated[
        list[str] | None,
        typer.Option(metavar="WORDS", help="What should not be there, without a 'no': stripes. May be repeated."),
    ] = None,
    like: Annotated[
        list[str] | None, typer.Option(metavar="ID", help="An answer that was liked; moves the question.")
    ] = None,
    dislike: Annotated[
        list[str] | None, typer.Option(metavar="ID", help="One that was not; its product is left out.")
    ] = None,
    where: Annotated[
        list[str] | None,
        typer.Option(
            metavar="GROUP=VALUE",
            help="Only such products; or GROUP=ONE|OTHER, GROUP!=VALUE, GROUP=10..50, GROUP=10.., GROUP=..50.",
        ),
    ] = None,
    k: Annotated[int, typer.Option("-k", help="Number of products.")] = 4,
    weight: Annotated[
        list[str] | None,
        typer.Option(metavar="KIND=TIMES", help="text, image or item count so many times as much as usual: text=2."),
    ] = None,
    fusion: Annotated[str, typer.Option(help=f"How parts become one score: {', '.join(TEXT_SHARE)}.")] = DEFAULT_FUSION,
    diversity: Annotated[
        float, typer.Option(help="0: the best, however alike; up to 1: answers unlike each other.")
    ] = 0,
    explain: Annotated[bool, typer.Option("--explain", help="Say what made each answer a match.")] = False,
    sheet: Annotated[Path, typer.Option(metavar="FILE", help="The contact sheet to write (PNG).")] = Path("search.png"),
    json: Annotated[Path | None, typer.Option(metavar="FILE", help="Write question and answers as JSON.")] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="The model, when it has moved since indexing.")
    ] = None,
) -> None:
    """Ask an index with words, photographs, items of its own and filters.

    \b
    fclip search garments-index --text "red summer dress" -k 8
    fclip search garments-index --image photo.jpg --where "colour=red|pink"
    fclip search garments-index --image photo.jpg --text "in green" --weight text=2
    fclip search garments-index --item 1163 --avoid stripes --diversity 0.3 --explain
    fclip search garments-index --text "summer dress" --like 4711 --dislike 1163 --json out.json

    Prints the answers and draws them on a contact sheet. Every product is shown once, with the picture that fits best;
    products asked with or disliked are not shown. The score is the cosine similarity of question and picture, -1 to 1;
    of a question of several parts with --fusion late it tells by how many standard deviations a picture fits better
    than the catalogue's usual one.

    Say what to avoid as a thing: models do not understand "no stripes". What must hold belongs into --where.
    Nothing is remembered: leave out a --like and its effect is undone.
    """
    from fclip.contact_sheet import contact_sheet, save_contact_sheet
    from fclip.machine import tune_cpu
    from fclip.recommend import Query, Recommender
    from fclip.store.filters import where_from_text, where_in_words

    filters = where_from_text(where or [])
    query = Query(
        texts=text or (),
        images=image or (),
        items=item or (),
        avoid=avoid or (),
        liked=like or (),
        disliked=dislike or (),
        where=filters,
        k=k,
        weights=parse_weights(weight or []),
        fusion=fusion,
        diversity=diversity,
        explain=explain,
    )
    for file in (sheet, *([json] if json is not None else [])):
        writable(file)
    tune_cpu()
    recommender = Recommender.open(index, checkpoint)
    _check_ids(recommender.index, [*query.items, *query.liked, *query.disliked])
    answers = recommender.answer(recommender.encode(query))
    for note in recommender.notes(query):
        print(f"note: {note}", file=sys.stderr)
    _print_answers(answers, where_in_words(filters))
    own = recommender.index.read(query.items) if query.items else []
    shown = [*query.images, *({"bytes": item.thumbnail, "path": None} for item in own)]
    save_contact_sheet(sheet, contact_sheet(answers, query.texts, shown, where_in_words(filters), avoid=query.avoid))
    print(f"contact sheet: {sheet}", file=sys.stderr)
    if json is not None:
        write_json(json, {"index": index, **_plain_query(query), "answers": list(map(_plain, answers))})
        print(f"written: {json}", file=sys.stderr)


def parse_weights(weights: Sequence[str]) -> dict[str, float]:
    """KIND=TIMES → kind → number.

    Raises:
        UserError: no such form; whether kind and number make sense is the question's to say.
    """
    found = {}
    for given in weights:
        kind, _, times = given.partition("=")
        try:
            found[kind.strip()] = float(times)
        except ValueError:
            raise UserError(f"expected --weight KIND=TIMES, e.g. text=2, got {given!r}") from None
    return found


def _check_ids(index: Index, ids: Sequence[str]) -> None:
    """Raises UserError when a picture is not in the index, naming the nearest."""
    known = {answer.id for answer in index.read(ids)} if ids else set()
    for name in ids:
        if name not in known:
            there = [identity for part in index.store.scan(["id"]) for identity in part["id"].to_pylist()]
            close = get_close_matches(name, there[:MANY_IDS], n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"ids look like {there[0]!r}"
            raise UserError(f"no picture {name!r} in the index {index.folder}; {hint}")


def _print_answers(answers: Sequence[Answer], filters: str) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from fclip import contact_sheet

    if not answers:
        print(f"no product fits {filters or 'this question'}")
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
    console = Console()
    console.print(table)
    for place, answer in enumerate(answers, start=1):
        if answer.why is not None:
            console.print(Text(f"{place}. {answer.why}"))


def _plain(answer: Answer) -> dict[str, Any]:
    """An answer for JSON: all but the thumbnail."""
    known = {name: getattr(answer, name) for name in ("id", "item", "title", "score", "attributes")}
    return known if answer.why is None else known | {"why": asdict(answer.why)}


def _plain_query(query: Query) -> dict[str, Any]:
    """A question for JSON: pictures by their paths."""
    named = {field.name: getattr(query, field.name) for field in fields(query)}
    return named | {"images": [str(image) for image in query.images]}
