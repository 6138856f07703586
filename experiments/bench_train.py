"""Speed of training against the best public trainer, open_clip's, and of our data pipeline against torchvision's.

    python -m experiments.bench_train step
    python -m experiments.bench_train pipeline
    python -m experiments.bench_train scale
    python -m experiments.bench_train quality experiments/presets/catalogue_cpu.yaml --minutes 30
    python -m experiments.bench_train profile --model timm:mobilenetv2_100 --size 192x144

Ratios are of one run: both sides take turns, each turn gives a ratio, and the median counts. Each prints a Markdown
table; `--out FOLDER` also keeps the numbers as JSON (quality: with the curves as a picture).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from fclip.errors import UserError, run_program

app = typer.Typer(
    add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None, no_args_is_help=True, help=__doc__
)
ON_CPU = (
    ("ViT-S-32-alt", "224x224", 32),
    ("timm:vit_tiny_patch16_224", "112x112", 64),
    ("timm:mobilenetv2_100", "192x144", 64),
)
ON_GPU = (("ViT-B-32", "224x224", 1024), ("ViT-B-16", "224x224", 1024))
"""Model, size and batch of `step`."""
Out = Annotated[Path | None, typer.Option(metavar="FOLDER", help="Keeps the numbers there, as JSON.")]
Repeats = Annotated[int, typer.Option(min=1, help="Turns of each side.")]
Model = Annotated[str | None, typer.Option(help="As model.name in a preset; default: two for the device.")]
SizeOption = Annotated[str, typer.Option(metavar="HEIGHTxWIDTH", help="Of the pictures, in pixels.")]
Batch = Annotated[int, typer.Option(min=2, help="Pictures in a batch.")]
PerCaption = Annotated[int, typer.Option(min=1, help="Pictures of a batch that share an attribute caption.")]
Bf16 = Annotated[bool | None, typer.Option(help="Autocast to bfloat16; default: where a GPU is.")]


@app.command()
def step(
    model: Model = None,
    size: SizeOption = "224x224",
    batch: Batch = 64,
    per_caption: PerCaption = 4,
    steps: Annotated[int, typer.Option(min=1, help="Steps in a turn.")] = 5,
    repeats: Repeats = 9,
    bf16: Bf16 = None,
    compiled: Annotated[bool, typer.Option(help="torch.compile for ours.")] = False,
    out: Out = None,
) -> None:
    """Measure samples per second of our step and of open_clip's: same model, batch, precision, pictures in memory."""
    import torch

    from experiments.bench_steps import race
    from fclip.machine import tune_cpu

    on_gpu = torch.cuda.is_available()
    tune_cpu()
    models = [(model, size, batch)] if model else list(ON_GPU if on_gpu else ON_CPU)
    found = []
    for name, of, rows in models:
        for each in sorted({1, per_caption}):
            about = {"model": name, "size": of, "batch": rows, "pictures_per_caption": each}
            half = on_gpu if bf16 is None else bf16
            found.append(about | race(name, size_of(of), rows, each, steps, repeats, half, compiled))
    _show(found, out, "step")


@app.command()
def pipeline(
    sizes: Annotated[str, typer.Option(help="Sides of the JPEGs in pixels, with commas.")] = "256,1024",
    images: Annotated[int, typer.Option(min=1, help="JPEGs of each size.")] = 200,
    repeats: Repeats = 5,
    out: Out = None,
) -> None:
    """Measure images per second and core, from JPEG to the tower's input, of our pipeline and of torchvision's."""
    import tempfile

    from experiments.bench_data import race_pipelines
    from fclip.machine import tune_cpu

    tune_cpu()  # for both, as in training
    with tempfile.TemporaryDirectory() as folder:
        found = [
            {"jpeg_px": px} | race_pipelines(Path(folder), px, images, repeats) for px in map(int, sizes.split(","))
        ]
    _show(found, out, "pipeline")


@app.command()
def locked(
    items: Annotated[int, typer.Option(min=1, help="Drawn garments, of two pictures each.")] = 200,
    out: Out = None,
) -> None:
    """Measure what an epoch takes with locked towers whose outputs are kept, and without keeping them."""
    import tempfile

    from experiments.bench_locked import race_locked

    towers = {"image, but its projection": ("visual.trunk.*",), "image": ("visual.*",), "both": ("visual.*", "text.*")}
    with tempfile.TemporaryDirectory() as folder:
        found = [
            {"locked": what} | race_locked(freeze, items, Path(folder) / str(number))
            for number, (what, freeze) in enumerate(towers.items())
        ]
    _show(found, out, "locked")


