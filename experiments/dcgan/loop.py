"""The loop of a DCGAN: one, on Accelerate, for one process or many.

    run = train(config, open_pictures(config))

OUT/last           generator.safetensors (averaged) and what resuming needs; OUT/previous: the one before
OUT/samples        a grid of pictures from the start and after every epoch, always from the same noise
OUT/curves.jsonl   losses and balance every few steps; OUT/curves.png: as a figure

Everything random of a step comes from (seed, step, process): a resumed run continues with what it would have drawn, and
on a CPU ends with the same weights to the last bit.
"""

from __future__ import annotations

import copy
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import Tensor
from tqdm.auto import tqdm

from experiments.dcgan.augment import augmented, draw
from experiments.dcgan.config import Dcgan
from experiments.dcgan.curves import NAMES, write_curves
from experiments.dcgan.losses import LOSSES
from experiments.dcgan.models import Discriminator, Generator, average_into, warmed
from experiments.dcgan.pictures import Pictures, loader
from experiments.dcgan.saving import continue_from, save_grid, save_last
from fclip.distributed import settle_launch
from fclip.errors import UserError
from fclip.order import BatchOrder


class Run:
    """The state of one run: what a step changes and a checkpoint holds."""

    def __init__(self, config: Dcgan) -> None:
        settle_launch()
        self.config, self.out = config, Path(config.out)
        self.accelerator = Accelerator()
        set_seed(config.seed)
        generator = Generator(config.net, config.size_px)
        discriminator = Discriminator(config.net, config.size_px)
        optim, betas = config.optim, (config.optim.beta1, config.optim.beta2)
        self.average = copy.deepcopy(generator).to(self.accelerator.device).eval().requires_grad_(False)
        self.generator, self.discriminator, self.adam_g, self.adam_d = self.accelerator.prepare(
            generator,
            discriminator,
            torch.optim.Adam(generator.parameters(), lr=optim.generator_lr, betas=betas),
            torch.optim.Adam(discriminator.parameters(), lr=optim.discriminator_lr, betas=betas),
        )
        # Without the wrapper that averages gradients: for passes whose gradients are not wanted.
        self.bare_g, self.bare_d = map(self.accelerator.unwrap_model, (self.generator, self.discriminator))
        self.step, self.minutes = 0, 0.0
        self.history: list[dict[str, float]] = []

    def take_step(self, real: Tensor) -> Tensor:
        """One step of each network; returns what a point of the curves is made of (`curves.NAMES`)."""
        config, draws = self.config, self._draws()
        of_discriminator, of_generator = LOSSES[config.optim.loss]
        real = real.to(self.accelerator.device)
        first, second = (torch.randn(len(real), config.net.latent, generator=draws).to(real.device) for _ in range(2))
        policy = [draw(config.optim.augment, len(real), config.size_px, draws) for _ in range(2)]

        with torch.no_grad(), self.accelerator.autocast():
            fake = self.bare_g(first)
        judged_real, judged_fake = self.discriminator(augmented(real, policy[0]), augmented(fake, policy[0]))
        loss_d = of_discriminator(judged_real, judged_fake)
        self._learn(loss_d, self.adam_d)

        self.bare_d.requires_grad_(False)  # its gradients are not wanted, only what passes through it
        [judged] = self.bare_d(augmented(self.generator(second), policy[1]))
        loss_g = of_generator(judged)
        self._learn(loss_g, self.adam_g)
        self.bare_d.requires_grad_(True)

        self.step += 1
        average_into(self.average, self.bare_g, warmed(config.optim.ema, self.step))
        right = (judged_real > 0).float().mean(), (judged_fake < 0).float().mean()
        return torch.stack([loss_d, loss_g, judged_real.mean(), judged_fake.mean(), *right]).detach()

    def _learn(self, loss: Tensor, optimizer: Any) -> None:
        optimizer.zero_grad()
        self.accelerator.backward(loss)
        optimizer.step()

    def _draws(self) -> torch.Generator:
        """The random numbers of this step and process."""
        key = [self.config.seed, self.step, self.accelerator.process_index]
        return torch.Generator().manual_seed(int(np.random.default_rng(key).integers(1 << 62)))


def train(config: Dcgan, pictures: Pictures, resume: Path | None = None) -> Run:
    """Teaches both networks.

    Args:
        resume: OUT/last or OUT/previous of an interrupted run of the same preset.

    Raises:
        UserError: too few pictures, a checkpoint of another run, a loss that is not finite, or not enough memory.
    """
    run = Run(config)
    process, processes = run.accelerator.process_index, run.accelerator.num_processes
    per_epoch = len(pictures) // (config.batch_size * processes)
    if not per_epoch:
        raise UserError(
            f"expected at least {config.batch_size * processes} pictures to train on, got {len(pictures)}; name more "
            "pictures (a GAN wants thousands) or set batch_size lower"
        )
    if resume:
        continue_from(run, resume)
    order = BatchOrder(len(pictures), config.batch_size, config.epochs, config.seed, process, processes, run.step)
    try:
        _loop(run, loader(pictures, order, config.workers), per_epoch)
    except (torch.OutOfMemoryError, RuntimeError) as error:
        if not isinstance(error, torch.OutOfMemoryError) and "allocate memory" not in str(error):
            raise
        raise UserError(f"not enough memory; set batch_size (now {config.batch_size}) or net.width lower") from None
    run.accelerator.end_training()
    return run


def _loop(run: Run, batches: Any, per_epoch: int) -> None:
    config, main = run.config, run.accelerator.is_main_process
    total = per_epoch * config.epochs
    bar = tqdm(total=total, initial=run.step, disable=not main, desc="training", unit="step", dynamic_ncols=True)
    points: list[Tensor] = []
    clock = time.monotonic()
    if run.step == 0 and main:
        save_grid(run, 0)
    for real in batches:
        points.append(run.take_step(real))
        bar.update()
        epoch, within = divmod(run.step, per_epoch)
        run.minutes, clock = run.minutes + (time.monotonic() - clock) / 60, time.monotonic()
        if run.step % config.report_every == 0 or not within:
            _report(run, points, bar)
        if not within and main:
            save_grid(run, epoch)
            write_curves(run.history, run.out)
            if epoch % config.save_every == 0 or epoch == config.epochs:
                save_last(run)
        clock = time.monotonic()  # what was drawn and written is no training
    bar.close()


def _report(run: Run, points: list[Tensor], bar: tqdm) -> None:
    """Adds a point to the curves; always before a checkpoint, so that a bad one does not replace a sound one."""
    mean = run.accelerator.reduce(torch.stack(points).mean(0), "mean").tolist()
    points.clear()
    point = dict(zip(NAMES, mean, strict=True))
    if not all(map(math.isfinite, mean)):
        raise UserError(f"the loss is not finite at step {run.step}; lower optim.discriminator_lr and generator_lr")
    bar.set_postfix({name: f"{point[name]:.2f}" for name in ("loss_d", "loss_g")})
    run.history.append({"step": run.step, "minutes": round(run.minutes, 3)} | point)
