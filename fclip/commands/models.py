"""`fclip models`, `tower`, `interpolate`, `export`: what there is, one without text, a mixture, one for elsewhere."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from fclip.commands.options import Overwrite, check_free
from fclip.errors import UserError


def tower(
    name: Annotated[str, typer.Argument(metavar="NAME", help="image:[torchvision/]NAME[.TAG][@PX][+POOLING][:FILE]")],
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="The checkpoint to write.")],
    mean: Annotated[str | None, typer.Option(metavar="R,G,B", help="Of the channels, 0 to 1; one number: of all.")] = (
        None
    ),
    std: Annotated[str | None, typer.Option(metavar="R,G,B", help="Of the channels.")] = None,
    resize_mode: Annotated[
        str | None, typer.Option(help="shortest (and crop), or the whole picture: squash, longest (and pad).")
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="Of timm's create_model, e.g. pad_type=same; repeat it."),
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Write an image tower of timm or torchvision as a checkpoint, to index and ask with pictures alone.

    \b
    fclip tower image:resnet50.a1_in1k+max --out towers/style-matcher
    fclip tower image:mobilenetv2_100+max:weights.safetensors --mean 0.5 --std 0.5 --option pad_type=same --out towers/m

    Only needed where the weights want other pictures than the library says, or the folder shall travel: the name
    itself can be given wherever a --checkpoint is asked for. Poolings: avg, max, gem, cls, or several: +avg+max.
    Without one it is the tower's own.
    """
    from fclip.checkpoint import is_checkpoint, save_checkpoint
    from fclip.image_only import image_model

    check_free(out, overwrite)
    if out.is_dir() and any(out.iterdir()) and not is_checkpoint(out):
        raise UserError(f"{out} is no checkpoint, so it is not overwritten; choose another name")
    statistics = {"mean": _channels("--mean", mean), "std": _channels("--std", std)}
    model = image_model(name, **statistics, resize_mode=resize_mode, options=_options(option or []))
    save_checkpoint(model, out, overwrite)
    print(f"{model.name} ({model.fingerprint}) in {out}", file=sys.stderr)


def _channels(option: str, value: str | None) -> Any:
    """Three numbers, from three or one."""
    if value is None:
        return None
    try:
        numbers = [float(number) for number in value.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) not in (1, 3):
        raise UserError(f"expected {option} R,G,B or one number, got {value!r}")
    return tuple(numbers * (3 // len(numbers)))


def _options(pairs: list[str]) -> dict[str, Any]:
    """KEY=VALUE → values as YAML reads them: numbers, true and false, words."""
    import yaml

    wrong = [pair for pair in pairs if not pair.partition("=")[0] or "=" not in pair]
    if wrong:
        raise UserError(f"expected --option KEY=VALUE, got {wrong[0]!r}")
    return {key: yaml.safe_load(value) for key, _, value in (pair.partition("=") for pair in pairs)}


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
