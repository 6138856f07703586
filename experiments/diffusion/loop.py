"""The loop that teaches adapters: one, on Accelerate, for fine-tuning and DreamBooth, for one process or many.

    run = train(config, pipe, batches, validation)

OUT/last       adapters in diffusers' format and what resuming needs; OUT/previous: the one before
OUT/lora       the adapters at the end: pipe.load_lora_weights("OUT/lora")
OUT/samples    a grid of pictures every so often, always from the same noise
OUT/history.json, OUT/logs

Everything random of a step comes from (seed, step, process): a resumed run continues with what it would have drawn, and
on a CPU ends with the same weights to the last bit.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import Tensor
from tqdm.auto import tqdm

from experiments.diffusion.adapters import (
    adapter_state,
    add_adapters,
    check_trainable,
    save_adapters,
    take_adapter_state,
)
from experiments.diffusion.config import Training
from experiments.diffusion.grids import draw_grid
from experiments.diffusion.objective import Denoiser, draw_noise
from experiments.diffusion.pictures import Batch, Batches
from fclip.checkpoint import write_checksums
from fclip.config import dump_preset
from fclip.distributed import settle_launch
from fclip.errors import UserError
from fclip.files import new_folder, recover, write_json
from fclip.machine import attend_in_blocks
from fclip.optimisation import lr_factor
from fclip.resuming import check_checkpoint

REPORT_EVERY = 10  # steps between looks at the loss: each look makes a GPU wait
MAY_CHANGE = ("out:", "save_every:", "track:", "workers:", "every:", "columns:")


class Run:
    """The state of one run: what a step changes and a checkpoint holds."""

    def __init__(self, config: Training, pipe: Any, batches: Batches, validation: Sequence[Batch] = ()) -> None:
        from diffusers import DDPMScheduler

        self.config, self.pipe, self.batches, self.validation = config, pipe, batches, validation
        self.out = Path(config.out)
        check_trainable(pipe)
        attend_in_blocks()
        self.accelerator = make_accelerator(config)
        set_seed(config.seed)
        self.scheduler = DDPMScheduler.from_config(pipe.scheduler.config)
        half = {"fp16": torch.float16, "bf16": torch.bfloat16}.get(self.accelerator.mixed_precision, torch.float32)
        pipe.to(self.accelerator.device, half)
        add_adapters(pipe, config.adapter)
        if config.gradient_checkpointing:
            pipe.unet.enable_gradient_checkpointing()
        denoiser = Denoiser(pipe.unet, pipe.text_encoder, self.scheduler, config.noise)
        self.learning = [p for p in denoiser.parameters() if p.requires_grad]
        optim = config.optim
        betas = (optim.beta1, optim.beta2)
        optimizer = torch.optim.AdamW(self.learning, lr=optim.lr, betas=betas, weight_decay=optim.weight_decay)
        self.denoiser, self.optimizer = self.accelerator.prepare(denoiser, optimizer)
        self.step, self.minutes = 0, 0.0
        self.history: list[dict[str, float]] = []

    def take_step(self, batch: Batch) -> Tensor:
        """One optimiser step; returns the loss, detached."""
        config, size = self.config, len(batch["weights"])
        for group in self.optimizer.param_groups:
            group["lr"] = config.optim.lr * rate(self.step, self.batches.steps, config)
        self.denoiser.train()
        draws = self._draws(self.step, self.accelerator.process_index)
        parts, micro = [], config.micro_batch or size
        latents, tokens, noise, levels = self.prepared(batch, draws)
        weights = batch["weights"].to(latents.device) / config.batch_size
        for first in range(0, size, micro):
            part = slice(first, first + micro)
            waits = first + micro < size
            with self.accelerator.no_sync(self.denoiser) if waits else nullcontext():
                losses = self.denoiser(latents[part], tokens[part], noise[part], levels[part])
                loss = (losses * weights[part]).sum()
                self.accelerator.backward(loss)
            parts.append(loss.detach())
        if config.optim.clip_norm:
            self.accelerator.clip_grad_norm_(self.learning, config.optim.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step += 1
        return torch.stack(parts).sum()

    def _draws(self, step: int, process: int) -> torch.Generator:
        """The random numbers of a step; those of dropout, which come from the global generator, too."""
        seed = int(np.random.default_rng([self.config.seed, step, process]).integers(1 << 62))
        torch.manual_seed(seed)
        return torch.Generator().manual_seed(seed)

    @torch.no_grad()
    def prepared(self, batch: Batch, draws: torch.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Latents, tokens, noise and levels of a batch, where the model is."""
        vae, device = self.pipe.vae, self.accelerator.device
        pixels = batch["pixels"].to(device, vae.dtype)
        latents = vae.encode(pixels).latent_dist.sample(draws).float() * vae.config.scaling_factor
        noise = draw_noise(latents.shape, self.config.noise.offset, draws)
        levels = torch.randint(self.scheduler.config.num_train_timesteps, (len(latents),), generator=draws)
        return latents, self.tokens(batch["prompts"]), noise.to(device), levels.to(device)

    def tokens(self, prompts: Sequence[str]) -> Tensor:
        """(B, L), cut at the encoder's length as diffusers does."""
        tokenizer = self.pipe.tokenizer
        options = {"padding": "max_length", "truncation": True, "max_length": tokenizer.model_max_length}
        return tokenizer(list(prompts), return_tensors="pt", **options).input_ids.to(self.accelerator.device)

    @torch.no_grad()
    def validate(self) -> float | None:
        """Mean loss on pictures that are never learned from, with noise that never changes; on the main process."""
        if not self.validation or not self.accelerator.is_main_process:
            return None
        denoiser, losses = self.accelerator.unwrap_model(self.denoiser).eval(), []
        for number, batch in enumerate(self.validation):
            with self.accelerator.autocast():
                losses.append(denoiser(*self.prepared(batch, torch.Generator().manual_seed(number))))
        return float(torch.cat(losses).mean())


