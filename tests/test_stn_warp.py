"""Sampling an image on a grid, against torch, kornia, moves by whole pixels, antialiased resizing and numbers."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from kornia.geometry.transform import warp_affine
from torch import Tensor

from stn import affine_grid, check_view, coverage, identity_grid, sample
from stn.warp import levels_needed, shrinking

GENERATOR = torch.Generator().manual_seed(3)
IMAGE = torch.rand(2, 3, 12, 20, generator=GENERATOR)
IDENTITY = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]


def matrices(*rows: list[list[float]]) -> Tensor:
    return torch.tensor(rows)


def warped(image: Tensor, matrix: list[list[float]], size: tuple[int, int] | None = None, **options) -> Tensor:
    grid = affine_grid(matrices(matrix).expand(len(image), -1, -1), size or image.shape[-2:])
    return sample(image, grid, **options)


# The grid


@pytest.mark.parametrize("size", [(5, 7), (1, 4), (32, 32)])
def test_a_grid_is_torchs_with_corners_not_aligned(size):
    matrix = torch.randn(4, 2, 3, generator=GENERATOR)
    expected = F.affine_grid(matrix, [4, 1, *size], align_corners=False)
    torch.testing.assert_close(affine_grid(matrix, size), expected, rtol=1e-6, atol=1e-6)


def test_the_identity_grid_is_the_pixel_centres():
    grid = identity_grid((2, 4))
    assert grid[0, :, 0].tolist() == [-0.75, -0.25, 0.25, 0.75]
    assert grid[:, 0, 1].tolist() == [-0.5, 0.5]


def test_a_grid_is_float32_at_least_whatever_the_matrix_and_the_autocast():
    matrix = matrices(IDENTITY)
    with torch.autocast("cpu", torch.bfloat16):
        under = affine_grid(matrix, (64, 64))
    assert torch.equal(under, affine_grid(matrix, (64, 64)))
    assert affine_grid(matrix.bfloat16(), (4, 4)).dtype == torch.float32
    assert affine_grid(matrix.double(), (4, 4)).dtype == torch.float64


@pytest.mark.parametrize("shape", [(2, 3), (1, 3, 3), (1, 2, 2)])
def test_matrices_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match=r"expected affine matrices of shape \(B, 2, 3\), got \("):
        affine_grid(torch.zeros(shape), (4, 4))


# Known moves


@pytest.mark.parametrize("levels", [0, 2])
def test_the_identity_gives_the_image(levels):
    torch.testing.assert_close(warped(IMAGE, IDENTITY, levels=levels), IMAGE, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("right", "down"), [(3, 0), (0, -2), (-5, 4)])
def test_a_view_moved_by_whole_pixels_shows_those_pixels(right, down):
    moved = warped(IMAGE, [[1, 0, 2 * right / 20], [0, 1, 2 * down / 12]])
    rows, columns = (torch.arange(n).add(by).clamp(0, n - 1) for n, by in ((12, down), (20, right)))
    torch.testing.assert_close(moved, IMAGE[:, :, rows][:, :, :, columns], rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("matrix", "expected"),
    [
        ([[-1, 0, 0], [0, 1, 0]], lambda image: image.flip(-1)),
        ([[1, 0, 0], [0, -1, 0]], lambda image: image.flip(-2)),
        ([[-1, 0, 0], [0, -1, 0]], lambda image: image.rot90(2, (-2, -1))),
        ([[0, 1, 0], [1, 0, 0]], lambda image: image.mT),
        ([[0, -1, 0], [1, 0, 0]], lambda image: image.rot90(1, (-2, -1))),
        ([[0, 1, 0], [-1, 0, 0]], lambda image: image.rot90(-1, (-2, -1))),
    ],
    ids=["mirrored", "upside down", "half turn", "transposed", "quarter turn left", "quarter turn right"],
)
def test_flips_and_quarter_turns_are_exact(matrix, expected):
    wanted = expected(IMAGE)
    turned = warped(IMAGE, [[float(v) for v in row] for row in matrix], tuple(wanted.shape[-2:]))
    torch.testing.assert_close(turned, wanted, rtol=0, atol=1e-5)


def test_a_scale_of_a_half_shows_the_middle_at_twice_the_size():
    middle = IMAGE[:, :, 3:9, 5:15]
    zoomed = warped(IMAGE, [[0.5, 0, 0], [0, 0.5, 0]])
    expected = F.interpolate(middle, (12, 20), mode="bilinear", align_corners=False)
    inner = (..., slice(1, -1), slice(1, -1))  # at its border `expected` cannot see the pixels around the middle
    torch.testing.assert_close(zoomed[inner], expected[inner], rtol=0, atol=1e-5)
    back = warped(IMAGE, [[0.5, 0, 0], [0, 0.5, 0]], (6, 10))
    torch.testing.assert_close(back, middle, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("padding", "outside"), [("zeros", 0.0), ("border", 1.0), ("reflection", 1.0)])
def test_padding_is_what_lies_outside(padding, outside):
    seen = warped(torch.ones(1, 1, 8, 8), [[1, 0, 1], [0, 1, 0]], padding=padding)
    assert torch.equal(seen[..., :4], torch.ones(1, 1, 8, 4))
    assert torch.equal(seen[..., 4:], torch.full((1, 1, 8, 4), outside))


# Other implementations


@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
def test_a_sample_without_levels_is_torchs(padding):
    matrix = torch.randn(2, 2, 3, generator=GENERATOR)
    grid = F.affine_grid(matrix, [2, 3, 9, 7], align_corners=False)
    expected = F.grid_sample(IMAGE, grid, padding_mode=padding, align_corners=False)
    torch.testing.assert_close(sample(IMAGE, grid, padding=padding), expected)


@settings(max_examples=20, deadline=None)
@given(angle=st.floats(-3, 3), zoom=st.floats(0.6, 1.8), x=st.floats(-4, 4), y=st.floats(-4, 4))
def test_a_warp_is_kornias(angle, zoom, x, y):
    """kornia's matrix is of pixels and goes from the input to the output; its pixel centres are whole numbers."""
    cos, sin = zoom * math.cos(angle), zoom * math.sin(angle)
    pixels = torch.tensor([[cos, -sin, x], [sin, cos, y], [0, 0, 1]], dtype=torch.float64)
    to_pixels = torch.tensor([[10, 0, 9.5], [0, 6, 5.5], [0, 0, 1]], dtype=torch.float64)
    ours = to_pixels.inverse() @ pixels.inverse() @ to_pixels
    grid = affine_grid(ours[None, :2].expand(2, -1, -1), (12, 20))
    found = sample(IMAGE.double(), grid, padding="zeros")
    theirs = warp_affine(IMAGE.double(), pixels[None, :2].expand(2, -1, -1), (12, 20), align_corners=False)
    torch.testing.assert_close(found, theirs, rtol=0, atol=1e-5)


