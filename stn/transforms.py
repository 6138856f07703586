"""Families of transforms: a few unbounded numbers → a sampling grid, bounded, and the identity for zeros.

Every number goes through tanh times its bound, so that no step of training can throw the view out of the image. The
coordinates are those of `stn.warp`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from stn.warp import Size, affine_grid, identity_grid


class FreeAffine(nn.Module):
    """Any of the six entries of an affine matrix (Jaderberg et al., equation 1), each within `bend` of the identity.

    Args:
        bend: below 0.5, so that the matrix always stays invertible.
        shift: largest move of the centre, 1 being half of the image.
    """

    inputs = 6

    def __init__(self, bend: float = 0.25, shift: float = 0.5) -> None:
        super().__init__()
        if not 0 <= bend < 0.5:
            raise ValueError(f"expected a bend from 0 to below 0.5 (else the matrix can collapse), got {bend}")
        self.bend, self.shift = bend, _checked_shift(shift)
        self.zoom_out = 1 + 2 * bend

    def matrix(self, raw: Tensor, aspect: float = 1.0) -> Tensor:
        """Raw numbers (B, 6) → matrices (B, 2, 3)."""
        change = raw.tanh().view(-1, 2, 3)
        bound = raw.new_tensor([self.bend, self.bend, self.shift])
        identity = raw.new_tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
        return identity + change * bound

    def forward(self, raw: Tensor, size: Size, aspect: float = 1.0) -> Tensor:
        """Raw numbers (B, 6) → grids (B, H, W, 2)."""
        return affine_grid(self.matrix(raw, aspect), size)


class Similarity(nn.Module):
    """Shift, zoom and rotation: what does not distort a garment.

    Args:
        shift: largest move of the centre, 1 being half of the image.
        zoom: largest factor, in or out.
        angle_deg: largest rotation, either way.
    """

    inputs = 4

    def __init__(self, shift: float = 0.5, zoom: float = 2.0, angle_deg: float = 45.0) -> None:
        super().__init__()
        if zoom < 1:
            raise ValueError(f"expected a zoom of at least 1, got {zoom}")
        self.shift, self.log_zoom, self.angle = _checked_shift(shift), math.log(zoom), math.radians(angle_deg)
        self.zoom_out = zoom

    def matrix(self, raw: Tensor, aspect: float = 1.0) -> Tensor:
        """Raw numbers (B, 4): x, y, zoom, angle → matrices (B, 2, 3).

        Args:
            aspect: width / height of the input: a rotation of pixels is none in coordinates that are -1..1 both ways.
        """
        x, y, size, turn = raw.tanh().unbind(-1)
        scale, angle = (self.log_zoom * size).exp(), self.angle * turn
        cos, sin = scale * angle.cos(), scale * angle.sin()
        rows = [cos, -sin / aspect, self.shift * x, sin * aspect, cos, self.shift * y]
        return torch.stack(rows, dim=-1).view(-1, 2, 3)

    def forward(self, raw: Tensor, size: Size, aspect: float = 1.0) -> Tensor:
        """Raw numbers (B, 4) → grids (B, H, W, 2)."""
        return affine_grid(self.matrix(raw, aspect), size)


class ScaleTranslation(nn.Module):
    """Shift and zoom: the attention of Jaderberg et al., equation 2."""

    inputs = 3

    def __init__(self, shift: float = 0.5, zoom: float = 2.0) -> None:
        super().__init__()
        self.similarity = Similarity(shift, zoom, angle_deg=0.0)
        self.zoom_out = zoom

    def matrix(self, raw: Tensor, aspect: float = 1.0) -> Tensor:
        """Raw numbers (B, 3): x, y, zoom → matrices (B, 2, 3)."""
        return self.similarity.matrix(torch.cat([raw, torch.zeros_like(raw[:, :1])], dim=-1), aspect)

    def forward(self, raw: Tensor, size: Size, aspect: float = 1.0) -> Tensor:
        """Raw numbers (B, 3) → grids (B, H, W, 2)."""
        return affine_grid(self.matrix(raw, aspect), size)


class ThinPlateSpline(nn.Module):
    """A smooth bending that moves each point of a lattice (Jaderberg et al., section 3.2; Bookstein, 1989).

    The lattice lies in the output, so solving for the spline is one product with a matrix that is known beforehand.

    Args:
        points: of the lattice, per side.
        bend: largest move of a point; below 1 / (points - 1), half of their distance, neighbours cannot change places.
        size: of the output.
    """

    basis: Tensor

    def __init__(self, size: Size, points: int = 4, bend: float = 0.25) -> None:
        super().__init__()
        if points < 2:
            raise ValueError(f"expected at least 2 control points per side, got {points}")
        if not 0 <= bend < 1 / (points - 1):
            raise ValueError(
                f"expected a bend from 0 to below {1 / (points - 1):.3f} with {points} points a side (else they can "
                f"change places and the image folds), got {bend}"
            )
        self.inputs, self.size, self.bend = 2 * points**2, size, bend
        self.zoom_out = 1 + bend * (points - 1)
        self.register_buffer(
            "basis", spline_basis(lattice(points), identity_grid(size).reshape(-1, 2)), persistent=False
        )

    def forward(self, raw: Tensor, size: Size, aspect: float = 1.0) -> Tensor:
        """Raw numbers (B, 2 * points²), moves of the lattice's points row by row → grids (B, H, W, 2)."""
        if size != self.size:
            raise ValueError(f"expected the output size {self.size} that this spline was made for, got {size}")
        with torch.autocast(raw.device.type, enabled=False):
            moves = self.bend * raw.tanh().view(raw.shape[0], -1, 2)
            grid = identity_grid(size, raw.device).reshape(1, -1, 2) + self.basis.to(raw.dtype) @ moves
        return grid.reshape(-1, *size, 2)


def lattice(points: int) -> Tensor:
    """Control points (points², 2) from edge to edge, row by row."""
    line = torch.linspace(-1, 1, points)
    return torch.stack(torch.meshgrid(line, line, indexing="xy"), dim=-1).reshape(-1, 2)


def spline_basis(centres: Tensor, at: Tensor) -> Tensor:
    """How far the points `at` (M, 2) follow each of the centres (N, 2): (M, N), float32.

    The spline through values v at the centres is basis @ v. It minimises the bending energy, with the kernel
    r² log r; straight moves of all the centres move all points alike.
    """
    centres, at = centres.double(), at.double()
    number = len(centres)
    system = torch.zeros(number + 3, number + 3, dtype=torch.float64)
    system[:number, :number] = _kernel(centres, centres)
    system[:number, number:] = _with_one(centres)
    system[number:, :number] = _with_one(centres).mT
    rows = torch.cat([_kernel(at, centres), _with_one(at)], dim=1)
    return torch.linalg.solve(system, rows, left=False)[:, :number].float()


def _kernel(a: Tensor, b: Tensor) -> Tensor:
    squared = torch.cdist(a, b).square()
    return 0.5 * torch.xlogy(squared, squared)


def _with_one(points: Tensor) -> Tensor:
    return torch.cat([torch.ones_like(points[:, :1]), points], dim=1)


def _checked_shift(shift: float) -> float:
    if not 0 <= shift <= 1:
        raise ValueError(f"expected a shift from 0 to 1 (beyond it the centre leaves the image), got {shift}")
    return shift