def train(
    config: Training, pipe: Any, batches: Batches, validation: Sequence[Batch] = (), resume: Path | None = None
) -> Run:
    """Teaches adapters.

    Args:
        pipe: from `open_pipeline`.
        batches: what is learned from.
        validation: batches whose loss is told along the way.
        resume: OUT/last or OUT/previous of an interrupted run of the same preset.

    Raises:
        UserError: another model than Stable Diffusion, a checkpoint of another run, a loss that is not finite, or not
            enough memory.
    """
    run = Run(config, pipe, batches, validation)
    if resume:
        continue_from(run, resume)
    run.accelerator.init_trackers(
        "", config={"lr": config.optim.lr, "model": config.model, "rank": config.adapter.rank}
    )
    try:
        _loop(run)
    except (torch.OutOfMemoryError, RuntimeError) as error:
        if not isinstance(error, torch.OutOfMemoryError) and "allocate memory" not in str(error):
            raise
        raise UserError(f"not enough memory at step {run.step}; set micro_batch=1, gradient_checkpointing=true or a "
                        f"smaller size_px (now {config.size_px})") from None  # fmt: skip
    if run.accelerator.is_main_process:
        with new_folder(run.out / "lora", overwrite=True) as folder:
            save_adapters(pipe, folder)
            (folder / "preset.yaml").write_text(dump_preset(config))
    run.accelerator.end_training()
    return run


def make_accelerator(config: Training) -> Accelerator:
    """As training has it: bfloat16 on GPUs that have it, unless the launch chose."""
    settle_launch()
    launched = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    bf16 = config.bf16_on_gpu and launched == "no" and torch.cuda.is_available() and torch.cuda.is_bf16_supported()
    tracker = None if config.track == "none" else config.track
    return Accelerator(mixed_precision="bf16" if bf16 else None, log_with=tracker, project_dir=f"{config.out}/logs")


def rate(step: int, steps: int, config: Training) -> float:
    """The learning rate of a step as a share of its peak."""
    if config.optim.schedule == "cosine":
        return lr_factor(step, steps, config.optim.warmup)
    return min(1.0, (step + 1) / max(1, round(steps * config.optim.warmup)))


