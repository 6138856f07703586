"""`fclip index`: embed a catalogue."""

from __future__ import annotations

import sys
from collections.abc import Mapping
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
from fclip.errors import UserError

if TYPE_CHECKING:
    from datasets import Dataset

    from fclip.index import Index


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
    measure_colour: Annotated[
        bool, typer.Option("--measure-colour", help="Add the colours that the pictures show, as one more group.")
    ] = False,
    store: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Vectors in Qdrant: http://HOST:6333/NAME; its key in QDRANT_API_KEY."),
    ] = None,
) -> None:
    """Embed a catalogue into an index that can be asked.

    \b
    fclip index --checkpoint runs/demo/best --catalogue garments --out garments-index
    fclip index --checkpoint runs/demo/best --catalogue garments --out garments-index --measure-colour
    fclip index --checkpoint runs/demo/best --catalogue garments --out garments-index --update
    torchrun --nproc_per_node 4 -m fclip.cli index --checkpoint runs/demo/best --catalogue garments --out s3://shop/index

    Pictures that cannot be read are left out and listed in the index's index.json. An index that is replaced stays in
    use until the new one is complete. With --measure-colour products can be filtered by "colour (measured)", whatever
    the catalogue says; an update measures what is new. A large index is searched approximately; its recall is measured
    and printed, of all pictures and under filters that leave about 10 % and 0.5 % of them, where a value does.
    """
    from fclip.index import open_index
    from fclip.indexing import check_target
    from fclip.machine import tune_cpu
    from fclip.processes import joined

    if update and (overwrite or resume or store or measure_colour):
        raise UserError(
            "--update works on the index that is there, with the groups that it has; "
            "leave out --overwrite, --resume, --store and --measure-colour"
        )
    if update:
        open_index(out)
    else:
        check_target(out, overwrite, resume)
    tune_cpu()
    with joined():
        pictures = _pictures(catalogue, catalogue_format, columns, split)
        ways = (overwrite, batch_size, workers, resume, update, store, measure_colour)
        built, said = _built(pictures, checkpoint, out, *ways)
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
    measure_colour: bool,
) -> tuple[Index, str]:
    """The index, and what an update changed."""
    from fclip.catalogue.kinds import word_groups
    from fclip.index_updates import update_index
    from fclip.indexing import build_index
    from fclip.pretrained import open_model
    from fclip.processes import on_device

    progress = progress_shown()
    model = on_device(open_model(checkpoint, word_groups(pictures)))
    if not update:
        how = (overwrite, progress, batch_size, workers, resume, store, measure_colour)
        return build_index(out, model, pictures, str(checkpoint), *how), ""
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
    more = f"; {len(skipped)} left out, listed in {out}/index.json" if skipped else ""
    print(f"{said}{len(built)} pictures in {out}{more}", file=sys.stderr)
    if built.about.get("foreign") and built.about["foreign"] == built.about["retired"]:
        print(
            "note: the index before was of another model; start its servers again, which refuse this one",
            file=sys.stderr,
        )
    for line in _recall_in_words(search):
        print(line, file=sys.stderr)


def _recall_in_words(search: Mapping[str, Any]) -> list[str]:
    """A line for all pictures, one for each filter, and one if any is less than it should be."""
    from fclip.store.filters import where_in_words
    from fclip.store.recall import ENOUGH

    if not search["recall"]:
        return []
    lines = [f"searched by {search['kind']}, recall@10: {_shares(search['recall'])}"]
    reached = dict(search["recall"])
    for one in search.get("filtered", []):  # not in an index from before
        where = where_in_words(one["where"])
        lines.append(f"under {where} ({one['share']:.2%} of the pictures): {_shares(one['recall'])}")
        reached |= {f"{kind} under {where}": share for kind, share in one["recall"].items()}
    if low := {kind: share for kind, share in reached.items() if share < ENOUGH}:
        lines.append(f"note: recall below the {ENOUGH} aimed at: {_shares(low)}")
    return lines


def _shares(recall: Mapping[str, float]) -> str:
    return ", ".join(f"{share:.3f} of {kind}" for kind, share in recall.items())
