"""`fclip index`: embed a catalogue."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from fclip.commands.options import (
    SOURCE,
    Columns,
    Format,
    Overwrite,
    check_free,
    columns_of,
    on_accelerator,
    progress_shown,
)


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

    check_free(out, overwrite)
    tune_cpu()
    progress = progress_shown()
    pictures = select_split(open_catalogue(catalogue, format=catalogue_format, columns=columns_of(columns)), split)
    model = on_accelerator(open_model(checkpoint, groups_of(pictures)))
    built = build_index(out, model, pictures, str(checkpoint), overwrite, progress, batch_size, workers)
    skipped = built.about["skipped"]
    for identity, reason in skipped[:10]:
        print(f"skipped {identity}: {reason}", file=sys.stderr)
    more = f"; {len(skipped)} unreadable, listed in {out / 'index.json'}" if skipped else ""
    print(f"{len(built)} pictures in {out}{more}", file=sys.stderr)