# Gradients


def test_gradients_are_the_numerical_ones():
    image = torch.rand(2, 1, 8, 8, dtype=torch.float64, generator=GENERATOR, requires_grad=True)
    grid = (torch.rand(2, 4, 4, 2, dtype=torch.float64, generator=GENERATOR) * 1.6 - 0.8).requires_grad_()
    assert torch.autograd.gradcheck(lambda i, g: sample(i, g), (image, grid))
    assert torch.autograd.gradcheck(lambda i: sample(i, grid.detach(), levels=2), (image,))


def test_the_gradient_of_the_grid_goes_through_every_level_and_not_through_their_mixture():
    """Which level is looked at is a choice, not something to learn from."""
    matrix = matrices([[1.5, 0, 0], [0, 1.5, 0]]).double().requires_grad_()
    image = IMAGE[:1].double()
    sample(image, affine_grid(matrix, (12, 20)), levels=1).square().sum().backward()
    halves = F.interpolate(image, (6, 10), mode="bilinear", antialias=True)
    again = matrix.detach().clone().requires_grad_()
    grid = affine_grid(again, (12, 20))
    share = math.log2(1.5)
    mixed = (1 - share) * sample(image, grid) + share * sample(halves, grid)
    mixed.square().sum().backward()
    torch.testing.assert_close(matrix.grad, again.grad, rtol=1e-5, atol=1e-5)
    assert matrix.grad.abs().max() > 0.1


