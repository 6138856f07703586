"""Time to quality: how long ours needs for the best that open_clip's trainer reaches from the same start.

    found = race_to_quality(load_preset("experiments/presets/catalogue_cpu.yaml"), minutes=30)

Both measure the validation split after every epoch, outside their clocks. open_clip's cosine ends with the minutes (its
speed is measured first); ours is the preset as it stands, its checkpoints and all in its time.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fclip.errors import UserError

if TYPE_CHECKING:
    from experiments.bench_peer import PeerRecipe
    from experiments.train import Prepared
    from fclip.config import Preset

Curve = list[dict[str, float]]
"""Entries {"seconds": of training, "text_sfa": …}."""
METRIC = "text_sfa"
TRIAL_STEPS = 6  # of open_clip's, to learn its speed


def race_to_quality(preset: Preset, minutes: float, recipe: PeerRecipe) -> dict[str, Any]:
    """Trains open_clip's way for so many minutes, then ours; returns both curves and `compare_curves`' verdict."""
    from experiments.train import prepare

    theirs = peer_curve(prepare(preset), minutes, recipe)
    ours = our_curve(preset)
    return {"open_clip": theirs, "ours": ours, **compare_curves(ours, theirs)}


def compare_curves(ours: Curve, theirs: Curve) -> dict[str, float | None]:
    """Seconds to the peer's best, of both, and their ratio; None where ours never got there."""
    best = max(entry[METRIC] for entry in theirs)
    their_seconds = seconds_to(theirs, best)
    our_seconds = seconds_to(ours, best)
    ratio = None if our_seconds is None or not their_seconds else our_seconds / their_seconds
    return {
        "open_clip_best": best,
        "ours_best": max(entry[METRIC] for entry in ours),
        "open_clip_seconds": their_seconds,
        "ours_seconds": our_seconds,
        "ratio": ratio,
    }


def seconds_to(curve: Curve, value: float) -> float | None:
    """When a curve first reached a value; None: never. It counts when it was measured: nothing is interpolated."""
    return next((entry["seconds"] for entry in curve if entry[METRIC] >= value), None)


def our_curve(preset: Preset) -> Curve:
    """A run of the preset by our own program, measured with its own clock less the measuring."""
    from experiments.train import prepare
    from fclip.training import train

    prepared = prepare(preset)
    curve: Curve = []
    clock = Clock()

    def evaluate(model: Any) -> dict[str, float]:
        with clock:
            metrics = prepared.evaluate(model)
        curve.append({"seconds": clock.seconds, METRIC: metrics[METRIC], "attribute_sfa": metrics["attribute_sfa"]})
        return metrics

    clock.start()
    train(prepared.preset, prepared.model, prepared.pictures, evaluate)
    return curve


def peer_curve(prepared: Prepared, minutes: float, recipe: PeerRecipe) -> Curve:
    """open_clip's trainer on what the preset prepared, for so many minutes of training.

    Raises:
        UserError: fewer pictures than one batch.
    """
    import torch

    from experiments.bench_peer import Peer, PeerPictures, peer_loader
    from fclip.catalogue import open_catalogue
    from fclip.catalogue.schema import select_split

    preset, model = prepared.preset, prepared.model
    catalogue = open_catalogue(preset.data.catalogue, format=preset.data.format)
    pictures = PeerPictures(select_split(catalogue, preset.data.train_split), prepared.pictures, model)
    loader = peer_loader(pictures, preset.batch_size, preset.data.workers)
    if not len(loader):
        raise UserError(f"expected at least {preset.batch_size} pictures, got {len(pictures)}; set batch_size lower")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def peer(clip: Any, steps: int) -> Peer:
        return Peer(clip, recipe, steps, device, preset.batch_size)

    epochs = peer_epochs(peer(copy.deepcopy(model.clip), 10**6), loader, minutes)
    trainer = peer(model.clip, epochs * len(loader))
    clock, curve = Clock(), []
    clock.start()
    for _ in range(epochs):
        trainer.train_epoch(loader)
        with clock:
            metrics = prepared.evaluate(model.eval())
        curve.append({"seconds": clock.seconds, METRIC: metrics[METRIC], "attribute_sfa": metrics["attribute_sfa"]})
    return curve


def peer_epochs(trial: Any, loader: Any, minutes: float) -> int:
    """How many whole epochs come nearest to the minutes, at least one, by the speed of some steps after the first."""
    batches = iter(loader)
    some = [next(batches) for _ in range(min(TRIAL_STEPS, len(loader)))]
    trial.train_epoch(some[:1])
    start = time.perf_counter()
    trial.train_epoch(some)
    step = (time.perf_counter() - start) / len(some)
    return max(1, round(minutes * 60 / (step * len(loader))))


class Clock:
    """Seconds of training: it stands still inside `with clock:`."""

    def __init__(self, now: Callable[[], float] = time.perf_counter) -> None:
        self._now, self.seconds = now, 0.0

    def start(self) -> None:
        self._since = self._now()

    def __enter__(self) -> Clock:
        self.seconds += self._now() - self._since
        return self

    def __exit__(self, *_: object) -> None:
        self.start()


def own_folder(preset: Preset, out: Path) -> Preset:
    """The preset with its checkpoints below OUT."""
    return replace(preset, out=str(out / "ours"), track="none")


def draw_curves(curves: dict[str, Sequence[dict[str, float]]], file: Path) -> None:
    """Text SFA over minutes of training, as a PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for who, curve in curves.items():
        axes.plot([e["seconds"] / 60 for e in curve], [e[METRIC] for e in curve], marker="o", label=who)
    axes.set(xlabel="minutes of training", ylabel="text SFA, validation", ylim=(0, None))
    axes.legend()
    axes.grid(alpha=0.3)
    figure.savefig(file, dpi=150)
