"""The training loop: one, on Accelerate, for one process or many.

    run = train(preset, model, pictures, evaluate)

Writes `OUT/last` (to resume from) and `OUT/best` (highest validation score), each a whole checkpoint folder, and
`OUT/history.json` (the curve). A killed run continues from `last` with the same data order and the same random
numbers, and on a CPU with bit-identical weights.
"""

from __future__ import annotations

import fnmatch
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm.auto import tqdm

from fclip.batches import BatchOrder, TrainingPictures, training_batches
from fclip.checkpoint import write_model
from fclip.config import LossConfig, Preset, dump_preset
from fclip.distributed import gather
from fclip.errors import UserError
from fclip.files import new_folder, read_json, write_json
from fclip.losses import compatible_captions, contrastive_loss, equal_captions, surfacing_loss
from fclip.model import Model

Evaluate = Callable[[Model], dict[str, float]]
REPORT_EVERY = 10  # steps between looks at the loss: each look makes a GPU wait
COLLAPSED = 0.99  # mean cosine between the pictures of a batch


class Contrastive(nn.Module):
    """A model with its loss: what is wrapped for distributed training, so that its forward is the whole step.

    Args:
        model: the two towers.
        config: which pairs attract each other.
        bank: token ids (N, L) of the distinct training captions; None without a bank.
        frequency: the share (N,) of training pictures that have each of them.
    """

    bank: Tensor  # this and the next are None without a bank
    frequency: Tensor

    def __init__(
        self, model: Model, config: LossConfig, bank: Tensor | None = None, frequency: Tensor | None = None
    ) -> None:
        super().__init__()
        self.model = model
        self.config = config
        self.register_buffer("bank", bank, persistent=False)
        self.register_buffer("frequency", frequency, persistent=False)

    def forward(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """A collated batch → {"loss": with gradient, "cosine": between pictures, for the collapse warning}."""
        model = self.model
        pixels = model.preprocess.normalise(batch["pixels"])
        image = model.encode_image(pixels)
        scale = model.clip.logit_scale
        every_image, every_text = gather(image), gather(model.encode_text(batch["tokens"]))
        loss = contrastive_loss(every_image, every_text, scale, self._positives(batch))
        if self.bank is not None:
            texts, target, inclusion = self._sampled_bank(batch["bank_index"])
            surfacing = surfacing_loss(image, model.encode_text(texts), scale, target, inclusion)
            loss = loss + self.config.surfacing * surfacing
        with torch.no_grad():
            cosine = image.detach().mean(dim=0).square().sum()
        return {"loss": loss, "cosine": cosine}

    def _positives(self, batch: dict[str, Any]) -> Tensor | None:
        if self.config.positives == "clip":
            return None
        if self.config.positives == "equal":
            return equal_captions(gather(batch["caption_ids"]))
        return compatible_captions(gather(batch["attributes"]), gather(batch["stated"]))

    def _sampled_bank(self, own: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """The whole bank, or a sample that holds the batch's own captions; where those are; the chance of each."""
        size, wanted = len(self.bank), self.config.negatives
        if size <= wanted:
            return self.bank, own, None
        others = torch.randperm(size, device="cpu")[:wanted].to(own.device)
        rows = torch.unique(torch.cat([own, others]))
        missed = (1 - self.frequency[rows]) ** len(own) * (1 - wanted / size)
        return self.bank[rows], torch.searchsorted(rows, own), 1 - missed


def parameter_groups(model: Model, preset: Preset) -> list[dict[str, Any]]:
    """AdamW's groups: learning rates by tower; no decay for vectors, scalars and what a tower exempts by name."""
    optim, exempt = preset.optim, no_weight_decay(model.clip)
    factors = {"image": optim.image_lr, "head": optim.head_lr, "text": optim.text_lr, "scale": 1.0}
    groups: dict[tuple[str, bool], dict[str, Any]] = {}
    for name, parameter in model.clip.named_parameters():
        if not parameter.requires_grad:
            continue
        tower = _tower(name)
        decays = parameter.ndim > 1 and name not in exempt
        lr = optim.lr * factors[tower]
        empty = {"params": [], "lr": lr, "peak": lr, "weight_decay": optim.weight_decay if decays else 0.0}
        groups.setdefault((tower, decays), empty)["params"].append(parameter)
    return list(groups.values())


def _tower(name: str) -> str:
    if name.startswith("visual.head."):
        return "head"
    return "image" if name.startswith("visual.") else "scale" if name.startswith("logit_") else "text"


def no_weight_decay(module: nn.Module) -> set[str]:
    """The names that any submodule exempts (timm's and open_clip's `no_weight_decay()`), as seen from `module`.

    Swin's `relative_position_bias_table` is two-dimensional and among them: looking at shapes alone would decay it.
    """
    exempt: set[str] = set()
    for prefix, child in module.named_modules():
        if callable(getattr(child, "no_weight_decay", None)):
            exempt |= {f"{prefix}.{name}" if prefix else name for name in child.no_weight_decay()}
    return exempt


def lr_factor(step: int, steps: int, warmup: float) -> float:
    """Linear warm-up over the share `warmup` of all steps, then half a cosine to zero."""
    rising = max(1, round(steps * warmup))
    if step < rising:
        return (step + 1) / rising
    return 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, steps - rising)))


