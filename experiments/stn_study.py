"""Does the spatial transformer earn its place? Four variants, trained for the same time, on pictures as is or posed.

    python -m experiments.stn_study drawn --minutes 3 --out runs/study_drawn
    python -m experiments.stn_study catalogue --minutes 5 --out runs/study_catalogue

A posed picture is moved, made smaller and turned in its frame. Conditions: (a) pictures as they are, (b) posed when
tested, (c) posed in training and test, and, for the variants that share the first one's tower, the first one of (a)
trained on with posed pictures: tested (d) posed, (e) as they are. A transformer that joins it there learns alone for
half of the time. Every variant trains for the same time: its speed is measured first, and tells its steps. What is
measured are the weights at the end, chosen by nobody. Leaves OUT/table.md, OUT/scores.png and OUT/looks.png (what the
transformers make of their inputs). A killed study goes on where it was.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from experiments.study import measured, pictures_of, say, study_preset, train_one, with_options, write
from fclip.errors import UserError, run_program

if TYPE_CHECKING:
    from datasets import Dataset

    from fclip.config import Preset

VARIANTS = ("plain", "stn", "swin", "stn_swin")
CONDITIONS = {
    "a": ("as_is", "as_is"),
    "b": ("as_is", "posed"),
    "c": ("posed", "posed"),
    "d": ("adapted", "posed"),
    "e": ("adapted", "as_is"),
}
"""Condition → how it is trained, how it is tested."""
ADAPTING_LR = 3e-4
POSE_SEED = 7
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command()
def study(
    data: Annotated[str, typer.Argument(help="drawn or catalogue: the presets/study/DATA_*.yaml that are trained.")],
    minutes: Annotated[float, typer.Option(help="Training time of each variant, measured when nothing else runs.")] = 3,
    out: Annotated[Path | None, typer.Option(metavar="FOLDER", help="Default: runs/study_DATA.")] = None,
    variants: Annotated[
        str, typer.Option(help="Which, with commas; the first is what the others are held against.")
    ] = (",".join(VARIANTS)),
    split: Annotated[str, typer.Option(help="What is tested.")] = "val",
    scale: Annotated[tuple[float, float], typer.Option(help="A posed picture's smallest and largest size.")] = (
        0.35,
        1,
    ),
    shift: Annotated[float, typer.Option(help="Its move, as a share of the room it has.")] = 1.0,
    turn: Annotated[float, typer.Option(help="Its rotation either way, in degrees.")] = 30.0,
    conditions: Annotated[str, typer.Option(help="Which of a, b, c, d, e, without commas.")] = "abcde",
    override: Annotated[list[str] | None, typer.Option(metavar="KEY=VALUE", help="Of all presets.")] = None,
) -> None:
    """Train plain, STN, Swin and STN+Swin for equal time, on pictures as they are and on posed ones, and compare.

    \b
    python -m experiments.stn_study drawn --minutes 3
    """
    from experiments.stn_study_report import write_report
    from fclip.machine import tune_cpu

    tune_cpu()
    wanted = [condition for condition in CONDITIONS if condition in conditions]
    if not wanted or set(conditions) - set(CONDITIONS):
        raise UserError(f"expected --conditions of {', '.join(CONDITIONS)}, e.g. 'ac', got {conditions!r}")
    target = out or Path(f"runs/study_{data}")
    pose = [f"data.scale=[{scale[0]},{scale[1]}]", f"data.shift={shift}", f"data.turn_deg={turn}"]
    presets = read_presets(data, variants.split(","), target, override or [])
    presets = fix_costs(presets, minutes, target)
    train_all(presets, wanted, pose, target)
    plain = next(iter(presets.values()))
    tests = tested_splits(plain, split, with_options(plain, pose))
    results = measure_all(presets, wanted, tests, target)
    settings = {"data": data, "minutes": minutes, "split": split, "pose": " ".join(pose)}
    write_report(target, results, tests, settings)
    print((target / "table.md").read_text())


def read_presets(data: str, variants: Sequence[str], out: Path, overrides: Sequence[str]) -> dict[str, Preset]:
    """The study's presets by variant.

    Raises:
        UserError: no such presets.
    """
    presets = {variant: study_preset(f"{data}_{variant}", out, overrides) for variant in variants}
    shared = next(iter(presets.values())).data.catalogue
    return {name: replace(p, data=replace(p.data, catalogue=shared)) for name, p in presets.items()}


def fix_costs(presets: Mapping[str, Preset], minutes: float, out: Path) -> dict[str, Preset]:
    """The presets with as many epochs as each trains in `minutes`; speeds are kept in OUT/speeds.json."""
    from fclip.files import read_json

    file = out / "speeds.json"
    speeds = read_json(file, "speeds of an earlier call") if file.is_file() else {}
    for name, preset in presets.items():
        if name not in speeds:
            speeds[name] = measure_speed(preset)
            write(file, speeds)
        say(f"{name}: {speeds[name]['images_per_second']:.0f} images/s")
    return {
        name: replace(preset, epochs=max(0.001, round(minutes * 60 / speeds[name]["seconds_per_epoch"], 3)))
        for name, preset in presets.items()
    }


def measure_speed(preset: Preset) -> dict[str, float]:
    """Images per second of real training steps, loading included, and what an epoch takes."""
    from experiments.train import prepare
    from fclip import estimate
    from fclip.training import Run

    prepared = prepare(replace(preset, track="none"))
    rate = estimate.measure_speed(Run(prepared.preset, prepared.model, prepared.pictures, None)).images_per_second
    return {"images_per_second": rate, "seconds_per_epoch": len(prepared.pictures) / rate}


def train_all(presets: Mapping[str, Preset], conditions: Sequence[str], pose: Sequence[str], out: Path) -> None:
    """Every variant in every way that the conditions ask for; before it is adapted, the first one as it is."""
    first = out / f"{next(iter(presets))}-as_is"
    ways = {CONDITIONS[condition][0] for condition in conditions}
    if "adapted" in ways:
        ways.add("as_is")
    for how in (way for way in ("as_is", "posed", "adapted") if way in ways):
        for name in variants_of(presets, how):
            options = {"as_is": [], "posed": [*pose], "adapted": [*pose, *adapting(presets[name], first / "last")]}
            train_one(with_options(presets[name], options[how]), out / f"{name}-{how}")


def variants_of(presets: Mapping[str, Preset], how: str) -> list[str]:
    """The variants that are trained this way: what is adapted has the tower of the first."""
    tower = next(iter(presets.values())).model.name
    return [name for name, preset in presets.items() if how != "adapted" or preset.model.name == tower]


def adapting(preset: Preset, start: Path) -> list[str]:
    """What makes a preset train on from a checkpoint: a transformer alone first, since it knows nothing yet."""
    options = [f"model.name={start}", "model.image_size=null", "model.image_weights=null", f"optim.lr={ADAPTING_LR}"]
    if preset.model.stn.transform != "none":
        options += ["optim.stn_lr=1", f"optim.head_epochs={preset.epochs / 2}"]
    return options


def tested_splits(preset: Preset, split: str, posed: Preset) -> dict[str, Dataset]:
    """The tested pictures as they are and posed, by the same draw for all variants."""
    pictures = pictures_of(preset, split)
    return {"as_is": pictures, "posed": pose_catalogue(pictures, posed.data)}


def pose_catalogue(pictures: Dataset, data: Any, seed: int = POSE_SEED) -> Dataset:
    """The same catalogue with every picture in a random pose, as PNG; unreadable ones stay as they are."""
    import numpy as np
    from torchvision.transforms.functional import pil_to_tensor, to_pil_image

    from fclip.augmentation import pose
    from fclip.images import UnreadableImageError, decode

    def posed(row: dict[str, Any], number: int) -> dict[str, Any]:
        try:
            pixels = pil_to_tensor(decode(row["image"]))
        except UnreadableImageError:
            return row
        buffer = io.BytesIO()
        to_pil_image(pose(pixels, data, np.random.default_rng([seed, number]))).save(buffer, "PNG")
        return {"image": {"bytes": buffer.getvalue(), "path": None}}

    return pictures.map(posed, with_indices=True, keep_in_memory=True, load_from_cache_file=False, desc="posing")


def measure_all(
    presets: Mapping[str, Preset], conditions: Sequence[str], tests: Mapping[str, Dataset], out: Path
) -> dict[str, dict[str, Any]]:
    """Condition → variant → result of `eval.surfacing`; those of an earlier call are read."""
    results: dict[str, dict[str, Any]] = {condition: {} for condition in conditions}
    for condition in conditions:
        trained, tested = CONDITIONS[condition]
        for variant in variants_of(presets, trained):
            file = out / "results" / f"{condition}-{variant}.json"
            results[condition][variant] = measured(out / f"{variant}-{trained}", tests[tested], file)
    return results


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the program."""
    run_program(app, argv, "python -m experiments.stn_study")


if __name__ == "__main__":
    main()
