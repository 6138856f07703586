"""For the same participants: what each index recommends, beside what was generated. The material of a user study.

    python -m experiments.compare_recommendations preferences.csv --index ours=garments-index --index clip=clip-index \\
      --generations diffusion=runs/generations --out runs/comparison

OUT/index.html       one self-contained page: participant by participant, a row of pictures for each system
OUT/systems/NAME/    the same pictures as a folder of `fclip.generations` for each system, all of one size and kind of
                     file, so that `user_study` shows them without a sign of where they come from
"""

from __future__ import annotations

import io
import re
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from experiments.diffusion.participants import Participant, read_participants
from fclip.errors import UserError, run_program
from fclip.store.filters import Where

if TYPE_CHECKING:
    from PIL.Image import Image

    from fclip.generations import Generation

HERE = Path(__file__).parent
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,40}")
MARK = "comparison.txt"  # tells a folder that may be replaced from one that may not
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command()
def compare(
    preferences: Annotated[Path, typer.Argument(help="CSV, TSV or JSON lines: participant, text and maybe images.")],
    index: Annotated[
        list[str] | None, typer.Option(metavar="NAME=FOLDER", help="Of `fclip index`; may be repeated.")
    ] = None,
    generations: Annotated[
        list[str] | None, typer.Option(metavar="NAME=FOLDER", help="Generated pictures; may be repeated.")
    ] = None,
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="An earlier comparison is replaced.")] = Path(
        "runs/comparison"
    ),
    k: Annotated[int, typer.Option("-k", min=1, help="Pictures of each system for each participant.")] = 4,
    size: Annotated[int, typer.Option(min=16, help="Side in pixels of the study's pictures.")] = 256,
    where: Annotated[
        list[str] | None, typer.Option(metavar="GROUP=VALUE", help="Only such products, of every index.")
    ] = None,
) -> None:
    """Put recommendations of any number of indexes beside generated pictures, for the same participants.

    \b
    python -m experiments.compare_recommendations preferences.csv --index ours=garments-index \\
      --generations diffusion=runs/generations --out runs/comparison
    """
    from fclip.machine import tune_cpu
    from fclip.store.filters import where_from_text

    people = read_participants(preferences)
    indexes = named(index or [], "--index")
    folders = {name: Path(folder) for name, folder in named(generations or [], "--generations").items()}
    if not indexes and not folders:
        raise UserError("expected something to compare: --index NAME=FOLDER or --generations NAME=FOLDER")
    if both := indexes.keys() & folders.keys():
        raise UserError(f"two systems are called {min(both)}; give each a name of its own")
    tune_cpu()
    notes = build(people, indexes, folders, out, k=k, size_px=size, where=where_from_text(where or []))
    for line in notes:
        print(f"note: {line}", file=sys.stderr)
    print(f"page: {out / 'index.html'}; folders for user_study: {out / 'systems'}")


def build(
    people: Sequence[Participant],
    indexes: Mapping[str, str],
    folders: Mapping[str, Path],
    out: Path,
    *,
    k: int = 4,
    size_px: int = 256,
    where: Where | None = None,
) -> list[str]:
    """Writes the page and the folders; returns what must be said beside.

    Raises:
        UserError: an index or a folder that is not usable, or an OUT of somebody else.
    """
    from eval.html import render
    from fclip.files import new_folder, write_text

    _check_out(out)
    systems = {name: list(recommended(people, folder, k, where or {})) for name, folder in indexes.items()}
    systems |= {name: list(generated(people, folder, k)) for name, folder in folders.items()}
    with new_folder(out, overwrite=True) as beside:
        write_text(beside / MARK, "Made by python -m experiments.compare_recommendations.\n")
        for name, pictures in systems.items():
            _write_system(beside / "systems" / name, pictures, size_px)
        values = _page(people, systems, k)
        write_text(beside / "index.html", render("compare_recommendations.html.j2", HERE, **values))
    return [
        f"{name} has {len(pictures)} of {k * len(people)} pictures"
        for name, pictures in systems.items()
        if len(pictures) < k * len(people)
    ]


