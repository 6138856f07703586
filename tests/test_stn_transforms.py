"""Families of transforms: the identity for zeros, bounded for anything, and the maps that they say they are."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.interpolate import RBFInterpolator
from torch import Tensor, nn

from stn import FreeAffine, ScaleTranslation, Similarity, ThinPlateSpline, check_view, identity_grid
from stn.transforms import lattice, smoothing_without_folds, spline_basis

FAMILIES: dict[str, Callable[..., nn.Module]] = {
    "affine": lambda size: FreeAffine(),
    "similarity": lambda size: Similarity(),
    "scale_translation": lambda size: ScaleTranslation(),
    "tps": lambda size: ThinPlateSpline(size),
    "tps of many points": lambda size: ThinPlateSpline(size, points=6, bend=0.3),
}
ANYTHING = st.floats(-1e30, 1e30) | st.sampled_from([-1.0, 0.0, 0.3, 50.0, -50.0])


@pytest.fixture(params=FAMILIES, scope="module")
def family(request) -> nn.Module:
    return FAMILIES[request.param]((12, 16))


def numbers(*values: float) -> Tensor:
    """The raw numbers whose tanh these are."""
    return torch.tensor([values], dtype=torch.float64).atanh()


# All families


def test_zeros_are_the_identity(family):
    grid = family(torch.zeros(3, family.inputs), (12, 16), 1.5)
    assert torch.equal(grid, identity_grid((12, 16)).expand(3, -1, -1, -1))


@settings(max_examples=40, deadline=None)
@given(data=st.data(), aspect=st.floats(0.3, 3))
def test_whatever_the_numbers_the_view_stays_on_the_image_and_does_not_fold(family, data, aspect):
    raw = data.draw(st.lists(ANYTHING, min_size=family.inputs, max_size=family.inputs))
    grid = family(torch.tensor([raw], dtype=torch.float64), (12, 16), aspect)
    assert grid.shape == (1, 12, 16, 2)
    check_view(grid)
    assert (grid[0, 5:7, 7:9].mean((0, 1)).abs() <= 1).all()
    assert area(grid).min() > 0


def area(grid: Tensor) -> Tensor:
    """Signed, of the parallelogram between each point and its right and lower neighbours."""
    right, down = grid[:, :-1, 1:] - grid[:, :-1, :-1], grid[:, 1:, :-1] - grid[:, :-1, :-1]
    return right[..., 0] * down[..., 1] - right[..., 1] * down[..., 0]


def test_gradients_are_the_numerical_ones(family):
    raw = torch.randn(2, family.inputs, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert torch.autograd.gradcheck(lambda r: family(r, (12, 16), 1.5), (raw.requires_grad_(),), atol=1e-4)


def test_every_number_moves_the_view_at_the_start(family):
    raw = torch.zeros(1, family.inputs, requires_grad=True)
    moved = torch.autograd.functional.jacobian(lambda r: family(r, (12, 16)).flatten(), raw)
    assert (moved.reshape(-1, family.inputs).abs().amax(0) > 1e-3).all()


def test_the_grid_is_float32_under_autocast(family):
    raw = torch.randn(2, family.inputs)
    with torch.autocast("cpu", torch.bfloat16):
        under = family(raw, (12, 16), 1.5)
    assert under.dtype == torch.float32
    assert torch.equal(under, family(raw, (12, 16), 1.5))


# Affine


def test_the_entries_of_a_free_affine_are_each_within_its_bounds():
    family = FreeAffine(bend=0.4, shift=0.3)
    matrix = family.matrix(numbers(0.5, -0.5, 1.0, 0.25, -1.0, 0.0))[0]
    torch.testing.assert_close(matrix, torch.tensor([[1.2, -0.2, 0.3], [0.1, 0.6, 0.0]]).double())


@pytest.mark.parametrize("aspect", [1.0, 0.5, 1.6])
def test_a_similarity_keeps_angles_and_ratios_of_pixels(aspect):
    """A 320 x 200 image is -1..1 both ways, but a square of it is not a square of these."""
    family = Similarity(shift=0.5, zoom=2.0, angle_deg=90.0)
    matrix = family.matrix(numbers(0.3, -0.7, 0.6, 0.5), aspect)[0]
    pixels = torch.tensor([aspect, 1.0]).double().diag()  # half of the image's width and height
    linear = pixels @ matrix[:, :2] @ pixels.inverse()
    scale, angle = 2**0.6, math.radians(45)
    expected = scale * torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]).double()
    torch.testing.assert_close(linear, expected)
    assert matrix[:, 2].tolist() == pytest.approx([0.15, -0.35])


def test_a_scale_translation_is_a_similarity_that_does_not_turn():
    raw = numbers(0.3, -0.7, 0.6)
    unturned = Similarity(angle_deg=0.0).matrix(torch.cat([raw, raw[:, :1]], dim=1), 1.5)
    matrix = ScaleTranslation().matrix(raw, 1.5)
    torch.testing.assert_close(matrix, unturned)
    torch.testing.assert_close(matrix[0, :, :2], 2**0.6 * torch.eye(2).double())


@pytest.mark.parametrize(("number", "zoom"), [(1.0, 3.0), (-1.0, 1 / 3), (0.0, 1.0)])
def test_a_zoom_is_a_factor_in_or_out(number, zoom):
    matrix = ScaleTranslation(zoom=3.0).matrix(numbers(0.0, 0.0, number))
    assert matrix[0, 0, 0].item() == pytest.approx(zoom)


# Thin-plate splines


@pytest.mark.parametrize("smoothing", [0.0, 0.5, 20.0])
def test_a_spline_is_scipys(smoothing):
    """Not kornia's: it puts the kernels where the points go, not where they come from."""
    centres, at = lattice(4), identity_grid((9, 7)).reshape(-1, 2)
    values = torch.randn(16, 2, generator=torch.Generator().manual_seed(1))
    theirs = RBFInterpolator(centres.numpy(), values.numpy(), kernel="thin_plate_spline", smoothing=smoothing)(
        at.numpy()
    )
    torch.testing.assert_close(spline_basis(centres, at, smoothing) @ values, torch.from_numpy(theirs).float())


