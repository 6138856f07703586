"""The command `python -m eval generation`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from eval.options import BatchSize, Bootstrap, Catalogues, Checkpoint, Format, Json, Seed, Split, written

SHOWN = {
    "fid": "FID",
    "kid": "KID",
    "clip_score": "CLIP score",
    "similarity": "similarity within a participant",
    "similarity_all": "similarity of all",
    "nearest": "nearest in the catalogue",
    "copies": "copies",
    "seconds": "seconds a picture",
    "memory_mb": "memory, MB",
}


def generation(
    folder: Annotated[Path, typer.Argument(help="Generated pictures, e.g. runs/generations.")],
    catalogue: Catalogues,
    checkpoint: Checkpoint = Path("fashionclip"),
    split: Split = "train",
    network: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Of FID and KID: timm:NAME or torchvision:NAME; else the checkpoint."),
    ] = None,
    network_weights: Annotated[Path | None, typer.Option(metavar="FILE", help="Of that network.")] = None,
    json: Json = None,
    pairs: Annotated[Path | None, typer.Option(help="Draw the pictures nearest to the catalogue here (.png).")] = None,
    copy: Annotated[float, typer.Option(help="A picture of at least this cosine counts as a copy.")] = 0.95,
    bootstrap: Bootstrap = 1000,
    seed: Seed = 0,
    batch_size: BatchSize = 64,
    catalogue_format: Format = None,
) -> None:
    """Generated pictures: FID, KID, CLIP score, diversity, copies of the catalogue, time and memory.

    \b
    python -m eval generation runs/generations --catalogue data/catalogue --checkpoint runs/mine/best --pairs pairs.png
    python -m eval generation runs/generations --catalogue data/catalogue --checkpoint fashionclip \\
      --network torchvision:inception_v3 --network-weights inception_v3.safetensors
    """
    from rich.console import Console

    from eval.generation import run_generation
    from eval.report import Cell, Table, rich_table, score

    settings: dict[str, Any] = {"network": network, "weights": network_weights, "pairs": pairs, "copy": copy}
    settings |= {"bootstrap": bootstrap, "seed": seed, "batch_size": batch_size, "catalogue_format": catalogue_format}
    result = run_generation(folder, catalogue, checkpoint, split, json, **settings, progress=sys.stderr.isatty())
    counts, real, others = result["counts"], result["baselines"]["real"], result["baselines"]["other_words"]
    title = f"{counts['pictures']} pictures for {counts['participants']} participants, {counts['catalogue']} real ones"
    table = Table(title, ["", "generated", f"{counts['real']} real pictures", "others' words"])
    for name, shown in SHOWN.items():
        scores = (result["metrics"][name], real.get(name), others.get(name))
        table.rows.append([Cell(shown), *map(score, scores)])
    Console().print(rich_table(table), crop=False)
    for line in result["notes"]:
        print(line)
    written(json, pairs)