def named(given: Sequence[str], option: str) -> dict[str, str]:
    """NAME=FOLDER → folders, or addresses of indexes, by name.

    Raises:
        UserError: no such form, a name that is no folder's, or one given twice.
    """
    found: dict[str, str] = {}
    for one in given:
        name, equals, folder = one.partition("=")
        if not equals or not folder or not NAME.fullmatch(name):
            raise UserError(f"expected {option} NAME=FOLDER, the name of letters, digits, - and _, got {one!r}")
        if name in found:
            raise UserError(f"{option} names {name} twice; give each system a name of its own")
        found[name] = folder
    return found


Made = tuple["Generation", "Image", str]
"""A picture's line, the picture, and what the page says below it."""


def recommended(people: Sequence[Participant], folder: str, k: int, where: Where) -> Iterator[Made]:
    """What an index answers to each participant's words and photographs."""
    from PIL import Image

    from fclip.contact_sheet import in_words
    from fclip.generations import Generation, picture_name
    from fclip.recommend import Recommender

    recommender = Recommender.open(folder)
    for one in people:
        began = time.monotonic()
        answers = recommender.ask([one.text], list(one.photos), where=where, k=k)
        seconds = round((time.monotonic() - began) / max(len(answers), 1), 4)
        for place, answer in enumerate(answers):
            about = {"mode": "recommendation", "text": one.text, "id": answer.id, "item": answer.item}
            about |= {
                "score": round(answer.score, 6),
                "where": {group: list(values) for group, values in where.items()},
            }
            line = Generation(picture_name(one.name, place), one.name, place, one.text, "", 0,
                              str(recommender.index.about["model"]), seconds, about)  # fmt: skip
            words = answer.title or in_words(answer.attributes)
            with Image.open(io.BytesIO(answer.thumbnail)) as thumbnail:
                yield line, thumbnail.convert("RGB"), f"{answer.score:.3f} {words}"


def generated(people: Sequence[Participant], folder: Path, k: int) -> Iterator[Made]:
    """The first k pictures that were generated for each participant; those that were blackened are left out."""
    from fclip.generations import read_generations
    from fclip.images import decode

    wanted = {one.name for one in people}
    count: dict[str, int] = {}
    for line in read_generations(folder):
        if line.participant in wanted and not line.flagged and count.get(line.participant, 0) < k:
            count[line.participant] = count.get(line.participant, 0) + 1
            yield line, decode(folder / line.file), line.prompt


def _write_system(folder: Path, made: Sequence[Made], size_px: int) -> None:
    from dataclasses import replace

    from PIL import ImageOps

    from fclip.generations import keep, picture_name

    folder.mkdir(parents=True)
    places: dict[str, int] = {}
    for line, picture, _ in made:
        place = places[line.participant] = places.get(line.participant, -1) + 1
        same = replace(line, index=place, file=picture_name(line.participant, place))
        keep(folder, same, ImageOps.pad(picture, (size_px, size_px), color="white"))


def _page(people: Sequence[Participant], systems: Mapping[str, Sequence[Made]], k: int) -> dict[str, Any]:
    from eval.html import small_jpeg_uri

    rows = []
    for one in people:
        shown = {
            name: [
                {"picture": _jpeg_uri(picture), "words": words}
                for line, picture, words in made
                if line.participant == one.name
            ]
            for name, made in systems.items()
        }
        rows.append(
            {"name": one.name, "text": one.text, "photos": [small_jpeg_uri(p) for p in one.photos], "systems": shown}
        )
    models = {name: made[0][0].model if made else "" for name, made in systems.items()}
    seconds = {
        name: sum(line.seconds for line, _, _ in made) / len(made) if made else 0.0 for name, made in systems.items()
    }
    return {"people": rows, "models": models, "seconds": seconds, "k": k}


def _jpeg_uri(picture: Image, side_px: int = 200) -> str:
    from eval.html import data_uri

    small, stream = picture.copy(), io.BytesIO()
    small.thumbnail((side_px, side_px))
    small.save(stream, "JPEG", quality=80)
    return data_uri(stream.getvalue(), "jpeg")


def _check_out(out: Path) -> None:
    """Raises UserError when OUT holds something that no comparison made."""
    if out.exists() and not (out / MARK).is_file() and not (out.is_dir() and not any(out.iterdir())):
        raise UserError(f"{out} is not of an earlier comparison, so it is not replaced; choose another --out")


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the program."""
    run_program(app, argv, "python -m experiments.compare_recommendations")


if __name__ == "__main__":
    main()
