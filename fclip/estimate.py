"""What a run will cost, before it: some real steps are taken and timed, nothing is written.

    run = Run(preset, model, pictures, None)
    speed = measure_speed(run)
    print("\\n".join(estimate(run, speed, evaluation_seconds=4.2).lines()))

The steps change the run's model, so it is of no use afterwards.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from fclip.augmentation import training_sizes
from fclip.batches import TrainingPictures, training_batches
from fclip.features import try_features
from fclip.lora import merged
from fclip.optimisation import tower_of
from fclip.pace import Pace, peak_memory_gib
from fclip.tokenizer import truncated_share
from fclip.training import Run, checked_order, on_device

STEPS = 52  # at most; the first twelve or fewer warm up and empty the loader's queue
SPAN_STEPS, SPAN_SECONDS = 10, 1.0  # a span ends after so many steps, or sooner when they are slow
LIMIT_SECONDS = 60.0
BUSY = 1.3  # from here on it is said that the machine does other things
LOCKED = "the locked image tower, once for every picture; nothing where its features are kept from before"
TOWERS = {"image": "image tower", "head": "projection", "stn": "transformer", "text": "text tower", "scale": "scale"}


@dataclass(frozen=True)
class Speed:
    """Real training steps of all processes together, loading included."""

    images_per_second: float
    step_seconds: float
    data_wait: float  # share of the time
    busy: float = 1.0  # the median span's time as a multiple of the fastest's: what else the machine does
    encoding_seconds: float = 0.0  # of all pictures by a locked tower, once and before the steps
    features_bytes: int = 0  # that it leaves in OUT


@dataclass(frozen=True)
class Estimate:
    """What is printed before a run."""

    pictures: int
    steps: int
    epochs: float
    speed: Speed
    evaluations: int
    evaluation_seconds: float  # of one
    memory_gib: float
    checkpoint_bytes: int  # OUT/last
    disk_bytes: int  # that OUT needs at most
    free_bytes: int
    towers: dict[str, tuple[int, int]]  # tower → parameters that learn, that stay
    truncated: float  # share of the captions

    def minutes(self) -> tuple[float, float]:
        """Of training, of evaluation."""
        return self.steps * self.speed.step_seconds / 60, self.evaluations * self.evaluation_seconds / 60

    def lines(self) -> list[str]:
        """The estimate in words, one line for each thing."""
        training, evaluation = self.minutes()
        speed, each = self.speed, _seconds(self.evaluation_seconds)
        busy = f"; half of the spans took {speed.busy:.1f} times as long: the machine is busy"
        room = "" if self.disk_bytes < self.free_bytes else ": TOO LITTLE; set out=… on another disk"
        return [
            f"pictures      {self.pictures:,}, {self.truncated:.1%} of their captions truncated",
            f"steps         {self.steps:,} in {self.epochs:g} epochs",
            f"speed         {speed.images_per_second:.0f} images/s, {_seconds(speed.step_seconds)} per step, "
            f"of which {speed.data_wait:.0%} waiting for data{busy if speed.busy > BUSY else ''}",
            *([f"encoding      {_minutes(speed.encoding_seconds / 60)}: {LOCKED}"] if speed.encoding_seconds else []),
            f"training      {_minutes(training)}",
            f"evaluation    {_minutes(evaluation)}: {self.evaluations} times {each}",
            f"memory        {self.memory_gib:.1f} GiB at its peak",
            f"checkpoint    {_size(self.checkpoint_bytes)} to resume from; at most {_size(self.disk_bytes)} on disk, "
            f"{_size(self.free_bytes)} free{room}",
            *(f"{TOWERS[name]:<14}{_learns(*counts)}" for name, counts in self.towers.items()),
        ]


def estimate(run: Run, speed: Speed, evaluation_seconds: float) -> Estimate:
    """All that is known before a run, and after `measure_speed`."""
    preset, order = run.preset, run.order()
    checkpoint, disk = disk_use(run)
    return Estimate(
        pictures=len(run.pictures),
        steps=order.steps,
        epochs=preset.epochs,
        speed=speed,
        evaluations=math.ceil(preset.epochs / preset.eval_every),
        evaluation_seconds=evaluation_seconds,
        memory_gib=peak_memory_gib(),
        checkpoint_bytes=checkpoint,
        disk_bytes=disk + speed.features_bytes,
        free_bytes=shutil.disk_usage(_existing(run.out)).free,
        towers=what_learns(run.model.clip),
        truncated=truncated_share(run.model.tokenizer, run.pictures.texts),
    )


def measure_speed(run: Run, steps: int = STEPS, limit_seconds: float = LIMIT_SECONDS) -> Speed:
    """Takes some steps of a new run and times them, loading included.

    The fastest of several spans counts: whatever else the machine did, it did not make the others faster. Pictures that
    grow (`data.first_size`) are timed at their first and last size. Where a locked tower encodes each picture once, it
    is timed by itself, and the steps without it.

    Raises:
        UserError: fewer pictures than one batch.
    """
    preset = run.preset
    checked_order(run)
    sizes = training_sizes(run.model.preprocess.size, preset.data.first_size, preset.epochs)
    areas = [height * width for height, width in sizes]
    ends = (0,) if areas[0] == areas[-1] else (0, len(sizes) - 1)
    pictures, encoding_seconds, features_bytes = _seen(run)
    spans = [_fastest_span(run, pictures, epoch, steps, limit_seconds / len(ends)) for epoch in ends]
    seconds = mean_step_seconds(areas, spans[0]["step_seconds"], spans[-1]["step_seconds"])
    wait, busy = (sum(span[key] for span in spans) / len(spans) for key in ("data_wait", "busy"))
    rate = preset.batch_size * run.accelerator.num_processes / seconds
    return Speed(rate, seconds, wait, busy, encoding_seconds, features_bytes)


def _seen(run: Run) -> tuple[TrainingPictures, float, int]:
    """What the steps will see, and seconds and bytes of it where that is a locked tower's features."""
    cut = None if run.preset.optim.head_epochs else run.lasting_cut(False)
    if cut is None:
        return run.pictures, 0.0, 0
    with run.accelerator.autocast():
        features, seconds = try_features(run.accelerator, run.model, cut, run.pictures, run.preset.data.workers)
    size = 0 if run.preset.features else features.values.nbytes
    return run.pictures.with_features(features), _mean_over_processes(run, seconds), size


