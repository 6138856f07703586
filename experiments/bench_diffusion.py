"""Memory and time of a diffusion model: drawing pictures by batch and measure, and a step of teaching it adapters.

    python -m experiments.bench_diffusion            # Stable Diffusion 1.5; in float32 on a CPU, half an hour of a core
    python -m experiments.bench_diffusion --model models/sd15 --dtype float16,bfloat16 --batch 1,4,8
    python -m experiments.bench_diffusion --modes all,offload,sequential --batch 4   # what --memory costs, on a GPU

Neither depends on the weights: without `--model` it is Stable Diffusion 1.5's architecture with random ones, made in a
folder in diffusers' format (4.3 GB) that is removed at the end. Every row has a process of its own, because the peak of
a process never falls: on a GPU what torch has allocated, else all of the process's memory.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any

import typer

from fclip.errors import UserError, run_program

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
USUAL_STEPS = 30  # of `experiments.diffusion generate`
WARM_UP = 1  # training steps before the clock starts
PROMPT = "a red summer dress with a floral print"
DRAWN_HEAD = f"""\
| dtype | --memory | batch | MB | s per denoising step | s for the rest | s per picture at {USUAL_STEPS} steps |
|---|---|---|---|---|---|---|"""
TAUGHT_HEAD = """\
| dtype | pictures | gradient_checkpointing | MB | s per step |
|---|---|---|---|---|"""
DRAWN = "| {dtype} | {mode} | {batch} | {megabytes:,.0f} | {step:.2f} | {rest:.2f} | {picture:.1f} |"
TAUGHT = "| {dtype} | {micro} | {checkpointing} | {megabytes:,.0f} | {step:.2f} |"


@app.command()
def bench(
    model: Annotated[str | None, typer.Option(help="As of `experiments.diffusion`; default: random weights.")] = None,
    size: Annotated[int, typer.Option(help="Side of the pictures in pixels.")] = 512,
    batch: Annotated[str, typer.Option(help="Pictures at once, with commas.")] = "1,2",
    dtype: Annotated[str, typer.Option(help="With commas; default: what the device is given.")] = "",
    modes: Annotated[str, typer.Option(help="As --memory, with commas.")] = "all,tiling",
    teach: Annotated[str, typer.Option(help="Training pictures in one pass, with commas; empty: none.")] = "1",
    steps: Annotated[int, typer.Option(min=1, help="Steps that are timed.")] = 2,
    one: Annotated[str, typer.Option(hidden=True)] = "",
) -> None:
    """Measure peak memory and seconds of drawing and of teaching.

    \b
    python -m experiments.bench_diffusion --size 256 --batch 1 --modes all
    """
    from experiments.diffusion.memory import BYTES, MODES, pick_device, pick_dtype

    if one:
        print(json.dumps(measure(json.loads(one))))
        return
    if size < 8 or size % 8:
        raise UserError(f"expected --size in pixels, a multiple of 8, got {size}")
    dtypes = among(BYTES, "--dtype", dtype) if dtype else [pick_dtype(pick_device())]
    drawn = product(dtypes, among(MODES, "--modes", modes), numbers("--batch", batch))
    taught = product(numbers("--teach", teach) if teach else [], (False, True))
    with opened(model) as name:
        common = {"model": name, "size": size, "steps": steps}
        print(f"Drawing {size}×{size}\n\n{DRAWN_HEAD}")
        for kind, mode, pictures in drawn:
            show(DRAWN, {"dtype": kind, "mode": mode, "batch": pictures}, common | {"what": "draw"})
        if teach:
            print(f"\nTeaching adapters of rank 16\n\n{TAUGHT_HEAD}")
        for pictures, checkpointing in taught:
            row = {"dtype": dtypes[0], "micro": pictures, "checkpointing": checkpointing}
            show(TAUGHT, row, common | {"what": "teach"})


def numbers(option: str, text: str) -> list[int]:
    """Whole numbers of at least 1 with commas between them.

    Raises:
        UserError: anything else.
    """
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) for part in parts):
        raise UserError(f"expected {option} as numbers with commas, e.g. 1,4, got {text!r}")
    return [int(part) for part in parts]


def among(known: Collection[str], option: str, text: str) -> list[str]:
    """Names with commas between them.

    Raises:
        UserError: one that is not known.
    """
    parts = [part.strip() for part in text.split(",")]
    for part in parts:
        if part not in known:
            raise UserError(f"expected {option} of {', '.join(known)}, got {part!r}")
    return parts


def show(line: str, row: dict[str, Any], asked: dict[str, Any]) -> None:
    """Prints a row as measured in a process of its own, or what became of it."""
    command = [sys.executable, "-m", "experiments.bench_diffusion", "--one", json.dumps(row | asked)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"killed by signal {-done.returncode}: out of memory?"]
        print(f"| {' | '.join(map(str, row.values()))} | {said[-1]} |", flush=True)
        return
    print(line.format(**row, **json.loads(done.stdout.splitlines()[-1])), flush=True)


@contextmanager
def opened(model: str | None) -> Iterator[str]:
    """The name of the model, or for a while a folder with one of random weights."""
    if model is not None:
        yield model
        return
    with tempfile.TemporaryDirectory() as folder:
        yield str(make_stable_diffusion(Path(folder) / "sd15"))


def measure(asked: dict[str, Any]) -> dict[str, float]:
    from fclip.machine import tune_cpu

    tune_cpu()
    return draw(asked) if asked["what"] == "draw" else teach_adapters(asked)


def draw(asked: dict[str, Any]) -> dict[str, float]:
    """Peak MB; seconds of a denoising step of the batch, of all else (words, decoding), and of a picture as usual."""
    from experiments.diffusion.generate import Machine, Painter, Settings, tasks_of
    from experiments.diffusion.participants import Participant

    batch, size, steps = asked["batch"], asked["size"], asked["steps"]
    machine = Machine(batch_size=batch, dtype=asked["dtype"], mode=asked["mode"])
    settings = Settings(model=asked["model"], n=batch, steps=1, height=size, width=size)
    painter = Painter(settings, machine)
    tasks = tasks_of([Participant("bench", PROMPT, ())], settings)
    seconds = {}
    for count in (1, 1, 1 + steps):  # the first is warm-up
        painter.settings = Settings(**(vars(settings) | {"steps": count}))
        _, _, seconds[count], peak = painter.paint(tasks)
    step = (seconds[1 + steps] - seconds[1]) / steps
    rest = max(seconds[1] - step, 0.0)
    assert peak is not None
    return {"megabytes": peak, "step": step, "rest": rest, "picture": (USUAL_STEPS * step + rest) / batch}


def teach_adapters(asked: dict[str, Any]) -> dict[str, float]:
    """Peak MB and the median seconds of a training step of `finetune`, its pictures' encoding included."""
    import statistics

    import torch

    from experiments.diffusion import memory
    from experiments.diffusion.config import Finetune
    from experiments.diffusion.loop import Run
    from experiments.diffusion.pipelines import open_pipeline

    rows, size = asked["micro"], asked["size"]
    config = Finetune(
        model=asked["model"], size_px=size, batch_size=rows, gradient_checkpointing=asked["checkpointing"],
        bf16_on_gpu=asked["dtype"] == "bfloat16", track="none",
    )  # fmt: skip
    run = Run(config, open_pipeline(asked["model"]), SimpleNamespace(steps=10**6))  # type: ignore[arg-type]
    pixels = torch.rand(rows, 3, size, size, generator=torch.Generator().manual_seed(0)) * 2 - 1
    batch = {"pixels": pixels, "prompts": [PROMPT] * rows, "weights": torch.ones(rows)}
    times = []
    for _ in range(WARM_UP + asked["steps"]):
        began = time.perf_counter()
        run.take_step(batch).item()  # waits for a GPU
        times.append(time.perf_counter() - began)
    return {"megabytes": memory.peak_mb(memory.pick_device()) or 0.0, "step": statistics.median(times[WARM_UP:])}