@app.command()
def scale(
    items: Annotated[str, typer.Option(help="Sizes of the catalogue, with commas.")] = "1000,10000,100000",
    steps: Annotated[int, typer.Option(min=1, help="Steps in a turn.")] = 10,
    repeats: Repeats = 7,
    out: Out = None,
) -> None:
    """Measure what a sample costs as the catalogue grows."""
    from experiments.bench_data import cost_by_size
    from fclip.machine import tune_cpu

    tune_cpu()
    found = cost_by_size([int(n) for n in items.split(",")], steps, repeats)
    _show([{"items": number} | costs for number, costs in found.items()], out, "scale")


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def quality(
    context: typer.Context,
    preset: Annotated[Path, typer.Argument(help="Ours; open_clip's trainer gets its model, pictures and batch.")],
    minutes: Annotated[float, typer.Option(help="Of training for open_clip's; ours takes its preset's epochs.")] = 30,
    peer_lr: Annotated[float, typer.Option(help="open_clip's --lr.")] = 5e-4,
    bf16: Annotated[bool, typer.Option(help="open_clip's --precision amp_bf16.")] = False,
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Numbers, picture and our checkpoints.")] = Path(
        "runs/bench_quality"
    ),
) -> None:
    """Measure seconds until ours reaches open_clip's best validation text SFA; KEY=VALUE change the preset."""
    from experiments.bench_peer import PeerRecipe
    from experiments.bench_quality import draw_curves, own_folder, race_to_quality
    from fclip.config import load_preset

    settled = own_folder(load_preset(preset, context.args), out)
    if Path(settled.out).exists():
        raise UserError(f"{settled.out} already holds a run; set --out to another folder")
    found = race_to_quality(settled, minutes, PeerRecipe(lr=peer_lr, bf16=bf16))
    curves = {who: found.pop(who) for who in ("open_clip", "ours")}
    _show([found], out, "quality", curves)
    draw_curves(curves, out / "quality.png")


@app.command()
def profile(
    model: Annotated[str, typer.Option(help="As model.name in a preset.")] = "timm:mobilenetv2_100",
    size: SizeOption = "192x144",
    batch: Batch = 64,
    per_caption: PerCaption = 4,
    bf16: Bf16 = None,
    top: Annotated[int, typer.Option(min=1, help="Entries of the profiler that are printed.")] = 15,
    repeats: Repeats = 5,
    out: Out = None,
) -> None:
    """Show where a step's time goes, what it takes beyond the towers, and what the device achieves."""
    import torch

    from experiments.bench_profile import profile_step
    from fclip.machine import tune_cpu

    half = torch.cuda.is_available() if bf16 is None else bf16
    tune_cpu()
    found = profile_step(model, size_of(size), batch, per_caption, half, top, repeats=repeats)
    print(found.pop("table"))
    _show([{"model": model, "size": size, "batch": batch} | found], out, "profile")


def size_of(text: str) -> tuple[int, int]:
    """HEIGHTxWIDTH → both.

    Raises:
        UserError: something else.
    """
    height, _, width = text.partition("x")
    if not (height.isdecimal() and width.isdecimal()):
        raise UserError(f"expected a size as HEIGHTxWIDTH, e.g. 192x144, got {text!r}")
    return int(height), int(width)


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Rows of the same keys as a Markdown table; a number has three digits or all before its point."""
    head = list(rows[0])
    lines = [head, ["---"] * len(head), *([_cell(row[key]) for key in head] for row in rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return str(value)


def _show(rows: list[dict[str, Any]], out: Path | None, name: str, more: dict[str, Any] | None = None) -> None:
    """Prints the table, and writes OUT/NAME.json."""
    from fclip.files import write_json

    print(table(rows))
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        write_json(out / f"{name}.json", {"device": _device(), "rows": rows, **(more or {})})


def _device() -> dict[str, Any]:
    """What the numbers were measured on."""
    import os
    import platform

    import torch

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count(), "gpu": gpu} | {
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the program."""
    run_program(app, argv, "python -m experiments.bench_train")


if __name__ == "__main__":
    main()
