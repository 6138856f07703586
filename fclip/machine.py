"""What costs nothing on a processor and matters: threads, memory, who multiplies, the precision of each operation."""

from __future__ import annotations

import ctypes
import os
import platform
import sys
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from fclip.config import Preset

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # <malloc.h>
SHORT = 128  # tokens up to which attention by plain products is the faster one to learn with
FLOAT32_ERROR = 2e-6  # relative, of a product in float32


def tune_cpu() -> None:
    """Uses every core that this process was given, keeps freed memory, and multiplies with what is quickest.

    `accelerate launch` sets one thread for a single process; that is corrected here unless OMP_NUM_THREADS was chosen
    together with several processes.
    """
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    torch.set_num_threads(max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))
    keep_freed_memory()
    tune_products()


def keep_freed_memory() -> None:
    """Stops glibc from returning large blocks to the system.

    Training allocates the same hundreds of megabytes each step, embedding each batch; by default each is mapped and
    page-faulted anew. Keeping them made a MobileNetV2 step in fp32 twice as fast on two cores, its embedding too.
    """
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        if hasattr(libc, "mallopt"):
            libc.mallopt(M_MMAP_MAX, 0)
            libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def tune_products() -> None:
    """Lets oneDNN multiply float32 matrices where `is_better_at_products`, and attention be made of such products.

    Intel's MKL, which PyTorch asks else, leaves half of an AMD processor's vector units idle: on a Zen 5 core oneDNN
    makes 200 billion operations a second to MKL's 100, and a ViT-B/32 is twice as fast, with the same digits.
    """
    if is_better_at_products():
        _multiply_by_onednn(True)


def attend_in_blocks() -> None:
    """For sequences of thousands, as in diffusion: PyTorch's own attention, which never holds all pairs of tokens."""
    import torch

    torch.backends.cuda.enable_flash_sdp(True)  # of processors too


@contextmanager
def products_as_pytorch_has_them() -> Iterator[None]:
    """Inside it, products are made as if nothing had been tuned: for what others do by themselves."""
    import torch

    tuned = torch.get_float32_matmul_precision() == "medium"
    _multiply_by_onednn(False)
    try:
        yield
    finally:
        _multiply_by_onednn(tuned)


def _multiply_by_onednn(wanted: bool) -> None:
    """oneDNN is asked where bfloat16 would be allowed ("medium"); PyTorch's own attention is slow with it."""
    import torch

    torch.set_float32_matmul_precision("medium" if wanted else "highest")
    torch.backends.cuda.enable_flash_sdp(not wanted)  # of processors too


@cache
def is_better_at_products() -> bool:
    """Whether oneDNN multiplies quicker than MKL here and stays in float32: on AMD's processors with AVX-512.

    A processor that multiplies in bfloat16 by itself (AMX) would use it, and is left out by the error of a product.
    """
    import torch

    if not (_is_amd() and not torch.cuda.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()):
        return False
    draws = torch.Generator().manual_seed(0)
    a, b = (torch.randn(shape, generator=draws) for shape in ((64, 256), (256, 64)))
    exact = a.double() @ b.double()
    _multiply_by_onednn(True)
    error = float((a @ b - exact).norm() / exact.norm())
    _multiply_by_onednn(False)
    return error < FLOAT32_ERROR


def _is_amd() -> bool:
    about = Path("/proc/cpuinfo")
    return "AuthenticAMD" in (about.read_text() if about.is_file() else platform.processor())


def uses_bf16(preset: Preset) -> bool:
    """Whether a run asks for autocast to bfloat16: where the device multiplies in it, and the launch chose no other."""
    import torch

    if not torch.cuda.is_available():
        return preset.bf16_on_cpu and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    launched = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    return preset.bf16_on_gpu and launched == "no" and torch.cuda.is_bf16_supported()


def slow_halves_in_full() -> AbstractContextManager[Any]:
    """Inside it, operations whose bfloat16 gradient is slow on a processor learn in float32, under autocast too.

    The gradient of a strided depthwise convolution (every MobileNet and EfficientNet has some) takes 6 to 40 times as
    long in bfloat16 as in float32, that of attention over 13 to 200 tokens 1.5 to 7 times (PyTorch 2.14, one core with
    AMX); a MobileNetV2 step of 64 pictures of 96×72 is 1.7 times as fast for it. Without gradients nothing changes,
    nor on a GPU.
    """
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.nn.functional import multi_head_attention_forward, scaled_dot_product_attention
    from torch.overrides import TorchFunctionMode

    if torch.cuda.is_available():
        return nullcontext()

    slow = (multi_head_attention_forward, scaled_dot_product_attention, torch.conv2d)

    class InFull(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            kwargs = kwargs or {}
            if func not in slow or not _learns_in_halves(args):
                return func(*args, **kwargs)
            if func is multi_head_attention_forward:  # the attention inside it does not come here; this sums in float32
                with sdpa_kernel(SDPBackend.MATH) if len(args[0]) < SHORT else nullcontext():
                    return func(*args, **kwargs)
            if func is torch.conv2d and not is_strided_depthwise(*args, **kwargs):
                return func(*args, **kwargs)
            with torch.autocast("cpu", enabled=False):
                found = func(*map(in_full, args), **{name: in_full(value) for name, value in kwargs.items()})
            return found.to(torch.get_autocast_dtype("cpu"))

    return InFull()


def _learns_in_halves(args: Iterable[Any]) -> bool:
    import torch

    learns = torch.is_grad_enabled() and any(getattr(value, "requires_grad", False) for value in args)
    return learns and torch.is_autocast_enabled("cpu")


def is_strided_depthwise(
    input: Tensor,  # noqa: A002
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | tuple[int, ...] = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> bool:
    """Whether `conv2d` with these arguments convolves each channel by itself, in steps of more than a pixel."""
    strided = stride > 1 if isinstance(stride, int) else any(step > 1 for step in stride)
    return strided and groups == input.shape[-3]


def in_full(value: Any) -> Any:
    """A tensor of halves in float32; anything else as it is."""
    import torch

    is_half = isinstance(value, torch.Tensor) and value.dtype in (torch.bfloat16, torch.float16)
    return value.float() if is_half else value
