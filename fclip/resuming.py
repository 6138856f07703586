"""What a killed run continues from: `OUT/last` is written whole or not at all, checked when read, then taken up.

    save_last(run)                       # OUT/last; the one before it becomes OUT/previous
    continue_from(run, Path("OUT/last"))

At every instant of the writing a whole checkpoint is on the disk (`fclip.files.new_folder`): a process killed there
costs the steps since the last save and nothing else.
"""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate.utils import gather_object
from torch import Tensor

from fclip.checkpoint import damaged_file, write_checksums, write_model
from fclip.config import dump_preset
from fclip.errors import UserError
from fclip.files import new_folder, recover, writable, write_json
from fclip.lora import merged
from fclip.sharding import load_optimizer_state, optimizer_state
from fclip.weights import read_weights

if TYPE_CHECKING:
    from fclip.training import Run

# Keys of a preset that change no weight.
MAY_CHANGE = ("out:", "workers:", "track:", "save_every:", "patience:", "features:")


def save_last(run: Run) -> None:
    """Writes `last`: the model and everything that resuming needs. All processes call it, the main one writes."""
    random = gather_object([_random_state()])
    clip, optimizer = run.whole(), optimizer_state(run.optimizer)
    if not run.accelerator.is_main_process:
        return
    state = {
        "optimizer": optimizer,
        "start": run.start,
        "unmerged": clip.state_dict() if run.preset.lora.rank else None,
        "average": run.average.state_dict() if run.average is not None else None,
        "random": random,
        "step": run.step,
        "best": run.best,
        "minutes": run.minutes,
        "history": run.history,
        "skipped": list(run.skipped),
    }
    keep = run.out / "previous" if run.keeps_last else None
    with new_folder(run.out / "last", overwrite=True, keep=keep) as folder:
        with run.holding(merged(clip)) as model:
            write_model(model, folder)
        with (folder / "state.pt").open("wb") as stream:  # torch's own writer does not say why it fails
            torch.save(state, stream)
        run.write_about(folder, run.history[-1] if run.history else {})
        write_checksums(folder)
    run.keeps_last = True
    write_json(run.out / "history.json", run.history)


def _random_state() -> dict[str, Tensor | None]:
    """Of this process: each draws its own dropout and negatives."""
    return {"cpu": torch.get_rng_state(), "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None}


def recover_run(out: Path) -> None:
    """Clears up after a run that was killed while it wrote a checkpoint: afterwards OUT/last is whole if any was."""
    for name in ("last", "previous", "best"):
        recover(out / name)


def continue_from(run: Run, folder: Path) -> None:
    """Puts a run where the one that wrote this `last` or `previous` folder was.

    Raises:
        UserError: nothing to resume there, a damaged checkpoint, or one of another model, preset or launch.
    """
    if run.accelerator.is_main_process:
        recover_run(folder.parent)
    run.accelerator.wait_for_everyone()
    check_checkpoint(folder, run.preset, MAY_CHANGE)
    state = torch.load(folder / "state.pt", map_location="cpu", weights_only=True)
    was, now = len(state["random"]), run.accelerator.num_processes
    if was != now:
        raise UserError(f"the run in {folder} had {was} processes, this one has {now}; launch as many as before")
    weights = state["unmerged"] or read_weights(folder / "model.safetensors")
    run.take_weights(weights, str(folder))
    run.start = state["start"]
    load_optimizer_state(run.optimizer, state["optimizer"])
    if run.average is not None:
        run.average.load_state_dict(state["average"])
    run.step, run.best, run.minutes = state["step"], state["best"], state["minutes"]
    run.history, run.skipped = state["history"], dict.fromkeys(state["skipped"])
    run.keeps_last = _same(folder, run.out / "last")  # else what is kept is what it came from
    if run.accelerator.is_main_process:
        _take_best_along(run, folder.parent)
        write_json(writable(run.out / "history.json"), run.history)
    _set_random_state(state["random"][run.accelerator.process_index])


def check_checkpoint(folder: Path, config: Any, may_change: tuple[str, ...]) -> None:
    """Whether a run with this preset can continue from a folder.

    Args:
        folder: OUT/last or OUT/previous.
        config: a dataclass of settings.
        may_change: keys of it that need not be as they were, each with its colon.

    Raises:
        UserError: no checkpoint there, a damaged one, or one of another preset.
    """
    _check_files(folder)
    was, now = (folder / "preset.yaml").read_text().split("\n"), dump_preset(config).split("\n")
    changed = [f"{b.strip()} (was {a.strip()})" for a, b in zip(was, now, strict=False) if a != b]
    changed = [line for line in changed if not line.startswith(may_change)]
    if changed:
        raise UserError(f"the run in {folder} had another preset: {'; '.join(changed[:3])}; resume it unchanged")


def _check_files(folder: Path) -> None:
    other = folder.parent / "previous"
    hint = ""
    if not _same(folder, other) and (other / "state.pt").is_file():
        hint = f"; the checkpoint before it can be continued with --resume {other}"
    if (folder / "last" / "state.pt").is_file():
        hint = f"; did you mean {folder / 'last'}?"
    if not (folder / "state.pt").is_file():
        found = f"found no state.pt in {folder}" if folder.is_dir() else f"there is no folder {folder}"
        raise UserError(f"expected a training checkpoint (OUT/last), {found}{hint}")
    damaged = damaged_file(folder)
    if damaged:
        raise UserError(f"{folder / damaged} is damaged: it is not what was written{hint or '; copy the folder again'}")


def _take_best_along(run: Run, old_out: Path) -> None:
    """A run that continues in another OUT brings its best there; where there is none, the next measured is the best."""
    theirs, ours = old_out / "best", run.out / "best"
    if theirs.is_dir() and not _same(theirs, ours):
        with new_folder(ours, overwrite=True) as folder:
            shutil.copytree(theirs, folder, dirs_exist_ok=True)
    if not ours.is_dir():
        run.best = -math.inf


def _set_random_state(state: dict[str, Any]) -> None:
    torch.set_rng_state(state["cpu"])
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


def _same(a: Path, b: Path) -> bool:
    return a.resolve() == b.resolve()
