"""A learning rate from a range test (Smith 2017, "Cyclical Learning Rates", section 3.3): the rate rises every step.

    sweep = find_lr(preset, model, pictures)
    print(sweep.suggested)

The rate grows exponentially over some hundred real steps of a copy of the model. Where the loss falls fastest is a good
peak, unless a tenth of the rate at which it rises again is less. Every part keeps its factor (`optim.text_lr` and so
on): what is swept is `optim.lr`.
"""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from fclip.batches import TrainingPictures
from fclip.config import Preset
from fclip.errors import UserError
from fclip.estimate import some_batches
from fclip.files import writable, write_json
from fclip.model import Model
from fclip.training import Run, checked_order, on_device

LOW, HIGH, STEPS = 1e-8, 1.0, 120
SMOOTH_STEPS = 3.0  # standard deviation of the bell that the losses are averaged with
EXPLODED = 4.0  # times the first loss: nothing is left to learn from


@dataclass(frozen=True)
class Sweep:
    """What a range test saw, and what follows from it.

    Attributes:
        rates: `optim.lr` at each step, rising.
        losses: before the step at that rate.
        smooth: the losses averaged over neighbouring steps.
        steepest: the rate at which the loss fell fastest.
        diverges: the rate at which a quarter of the fall was lost again, or the loss exploded (a contrastive one ends
            at the logarithm of the batch size instead); None: at none of them.
    """

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    smooth: tuple[float, ...]
    steepest: float
    diverges: float | None

    @property
    def suggested(self) -> float:
        """The lesser of the steepest rate and a tenth of the one that diverges, to two digits."""
        return float(f"{min(self.steepest, (self.diverges or math.inf) / 10):.1e}")


def find_lr(
    preset: Preset,
    model: Model,
    pictures: TrainingPictures,
    low: float = LOW,
    high: float = HIGH,
    steps: int = STEPS,
) -> Sweep:
    """Sweeps `optim.lr` on a copy; the model and all random numbers stay as they are.

    A first stage (`optim.head_epochs`) is left out: the rate is that of the stage in which everything learns.

    Raises:
        UserError: fewer pictures than one batch, or a loss that never fell.
    """
    optim = replace(preset.optim, lr=1.0, warmup=0.0, head_epochs=0.0, ema=0.0, wise_ft=1.0)
    with same_random_numbers():
        run = Run(replace(preset, optim=optim, track="none"), copy.deepcopy(model), pictures, None)
        checked_order(run)
        shares = [group["peak"] for group in run.optimizer.param_groups]
        batches = on_device(run, some_batches(run, steps))

        def step(rate: float) -> float:
            for group, share in zip(run.optimizer.param_groups, shares, strict=True):
                group["peak"] = share * rate
            run.step = 0  # the first of a run without a warm-up: at the full rate
            return run.take_step(next(batches), steps)["loss"].item()

        return read_sweep(*sweep(step, low, high, steps))


def sweep(
    step: Callable[[float], float], low: float, high: float, steps: int
) -> tuple[list[float], list[float], float | None]:
    """Rates from `low` to `high`, the losses that `step` gives for them, and the rate that made the loss explode."""
    rates: list[float] = []
    losses: list[float] = []
    for rate in np.geomspace(low, high, steps).tolist():
        loss = step(rate)
        if not math.isfinite(loss) or (losses and loss > EXPLODED * losses[0]):
            return rates, losses, rate
        rates.append(rate)
        losses.append(loss)
    return rates, losses, None


def read_sweep(rates: list[float], losses: list[float], exploded: float | None = None) -> Sweep:
    """Where the loss falls fastest, and where it rises again.

    Raises:
        UserError: fewer than ten steps, or a loss that never fell by more than it wavers.
    """
    if len(losses) < 10:
        raise UserError(f"expected a sweep of at least 10 steps, the loss exploded after {len(losses)}; begin it lower")
    smooth = smoothed(losses)
    lowest = int(smooth.argmin())
    wavers = float(np.abs(np.asarray(losses) - smooth)[: lowest + 1].mean())
    if smooth[0] - smooth[lowest] <= 2 * wavers:
        raise UserError(
            f"no learning rate from {rates[0]:.0e} to {rates[-1]:.0e} made the loss fall by more than it wavers "
            f"({smooth[0]:.3f} to {smooth[lowest]:.3f}); set batch_size higher, or keep the preset's rate"
        )
    slopes = np.gradient(smooth, np.log(rates))
    steepest = int(slopes[: lowest + 1].argmin())
    lost = np.flatnonzero(smooth[lowest:] > smooth[lowest] + (smooth[0] - smooth[lowest]) / 4)
    diverges = rates[lowest + int(lost[0])] if len(lost) else exploded
    return Sweep(tuple(rates), tuple(losses), tuple(smooth.tolist()), rates[steepest], diverges)


def smoothed(losses: list[float]) -> np.ndarray:
    """Averages under a bell around each step: a running mean would lag behind, by what is half a decade."""
    places = np.arange(len(losses))
    bell = np.exp(-0.5 * ((places[:, None] - places[None]) / SMOOTH_STEPS) ** 2)
    return bell @ np.asarray(losses) / bell.sum(axis=1)


@contextmanager
def same_random_numbers() -> Iterator[None]:
    """Whatever is drawn or seeded inside, outside the next random numbers are those that would have come."""
    kept = random.getstate(), np.random.get_state(), torch.get_rng_state()
    on_gpu = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    try:
        yield
    finally:
        random.setstate(kept[0])
        np.random.set_state(kept[1])
        torch.set_rng_state(kept[2])
        if on_gpu:
            torch.cuda.set_rng_state_all(on_gpu)


def save_sweep(sweep: Sweep, folder: str | Path) -> None:
    """Writes lr.json and lr.png."""
    from matplotlib.figure import Figure

    values = {"suggested": sweep.suggested, "steepest": sweep.steepest, "diverges": sweep.diverges}
    file = writable(Path(folder) / "lr.json")
    write_json(file, {**values, "rates": sweep.rates, "losses": sweep.losses})
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    axes.semilogx(sweep.rates, sweep.losses, ".", color="#bbb", label="loss")
    axes.semilogx(sweep.rates, sweep.smooth, color="#444", label="smoothed")
    axes.axvline(sweep.suggested, color="#c33", label=f"suggested: {sweep.suggested:.1e}")
    axes.set(xlabel="optim.lr", ylabel="loss before the step")
    axes.legend()
    figure.savefig(file.with_name("lr.png"), dpi=120)