def freeze(model: Model, patterns: tuple[str, ...]) -> None:
    """Freezes the parameters whose names match.

    Raises:
        UserError: a pattern matches nothing.
    """
    names = dict(model.clip.named_parameters())
    for pattern in patterns:
        chosen = fnmatch.filter(names, pattern)
        if not chosen:
            some = ", ".join(list(names)[:3])
            raise UserError(f"freeze pattern {pattern!r} matches no parameter; names look like {some}")
        for name in chosen:
            names[name].requires_grad_(False)


def _training_mode(model: nn.Module, freeze_batch_norm: bool) -> None:
    model.train()
    if freeze_batch_norm:
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()


class Run:
    """The state of one run: what a step changes and a checkpoint holds."""

    def __init__(self, preset: Preset, model: Model, pictures: TrainingPictures, evaluate: Evaluate | None) -> None:
        self.preset, self.evaluate, self.pictures = preset, evaluate, pictures
        self.out = Path(preset.out)
        bf16 = preset.bf16_on_cpu and not torch.cuda.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
        trackers = None if preset.track == "none" else preset.track
        self.accelerator = Accelerator(
            mixed_precision="bf16" if bf16 else None, log_with=trackers, project_dir=str(self.out / "logs")
        )
        set_seed(preset.seed, device_specific=True)
        freeze(model, preset.freeze)
        if preset.channels_last:
            model.to(memory_format=torch.channels_last)
        bank = model.tokenizer(pictures.bank) if preset.loss.surfacing else None
        optim = preset.optim
        optimizer = torch.optim.AdamW(parameter_groups(model, preset), betas=(optim.beta1, optim.beta2))
        wrapped = Contrastive(model, preset.loss, bank, pictures.frequency)
        self.step_module, self.optimizer = self.accelerator.prepare(wrapped, optimizer)
        self.model: Model = self.accelerator.unwrap_model(self.step_module).model
        average = get_ema_multi_avg_fn(optim.ema)
        self.average = AveragedModel(self.model.clip, multi_avg_fn=average, use_buffers=True) if optim.ema else None
        self.step, self.best, self.minutes = 0, -math.inf, 0.0
        self.history: list[dict[str, float]] = []
        self.skipped: dict[str, None] = {}

    def order(self) -> BatchOrder:
        """The batches that are left."""
        a, p = self.accelerator, self.preset
        return BatchOrder(
            len(self.pictures), p.batch_size, p.epochs, p.seed, a.process_index, a.num_processes, self.step
        )

    def take_step(self, batch: dict[str, Any], steps: int) -> dict[str, Tensor]:
        """One optimiser step; returns the step's outputs, detached."""
        factor = lr_factor(self.step, steps, self.preset.optim.warmup)
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * factor
        outputs = self.step_module(batch)
        self.accelerator.backward(outputs["loss"])
        if self.preset.optim.clip_norm:
            self.accelerator.clip_grad_norm_(self.step_module.parameters(), self.preset.optim.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.model.clamp_logit_scale()
        if self.average is not None:
            self.average.update_parameters(self.model.clip)
        self.step += 1
        return {k: v.detach() for k, v in outputs.items()}

    @contextmanager
    def averaged(self) -> Iterator[Model]:
        """The model with its averaged weights, where the preset asks for them."""
        if self.average is None:
            yield self.model
            return
        trained = self.model.clip
        self.model.clip = self.average.module
        try:
            yield self.model
        finally:
            self.model.clip = trained

    def measure(self) -> dict[str, float]:
        """The validation metrics, on the main process; a new best is written to `best`."""
        if self.evaluate is None or not self.accelerator.is_main_process:
            return {}
        with self.averaged() as model:
            model.eval()
            metrics = self.evaluate(model)
            if metrics["score"] > self.best:
                self.best = metrics["score"]
                with new_folder(self.out / "best", overwrite=True) as folder:
                    write_model(model, folder)
                    self._write_about(folder, metrics)
        _training_mode(self.step_module, self.preset.freeze_batch_norm)
        return metrics

    def save(self) -> None:
        """Writes `last`: the model and everything that resuming needs."""
        if not self.accelerator.is_main_process:
            return
        state = {
            "optimizer": self.optimizer.state_dict(),
            "average": self.average.state_dict() if self.average is not None else None,
            "random": torch.get_rng_state(),
            "step": self.step,
            "best": self.best,
            "minutes": self.minutes,
            "history": self.history,
            "skipped": list(self.skipped),
        }
        with new_folder(self.out / "last", overwrite=True) as folder:
            write_model(self.model, folder)
            torch.save(state, folder / "state.pt")
            self._write_about(folder, self.history[-1] if self.history else {})

    def _write_about(self, folder: Path, metrics: dict[str, float]) -> None:
        (folder / "preset.yaml").write_text(dump_preset(self.preset))
        write_json(folder / "metrics.json", {"step": self.step, **metrics})

    def resume(self, folder: Path) -> None:
        """Continues from a `last` folder.

        Raises:
            UserError: nothing to resume there, or a checkpoint of another model or preset.
        """
        from fclip.weights import load_state, read_weights

        if not (folder / "state.pt").is_file():
            raise UserError(f"expected a training checkpoint (OUT/last), found no state.pt in {folder}")
        was, now = (
            p.read_text() if isinstance(p, Path) else p for p in (folder / "preset.yaml", dump_preset(self.preset))
        )
        changed = [
            f"{b.strip()} (was {a.strip()})" for a, b in zip(was.split("\n"), now.split("\n"), strict=False) if a != b
        ]
        changed = [line for line in changed if not line.startswith(("out:", "workers:", "track:", "save_every:"))]
        if changed:
            raise UserError(f"the run in {folder} had another preset: {'; '.join(changed[:3])}; resume it unchanged")
        load_state(self.model.clip, read_weights(folder / "model.safetensors"), str(folder))
        state = torch.load(folder / "state.pt", map_location="cpu", weights_only=True)
        self.optimizer.load_state_dict(state["optimizer"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        torch.set_rng_state(state["random"])
        self.step, self.best, self.minutes = state["step"], state["best"], state["minutes"]
        self.history, self.skipped = state["history"], dict.fromkeys(state["skipped"])


def train(
    preset: Preset,
    model: Model,
    pictures: TrainingPictures,
    evaluate: Evaluate | None = None,
    resume: str | Path | None = None,
) -> Run:
    """Trains a model.

    Args:
        preset: what to do; `preset.out` is where.
        model: from `build_model`.
        pictures: the training set.
        evaluate: model → metrics, among them "score", by which the best checkpoint is chosen.
        resume: the `last` folder of an interrupted run of the same preset.

    Raises:
        UserError: too few pictures for a batch, or a loss or weights that are not finite.
    """
    run = Run(preset, model, pictures, evaluate)
    if resume:
        run.resume(Path(resume))
    order = run.order()
    if order.steps_per_epoch == 0:
        world = run.accelerator.num_processes
        raise UserError(
            f"expected at least {preset.batch_size * world} captioned pictures (batch_size {preset.batch_size} x "
            f"{world} processes), got {len(pictures)}; set batch_size lower"
        )
    run.accelerator.init_trackers("", config=_flat(asdict(preset)))
    _training_mode(run.step_module, preset.freeze_batch_norm)
    loader = training_batches(pictures, model.tokenizer, order, preset.data.workers)
    _loop(run, loader, order)
    run.accelerator.end_training()
    return run


def _loop(run: Run, loader: Any, order: BatchOrder) -> None:
    preset, main = run.preset, run.accelerator.is_main_process
    bar = tqdm(total=order.steps, initial=run.step, disable=not main, desc="training", unit="step", dynamic_ncols=True)
    losses: list[Tensor] = []
    clock = time.monotonic()
    for batch in loader:
        run.skipped |= dict.fromkeys(batch.pop("skipped"))
        batch = {k: v.to(run.accelerator.device, non_blocking=True) for k, v in batch.items()}
        outputs = run.take_step(batch, order.steps)
        losses.append(outputs["loss"])
        now = time.monotonic()
        run.minutes, clock = run.minutes + (now - clock) / 60, now
        bar.update()
        epoch, ends_epoch = run.step // order.steps_per_epoch, run.step % order.steps_per_epoch == 0
        saves = ends_epoch or (preset.save_every and run.step % preset.save_every == 0)
        if run.step % REPORT_EVERY == 0 or saves:  # always before a save: it must not replace a sound checkpoint
            _report(run, bar, losses, outputs, order)
        if ends_epoch and (epoch % preset.eval_every == 0 or run.step == order.steps):
            metrics = run.measure()
            if metrics:
                run.history.append({"step": run.step, "epoch": epoch, "minutes": run.minutes, **metrics})
                run.accelerator.log({f"val/{k}": v for k, v in metrics.items()}, step=run.step)
                bar.write(f"epoch {epoch}: " + ", ".join(f"{k} {v:.3f}" for k, v in metrics.items()))
            clock = time.monotonic() if not metrics else clock
        if saves:
            run.save()
            if main:
                write_json(run.out / "history.json", run.history)
    bar.close()


def _report(run: Run, bar: tqdm, losses: list[Tensor], outputs: dict[str, Tensor], order: BatchOrder) -> None:
    """Looks at the losses since the last look: the guard, the bar, the tracker, the curve."""
    loss = torch.stack(losses).mean().item()
    losses.clear()
    if not math.isfinite(loss) or not _finite(run.model.clip):
        what = "a weight is not finite" if math.isfinite(loss) else f"the loss is {loss}"
        last = run.out / "last"
        kept = f"the checkpoint in {last} is from before" if last.exists() else "nothing was saved"
        raise UserError(f"{what} at step {run.step}; lower optim.lr (now {run.preset.optim.lr}); {kept}")
    if outputs["cosine"].item() > COLLAPSED and run.step > order.steps // 10:
        bar.write(
            "warning: all pictures get nearly the same embedding (collapse); set optim.lr lower or batch_size higher"
        )
    scale = run.model.clip.logit_scale.exp().item()
    rate = run.step * run.preset.batch_size * run.accelerator.num_processes / max(run.minutes * 60, 1e-9)
    bar.set_postfix({"loss": f"{loss:.3f}", "img/s": f"{rate:.0f}"})
    run.history.append({"step": run.step, "minutes": run.minutes, "loss": loss})
    lr = run.optimizer.param_groups[0]["lr"]
    run.accelerator.log({"loss": loss, "lr": lr, "logit_scale": scale, "images_per_second": rate}, step=run.step)


def _finite(module: nn.Module) -> bool:
    """Whether all weights are numbers: after a step that was too long the loss shows it only at the next one."""
    return bool(torch.stack([p.isfinite().all() for p in module.parameters()]).all())


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested preset → {"optim.lr": …}, values that every tracker takes."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value if isinstance(value, (int, float, str, bool)) else str(value)
    return flat


def read_history(out: str | Path) -> list[dict[str, float]]:
    """The curve of a run: entries with "loss", and entries with the validation metrics."""
    return read_json(Path(out) / "history.json", "a run's history")
