"""Colours of garments by their names: drawn shapes, CIELAB against another library, backgrounds, tiny pictures."""

from __future__ import annotations

import csv
import os
from pathlib import Path

import kornia
import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from fclip.queries.colours import NAMES, foreground, garment_colour, measured_colour, name_of, to_lab

DYED = {
    "black": (25, 25, 28),
    "white": (240, 240, 238),
    "grey": (140, 140, 142),
    "red": (190, 30, 40),
    "orange": (235, 120, 30),
    "yellow": (240, 220, 60),
    "green": (40, 120, 60),
    "blue": (50, 90, 190),
    "purple": (110, 50, 140),
    "pink": (235, 130, 175),
    "brown": (100, 65, 40),
    "beige": (205, 190, 160),
    "navy blue": (25, 35, 80),
}
"""Photographs of dyed cloth, roughly."""
SKIN = (215, 165, 135)
DATA = Path(os.environ.get("FCLIP_DATA", "../shared/data")) / "catalogue"
STATED = {
    **dict.fromkeys(("Steel", "Silver", "Charcoal", "Grey Melange"), "grey"),
    **dict.fromkeys(("Maroon", "Burgundy"), "red"),
    **dict.fromkeys(("Cream", "Tan", "Khaki", "Nude", "Skin"), "beige"),
    **dict.fromkeys(("Gold", "Mustard"), "yellow"),
    **dict.fromkeys(("Olive", "Teal", "Sea Green", "Lime Green"), "green"),
    **dict.fromkeys(("Copper", "Bronze", "Taupe", "Coffee Brown", "Mushroom Brown"), "brown"),
    **dict.fromkeys(("Lavender", "Mauve"), "purple"),
    **dict.fromkeys(("Magenta", "Peach", "Rose"), "pink"),
    **{"Off White": "white", "Turquoise Blue": "blue", "Rust": "orange"},
    **{name.title(): name for name in NAMES},
}
"""A shop's colour → the name it belongs to; one of several colours has none."""


def picture(cloth, ground=(255, 255, 255), size=(90, 120), noise=6, skin=False) -> Image.Image:
    """A garment in the middle; with `skin`, arms and head as large as it."""
    image = Image.new("RGB", size, ground)
    draw, (w, h) = ImageDraw.Draw(image), size
    if skin:
        draw.rectangle((w * 0.2, h * 0.02, w * 0.8, h * 0.95), SKIN)
    draw.rectangle((w * 0.3, h * 0.3, w * 0.7, h * 0.85), cloth)
    grain = np.random.default_rng(0).normal(0, noise, (h, w, 1))
    return Image.fromarray((np.asarray(image) + grain).clip(0, 255).astype(np.uint8))


@pytest.mark.parametrize("name", DYED)
def test_cloth_has_its_name_whatever_lies_behind(name) -> None:
    assert measured_colour(picture(DYED[name], ground=(180, 200, 190))) == name
    if name != "white":
        assert measured_colour(picture(DYED[name], noise=1)) == name
    if name not in ("black", "navy blue"):
        assert measured_colour(picture(DYED[name], ground=(15, 15, 15), noise=1)) == name


def test_every_name_is_given() -> None:
    assert set(DYED) == set(NAMES)
    grid = np.stack(np.meshgrid(*[np.arange(0, 256, 32)] * 3), -1).reshape(-1, 3) / 255
    assert {name_of(to_lab(rgb)) for rgb in grid} == set(NAMES)


@pytest.mark.parametrize("name", ["blue", "red", "black", "white"])
def test_skin_is_not_the_garment(name) -> None:
    assert measured_colour(picture(DYED[name], ground=(180, 200, 190), skin=True)) == name


def test_a_stripe_of_another_colour_does_not_mix_in() -> None:
    image = picture(DYED["blue"])
    ImageDraw.Draw(image).rectangle((27, 60, 63, 75), DYED["yellow"])
    assert measured_colour(image) == "blue"


def test_cielab_is_that_of_another_library() -> None:
    rgb = np.random.default_rng(0).random((50, 3))
    theirs = kornia.color.rgb_to_lab(torch.tensor(rgb.T[None, :, :, None])).numpy()[0, :, :, 0].T
    np.testing.assert_allclose(to_lab(rgb), theirs, atol=0.02)


def test_the_background_is_what_touches_the_border_and_looks_like_it() -> None:
    image = Image.new("RGB", (48, 48), "white")
    draw = ImageDraw.Draw(image)
    draw.rectangle((10, 10, 38, 38), "navy")
    draw.rectangle((20, 20, 27, 27), "white")  # a print on it: as white as the background, but not joined to it
    shown = foreground(to_lab(np.asarray(image) / 255))
    expected = np.zeros((48, 48), bool)
    expected[11:38, 11:38] = True  # without the outline
    assert (shown == expected).all()


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (400, 7)])
def test_any_picture_has_a_colour(size) -> None:
    assert measured_colour(Image.new("RGB", size, (50, 90, 190))) == "blue"
    assert measured_colour(Image.new("L", size, 140)) == "grey"


def test_measuring_leaves_the_picture_as_it_is() -> None:
    image = picture(DYED["red"])
    before = image.copy()
    garment_colour(image)
    assert image.size == before.size
    assert image.tobytes() == before.tobytes()


@pytest.mark.skipif(not (DATA / "styles.csv").is_file(), reason="no Fashion Product Images at $FCLIP_DATA")
def test_names_agree_with_a_shops_for_most_products() -> None:
    with (DATA / "styles.csv").open(newline="") as stream:
        rows = [r for r in csv.DictReader(stream) if r["split"] == "val" and r["baseColour"] in STATED][::4]
    agree = [measured_colour(Image.open(DATA / r["image"])) == STATED[r["baseColour"]] for r in rows]
    assert len(agree) > 200
    assert np.mean(agree) > 0.55
