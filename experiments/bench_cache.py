"""Peak memory and time of a training step against batch size, the whole batch at once and with gradient caching.

    python -m experiments.bench_cache
    python -m experiments.bench_cache --model ViT-B-32 --size 224 --batch 1024,4096,16384 --chunk 256   # on a GPU

Pictures are noise, and four share a caption. Every measurement has a process of its own, because the peak of a process
never falls: on a GPU what torch has allocated, else the resident memory, less what there was before the first step.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from torch import Tensor

    from fclip.objective import Contrastive

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
PER_CAPTION = 4  # pictures
WARM_UP = 1  # steps before the clock starts


@app.command()
def bench(
    model: Annotated[str, typer.Option(help="As model.name in a preset.")] = "timm:mobilenetv2_100",
    size: Annotated[int, typer.Option(help="Side of the pictures in pixels.")] = 96,
    batch: Annotated[str, typer.Option(help="Batch sizes, with commas.")] = "64,256,1024",
    chunk: Annotated[int, typer.Option(help="Pictures per pass with gradient caching.")] = 64,
    steps: Annotated[int, typer.Option(help="Steps that are timed; the median counts.")] = 3,
    one: Annotated[str, typer.Option(hidden=True)] = "",
) -> None:
    """Measure a step's peak memory and time with and without gradient caching.

    \b
    python -m experiments.bench_cache --batch 64,256 --chunk 32
    """
    if one:
        of, chunk = map(int, one.split(","))
        print(json.dumps(measure(model, size, of, chunk, steps)))
        return
    print(f"| batch | whole: MB | s | {chunk} at a time: MB | s |\n|---|---|---|---|---|")
    for of in map(int, batch.split(",")):
        options = ["--model", model, "--size", str(size), "--steps", str(steps)]
        cells = [cell for c in (0, chunk) for cell in _measured(options, of, c)]
        print(f"| {of} | {' | '.join(cells)} |", flush=True)


def _measured(options: list[str], batch: int, chunk: int) -> tuple[str, str]:
    """Memory and time as measured in a process of its own, or what became of it."""
    command = [sys.executable, "-m", "experiments.bench_cache", *options, "--one", f"{batch},{chunk}"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"killed by signal {-done.returncode}"]
        return ("out of memory" if "OutOfMemory" in said[-1] else said[-1]), "–"
    found = json.loads(done.stdout.splitlines()[-1])
    return f"{found['megabytes']:.0f}", f"{found['seconds']:.2f}"


def measure(name: str, size: int, batch_size: int, chunk: int, steps: int) -> dict[str, float]:
    """The peak memory that training steps add to the model's own, and the median time of one."""
    import statistics

    import torch
    from accelerate import Accelerator

    from fclip.caching import backward

    accelerator = Accelerator()
    contrastive = _contrastive(name, size)
    module, optimizer = accelerator.prepare(contrastive, torch.optim.AdamW(contrastive.parameters()))
    batch = _batch(contrastive, size, batch_size, accelerator.device)
    before, times = _peak_mb(), []
    for _ in range(WARM_UP + steps):
        start = time.perf_counter()
        loss = backward(module, accelerator, batch, chunk)["loss"]
        optimizer.step()
        optimizer.zero_grad()
        loss.item()  # waits for a GPU
        times.append(time.perf_counter() - start)
    return {"megabytes": _peak_mb() - before, "seconds": statistics.median(times[WARM_UP:])}


def _contrastive(name: str, size: int) -> Contrastive:
    from fclip.captions import Captions
    from fclip.config import LossConfig, ModelConfig
    from fclip.objective import Contrastive
    from fclip.pretrained import build_model

    config = ModelConfig(name=name, image_size=(size, size))
    return Contrastive(build_model(config, Captions("{colour}"), []), LossConfig(positives="equal")).train()


def _batch(contrastive: Contrastive, size: int, rows: int, device: Any) -> dict[str, Tensor]:
    import torch

    captions = max(1, rows // PER_CAPTION)
    index = torch.arange(rows) % captions
    texts = [f"garment number {number}" for number in range(captions)]
    pixels = torch.randint(256, (rows, 3, size, size), dtype=torch.uint8)
    tokens = contrastive.model.tokenizer(texts)
    batch = {"pixels": pixels.to(device), "tokens": tokens, "caption_index": index, "caption_ids": index}
    none = torch.empty(rows, 0, dtype=torch.int64)
    return batch | {"bank_index": index, "attributes": none, "stated": none}


def _peak_mb() -> float:
    import resource

    import torch

    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e6
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, else kilobytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


if __name__ == "__main__":
    app()