def _loop(run: Run) -> None:
    config, steps, main = run.config, run.batches.steps, run.accelerator.is_main_process
    bar = tqdm(total=steps, initial=run.step, disable=not main, desc="training", unit="step", dynamic_ncols=True)
    losses: list[Tensor] = []
    clock = time.monotonic()
    if run.step == 0:
        _sample(run)
    for batch in run.batches.from_step(run.step):
        losses.append(run.take_step(batch))
        run.minutes, clock = run.minutes + (time.monotonic() - clock) / 60, time.monotonic()
        bar.update()
        ends = run.step == steps
        saves = ends or (config.save_every and run.step % config.save_every == 0)
        if run.step % REPORT_EVERY == 0 or saves:  # always before a save: it must not replace a sound checkpoint
            _report(run, losses, bar)
        if config.samples.every and (ends or run.step % config.samples.every == 0):
            _sample(run)
        if saves and main:
            save_last(run)
        clock = time.monotonic()  # what was drawn and written is no training
    bar.close()


def _report(run: Run, losses: list[Tensor], bar: tqdm) -> None:
    mean = run.accelerator.reduce(torch.stack(losses).mean(), "mean").item()
    losses.clear()
    if not math.isfinite(mean):
        raise UserError(f"the loss is {mean} at step {run.step}; lower optim.lr (now {run.config.optim.lr})")
    bar.set_postfix(loss=f"{mean:.4f}")
    run.history.append({"step": run.step, "minutes": run.minutes, "loss": mean})
    run.accelerator.log({"loss": mean, "lr": run.optimizer.param_groups[0]["lr"]}, step=run.step)


def _sample(run: Run) -> None:
    """A grid of pictures and the validation loss; the main process does, the others need not wait."""
    samples = run.config.samples
    if not samples.every or not run.accelerator.is_main_process:
        return
    loss = run.validate()
    if loss is not None:
        run.history.append({"step": run.step, "minutes": run.minutes, "val_loss": loss})
        run.accelerator.log({"val_loss": loss}, step=run.step)
        tqdm.write(f"step {run.step}: validation loss {loss:.4f}")
    folder = run.out / "samples"
    folder.mkdir(parents=True, exist_ok=True)
    prompts = list(samples.prompts) or run.batches.prompts
    with run.accelerator.autocast():
        draw_grid(run.pipe, prompts, samples, run.config.size_px).save(folder / f"step-{run.step:06}.png")


def save_last(run: Run) -> None:
    """Writes OUT/last, whole or not at all; the one before it becomes OUT/previous."""
    state = {
        "adapters": adapter_state(run.pipe),
        "optimizer": run.optimizer.state_dict(),
        "step": run.step,
        "minutes": run.minutes,
        "history": run.history,
        "processes": run.accelerator.num_processes,
    }
    with new_folder(run.out / "last", overwrite=True, keep=run.out / "previous") as folder:
        save_adapters(run.pipe, folder)
        with (folder / "state.pt").open("wb") as stream:
            torch.save(state, stream)
        (folder / "preset.yaml").write_text(dump_preset(run.config))
        write_checksums(folder)
    write_json(run.out / "history.json", run.history)


def continue_from(run: Run, folder: Path) -> None:
    """Puts a run where the one that wrote this folder was.

    Raises:
        UserError: nothing to resume there, a damaged checkpoint, or one of another preset or number of processes.
    """
    if run.accelerator.is_main_process:
        recover(folder)
    run.accelerator.wait_for_everyone()
    check_checkpoint(folder, run.config, MAY_CHANGE)
    state = torch.load(folder / "state.pt", map_location="cpu", weights_only=True)
    if state["processes"] != run.accelerator.num_processes:
        raise UserError(f"the run in {folder} had {state['processes']} processes; launch as many as before")
    take_adapter_state(run.pipe, state["adapters"])
    run.optimizer.load_state_dict(state["optimizer"])
    run.step, run.minutes, run.history = state["step"], state["minutes"], state["history"]
