"""Train a model as a preset says; the `accelerate launch` entry.

    accelerate launch -m experiments.train experiments/presets/drawn.yaml
    accelerate launch -m experiments.train experiments/presets/catalogue_cpu.yaml out=runs/mine epochs=5 --optim.lr 3e-4
    accelerate launch -m experiments.train experiments/presets/drawn.yaml --resume runs/drawn/last
    accelerate launch -m experiments.train experiments/presets/drawn.yaml --dry-run
    accelerate launch -m experiments.train experiments/presets/drawn.yaml --find-lr

Writes OUT/best, OUT/last and OUT/previous (checkpoints), OUT/history.json (the curve) and OUT/logs (TensorBoard).
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fclip.errors import UserError, run_program

if TYPE_CHECKING:
    from datasets import Dataset

    from fclip.batches import TrainingPictures
    from fclip.config import CaptionConfig, Preset
    from fclip.estimate import Estimate
    from fclip.model import Model
    from fclip.training import Run

EVALUATED = 128  # pictures that an estimate measures
app = typer.Typer(add_completion=False)


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True}, help=__doc__)
def train_command(
    context: typer.Context,
    preset: Annotated[Path, typer.Argument(help="A preset, e.g. experiments/presets/drawn.yaml.")],
    resume: Annotated[
        Path | None, typer.Option(help="Continue an interrupted run from its OUT/last (or OUT/previous).")
    ] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace the checkpoints of an earlier run in OUT.")] = False,
    dry_run: Annotated[
        bool, typer.Option(help="Only say what the run would take: time, memory, disk. Writes nothing.")
    ] = False,
    find_lr: Annotated[
        bool, typer.Option(help="Only look for a learning rate (a range test); writes OUT/lr.png and OUT/lr.json.")
    ] = False,
) -> None:
    """Reads the preset, applies the overrides that follow it, trains."""
    from fclip.config import load_preset

    settled = load_preset(preset, context.args)
    if dry_run:
        estimate_preset(settled)
    if find_lr:
        find_lr_for(settled)
    if not (dry_run or find_lr):
        run_preset(settled, resume, overwrite)


@dataclass(frozen=True)
class Prepared:
    """What a preset names, built: everything but the training itself."""

    preset: Preset
    model: Model
    pictures: TrainingPictures
    evaluate: Callable[[Model], dict[str, float]]
    validation: Dataset


def prepare(preset: Preset) -> Prepared:
    """Opens the catalogue, makes the captions, builds the model.

    Raises:
        UserError: anything in the preset that does not fit.
    """
    from accelerate.utils import set_seed

    from fclip.catalogue import open_catalogue
    from fclip.catalogue.kinds import word_groups
    from fclip.catalogue.schema import check_groups, select_split
    from fclip.distributed import first_on_this_machine, settle_launch
    from fclip.machine import tune_cpu
    from fclip.pretrained import build_model
    from fclip.tokenizer import truncated_share

    if not preset.data.catalogue:
        raise UserError("no catalogue to train on; set data.catalogue=PATH")
    settle_launch()
    tune_cpu()
    set_seed(preset.seed)
    catalogue = first_on_this_machine(  # indexes shards
        lambda: open_catalogue(preset.data.catalogue, format=preset.data.format, stream=preset.data.stream)
    )
    captions = captions_of(preset.captions, word_groups(catalogue))
    if preset.captions.template is not None:  # a style may know more groups than the catalogue; a template is meant
        check_groups(catalogue, captions.groups)
    training = select_split(catalogue, preset.data.train_split)
    validation = select_split(catalogue, preset.data.val_split)
    model = build_model(preset.model, captions, _texts_for_tokenizer(captions, training))
    _check_first_size(preset, model)
    pictures = _pictures(preset, model, training)
    cut = truncated_share(model.tokenizer, pictures.texts)
    _say(
        f"{len(pictures)} pictures with {len(pictures.bank)} distinct captions, e.g. {pictures.texts[0]!r}; "
        f"{pictures.without_caption} without a caption; {cut:.1%} of the captions truncated"
    )
    return Prepared(preset, model, pictures, evaluator(validation, preset.eval_limit), validation)


def run_preset(preset: Preset, resume: Path | None = None, overwrite: bool = False) -> Run:
    """Builds what a preset names and trains it.

    Raises:
        UserError: anything in the preset that does not fit, or an OUT that already holds a run.
    """
    from fclip.distributed import settle_launch
    from fclip.files import writable_folder
    from fclip.resuming import recover_run

    settle_launch()
    last = Path(preset.out) / "last"
    if _is_main_process():
        recover_run(last.parent)
    if last.exists() and not (resume or overwrite):
        raise UserError(
            f"{preset.out} already holds a run; continue with --resume {last}, or --overwrite, or set out=…"
        )
    writable_folder(preset.out, "out=…")
    return run_prepared(prepare(preset), resume)


def run_prepared(prepared: Prepared, resume: Path | None = None) -> Run:
    """Trains what `prepare` built."""
    from fclip.training import train

    try:
        run = train(prepared.preset, prepared.model, prepared.pictures, prepared.evaluate, resume)
    except KeyboardInterrupt:
        last = Path(prepared.preset.out) / "last"
        _say(f"\ninterrupted; continue with --resume {last}" if last.exists() else "\ninterrupted before a checkpoint")
        raise
    _say_skipped(run)
    _say(f"best checkpoint: {run.out / 'best'} (score {run.best:.3f}); to resume from: {run.out / 'last'}")
    return run


def estimate_preset(preset: Preset) -> Estimate:
    """Builds what a preset names, takes a few real steps, and prints what the whole run would take.

    Raises:
        UserError: anything in the preset that does not fit.
    """
    from fclip.estimate import estimate, measure_speed
    from fclip.training import Run

    prepared = prepare(preset)
    run = Run(replace(preset, track="none"), prepared.model, prepared.pictures, None)
    speed = measure_speed(run)
    found = estimate(run, speed, evaluation_seconds(run.model, prepared.validation, preset.eval_limit))
    _say("\n".join(found.lines()))
    return found


def evaluation_seconds(model: Model, validation: Dataset, limit: int) -> float:
    """What one measurement takes, from the faster of two measurements of a part."""
    pictures = min(len(validation), limit or len(validation))
    part = min(pictures, EVALUATED)
    evaluate = evaluator(validation, part)
    model.eval()

    def once() -> float:
        start = time.monotonic()
        evaluate(model)
        return time.monotonic() - start

    return min(once(), once()) * pictures / part


def find_lr_for(preset: Preset) -> None:
    """Builds what a preset names, sweeps its learning rate, prints one and writes OUT/lr.png and OUT/lr.json.

    Raises:
        UserError: anything in the preset that does not fit, or a loss that never fell.
    """
    from accelerate.state import PartialState

    from fclip.lr_finder import find_lr, save_sweep

    prepared = prepare(preset)
    sweep = find_lr(preset, prepared.model, prepared.pictures)
    if PartialState().is_main_process:
        save_sweep(sweep, preset.out)
    rises = f"rises again at {sweep.diverges:.0e}" if sweep.diverges else "did not rise again"
    _say(
        f"optim.lr={sweep.suggested:.1e} (the loss fell fastest at {sweep.steepest:.0e} and {rises}; "
        f"the preset has {preset.optim.lr:.1e}); see {Path(preset.out) / 'lr.png'}"
    )


def captions_of(config: CaptionConfig, groups: Sequence[str]) -> Any:
    """The captions that a preset asks for, of a catalogue with these attribute groups of words."""
    from fclip.captions import Captions, captions_for

    if config.template is not None:
        return Captions(config.template, config.paraphrases or (), config.drop, config.whole)
    options: dict[str, Any] = {"drop": config.drop, "whole": config.whole}
    if config.paraphrases is not None:
        options["paraphrases"] = config.paraphrases
    return captions_for(groups, config.style, **options)


def _texts_for_tokenizer(captions: Any, training: Dataset) -> Iterator[str]:
    """Canonical and sampled captions of the training split: all the words that a trained tokenizer must know."""
    import numpy as np

    from fclip.batches import distinct_attributes

    kind, kinds = distinct_attributes(training)  # a generator: only a tokenizer that is trained asks
    rng = np.random.default_rng(0)
    yield from (captions.render(kinds[k]) for k in kind)
    yield from (captions.sample(kinds[k], rng)[0] for k in kind)


def _pictures(preset: Preset, model: Model, training: Dataset) -> Any:
    from fclip.batches import TrainingPictures
    from fclip.distributed import first_on_this_machine

    pictures = first_on_this_machine(  # makes the cache of pictures
        lambda: TrainingPictures(training, model.captions, model.preprocess, preset.data, preset.seed, preset.epochs)
    )
    if not len(pictures):
        raise UserError(f"no picture of split {preset.data.train_split!r} has an attribute of {model.captions.groups}")
    return pictures


def _check_first_size(preset: Preset, model: Model) -> None:
    """Raises UserError when the tower takes pictures of one size only, and the preset lets them grow."""
    import torch

    from fclip.augmentation import training_sizes

    first, *_ = training_sizes(model.preprocess.size, preset.data.first_size, preset.epochs)
    if first == model.preprocess.size:
        return
    try:
        with torch.inference_mode():
            model.eval().encode_image(torch.zeros(1, 3, *first))
    except (AssertionError, RuntimeError, ValueError):  # each library refuses in its own way
        size = "x".join(map(str, model.preprocess.size))
        raise UserError(
            f"data.first_size={preset.data.first_size} begins with pictures of {first[0]}x{first[1]}, but "
            f"{model.name} takes only {size}; set data.first_size=1"
        ) from None


def evaluator(validation: Dataset, limit: int) -> Callable[[Model], dict[str, float]]:
    """Model → the paper's metrics on the validation split; "score" is the mean of the two surfacing accuracies."""
    from eval.surfacing import evaluate_surfacing

    if limit and len(validation) > limit:
        validation = validation.shuffle(seed=0).select(range(limit))

    def evaluate(model: Model) -> dict[str, float]:
        metrics = evaluate_surfacing(model, validation, bootstrap=0)["metrics"]
        text, attribute = metrics["text_sfa"]["value"], metrics["attribute_sfa"]["value"]
        groups = {
            f"sfa/{g}": s["value"] for g, s in metrics["attribute_sfa_by_group"].items() if s["value"] is not None
        }
        cosine = metrics["cosine"]["value"]
        return {
            "score": (text + attribute) / 2,
            "text_sfa": text,
            "attribute_sfa": attribute,
            "cosine": cosine,
            **groups,
        }

    return evaluate


def _say_skipped(run: Run) -> None:
    if run.skipped and run.accelerator.is_main_process:
        lines = "\n".join(run.skipped)
        file = run.out / "skipped.txt"
        file.write_text(lines + "\n")
        _say(f"{len(run.skipped)} unreadable pictures were replaced by others; they are listed in {file}")


def _say(line: str) -> None:
    if _is_main_process():
        print(line, file=sys.stderr)


def _is_main_process() -> bool:
    from accelerate.state import PartialState
    from accelerate.utils import parse_flag_from_env

    # The flag as Accelerator reads it: the first state made is the process's, and without it each of several
    # processes on CPUs would take itself for the only one.
    return PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU")).is_main_process


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the program."""
    run_program(app, argv, "python -m experiments.train")


if __name__ == "__main__":
    main()
