"""What a run asks of its device."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention
from torch.utils._python_dispatch import TorchDispatchMode

import fclip.machine
from fclip.config import Preset
from fclip.machine import (
    attend_in_blocks,
    is_better_at_products,
    products_as_pytorch_has_them,
    slow_halves_in_full,
    tune_products,
    uses_bf16,
)


@pytest.mark.parametrize(
    ("gpu", "launched", "on_gpu", "expected"),
    [
        (True, None, True, True),
        (True, "no", True, True),  # what `accelerate launch` sets when it is told nothing
        (True, "fp16", True, False),
        (True, "no", False, False),
        (False, None, True, False),  # on a CPU it is asked for
    ],
)
def test_a_gpu_that_multiplies_in_bfloat16_does_so_unless_told_otherwise(monkeypatch, gpu, launched, on_gpu, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    monkeypatch.delenv("ACCELERATE_MIXED_PRECISION", raising=False)
    if launched:
        monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", launched)
    assert uses_bf16(Preset(bf16_on_gpu=on_gpu)) is expected


def test_an_old_gpu_does_not(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: False)
    assert not uses_bf16(Preset())


class Layers(torch.nn.Module):
    """A strided depthwise convolution, then attention over its pixels as open_clip has it, then as timm has it."""

    def __init__(self) -> None:
        super().__init__()
        self.depthwise = torch.nn.Conv2d(8, 8, 3, stride=2, padding=1, groups=8)
        self.pointwise = torch.nn.Conv2d(8, 8, 1, stride=2)
        self.attention = torch.nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        tokens = self.pointwise(self.depthwise(pixels)).flatten(2).mT
        tokens = self.attention(tokens, tokens, tokens, need_weights=False)[0]
        return scaled_dot_product_attention(tokens, tokens, tokens)


@pytest.fixture
def layers() -> Layers:
    torch.manual_seed(0)
    return Layers()


class Types(TorchDispatchMode):
    """Notes in which type convolutions and blockwise attention compute."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[tuple[str, torch.dtype]] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten.convolution.default:
            self.seen.add(("depthwise" if args[8] > 1 else "pointwise", args[0].dtype))
        if func is torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default:
            self.seen.add(("attention", args[0].dtype))
        return func(*args, **(kwargs or {}))


def test_what_learns_slowly_in_halves_is_in_full_and_the_rest_in_halves(layers):
    pixels = torch.randn(2, 8, 16, 16)
    with Types() as types, slow_halves_in_full(), torch.autocast("cpu", torch.bfloat16):
        assert layers(pixels).dtype == torch.bfloat16
    full, half = torch.float32, torch.bfloat16
    assert types.seen == {("depthwise", full), ("pointwise", half), ("attention", full)}
    with Types() as types, slow_halves_in_full(), torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        layers(pixels)
    assert types.seen == {("depthwise", half), ("pointwise", half), ("attention", half)}  # nothing to avoid


def gradients(layers: Layers, pixels: torch.Tensor, half: bool, inside: AbstractContextManager) -> torch.Tensor:
    with inside, torch.autocast("cpu", torch.bfloat16, enabled=half):
        loss = layers(pixels).float().square().sum()
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(layers.parameters()))])


def test_gradients_are_those_in_full_to_the_precision_of_halves(layers):
    pixels = torch.randn(2, 8, 16, 16)
    exact = gradients(layers, pixels, half=False, inside=nullcontext())
    found = gradients(layers, pixels, half=True, inside=slow_halves_in_full())
    assert (found - exact).norm() < 0.02 * exact.norm()
    assert torch.equal(gradients(layers, pixels, half=False, inside=slow_halves_in_full()), exact)


def test_on_a_machine_with_a_gpu_nothing_changes(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert isinstance(slow_halves_in_full(), nullcontext)


@pytest.fixture
def products():
    """How precise PyTorch's products must be ("medium": oneDNN makes them), put back afterwards."""
    is_better_at_products.cache_clear()
    yield torch.get_float32_matmul_precision
    is_better_at_products.cache_clear()
    fclip.machine._multiply_by_onednn(False)


def error_of_a_product() -> float:
    a, b = torch.randn(100, 700), torch.randn(700, 300)
    exact = a.double() @ b.double()
    return float((a @ b - exact).norm() / exact.norm())


def test_tuned_products_are_those_of_float32_on_any_machine(products):
    tune_products()
    assert error_of_a_product() < 2e-6
    assert (products() == "medium") == is_better_at_products()
    assert torch.backends.cuda.flash_sdp_enabled() != is_better_at_products()


@pytest.mark.parametrize("other", ["an Intel processor", "a GPU", "a processor that multiplies in halves"])
def test_elsewhere_products_stay_as_pytorch_has_them(products, monkeypatch, other):
    monkeypatch.setattr(fclip.machine, "_is_amd", lambda: other != "an Intel processor")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: other == "a GPU")
    if other == "a processor that multiplies in halves":
        monkeypatch.setattr(fclip.machine, "FLOAT32_ERROR", 0.0)
    tune_products()
    assert products() == "highest"
    assert torch.backends.cuda.flash_sdp_enabled()


def test_what_others_do_is_done_with_untuned_products(products, monkeypatch):
    monkeypatch.setattr(fclip.machine, "is_better_at_products", lambda: True)
    tune_products()
    with products_as_pytorch_has_them():
        assert products() == "highest"
        assert torch.backends.cuda.flash_sdp_enabled()
    assert products() == "medium"
    assert not torch.backends.cuda.flash_sdp_enabled()


def test_diffusion_attends_in_blocks_whoever_multiplies(products, monkeypatch):
    monkeypatch.setattr(fclip.machine, "is_better_at_products", lambda: True)
    tune_products()
    attend_in_blocks()
    assert products() == "medium"
    assert torch.backends.cuda.flash_sdp_enabled()
