"""Corruptions and shifts: what they do to pixels, against other libraries, and always the same."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.v2 import functional as T

from eval.corruptions import KINDS, SEVERITIES, SHIFTS, _border, corrupt, homography


@pytest.fixture(scope="module")
def square() -> Image.Image:
    """A red rectangle on white, with a gradient in it."""
    pixels = np.full((96, 64, 3), 255, np.uint8)
    pixels[30:70, 20:44] = 200, 30, 30
    pixels[30:70, 20:44, 1] = np.linspace(0, 120, 24)
    return Image.fromarray(pixels)


def difference(a: Image.Image, b: Image.Image) -> float:
    b = b if a.size == b.size else b.resize(a.size)
    return float(np.abs(np.asarray(a, float) - np.asarray(b, float)).mean())


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_the_same_for_the_same_picture_and_worse_with_severity(square, kind):
    made = [corrupt(square, kind, severity, "a.jpg", 3) for severity in range(1, SEVERITIES + 1)]
    again = [corrupt(square, kind, severity, "a.jpg", 3) for severity in range(1, SEVERITIES + 1)]
    assert [p.tobytes() for p in made] == [p.tobytes() for p in again]
    assert corrupt(square, kind, 0, "a.jpg") is square
    assert all(picture.mode == "RGB" for picture in made)
    assert (made[4].size == square.size) == (kind != "crop")
    changes = [difference(square, picture) for picture in made]
    assert changes[0] > 0
    assert changes[4] > changes[0]


@pytest.mark.parametrize("kind", ["noise", "brightness", "occlusion", "shift", "crop", "rotation", "perspective"])
def test_what_is_drawn_depends_on_picture_and_seed(square, kind):
    made = {corrupt(square, kind, 5, f"{n}.jpg", seed).tobytes() for n in range(8) for seed in range(2)}
    assert len(made) >= (2 if kind in ("rotation", "brightness") else 14)


def test_noise_has_its_deviation_and_grows_along_one_pattern():
    grey = Image.new("RGB", (128, 128), (128, 128, 128))
    noise = [np.asarray(corrupt(grey, "noise", severity, "a"), float) / 255 - 128 / 255 for severity in (1, 2)]
    assert [n.std() for n in noise] == pytest.approx([0.08, 0.12], rel=0.03)
    assert np.corrcoef(noise[0].ravel(), noise[1].ravel())[0, 1] > 0.99


def test_blur_is_that_of_torchvision():
    drawn = Image.fromarray(np.random.default_rng(0).integers(0, 255, (224, 224, 3), np.uint8))
    ours = np.asarray(corrupt(drawn, "blur", 3, "a"), float)
    theirs = T.gaussian_blur(T.pil_to_tensor(drawn).float(), [25, 25], [3, 3]).permute(1, 2, 0).numpy()
    inner = slice(20, -20)
    assert np.abs(ours - theirs)[inner, inner].mean() < 1  # Pillow's is three box blurs


def test_jpeg_has_its_quality(square):
    stream = io.BytesIO()
    square.save(stream, "jpeg", quality=7)
    assert corrupt(square, "jpeg", 5, "a").tobytes() == Image.open(stream).convert("RGB").tobytes()


def test_brightness_is_added_to_the_value_of_hsv(square):
    lit = [np.asarray(corrupt(square, "brightness", 2, f"{n}"), float) for n in range(8)]
    value = np.asarray(square, float).max(2)
    for picture in lit:
        change = picture.max(2)[value < 254] - value[value < 254]
        assert np.abs(np.abs(change) - 0.2 * 255).max() <= 1
    assert {round(np.sign(p.mean() - np.asarray(square).mean())) for p in lit} == {-1, 1}


def test_contrast_keeps_the_mean_and_shrinks_the_rest(square):
    before, after = (np.asarray(p, float) for p in (square, corrupt(square, "contrast", 3, "a")))
    assert after.mean((0, 1)) == pytest.approx(before.mean((0, 1)), abs=0.6)
    assert after.std((0, 1)) == pytest.approx(0.2 * before.std((0, 1)), abs=0.5)


def test_an_occlusion_hides_its_share(square):
    for severity, share in ((1, 0.1), (5, 0.5)):
        hidden = (np.asarray(corrupt(square, "occlusion", severity, "a")) == 127).all(2).mean()
        assert hidden == pytest.approx(share, abs=0.03)


def test_a_shift_moves_and_fills_with_the_borders_colour():
    pixels = np.full((100, 100, 3), (10, 200, 30), np.uint8)
    pixels[40:60, 40:60] = 0
    moved = np.asarray(corrupt(Image.fromarray(pixels), "shift", 3, "a"))
    rows, columns = np.nonzero((moved == 0).all(2))
    assert np.hypot(rows.mean() - 49.5, columns.mean() - 49.5) == pytest.approx(18, abs=1)
    assert len(rows) == 400
    assert (moved[(moved != 0).any(2)] == (10, 200, 30)).all()


def test_scaling_keeps_the_middle():
    pixels = np.full((100, 100, 3), 255, np.uint8)
    pixels[20:80, 20:80] = 0
    small = np.asarray(corrupt(Image.fromarray(pixels), "scale", 2, "a"))
    rows, _ = np.nonzero(small[..., 0] < 128)
    assert (rows.min(), rows.max()) == pytest.approx((29, 70), abs=1)


def test_a_crop_is_a_part_of_the_picture(square):
    part = corrupt(square, "crop", 5, "a")
    assert part.size == (32, 48)
    whole = np.asarray(square)
    windows = np.lib.stride_tricks.sliding_window_view(whole, (48, 32, 3))[..., 0, :, :, :]
    assert (windows == np.asarray(part)).all((2, 3, 4)).any()


def test_perspective_is_torchvisions():
    from torchvision.transforms.v2.functional._geometry import _get_perspective_coeffs

    corners = [[0, 0], [63, 0], [63, 95], [0, 95]]
    moved = [[5, 8], [60, 3], [50, 90], [2, 80]]
    ours = homography(np.array(moved), np.array(corners))
    assert ours == pytest.approx(_get_perspective_coeffs(corners, moved), abs=1e-5)


@pytest.mark.parametrize("kind", sorted(set(SHIFTS) - {"crop"}))
def test_what_comes_into_view_looks_like_the_border(kind):
    plain = Image.new("RGB", (60, 80), (12, 34, 56))
    assert _border(plain) == (12, 34, 56)
    assert torch.equal(*(T.pil_to_tensor(p) for p in (plain, corrupt(plain, kind, 5, "a"))))
