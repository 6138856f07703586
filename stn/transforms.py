"""Families of transforms: a few unbounded numbers → a sampling grid, bounded, and the identity for zeros.

Every number goes through tanh times its bound, so that no step of training can throw the view out of the image. The
coordinates are those of `stn.warp`.
"""

from __future__ import annotations

import math
from functools import lru_cache

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
        if not 1 <= zoom < math.inf:
            raise ValueError(f"expected a zoom of at least 1, got {zoom}")
        if not 0 <= angle_deg <= 180:
            raise ValueError(f"expected an angle from 0 to 180 degrees, got {angle_deg}")
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
    Neighbouring points that move against each other would fold the image: the spline is smoothed (it passes beside
    its points, their common shift, zoom and shear it follows) as much as it takes that no numbers can fold it.

    Args:
        size: of the output.
        points: of the lattice, per side.
        bend: largest move of a point.
    """

    basis: Tensor

    def __init__(self, size: Size, points: int = 4, bend: float = 0.25) -> None:
        super().__init__()
        if points < 2:
            raise ValueError(f"expected at least 2 control points per side, got {points}")
        if not 0 <= bend <= MOST_BEND:
            raise ValueError(f"expected a bend from 0 to {MOST_BEND} (beyond it the image can fold), got {bend}")
        self.inputs, self.size, self.bend = 2 * points**2, size, bend
        self.smoothing = smoothing_without_folds(points, bend)
        self.zoom_out = 1 + 2 * bend
        basis = spline_basis(lattice(points), identity_grid(size).reshape(-1, 2), self.smoothing)
        self.register_buffer("basis", basis, persistent=False)

    def forward(self, raw: Tensor, size: Size, aspect: float = 1.0) -> Tensor:
        """Raw numbers (B, 2 * points²), moves of the lattice's points row by row → grids (B, H, W, 2)."""
        if size != self.size:
            raise ValueError(f"expected the output size {self.size} that this spline was made for, got {size}")
        with torch.autocast(raw.device.type, enabled=False):
            moves = self.bend * raw.tanh().view(raw.shape[0], -1, 2)
            grid = identity_grid(size, raw.device).reshape(1, -1, 2) + self.basis.to(raw.dtype) @ moves
        return grid.reshape(-1, *size, 2)


MOST_BEND = 0.3
"""With it even a stiff plate through moved points, of however fine a lattice, turns over nowhere."""


def lattice(points: int) -> Tensor:
    """Control points (points², 2) from edge to edge, row by row."""
    line = torch.linspace(-1, 1, points)
    return torch.stack(torch.meshgrid(line, line, indexing="xy"), dim=-1).reshape(-1, 2)


def spline_basis(centres: Tensor, at: Tensor, smoothing: float = 0.0) -> Tensor:
    """How far the points `at` (M, 2) follow each of the centres (N, 2): (M, N), float32.

    The spline through values v at the centres is basis @ v. It minimises the bending energy, with the kernel
    r² log r; straight moves of all the centres move all points alike. With `smoothing` it passes beside the centres
    and bends less.
    """
    centres, at = centres.double(), at.double()
    rows = torch.cat([_kernel(at, centres), _with_one(at)], dim=1)
    return (rows @ _coefficients(centres, smoothing)).float()


@lru_cache
def smoothing_without_folds(points: int, bend: float) -> float:
    """Smoothing with which moves up to `bend` of a lattice's points cannot fold its spline; 0 where none is needed.

    The determinant of the map's derivative is at least 1 - bend * (sum of the basis' absolute slopes along x and
    along y), whatever the moves: the least smoothing that leaves 0.1 of it everywhere.
    """
    centres, at = lattice(points).double(), lattice(65).double()
    apart = at[:, None] - centres
    rows = apart * (apart.square().sum(-1, keepdim=True).clamp(min=1e-12).log() + 1)  # the kernel's gradient
    straight = torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0]], dtype=torch.float64).expand(len(at), 2, 3)
    gradient = torch.cat([rows.mT, straight], dim=-1)  # (M, 2, N + 3)

    def folds(smoothing: float) -> bool:
        return bend * float((gradient @ _coefficients(centres, smoothing)).abs().sum((1, 2)).max()) > 0.9

    if not folds(0.0):
        return 0.0
    low, high = -6.0, 6.0  # powers of ten
    while high - low > 0.01:
        middle = (low + high) / 2
        low, high = (middle, high) if folds(10**middle) else (low, middle)
    return 10**high


def _coefficients(centres: Tensor, smoothing: float) -> Tensor:
    """Values at the centres (N) → weights of the kernels, and the straight part: (N + 3, N)."""
    number = len(centres)
    system = torch.zeros(number + 3, number + 3, dtype=torch.float64)
    system[:number, :number] = _kernel(centres, centres) + smoothing * torch.eye(number, dtype=torch.float64)
    system[:number, number:] = _with_one(centres)
    system[number:, :number] = _with_one(centres).mT
    return torch.linalg.inv(system)[:, :number]


def _kernel(a: Tensor, b: Tensor) -> Tensor:
    squared = torch.cdist(a, b).square()
    return 0.5 * torch.xlogy(squared, squared)


def _with_one(points: Tensor) -> Tensor:
    return torch.cat([torch.ones_like(points[:, :1]), points], dim=1)


def _checked_shift(shift: float) -> float:
    if not 0 <= shift <= 1:
        raise ValueError(f"expected a shift from 0 to 1 (beyond it the centre leaves the image), got {shift}")
    return shift