def mean_step_seconds(areas: Sequence[int], first: float, last: float) -> float:
    """The mean over epochs of what a step takes, on the line through the first and the last epoch's area."""
    if areas[0] == areas[-1]:
        return first
    shares = [(area - areas[0]) / (areas[-1] - areas[0]) for area in areas]
    return first + (last - first) * sum(shares) / len(shares)


def some_batches(run: Run, steps: int, pictures: TrainingPictures | None = None) -> DataLoader:
    """So many batches of the run's present epoch, again from its beginning where the epoch is too short.

    Of the run's pictures, or others with the same rows.
    """
    order = run.order()
    chosen = list(islice(order, min(steps, order.steps_per_epoch)))
    repeated = list(islice(cycle(chosen), steps))
    return training_batches(pictures or run.pictures, run.model.tokenizer, repeated, run.preset.data.workers)


def _fastest_span(
    run: Run, pictures: TrainingPictures, epoch: int, steps: int, limit_seconds: float
) -> dict[str, float]:
    """What `Pace` tells of it, and `Speed.busy`.

    All processes measure the same spans: one that ended earlier would leave the others waiting for ever.
    """
    order = run.order()
    run.step = epoch * order.steps_per_epoch
    pace = Pace(run.preset.batch_size * run.accelerator.num_processes)
    spans: list[dict[str, float]] = []
    spent, length, until = 0.0, 1, 1  # the first two spans have one step: one that sets up, one that tells the length
    for number, batch in enumerate(on_device(run, pace.waiting(some_batches(run, steps, pictures))), start=1):
        loss = run.take_step(batch, order.steps)["loss"]
        if number < until:
            continue
        loss.item()  # a GPU is done only now
        span = pace.look()
        span["step_seconds"] = _mean_over_processes(run, span["step_seconds"])
        spans.append(span)
        spent += length * span["step_seconds"]
        if spent > limit_seconds and len(spans) > 1:
            break
        if len(spans) > 1:
            length = max(1, min(SPAN_STEPS, round(SPAN_SECONDS / span["step_seconds"])))
        until = number + length
        pace.restart()
    warm = sorted(spans[3:] or spans[-1:], key=lambda span: span["step_seconds"])
    return warm[0] | {"busy": warm[len(warm) // 2]["step_seconds"] / warm[0]["step_seconds"]}


def _mean_over_processes(run: Run, value: float) -> float:
    return run.accelerator.reduce(torch.tensor(value, device=run.accelerator.device), "mean").item()


def what_learns(clip: nn.Module) -> dict[str, tuple[int, int]]:
    """Tower → numbers of parameters that learn and that stay, in the order of the towers."""
    counts = {tower: [0, 0] for tower in TOWERS}
    for name, parameter in clip.named_parameters():
        counts[tower_of(name)][not parameter.requires_grad] += parameter.numel()
    return {tower: (learn, stay) for tower, (learn, stay) in counts.items() if learn or stay}


def disk_use(run: Run) -> tuple[int, int]:
    """Bytes of OUT/last, and of all that OUT holds at once: best, previous, last, and the next last beside it."""
    clip = run.model.clip
    best = last = _bytes(merged(clip).state_dict())
    last += 2 * sum(p.numel() * p.element_size() for p in clip.parameters() if p.requires_grad)  # AdamW's two moments
    last += _bytes(run.start or {}) + (_bytes(clip.state_dict()) if run.preset.lora.rank else 0)
    last += _bytes(run.average.state_dict()) if run.average is not None else 0
    return last, best + 3 * last


def _bytes(state: dict[str, Tensor]) -> int:
    return sum(value.numel() * value.element_size() for value in state.values())


def _existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that is there."""
    return next(path for path in (folder.resolve(), *folder.resolve().parents) if path.exists())


def _minutes(minutes: float) -> str:
    return f"{minutes / 60:.1f} hours" if minutes >= 120 else f"{minutes:.1f} minutes"


def _seconds(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"


def _size(size: int) -> str:
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.1f} MiB"


def _learns(learn: int, stay: int) -> str:
    return f"{learn:,} parameters learn, {stay:,} stay" if stay else f"all {learn:,} parameters learn"
