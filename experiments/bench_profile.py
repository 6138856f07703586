"""Where a step's time goes: the profiler's top entries, the share beyond the towers, model FLOP utilisation.

    print(profile_step("ViT-B-32", (224, 224), batch_size=1024, per_caption=4, bf16=True, top=15)["table"])

Utilisation counts the floating-point operations of the towers' forward and backward pass (torch's `FlopCounterMode`)
against what the GPU multiplies at most in bfloat16, without sparsity, by its maker's data sheet.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

import torch

from experiments.bench_steps import Size, by_turns, in_turn, make_batch, make_model, make_run
from fclip.training import Run, on_device

PEAK_BF16 = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "L4": 121e12, "A10G": 70e12}
"""Part of a GPU's name → FLOP per second, dense bfloat16."""
TOTAL_STEPS = 10**6


def profile_step(
    name: str, size: Size, batch_size: int, per_caption: int, bf16: bool, top: int, steps: int = 3, repeats: int = 5
) -> dict[str, Any]:
    """One model's step, taken apart.

    Returns:
        "step_ms"; "towers_ms", the forward and backward pass of the towers alone on the same batch, and "beyond", what
        the step takes above it as a share; "tflop_per_s"; "mfu", None for a device whose peak is not known; "table".
    """
    torch.manual_seed(0)
    model = make_model(name, size)
    run = make_run(model, batch_size, bf16)
    batch = make_batch(model, size, batch_size, per_caption)

    def step() -> None:
        for each in on_device(run, in_turn([batch], steps)):
            loss = run.take_step(each, TOTAL_STEPS)["loss"]
        loss.item()

    towers = towers_alone(run, batch, steps)
    step(), towers()
    seconds = by_turns({"step": step, "towers": towers}, repeats)
    step_seconds, towers_seconds = (statistics.median(seconds[key]) / steps for key in ("step", "towers"))
    rate = count_flops(run, batch) / step_seconds
    return {
        "step_ms": 1000 * step_seconds,
        "towers_ms": 1000 * towers_seconds,
        "beyond": statistics.median(s / t for s, t in zip(seconds["step"], seconds["towers"], strict=True)) - 1,
        "tflop_per_s": rate / 1e12,
        "mfu": utilisation(rate, torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"),
        "table": top_entries(step, top),
    }


def towers_alone(run: Run, batch: dict[str, Any], steps: int) -> Callable[[], None]:
    """The least that a step can do: both towers forward and backward, on pictures that are ready."""
    device = run.accelerator.device
    texts = run.model.cut(batch["tokens"]).to(device)
    pixels = run.model.preprocess.normalise(batch["pixels"].to(device))

    def turn() -> None:
        for _ in range(steps):
            with run.accelerator.autocast():
                image, text = run.model.encode_image(pixels), run.model.encode_text(texts)
            total = image.float().sum() + text.float().sum()
            total.backward()
            run.optimizer.zero_grad()
        total.item()

    return turn


def count_flops(run: Run, batch: dict[str, Any]) -> int:
    """Floating-point operations of one step's forward and backward pass."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        for each in on_device(run, in_turn([batch], 1)):
            run.step_module(run.contrastive.with_texts(each))["loss"].backward()
    run.optimizer.zero_grad()
    return counter.get_total_flops()


def utilisation(flops_per_second: float, device: str) -> float | None:
    """The share of the device's peak; None where that is not known."""
    peak = next((peak for part, peak in PEAK_BF16.items() if part in device.replace("-", " ").split()), None)
    return flops_per_second / peak if peak else None


def top_entries(step: Callable[[], None], top: int) -> str:
    """The profiler's table of what takes most by itself."""
    from torch.profiler import ProfilerActivity, profile

    on_gpu = torch.cuda.is_available()
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with profile(activities=activities) as found:
        step()
    by = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    return found.key_averages().table(sort_by=by, row_limit=top, max_name_column_width=45)