def test_a_spline_moves_a_point_to_where_its_numbers_say():
    """The lattice of 3 falls on pixels of a 3 x 3 view when that is enlarged to reach the edges."""
    family = ThinPlateSpline((64, 64), points=3, bend=0.1)
    assert family.smoothing == 0
    raw = torch.zeros(1, 9, 2).double()
    raw[0, 4] = numbers(0.5, -0.25)  # the middle one: 0.05 to the right, 0.025 up
    moved = family(raw.reshape(1, -1), (64, 64)) - identity_grid((64, 64))
    torch.testing.assert_close(
        moved[0, 31:33, 31:33].mean((0, 1)), torch.tensor([0.05, -0.025]).double(), atol=1e-3, rtol=0
    )
    assert moved[0, :, :, 0].max() < 0.0505


def test_points_that_move_alike_move_the_whole_view_however_smoothed():
    family = ThinPlateSpline((16, 16), points=4, bend=0.25)
    assert family.smoothing > 0
    raw = numbers(0.8, -0.4).repeat(1, 16)
    torch.testing.assert_close(
        family(raw, (16, 16))[0], identity_grid((16, 16)).double() + torch.tensor([0.2, -0.1]), rtol=0, atol=1e-6
    )


@pytest.mark.parametrize(("points", "bend"), [(4, 0.25), (5, 0.2), (6, 0.3)])
def test_without_its_smoothing_a_spline_would_fold(points, bend):
    """Against neighbours that move apart as far as they can: the worst numbers, found by their signs."""
    size = (96, 96)
    at = identity_grid(size).reshape(-1, 2)
    smoothing = smoothing_without_folds(points, bend)
    smallest = []
    for basis in (spline_basis(lattice(points), at), spline_basis(lattice(points), at, smoothing)):
        field = basis.reshape(*size, -1)
        x, y = field[:-1, 1:] - field[:-1, :-1], field[1:, :-1] - field[:-1, :-1]
        row, column = divmod(int((x.abs().sum(-1) + y.abs().sum(-1)).argmax()), 95)
        moves = -bend * torch.stack([x[row, column].sign(), y[row, column].sign()], dim=-1)
        grid = identity_grid(size) + field @ moves
        smallest.append(area(grid[None]).min().item())
    assert smallest[0] < 0 < smallest[1]


def test_a_spline_is_for_one_output_size():
    with pytest.raises(
        ValueError, match=r"expected the output size \(8, 8\) that this spline was made for, got \(9, 8\)"
    ):
        ThinPlateSpline((8, 8))(torch.zeros(1, 32), (9, 8))


# Bounds


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FreeAffine(bend=0.5), r"expected a bend from 0 to below 0.5 \(.*collapse\), got 0.5"),
        (lambda: FreeAffine(bend=-0.1), "expected a bend from 0 to below 0.5 .* got -0.1"),
        (lambda: FreeAffine(shift=1.1), r"expected a shift from 0 to 1 \(.*leaves the image\), got 1.1"),
        (lambda: FreeAffine(shift=math.nan), "expected a shift from 0 to 1 .*, got nan"),
        (lambda: Similarity(shift=2), "expected a shift from 0 to 1 .*, got 2"),
        (lambda: Similarity(zoom=0.9), "expected a zoom of at least 1, got 0.9"),
        (lambda: ScaleTranslation(zoom=math.nan), "expected a zoom of at least 1, got nan"),
        (lambda: ScaleTranslation(zoom=math.inf), "expected a zoom of at least 1, got inf"),
        (lambda: Similarity(angle_deg=200), "expected an angle from 0 to 180 degrees, got 200"),
        (lambda: ThinPlateSpline((8, 8), points=1), "expected at least 2 control points per side, got 1"),
        (lambda: ThinPlateSpline((8, 8), bend=0.31), r"expected a bend from 0 to 0.3 \(.*fold\), got 0.31"),
    ],
)
def test_bounds_that_would_let_the_view_leave_or_fold_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
