"""Options and checks that several commands share."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from fclip.catalogue.readers import FORMATS
from fclip.errors import UserError

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
        help="Columns of a table: id=sku, item=style, image=file, attributes=colour,size; besides, numbers=price to "
        "filter by range, and lists=fabrics where a cell holds several values, such as wool|silk.",
    ),
]


Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what an earlier run of this command wrote.")]


def columns_of(pairs: list[str] | None) -> Any:
    from fclip.catalogue.table import columns_from_pairs

    return columns_from_pairs(pairs) if pairs else None


def check_free(folder: Path | None, overwrite: bool) -> None:
    """Fails before the work rather than after it."""
    if folder is not None and folder.exists() and not overwrite:
        raise UserError(f"{folder} exists already; choose another name, or replace it with --overwrite")


def progress_shown() -> bool:
    """Whether to show bars; a log file gets none, not even those of the datasets library."""
    from datasets import disable_progress_bars

    if not sys.stderr.isatty():
        disable_progress_bars()
    return sys.stderr.isatty()