def make_stable_diffusion(folder: Path) -> Path:
    """Writes Stable Diffusion 1.5 with random weights, without its safety checker, in diffusers' format.

    Raises:
        UserError: the disk has no room for it.
    """
    from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    from experiments.diffusion.pipelines import quiet
    from fclip.export_tokenizer import write_tokenizer
    from fclip.tokenizer import ClipTokenizer

    quiet()
    (folder / "words").mkdir(parents=True)
    write_tokenizer(ClipTokenizer(77), folder / "words")
    text = CLIPTextConfig(
        hidden_size=768, intermediate_size=3072, num_attention_heads=12, num_hidden_layers=12, projection_dim=768
    )
    channels = (128, 256, 512, 512)
    vae = AutoencoderKL(
        block_out_channels=channels,
        down_block_types=("DownEncoderBlock2D",) * len(channels),
        up_block_types=("UpDecoderBlock2D",) * len(channels),
        layers_per_block=2,
        sample_size=512,
    )
    pipe = StableDiffusionPipeline(
        vae=vae,
        text_encoder=CLIPTextModel(text),
        tokenizer=CLIPTokenizer.from_pretrained(folder / "words"),
        unet=UNet2DConditionModel(sample_size=64, cross_attention_dim=768),
        scheduler=PNDMScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", skip_prk_steps=True, steps_offset=1
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )  # fmt: skip
    try:
        pipe.save_pretrained(folder / "model")
    except OSError as error:
        raise UserError(f"cannot write 4.3 GB below {folder}: {error.strerror or error}; set TMPDIR") from None
    return folder / "model"


if __name__ == "__main__":
    run_program(app, None, "python -m experiments.bench_diffusion")
