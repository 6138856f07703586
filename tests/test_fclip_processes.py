"""Where a model runs, and how its weights lie there."""

from __future__ import annotations

import torch

from fclip.processes import on_device


def test_convolutions_are_channels_last_and_give_the_same():
    torch.manual_seed(0)
    tower = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.Flatten(), torch.nn.Linear(8 * 36, 4))
    pixels = torch.randn(2, 3, 8, 8)
    before = tower(pixels)
    moved = on_device(tower)
    assert moved[0].weight.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(moved(pixels.to(moved[2].weight.device)).cpu(), before)
