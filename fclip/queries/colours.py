"""The colour of a garment from its picture, by the names that shops use.

    measured_colour(decode("photo.jpg", 96))      # "navy blue"

What looks like the border and is joined to it is background. Of the rest the middle counts most and skin hardly; the
colour that the most of it has (a mode in CIELAB, not a mean, which no part may have) takes its name from the nearest
colours of a survey in which 220,000 people named colours on screens; matplotlib carries its result. Dyed cloth in a
photograph is duller than a patch on a screen, so its chroma counts double there, and what has nearly none is named by
its lightness.

On Fashion Product Images (val, 898 pictures, thresholds chosen on train) it is the catalogue's `baseColour`, brought to
these thirteen names, for 63 % (the most frequent name: 21 %). Where a catalogue states colours, trust those.

Sources: Munroe, Color survey results, 2010; Berlin & Kay, Basic color terms, 1969: their eleven names, with fashion's
navy blue and beige.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from PIL.Image import Image

Floats = NDArray[np.floating[Any]]
GROUP = "colour (measured)"
NAMES = (
    *("black", "white", "grey", "red", "orange", "yellow", "green", "blue", "purple", "pink", "brown"),
    *("beige", "navy blue"),
)
OTHER_WORDS = {
    **dict.fromkeys(("tan", "cream", "khaki", "sand", "camel", "ecru"), "beige"),
    **dict.fromkeys(("violet", "lavender", "lilac", "mauve", "plum"), "purple"),
    **dict.fromkeys(("magenta", "rose"), "pink"),
    **dict.fromkeys(("maroon", "burgundy", "crimson"), "red"),
    **dict.fromkeys(("gold", "mustard"), "yellow"),
    **dict.fromkeys(("olive", "teal"), "green"),
    **dict.fromkeys(("turquoise", "cyan"), "blue"),
    **dict.fromkeys(("coral", "rust"), "orange"),
}
"""The last word of a surveyed colour → its name, where it is none itself."""
SIZE_PX = 48  # longer side: enough for the colour that most of a garment has
SAME = 6  # CIELAB distance within which a pixel looks like the background
CELL, REACH = 12, 14  # of the mode: side of a cell, then distance from its mean
MIDDLE = 0.35  # standard deviation of the weight, in sides of the picture
SKIN_WEIGHT = 0.1
GAIN = 2  # chroma in photographs against the survey's
ACHROMATIC, WHITE_FROM, BLACK_TO = 6, 78, 45  # chroma; lightness
NAVY_TO, BEIGE_FROM, BEIGE_CHROMA = 28, 60, 25
NEIGHBOURS = 15  # surveyed colours that vote


def measured_colour(image: Image) -> str:
    """The name of the colour that most of a garment has, one of NAMES.

    Args:
        image: RGB, any size; a thumbnail does.
    """
    return name_of(garment_colour(image))


def garment_colour(image: Image) -> Floats:
    """That colour in CIELAB (3,)."""
    small = image.convert("RGB")
    small.thumbnail((SIZE_PX, SIZE_PX))
    lab = to_lab(np.asarray(small) / 255.0)
    shown = foreground(lab)
    return _mode(lab[shown], (_middle(*shown.shape) * np.where(_skin(lab), SKIN_WEIGHT, 1))[shown])


def name_of(lab: Floats) -> str:
    """The name of a colour in CIELAB (3,), as it looks in a photograph."""
    lightness, chroma = float(lab[0]), float(np.hypot(lab[1], lab[2]))
    if chroma < ACHROMATIC or lightness < ACHROMATIC:
        return "white" if lightness > WHITE_FROM else "black" if lightness < BLACK_TO else "grey"
    points, names = _survey()
    distance = np.linalg.norm(points - lab * [1, GAIN, GAIN], axis=1)
    near = np.argsort(distance)[:NEIGHBOURS]
    votes = np.bincount(names[near], 1 / (1 + distance[near]), len(NAMES))
    name = NAMES[int(votes.argmax())]
    if name == "blue" and lightness < NAVY_TO:
        return "navy blue"
    pale = lightness > BEIGE_FROM and chroma < BEIGE_CHROMA
    return "beige" if pale and name in ("brown", "orange", "yellow") else name


def foreground(lab: Floats) -> NDArray[np.bool_]:
    """(H, W) what is not background in a picture (H, W, 3); everything where that leaves hardly anything."""
    from scipy.ndimage import binary_erosion, label

    border = np.concatenate([lab[0], lab[-1], lab[:, 0], lab[:, -1]])
    regions, _ = label(np.linalg.norm(lab - np.median(border, axis=0), axis=-1) < SAME)
    rim = np.unique(np.concatenate([regions[0], regions[-1], regions[:, 0], regions[:, -1]]))
    shown = ~np.isin(regions, rim[rim > 0])
    if shown.mean() < 0.02:
        return np.ones(shown.shape, bool)
    inner = binary_erosion(shown)  # the outline is mixed with the background
    return inner if inner.sum() > 20 else shown


def to_lab(rgb: Floats) -> Floats:
    """sRGB (…, 3), 0 … 1, → CIELAB under D65."""
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    to_xyz = [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
    xyz = linear @ np.array(to_xyz).T / [0.95047, 1, 1.08883]
    x, y, z = np.moveaxis(np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116), -1, 0)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], -1)


def _mode(lab: Floats, weights: Floats) -> Floats:
    """The mean of the fullest cell of pixels (N, 3), then of all that lie near it."""
    cells = np.unique(np.floor(lab / CELL), axis=0, return_inverse=True)[1].ravel()
    fullest = cells == np.bincount(cells, weights).argmax()
    centre = np.average(lab[fullest], axis=0, weights=weights[fullest])
    near = np.linalg.norm(lab - centre, axis=1) < REACH
    return np.average(lab[near], axis=0, weights=weights[near])


def _middle(height: int, width: int) -> Floats:
    """(H, W) a bell around the middle of the picture."""
    down, across = (((np.arange(n) + 0.5) / n - 0.5) / MIDDLE for n in (height, width))
    return np.exp(-(down[:, None] ** 2 + across[None] ** 2) / 2)


def _skin(lab: Floats) -> NDArray[np.bool_]:
    """(H, W) what could be skin: a band of hue, chroma and lightness that also holds some beige and brown."""
    hue, chroma = np.degrees(np.arctan2(lab[..., 2], lab[..., 1])), np.hypot(lab[..., 1], lab[..., 2])
    return (lab[..., 0] > 35) & (lab[..., 0] < 88) & (hue > 30) & (hue < 75) & (chroma > 12) & (chroma < 42)


@lru_cache
def _survey() -> tuple[Floats, NDArray[np.int64]]:
    """CIELAB (N, 3) of the surveyed colours that have a chromatic name, and the place of that name (N,)."""
    from matplotlib.colors import XKCD_COLORS, to_rgb

    points, names = [], []
    for told, colour in XKCD_COLORS.items():
        words = told.removeprefix("xkcd:").replace("gray", "grey").split()
        name = "navy blue" if "navy" in words else OTHER_WORDS.get(words[-1], words[-1])
        if name in NAMES[3:]:
            points.append(to_lab(np.array(to_rgb(colour))))
            names.append(NAMES.index(name))
    return np.array(points), np.array(names)
