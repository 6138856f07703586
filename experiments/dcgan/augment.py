"""Differentiable augmentation: what the discriminator sees of every picture, real or made (Zhao et al. 2020).

    draws = draw(("colour", "shift"), len(pictures), size_px, generator)
    logits = discriminator(augmented(real, draws), augmented(fake, draws))

The discriminator never sees a plain picture, so it cannot learn the few real ones by heart, and the generator's
gradient passes through the same transform. The draws are explicit: in a step of the discriminator the i-th real and the
i-th made picture are treated alike, so that the treatment itself tells nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

SHIFT = 1 / 8  # of the side, at most; the source's
CUTOUT = 1 / 2  # of the side; the source's

Draws = Mapping[str, Tensor]
"""Name of a transform → its random numbers, a row (B, …) for each picture."""


def draw(policy: Sequence[str], batch: int, size_px: int, generator: torch.Generator) -> Draws:
    """Random numbers for a batch, on the processor."""
    reach, half = round(SHIFT * size_px), int(CUTOUT * size_px) // 2
    found: dict[str, Tensor] = {}
    if "colour" in policy:
        found["colour"] = torch.rand(batch, 3, generator=generator)
    if "shift" in policy:
        found["shift"] = torch.randint(-reach, reach + 1, (batch, 2), generator=generator)
    if "cutout" in policy:
        corner = torch.randint(0, size_px + 1 - size_px % 2, (batch, 2), generator=generator)
        found["cutout"] = corner - half
    return found


def augmented(pictures: Tensor, draws: Draws) -> Tensor:
    """Pictures (B, C, S, S) in -1 … 1, as the discriminator sees them; differentiable, the input stays as it is."""
    for name, numbers in draws.items():
        pictures = TRANSFORMS[name](pictures, numbers.to(pictures.device))
    return pictures


def colour(pictures: Tensor, numbers: Tensor) -> Tensor:
    """Brightness by up to half a unit, saturation times 0 to 2, contrast times 0.5 to 1.5; numbers (B, 3) in 0 … 1."""
    light, saturation, contrast = numbers.to(pictures.dtype).T[:, :, None, None, None]
    pictures = pictures + (light - 0.5)
    grey = pictures.mean(1, keepdim=True)
    pictures = (pictures - grey) * (2 * saturation) + grey
    mean = pictures.mean((1, 2, 3), keepdim=True)
    return (pictures - mean) * (contrast + 0.5) + mean


def shift(pictures: Tensor, numbers: Tensor) -> Tensor:
    """Moves each picture down and right by (B, 2) pixels; what comes in from beyond the edge is 0, mid-grey."""
    size = pictures.shape[-1]
    places = torch.arange(size, device=pictures.device)
    rows, columns = ((places - by[:, None]).clamp(-1, size) + 1 for by in numbers.T)  # (B, S), in the padded picture
    batch = torch.arange(len(pictures), device=pictures.device)[:, None, None]
    padded = F.pad(pictures, (1, 1, 1, 1)).permute(0, 2, 3, 1)
    return padded[batch, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def cutout(pictures: Tensor, numbers: Tensor) -> Tensor:
    """Makes a square of half the side 0, whose first row and column (B, 2) may lie outside."""
    size = pictures.shape[-1]
    places = torch.arange(size, device=pictures.device)
    rows, columns = ((places >= first[:, None]) & (places < first[:, None] + int(CUTOUT * size)) for first in numbers.T)
    return pictures * ~(rows[:, None, :, None] & columns[:, None, None, :])


TRANSFORMS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"colour": colour, "shift": shift, "cutout": cutout}
