"""What studies share: presets that differ in a few keys, trained once each into one folder, measured once each.

    train_one(with_options(preset, ["loss.positives=clip"]), Path("runs/study/clip"))
    result = measured(Path("runs/study/clip"), pictures, Path("runs/study/results/clip.json"))

A killed study goes on where it was: finished runs and results are read, a broken run is resumed.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fclip.errors import UserError

if TYPE_CHECKING:
    from datasets import Dataset

    from fclip.config import Preset

HERE = Path(__file__).parent / "presets" / "study"


def study_preset(name: str, out: Path, overrides: Sequence[str] = ()) -> Preset:
    """A preset of `presets/study`; a drawn catalogue is drawn once, into the study's folder.

    Raises:
        UserError: no such preset.
    """
    from fclip.catalogue import open_catalogue, save_catalogue
    from fclip.config import load_preset
    from fclip.errors import nearest

    known = sorted(file.stem for file in HERE.glob("*.yaml"))
    if name not in known:
        raise UserError(f"no study preset {name}; {nearest(name, known)}")
    preset = load_preset(HERE / f"{name}.yaml", overrides)
    if not any(source.startswith("drawn:") for source in preset.data.catalogue):
        return preset
    folder = out / "catalogue"
    if not folder.exists():
        save_catalogue(open_catalogue(list(preset.data.catalogue)), folder)
    return with_options(preset, [f"data.catalogue=[{folder}]"])


def with_options(preset: Preset, overrides: Sequence[str]) -> Preset:
    """A preset with `key=value` overrides."""
    import yaml

    from fclip.config import dump_preset, merged, preset_from

    return preset_from(merged(yaml.safe_load(dump_preset(preset)), overrides))


def train_one(preset: Preset, folder: Path) -> None:
    """Trains into a folder, or goes on with what is there; does nothing when that is finished.

    Raises:
        UserError: what is there was trained for another number of epochs.
    """
    from experiments.train import prepare
    from fclip.files import read_json
    from fclip.training import train

    done = folder / "done.json"
    if done.is_file():
        if read_json(done, "a finished run")["epochs"] != preset.epochs:
            raise UserError(f"{folder} was trained for another time; remove it, or choose another --out")
        return
    say(f"training {folder.name}: {preset.epochs:g} epochs")
    prepared = prepare(replace(preset, out=str(folder), track="none"))
    last = folder / "last"
    run = train(prepared.preset, prepared.model, prepared.pictures, None, last if last.is_dir() else None)
    write(done, {"epochs": preset.epochs, "minutes": run.minutes})


def pictures_of(preset: Preset, split: str) -> Dataset:
    """A split of the preset's catalogue."""
    from fclip.catalogue import open_catalogue
    from fclip.catalogue.schema import select_split

    return select_split(open_catalogue(list(preset.data.catalogue), format=preset.data.format), split)


def measured(run: Path, pictures: Dataset, file: Path) -> dict[str, Any]:
    """The result of `eval.surfacing` for a run's last weights, with its "epochs"; read where it is there."""
    from eval.surfacing import evaluate_surfacing
    from fclip.checkpoint import load_checkpoint
    from fclip.files import read_json

    if not file.is_file():
        result = evaluate_surfacing(load_checkpoint(run / "last"), pictures, progress=sys.stderr.isatty())
        result["epochs"] = read_json(run / "done.json", "a finished run")["epochs"]
        write(file, result)
    return read_json(file, "a result")


def write(file: Path, value: Any) -> None:
    """JSON in one line."""
    from fclip.files import writable, write_json

    write_json(writable(file), value, indent=None)


def say(line: str) -> None:
    """A line for whoever waits."""
    print(line, file=sys.stderr, flush=True)
