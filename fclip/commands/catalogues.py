"""`fclip catalogue` and `fclip draw`: look at a catalogue, write it elsewhere, draw one."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from fclip.commands.options import SOURCE, Columns, Format, Overwrite, check_free, columns_of, progress_shown
from fclip.errors import UserError, nearest
from fclip.files import writable, write_json


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
    progress = progress_shown()
    with _columns_shown():
        opened = open_catalogue(path, format=catalogue_format, columns=columns_of(columns), stream=stream)
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
    drawn = draw_catalogue(items, views, size_px, seed, pose, progress=progress_shown())
    save_catalogue(drawn, out, overwrite=overwrite)
    print(f"{len(drawn)} pictures of {items} products in {out}", file=sys.stderr)


@contextmanager
def _columns_shown() -> Iterator[None]:
    """Prints which column of a table was taken for what."""
    from fclip.catalogue.table import logger

    level, handler = logger.level, logging.StreamHandler(sys.stdout)
    handler.addFilter(lambda record: record.levelno == logging.INFO)
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.setLevel(level)
        logger.removeHandler(handler)


def _check_free_for_catalogue(folder: Path | None, overwrite: bool) -> None:
    from fclip.catalogue.storage import is_saved

    check_free(folder, overwrite)
    if folder is not None and folder.is_dir() and any(folder.iterdir()) and not is_saved(folder):
        raise UserError(f"{folder} is not a saved catalogue, so it is not overwritten; choose another name")


def _check_shards(form: str | None, out: Path | None, overwrite: bool) -> None:
    from fclip.catalogue.writing import WRITERS, check_replaceable

    if (form is None) != (out is None):
        raise UserError("expected --to FORM and --out FOLDER together, got one of them")
    if form is not None and form not in WRITERS:
        raise UserError(f"unknown form {form!r} of shards; {nearest(form, WRITERS)}")
    check_free(out, overwrite)
    if out is not None:
        check_replaceable(out)


def _write_shards(opened: Any, form: str, out: Path, shard_size: int, overwrite: bool) -> None:
    from fclip.catalogue.report import SHOWN
    from fclip.catalogue.writing import write_shards

    index = write_shards(opened, form, out, shard_size, overwrite)
    skipped = index["skipped"]
    names = ", ".join(bad["id"] for bad in skipped[:SHOWN]) + ", …" * (len(skipped) > SHOWN)
    more = f"; {len(skipped)} unreadable left out ({names}), listed in {out / 'index.json'}" if skipped else ""
    print(f"{index['pictures']} pictures in {len(index['shards'])} shards in {out}{more}", file=sys.stderr)
