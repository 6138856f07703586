"""The training loop: one, on Accelerate, for one process or many.

    run = train(preset, model, pictures, evaluate)

Writes `OUT/last` (to resume from), `OUT/previous` (the `last` before) and `OUT/best` (highest validation score), each a
whole checkpoint folder, and `OUT/history.json` (the curve). A killed run continues from `last` with the same data order
and the same random numbers, and on a CPU with bit-identical weights.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from itertools import chain, islice
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, set_seed
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm.auto import tqdm

from fclip.batches import TrainingPictures, training_batches
from fclip.caching import backward, without_synchronising
from fclip.checkpoint import write_model
from fclip.compiling import compile_towers
from fclip.config import Preset, dump_preset
from fclip.device_augmentation import augment_batch
from fclip.distributed import average_gradients, settle_launch
from fclip.errors import UserError
from fclip.features import stored_features
from fclip.files import new_folder, read_json, write_json
from fclip.interpolate import flat, interpolate
from fclip.locked import Cut, why_features_vary
from fclip.lora import add_adapters, check_gradients, merged
from fclip.machine import slow_halves_in_full, uses_bf16
from fclip.model import Model
from fclip.objective import ON_HOST, Contrastive
from fclip.optimisation import (
    check_first_stage,
    drop_old_gradients,
    first_stage,
    freeze,
    keep_constants,
    keep_statistics,
    lr_factor,
    parameter_groups,
    settle_bias,
    within_stage,
)
from fclip.order import BatchOrder
from fclip.pace import Pace
from fclip.resuming import continue_from, save_last
from fclip.sharding import divisible, gather_into, scatter_into, shards, whole
from fclip.weights import load_state

Evaluate = Callable[[Model], dict[str, float]]
REPORT_EVERY = 10  # steps between looks at the loss: each look makes a GPU wait
COLLAPSED = 0.99  # mean cosine between the pictures of a batch


class Run:
    """The state of one run: what a step changes and a checkpoint holds."""

    def __init__(self, preset: Preset, model: Model, pictures: TrainingPictures, evaluate: Evaluate | None) -> None:
        self.preset, self.evaluate, self.pictures = preset, evaluate, pictures
        self.out = Path(preset.out)
        trackers = None if preset.track == "none" else preset.track
        settle_launch()
        self.accelerator = Accelerator(
            mixed_precision="bf16" if uses_bf16(preset) else None,
            log_with=trackers,
            project_dir=str(self.out / "logs"),
        )
        set_seed(preset.seed, device_specific=True)
        if preset.channels_last:
            model.to(memory_format=torch.channels_last)
        optim = preset.optim
        self.start = copy.deepcopy(model.clip.state_dict()) if optim.wise_ft < 1 else None
        self._choose_what_learns(model)
        sharded = shards(self.accelerator, preset)
        self.unsharded = divisible(model.clip) if sharded else None  # what the pieces are put together in
        optimizer = torch.optim.AdamW(parameter_groups(model, preset), betas=(optim.beta1, optim.beta2), fused=True)
        if preset.compile:
            compile_towers(model.clip)
        # In pieces all processes must use the text tower alike, whichever captions each has met.
        wrapped = Contrastive(model, preset.loss, pictures.bank, pictures.frequency, remember=not sharded)
        self.step_module, self.optimizer = self.accelerator.prepare(wrapped, optimizer)
        self.in_full = slow_halves_in_full() if uses_bf16(preset) and not preset.compile else nullcontext()
        self.contrastive: Contrastive = self.accelerator.unwrap_model(self.step_module)
        self.model: Model = self.contrastive.model
        average = get_ema_multi_avg_fn(optim.ema)
        self.average = AveragedModel(self.model.clip, multi_avg_fn=average, use_buffers=True) if optim.ema else None
        self.step, self.best, self.minutes = 0, -math.inf, 0.0
        self.history: list[dict[str, float]] = []
        self.skipped: dict[str, None] = {}
        self._locks_old = False  # whether what is not new is locked for the present stage
        self.keeps_last = False  # whether the OUT/last that the next save replaces is this run's own, and kept

    def _choose_what_learns(self, model: Model) -> None:
        """Frozen parameters stay so: adapters and stages only take away from what is left."""
        freeze(model, self.preset.freeze)
        settle_bias(model.clip, self.preset.loss)
        self.unproven = self.preset.lora.rank > 0  # whether adapters have yet to get their first gradient
        if self.preset.lora.rank:
            add_adapters(model.clip, self.preset.lora)
        if self.preset.optim.head_epochs:
            check_first_stage(model.clip)

    def order(self) -> BatchOrder:
        """The batches that are left."""
        a, p = self.accelerator, self.preset
        window = p.data.shuffle_window if p.data.stream else 0
        return BatchOrder(
            len(self.pictures), p.batch_size, p.epochs, p.seed, a.process_index, a.num_processes, self.step, window
        )

    def take_step(self, batch: dict[str, Any], steps: int) -> dict[str, Tensor]:
        """One optimiser step; returns the step's outputs, detached."""
        first = first_stage(self.preset, steps)
        factor = lr_factor(*within_stage(self.step, steps, first), self.preset.optim.warmup)
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * factor
        self.training_mode(self.step < first)
        # What is locked gets no gradient, and DistributedDataParallel would wait for it.
        alone = without_synchronising(self.step_module, self.accelerator) if self._locks_old else nullcontext()
        with alone, self.in_full:
            outputs = backward(self.step_module, self.accelerator, batch, self.preset.cache_chunk)
        if self.unproven:
            check_gradients(self.model.clip)
            self.unproven = False
        if self.step < first:
            drop_old_gradients(self.model.clip)
        if self._locks_old:
            average_gradients(self.model.clip.parameters())
        if self.preset.optim.clip_norm:
            self.accelerator.clip_grad_norm_(self.step_module.parameters(), self.preset.optim.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.preset.loss.kind == "softmax":  # SigLIP's own scale is above CLIP's range
            self.model.clamp_logit_scale()
        if self.average is not None:
            self.average.update_parameters(self.model.clip)
            keep_constants(self.average.module, self.model.clip)
        self.step += 1
        return {k: v.detach() for k, v in outputs.items()}

    def training_mode(self, only_new: bool = False) -> None:
        """Training mode; what does not learn keeps the batch statistics that its weights came with."""
        self.step_module.train()
        if only_new or self.preset.freeze_batch_norm or self.preset.lora.rank:
            keep_statistics(self.model.clip)
        # Adapters show that they learn by the gradient of their first step.
        locks_old = only_new and not self.preset.lora.rank and not self._is_sharded
        if locks_old != self._locks_old:
            self._locks_old = locks_old
            self.contrastive.lock(locks_old)

    @property
    def _is_sharded(self) -> bool:
        """Whether a part of the model cannot run by itself."""
        return self.accelerator.distributed_type == DistributedType.FSDP

    def lasting_cut(self, only_new: bool) -> Cut | None:
        """Where a locked image tower gives every picture the same features throughout a stage: where it is cut."""
        self.training_mode(only_new)
        cut = self.contrastive.cut
        if cut is None or self._is_sharded:
            return None
        why = why_features_vary(self.model.clip.visual, cut)
        if self.pictures.vary:
            why = "its pictures vary; without augmentation (data.crop=1 data.aspect=1 data.flip=0 …) they would not"
        if why and self.accelerator.is_main_process:
            tqdm.write(f"the image tower is frozen, but encodes every picture anew in every epoch: {why}")
        return None if why else cut

    def seen(self, only_new: bool) -> TrainingPictures:
        """The pictures of a stage: as features, computed now, where a locked tower gives each the same ones."""
        cut = self.lasting_cut(only_new)
        if cut is None:
            return self.pictures
        folder = Path(self.preset.features or self.out / "features")
        with self.accelerator.autocast():
            features = stored_features(
                self.accelerator, self.model, cut, self.pictures, folder, self.preset.data.workers
            )
        return self.pictures.with_features(features)

    def whole(self) -> nn.Module:
        """The towers in one piece, on the main process where they can be used; all processes call it."""
        if self.unsharded is None:
            return self.model.clip
        main = self.accelerator.is_main_process
        return gather_into(self.unsharded.to(self.accelerator.device if main else "cpu"), self.model.clip)

    def take_weights(self, weights: dict[str, Tensor], where: str) -> None:
        """Goes on with these weights, which lie at `where`; all processes call it."""
        load_state(self.model.clip if self.unsharded is None else self.unsharded, weights, where)
        if self.unsharded is not None:
            scatter_into(self.model.clip, self.unsharded)

    def kept(self, clip: nn.Module) -> nn.Module:
        """What is measured and kept as best: the averaged weights, adapters merged, mixed with those of the start."""
        clip = merged(clip if self.average is None else self.average.module)
        if self.start is None:
            return clip
        mixed = copy.deepcopy(clip)
        mixed.load_state_dict(interpolate(self.start, clip.state_dict(), self.preset.optim.wise_ft))
        return mixed

    @contextmanager
    def holding(self, clip: nn.Module) -> Iterator[Model]:
        """The model with other weights."""
        trained = self.model.clip
        self.model.clip = clip
        try:
            yield self.model
        finally:
            self.model.clip = trained

    def measure(self) -> dict[str, float]:
        """The validation metrics, on the main process; a new best is written to `best`."""
        clip = self.whole()
        if self.evaluate is None or not self.accelerator.is_main_process:
            return {}
        with self.holding(self.kept(clip)) as model:
            model.eval()
            metrics = self.evaluate(model)
            if metrics["score"] > self.best:
                self.best = metrics["score"]
                with new_folder(self.out / "best", overwrite=True) as folder:
                    write_model(model, folder)
                    self.write_about(folder, metrics)
        return metrics

    def write_about(self, folder: Path, metrics: dict[str, float]) -> None:
        """The preset and the metrics, beside the weights."""
        (folder / "preset.yaml").write_text(dump_preset(self.preset))
        write_json(folder / "metrics.json", {"step": self.step, **metrics})


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
        continue_from(run, Path(resume))
    order = checked_order(run)
    settings = flat(asdict(preset))
    plain = {k: v if isinstance(v, (int, float, str, bool)) else str(v) for k, v in settings.items()}  # for any tracker
    run.accelerator.init_trackers("", config=plain)
    _loop(run, batches_of_stages(run, order), order)
    run.accelerator.end_training()
    return run


def checked_order(run: Run) -> BatchOrder:
    """The batches that are left.

    Raises:
        UserError: fewer pictures than one batch.
    """
    order, size, world = run.order(), run.preset.batch_size, run.accelerator.num_processes
    if order.steps_per_epoch == 0:
        raise UserError(
            f"expected at least {size * world} captioned pictures (batch_size {size} x "
            f"{world} processes), got {len(run.pictures)}; set batch_size lower"
        )
    return order


def batches_of_stages(run: Run, order: BatchOrder) -> Iterator[dict[str, Any]]:
    """The batches that are left, each stage's from a loader of its own: what is locked in one may learn in the next."""
    first = max(0, first_stage(run.preset, order.steps) - run.step)
    parts = ((True, first), (False, len(order) - first))
    stages = [(run.seen(only_new), steps) for only_new, steps in parts if steps > 0]  # before the clock runs
    left = iter(order)
    workers = run.preset.data.workers
    loaders = (training_batches(seen, run.model.tokenizer, islice(left, steps), workers) for seen, steps in stages)
    return chain.from_iterable(loaders)


def on_device(run: Run, batches: Iterable[dict[str, Any]]) -> Iterator[dict[str, Tensor]]:
    """Batches where the model is, augmented there if they are not yet; unreadable pictures that they name are noted."""
    data, fill = run.preset.data, run.model.preprocess.fill_color
    for batch in batches:
        run.skipped |= dict.fromkeys(batch.pop("skipped"))
        stay = (*ON_HOST, "size")
        there = {k: v if k in stay else v.to(run.accelerator.device, non_blocking=True) for k, v in batch.items()}
        yield augment_batch(there, data, fill) if "view" in there else there


def _loop(run: Run, loader: Any, order: BatchOrder) -> None:
    preset, main = run.preset, run.accelerator.is_main_process
    bar = tqdm(total=order.steps, initial=run.step, disable=not main, desc="training", unit="step", dynamic_ncols=True)
    losses: list[Tensor] = []
    pace, clock = Pace(preset.batch_size * run.accelerator.num_processes), time.monotonic()
    batches = () if _gives_up(run, bar, order) else on_device(run, pace.waiting(loader))  # it had, when it was resumed
    for batch in batches:
        outputs = run.take_step(batch, order.steps)
        losses.append(outputs["loss"])
        now = time.monotonic()
        run.minutes, clock = run.minutes + (now - clock) / 60, now
        bar.update()
        ends = run.step == order.steps
        epoch, ends_epoch = run.step / order.steps_per_epoch, run.step % order.steps_per_epoch == 0
        saves = ends_epoch or ends or (preset.save_every and run.step % preset.save_every == 0)
        measures = ends or (ends_epoch and epoch % preset.eval_every == 0)
        if run.step % REPORT_EVERY == 0 or saves:  # always before a save: it must not replace a sound checkpoint
            _report(run, bar, losses, outputs, order, pace)
        if measures:
            metrics = run.measure()
            if metrics:
                run.history.append({"step": run.step, "epoch": epoch, "minutes": run.minutes, **metrics})
                run.accelerator.log({f"val/{k}": v for k, v in metrics.items()}, step=run.step)
                bar.write(f"epoch {epoch:g}: " + ", ".join(f"{k} {v:.3f}" for k, v in metrics.items()))
        if saves:
            save_last(run)
            pace.restart()
        if measures and _gives_up(run, bar, order):
            break
    bar.close()


def _report(
    run: Run, bar: tqdm, losses: list[Tensor], outputs: dict[str, Tensor], order: BatchOrder, pace: Pace
) -> None:
    """Looks at the losses since the last look: the guard, the bar, the tracker, the curve."""
    loss = torch.stack(losses).mean().item()
    losses.clear()
    speed = pace.look()  # the loss is here, so a GPU has done all these steps
    if not math.isfinite(loss) or not _finite(run.model.clip):
        what = "a weight is not finite" if math.isfinite(loss) else f"the loss is {loss}"
        last = run.out / "last"
        kept = f"the checkpoint in {last} is from before" if last.exists() else "nothing was saved"
        raise UserError(f"{what} at step {run.step}; lower optim.lr (now {run.preset.optim.lr}); {kept}")
    if outputs["cosine"].item() > COLLAPSED and run.step > order.steps // 10:
        bar.write(
            "warning: all pictures get nearly the same embedding (collapse); set optim.lr lower or batch_size higher"
        )
    scale = whole(run.model.clip.logit_scale).exp().item()
    rate, wait, memory = (speed[key] for key in ("images_per_second", "data_wait", "memory_gib"))
    bar.set_postfix(
        {"loss": f"{loss:.3f}", "img/s": f"{rate:.0f}", "data wait": f"{wait:.0%}", "mem": f"{memory:.1f} GiB"}
    )
    run.history.append({"step": run.step, "minutes": run.minutes, "loss": loss, **speed})
    lr = run.optimizer.param_groups[0]["lr"]
    run.accelerator.log({"loss": loss, "lr": lr, "logit_scale": scale, **speed}, step=run.step)


def _gives_up(run: Run, bar: tqdm, order: BatchOrder) -> bool:
    """Whether the score has not risen for `patience` measurements; the main process, which measures, tells the others.

    It is read from the curve, which a checkpoint holds: a resumed run decides as the uninterrupted one.
    """
    patience, main = run.preset.patience, run.accelerator.is_main_process
    if not patience or run.step == order.steps:
        return False
    verdict = main and measurements_since_best(run.history) >= patience
    told = run.accelerator.reduce(torch.tensor(float(verdict), device=run.accelerator.device), "sum")
    if verdict:
        bar.write(f"stopped at step {run.step}: {patience} measurements without a better score than {run.best:.3f}")
    return bool(told.item())


def measurements_since_best(history: list[dict[str, float]]) -> int:
    """How many measurements of a curve came after the first one with its highest score; 0 without any."""
    scores = [entry["score"] for entry in history if "score" in entry]
    return len(scores) - 1 - scores.index(max(scores)) if scores else 0


def _finite(module: nn.Module) -> bool:
    """Whether all weights are numbers: after a step that was too long the loss shows it only at the next one."""
    return bool(torch.stack([whole(p.isfinite().all()) for p in module.parameters()]).all())


def read_history(out: str | Path) -> list[dict[str, float]]:
    """The curve of a run: entries with "loss", and entries with the validation metrics."""
    return read_json(Path(out) / "history.json", "a run's history")