# Types


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("levels", [0, 1])
def test_the_output_has_the_type_of_the_image(dtype, levels):
    grid = affine_grid(matrices(IDENTITY, IDENTITY), (6, 10))
    found = sample(IMAGE.to(dtype), grid, levels)
    assert found.dtype == dtype
    exact = sample(IMAGE.to(dtype).double(), grid, levels)
    torch.testing.assert_close(found.double(), exact, rtol=0, atol={torch.bfloat16: 4e-3}.get(dtype, 1e-3))


# Antialiasing


def zone_plate(side: int = 128) -> Tensor:
    """Rings that get finer outwards, up to one pixel black, one pixel white, at the edges' middles."""
    x = (2 * torch.arange(side) + 1) / side - 1
    return (0.5 + 0.5 * torch.cos(math.pi * side / 4 * (x[:, None] ** 2 + x**2))).expand(1, 1, -1, -1)


def checkerboard(side: int = 128, field: int = 1) -> Tensor:
    """One pixel in from the top left is white, so that points between pixels do not hide the aliasing."""
    number = torch.arange(side) // field
    return ((number[:, None] + number) % 2).float().expand(1, 1, -1, -1)


@pytest.mark.parametrize("factor", [2, 4])
def test_a_fine_checkerboard_that_is_shrunk_is_grey(factor):
    """Moved by a fraction of a pixel: between the pixels plain bilinear sampling would be grey by luck."""
    matrix = [[1, 0, 1 / 128], [0, 1, 1 / 128]]
    size = (128 // factor, 128 // factor)
    plain, smooth = (
        warped(checkerboard(), matrix, size, levels=levels) for levels in (0, levels_needed((128,) * 2, size))
    )
    inner = (..., slice(1, -1), slice(1, -1))
    assert (smooth[inner] - 0.5).abs().max() < 0.01
    assert (plain[inner] - 0.5).abs().max() > 0.4


@pytest.mark.parametrize("factor", [2, 4])
def test_a_zone_plate_that_is_shrunk_is_that_of_an_antialiased_resize(factor):
    size = (128 // factor, 128 // factor)
    expected = F.interpolate(zone_plate(), size, mode="bilinear", antialias=True)
    plain, smooth = (warped(zone_plate(), IDENTITY, size, levels=levels) for levels in (0, factor // 2))
    ours, without = ((found - expected).abs().mean() for found in (smooth, plain))
    assert ours < 0.02
    assert without > 5 * ours


def test_zooming_out_is_antialiased_too():
    matrix = [[2, 0, 1 / 128], [0, 2, 1 / 128]]
    smooth, plain = (warped(checkerboard(), matrix, levels=levels) for levels in (1, 0))
    middle = (..., slice(34, 94), slice(34, 94))
    assert (smooth[middle] - 0.5).abs().max() < 0.01
    assert (plain[middle] - 0.5).abs().max() > 0.4


def test_every_image_of_a_batch_is_mixed_from_its_own_levels():
    both = matrices(IDENTITY, [[2, 0, 0], [0, 2, 0]])
    grids = affine_grid(both, (12, 20))
    together = sample(IMAGE, grids, levels=2)
    torch.testing.assert_close(together[0], IMAGE[0], rtol=0, atol=1e-5)
    for number in (0, 1):
        alone = sample(IMAGE[number : number + 1], grids[number : number + 1], levels=2)
        torch.testing.assert_close(together[number], alone[0])


def test_between_two_levels_is_their_mixture():
    """1.5 times as far apart: 58 % of the halved image."""
    matrix = [[1.5, 0, 0], [0, 1.5, 0]]
    whole = warped(IMAGE, matrix)
    half = warped(F.interpolate(IMAGE, (6, 10), mode="bilinear", antialias=True), matrix, (12, 20))
    share = math.log2(1.5)
    torch.testing.assert_close(warped(IMAGE, matrix, levels=1), (1 - share) * whole + share * half, rtol=0, atol=1e-5)


def test_shrinking_is_the_distance_of_neighbours_in_pixels():
    assert shrinking(affine_grid(matrices(IDENTITY), (6, 5)), (12, 20)).item() == pytest.approx(4)
    quarter_turn = affine_grid(matrices([[0.0, 0.5, 0], [0.5, 0, 0]]), (12, 20))
    assert shrinking(quarter_turn, (12, 20)).item() == pytest.approx(0.5 * 20 / 12)
    constant = torch.zeros(1, 4, 4, 2)
    assert shrinking(constant, (12, 20)).item() == pytest.approx(1e-6)


@pytest.mark.parametrize(
    ("in_size", "out_size", "zoom_out", "levels"),
    [
        ((224, 224), (224, 224), 1.0, 0),
        ((448, 448), (224, 224), 1.0, 1),
        ((448, 224), (224, 224), 1.0, 1),
        ((448, 448), (224, 224), 1.5, 2),
        ((225, 225), (224, 224), 1.0, 1),
        ((100, 100), (224, 224), 1.0, 0),
    ],
)
def test_levels_are_as_many_as_it_takes(in_size, out_size, zoom_out, levels):
    assert levels_needed(in_size, out_size, zoom_out) == levels


# Bad input


@pytest.mark.parametrize(
    ("image", "grid", "options", "message"),
    [
        ((3, 8, 8), (1, 4, 4, 2), {}, r"expected images \(B, C, H, W\) and grids \(B, h, w, 2\), got \(3, 8, 8\) and"),
        ((1, 3, 8, 8), (1, 4, 4, 3), {}, r"got \(1, 3, 8, 8\) and \(1, 4, 4, 3\)"),
        ((2, 3, 8, 8), (1, 4, 4, 2), {}, r"got \(2, 3, 8, 8\) and \(1, 4, 4, 2\)"),
        ((1, 3, 3, 8), (1, 4, 4, 2), {"levels": 2}, "expected images of at least 4 pixels a side, .* got 3x8"),
        ((1, 3, 8, 8), (1, 1, 4, 2), {"levels": 1}, "expected grids of at least 2x2 points with levels, got 1x4"),
        ((1, 3, 8, 8), (1, 4, 4, 2), {"padding": "white"}, "expected padding .* border, zeros, .*, got 'white'"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(image, grid, options, message):
    with pytest.raises(ValueError, match=message):
        sample(torch.zeros(image), torch.zeros(grid), **options)


def test_coverage_is_the_share_of_the_view_that_shows_the_image():
    grids = affine_grid(matrices(IDENTITY, [[1, 0, 1], [0, 1, 0]], [[1, 0, 3], [0, 1, 0]]), (8, 8))
    assert coverage(grids).tolist() == [1.0, 0.5, 0.0]


def test_a_view_beside_the_image_is_refused():
    inside, outside = affine_grid(matrices(IDENTITY, [[1, 0, 2.5], [0, 1, 0]]), (8, 8)).split(1)
    assert check_view(inside) is inside
    with pytest.raises(ValueError, match=r"expected grids that show some of the image .*, got 1 of 2 beside it"):
        check_view(torch.cat([inside, outside]))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_view_that_is_not_finite_is_refused(value):
    grid = affine_grid(matrices([[1, 0, value], [0, 1, 0]]), (8, 8))
    with pytest.raises(ValueError, match="expected a finite grid, got NaN or infinity"):
        check_view(grid)
