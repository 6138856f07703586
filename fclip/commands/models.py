"""`fclip models`, `interpolate` and `export`: what there is, a mixture of two, one for another library."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from fclip.commands.options import Overwrite, check_free
from fclip.errors import UserError


def interpolate(
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

    check_free(out, overwrite)
    if out.is_dir() and any(out.iterdir()) and not is_checkpoint(out):
        raise UserError(f"{out} is no checkpoint, so it is not overwritten; choose another name")
    save_checkpoint(interpolate_checkpoints(start, trained, alpha), out, overwrite)
    print(f"{1 - alpha:g} of {start} and {alpha:g} of {trained} in {out}", file=sys.stderr)


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

    check_free(out, overwrite)
    differences = write(checkpoint, to, out, overwrite)
    said = ", ".join(f"{name} {difference:.1e}" for name, difference in differences.items())
    print(f"{out} for {to}; largest difference of an embedding from fclip's: {said}", file=sys.stderr)


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
