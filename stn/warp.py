"""Sampling an image on a grid: the grid generator and the sampler of Jaderberg et al. (2015), section 3.2 and 3.3.

    warped = sample(images, affine_grid(matrices, (224, 224)))

Convention, for the whole package. A grid (B, H, W, 2) says for every pixel of the *output* where in the *input* it is
taken from, as (x, y): x to the right, y down, both -1 at the first and +1 at the last *edge* of the image, so pixel i
of n lies at (2i + 1) / n - 1 (torch's `align_corners=False`). An affine matrix (B, 2, 3) maps output to input
coordinates: its scale is that of the field of view, so 0.5 shows half of the image at twice the size.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

Size = tuple[int, int]
"""(height, width) in pixels."""
PADDINGS = ("border", "zeros", "reflection")


def identity_grid(size: Size, device: torch.device | None = None) -> Tensor:
    """The pixel centres of an image, (H, W, 2) float32."""
    height, width = size
    x = (2 * torch.arange(width, device=device) + 1) / width - 1
    y = (2 * torch.arange(height, device=device) + 1) / height - 1
    return torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)


def affine_grid(matrix: Tensor, size: Size) -> Tensor:
    """Where the output's pixels lie in the input.

    Args:
        matrix: (B, 2, 3), output → input coordinates.
        size: of the output.

    Returns: (B, H, W, 2) in float32 or better: in bfloat16 a grid near 1 moves in steps of half a pixel.

    Raises:
        ValueError: a matrix of another shape.
    """
    if matrix.ndim != 3 or matrix.shape[1:] != (2, 3):
        raise ValueError(f"expected affine matrices of shape (B, 2, 3), got {tuple(matrix.shape)}")
    matrix = matrix if matrix.dtype == torch.float64 else matrix.float()
    with torch.autocast(matrix.device.type, enabled=False):
        points = identity_grid(size, matrix.device).to(matrix.dtype).reshape(1, -1, 2)
        moved = points @ matrix[:, :, :2].mT + matrix[:, None, :, 2]
    return moved.reshape(-1, *size, 2)


def sample(image: Tensor, grid: Tensor, levels: int = 0, padding: str = "border") -> Tensor:
    """Takes an image's values at a grid's points, bilinearly, and antialiased where the grid is coarser than the image.

    With `levels` the image is halved that many times (an antialiased resize), and every output image is mixed from the
    two levels whose pixels are as far apart as its grid's points are, as textures are drawn. Where the grid is as
    fine as the image or finer, that is the image itself.

    Args:
        image: (B, C, H, W).
        grid: (B, h, w, 2).
        levels: halvings at most; 2 ** levels is the largest shrinking without aliasing. 0: none.
        padding: what lies outside: border, zeros or reflection.

    Returns: (B, C, h, w) in the image's type, computed in float32 or better.

    Raises:
        ValueError: shapes that do not fit, an unknown padding, or an image too small to be halved so often.
    """
    _check(image, grid, levels, padding)
    exact = torch.promote_types(image.dtype, torch.float32)
    with torch.autocast(image.device.type, enabled=False):
        level, points = image.to(exact), grid.to(exact)
        if not levels:
            return _bilinear(level, points, padding).to(image.dtype)
        height = shrinking(points, (image.shape[-2], image.shape[-1])).log2().clamp(0, levels).view(-1, 1, 1, 1)
        mixed = torch.zeros((), dtype=exact, device=image.device)
        for number in range(levels + 1):
            weight = (1 - (height - number).abs()).clamp(min=0)
            mixed = mixed + weight * _bilinear(level, points, padding)
            level = _halved(level) if number < levels else level
    return mixed.to(image.dtype)


def shrinking(grid: Tensor, size: Size) -> Tensor:
    """The input's pixels between a grid's neighbouring points: (B,), of the coarser axis, without gradient."""
    grid = grid.detach()
    half = torch.tensor([size[1] / 2, size[0] / 2], dtype=grid.dtype, device=grid.device)
    steps = [((grid[:, :, 1:] - grid[:, :, :-1]) * half), ((grid[:, 1:] - grid[:, :-1]) * half)]
    lengths = [step.square().sum(-1).sqrt().mean((1, 2)) for step in steps]
    return torch.maximum(*lengths).clamp(min=1e-6)


def levels_needed(in_size: Size, out_size: Size, zoom_out: float = 1.0) -> int:
    """Halvings that keep a field `zoom_out` times the image free of aliasing in the output."""
    most = max(in_size[0] / out_size[0], in_size[1] / out_size[1]) * zoom_out
    return max(0, math.ceil(math.log2(most) - 1e-6))


def coverage(grid: Tensor) -> Tensor:
    """The share (B,) of a grid's points that lie inside the image; 0: the transform has left it."""
    return (grid.abs() <= 1).all(-1).float().mean((1, 2))


def check_view(grid: Tensor) -> Tensor:
    """Returns the grid when each of its views shows some of the image; on a GPU this waits for the grid.

    Raises:
        ValueError: a grid beside the image, which would sample nothing but padding, or one that is not finite.
    """
    if not grid.isfinite().all():
        raise ValueError("expected a finite grid, got NaN or infinity: are the weights and the pixels finite?")
    outside = int((coverage(grid) == 0).sum())
    if outside:
        raise ValueError(
            f"expected grids that show some of the image (within -1..1), got {outside} of {grid.shape[0]} beside it; "
            "shift or enlarge the view less"
        )
    return grid


def _halved(image: Tensor) -> Tensor:
    """Bilinear with antialiasing: the taps are 1 3 3 1. Kornia's pyrdown blurs twice, and takes ten times as long."""
    size = (image.shape[-2] // 2, image.shape[-1] // 2)
    return F.interpolate(image, size, mode="bilinear", align_corners=False, antialias=True)


def _bilinear(image: Tensor, grid: Tensor, padding: str) -> Tensor:
    return F.grid_sample(image, grid, mode="bilinear", padding_mode=padding, align_corners=False)


def _check(image: Tensor, grid: Tensor, levels: int, padding: str) -> None:
    if image.ndim != 4 or grid.ndim != 4 or grid.shape[-1] != 2 or image.shape[0] != grid.shape[0]:
        raise ValueError(
            f"expected images (B, C, H, W) and grids (B, h, w, 2), got {tuple(image.shape)} and {tuple(grid.shape)}"
        )
    if padding not in PADDINGS:
        raise ValueError(f"expected padding to be one of {', '.join(PADDINGS)}, got {padding!r}")
    if levels and min(image.shape[-2:]) >> levels < 1:
        raise ValueError(
            f"expected images of at least {1 << levels} pixels a side, to be halved {levels} times, got "
            f"{image.shape[-2]}x{image.shape[-1]}"
        )
    if levels and min(grid.shape[1:3]) < 2:
        raise ValueError(f"expected grids of at least 2x2 points with levels, got {grid.shape[1]}x{grid.shape[2]}")
