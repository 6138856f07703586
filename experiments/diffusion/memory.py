"""What a diffusion pipeline may use: device, precision, and the measures that make it fit into the memory there is.

    plan = choose(parameters, pixels=512 * 512, batch=4, device="cuda", dtype="float16", free=free_bytes("cuda"))
    apply(pipe, plan)

From fast to slow: everything at once; decoding picture by picture (VAE slicing); decoding in tiles; only the component
that is at work on the GPU (offload); only the layer that is at work (sequential offload). Attention slicing is for
Apple's GPUs, as diffusers advises: elsewhere PyTorch's own attention needs less memory than a sliced one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from fclip.errors import UserError
from fclip.machine import attend_in_blocks

BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}
# Values alive at once for each pixel of a picture: in Stable Diffusion's decoder (1,150 measured at 256 and 384 pixels,
# and some to spare), and in its UNet, which sees every picture twice, with the prompt and without (an estimate).
DECODER_VALUES, UNET_VALUES = 1_500, 700
TILE_PIXELS = 512 * 512
SPARE = 0.9  # share of the free memory that is counted on
MEASURES = ("attention_slicing", "vae_slicing", "vae_tiling", "offload", "sequential_offload")
MODES = {
    "all": (),
    "slicing": ("attention_slicing", "vae_slicing"),
    "tiling": ("vae_slicing", "vae_tiling"),
    "offload": ("vae_slicing", "vae_tiling", "offload"),
    "sequential": ("vae_slicing", "vae_tiling", "sequential_offload"),
}
"""What `--memory` can be told, besides auto."""


@dataclass(frozen=True)
class Plan:
    """Where and how a pipeline runs."""

    device: str
    dtype: str
    measures: tuple[str, ...]


def pick_device() -> str:
    """The accelerator that is here, or cpu."""
    import torch

    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def pick_dtype(device: str) -> str:
    """bfloat16 on GPUs that have it, float16 on others, float32 on processors, where halves are slow."""
    import torch

    if device == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float16"
    return "float16" if device == "mps" else "float32"


def free_bytes(device: str) -> int:
    """Memory that can still be used there."""
    import psutil
    import torch

    return torch.cuda.mem_get_info()[0] if device == "cuda" else psutil.virtual_memory().available


def parameters(pipe: Any) -> dict[str, int]:
    """Component → number of parameters."""
    import torch

    modules = {name: part for name, part in pipe.components.items() if isinstance(part, torch.nn.Module)}
    return {name: sum(p.numel() for p in part.parameters()) for name, part in modules.items()}


def needed(counts: Mapping[str, int], pixels: int, batch: int, dtype: str, measures: tuple[str, ...] = ()) -> int:
    """Bytes at the worst moment: the weights that are there, and the larger of denoising and decoding."""
    decoded = 1 if "vae_slicing" in measures else batch
    tile = min(pixels, TILE_PIXELS) if "vae_tiling" in measures else pixels
    weights = sum(counts.values())
    if "offload" in measures:
        weights = max(counts.values(), default=0)
    if "sequential_offload" in measures:
        weights = weights // 50  # a layer at a time
    values = max(decoded * tile * DECODER_VALUES, batch * pixels * UNET_VALUES)
    return (weights + values) * BYTES[dtype]


def choose(counts: Mapping[str, int], pixels: int, batch: int, device: str, dtype: str, free: int) -> Plan:
    """The fastest measures with which everything should fit.

    Args:
        counts: component → parameters.
        pixels: of a picture; batch: pictures at once.
        free: bytes on the device.

    Raises:
        UserError: even the slowest is too large.
    """
    ladder = ["all", "tiling"] if device == "cpu" else ["all", "tiling", "offload", "sequential"]
    always = ("attention_slicing",) if device == "mps" else ()
    plans = [always, (*always, "vae_slicing"), *((*always, *MODES[mode]) for mode in ladder[1:])]
    for measures in plans:
        if needed(counts, pixels, batch, dtype, measures) <= SPARE * free:
            return Plan(device, dtype, measures)
    least = needed(counts, pixels, batch, dtype, plans[-1])
    raise UserError(
        f"expected {least / 1e9:.1f} GB of memory for {batch} pictures at once, {free / 1e9:.1f} GB are free on "
        f"{device}; set --batch-size 1, a smaller --height and --width{_half(dtype)}, or close other programs"
    )


def apply(pipe: Any, plan: Plan) -> None:
    """Puts a pipeline where the plan says, with its measures; those that a pipeline does not have are passed over."""
    attend_in_blocks()
    vae = getattr(pipe, "vae", None)
    if "attention_slicing" in plan.measures:
        pipe.enable_attention_slicing()
    if "vae_slicing" in plan.measures and hasattr(vae, "enable_slicing"):
        vae.enable_slicing()
    if "vae_tiling" in plan.measures and hasattr(vae, "enable_tiling"):
        vae.enable_tiling()
    if plan.device == "cpu":
        pipe.to("cpu")
    elif "sequential_offload" in plan.measures:
        pipe.enable_sequential_cpu_offload(device=plan.device)
    elif "offload" in plan.measures:
        pipe.enable_model_cpu_offload(device=plan.device)
    else:
        pipe.to(plan.device)


def measures_of(mode: str, device: str) -> tuple[str, ...]:
    """What a `--memory` other than auto means.

    Raises:
        UserError: an unknown one, or offloading without an accelerator to offload from.
    """
    if mode not in MODES:
        raise UserError(f"expected --memory auto, {', '.join(MODES)}, got {mode!r}")
    if device == "cpu" and mode in ("offload", "sequential"):
        raise UserError(f"--memory {mode} moves weights away from a GPU, and none is here; try --memory tiling")
    return MODES[mode]


@contextmanager
def told_when_full(batch: int, plan: Plan) -> Iterator[None]:
    """Turns running out of memory into one line that says what to turn on."""
    import torch

    try:
        yield
    except (torch.OutOfMemoryError, RuntimeError) as error:
        if not isinstance(error, torch.OutOfMemoryError) and "allocate memory" not in str(error):
            raise
        further = "sequential" if "offload" in plan.measures else "offload"
        hints = [f"--batch-size {batch // 2}"] if batch > 1 else []
        hints += [f"--memory {further}"] if plan.device != "cpu" and "sequential_offload" not in plan.measures else []
        hints += ["--memory tiling"] if plan.device == "cpu" and "vae_tiling" not in plan.measures else []
        hints += ["a smaller --height and --width"]
        raise UserError(
            f"not enough memory on {plan.device} for {batch} pictures at once; turn on {' or '.join(hints)}"
        ) from None


def peak_mb(device: str) -> float | None:
    """Most memory since `reset_peak`, in 10⁶ bytes: of the GPU, or of the whole process since it began."""
    import resource
    import sys

    import torch

    if device == "cuda":
        return round(torch.cuda.max_memory_allocated() / 1e6, 1)
    unit = 1 if sys.platform == "darwin" else 1024
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6, 1)


def reset_peak(device: str) -> None:
    """Begins to measure anew, where that can be done."""
    import torch

    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()


def _half(dtype: str) -> str:
    return ", --dtype bfloat16" if dtype == "float32" else ""
