"""What a run asks of its device."""

from __future__ import annotations

import pytest
import torch

from fclip.config import Preset
from fclip.machine import uses_bf16


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
