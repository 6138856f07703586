"""Colours, prints, fabric textures and backgrounds of drawn garments.

A print is drawn as vector shapes in the garment's own coordinates, so it turns and grows with the garment; a fabric is
a field of light over the picture, computed in the same coordinates. Sizes are fractions of the garment's extent, so a
print reads equally well on a mini skirt and on a maxi dress.

    image = print_cloth("checked", dye("red", rng), rng, to_px, box, emblem, size=256)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import aggdraw
import numpy as np
from PIL import Image

Colour = tuple[int, int, int]
ToPx = Callable[[np.ndarray], np.ndarray]
"""Garment coordinates (N, 2) to pixels (N, 2)."""

COLOURS: dict[str, Colour] = {
    "black": (38, 38, 42),
    "white": (247, 246, 243),
    "grey": (136, 138, 141),
    "red": (202, 32, 40),
    "orange": (240, 128, 30),
    "yellow": (244, 212, 56),
    "green": (40, 138, 66),
    "blue": (38, 92, 190),
    "purple": (124, 60, 160),
    "pink": (244, 152, 186),
    "brown": (112, 70, 42),
}
BACKGROUNDS: tuple[Colour, ...] = (
    (236, 236, 234), (214, 218, 222), (232, 222, 206), (205, 216, 205), (200, 212, 226), (226, 208, 208),
    (188, 182, 172), (150, 160, 168), (168, 148, 130), (120, 128, 122), (92, 98, 112), (222, 226, 200),
)  # fmt: skip
PLAIN: Colour = (224, 226, 228)
THREADS: dict[str, Colour] = {"denim": (226, 158, 74)}


class Dye(NamedTuple):
    """The colours of one product: its ground, and two for its print."""

    base: Colour
    accent: Colour
    second: Colour


def luminance(colour: Colour) -> float:
    """Perceived brightness, 0 to 255."""
    return float(np.dot(colour, (0.299, 0.587, 0.114)))


def mix(colour: Colour, other: Colour, share: float) -> Colour:
    """`share` of the other colour in the first."""
    r, g, b = (round(c + share * (o - c)) for c, o in zip(colour, other, strict=True))
    return r, g, b


def ink(base: Colour, strength: float = 0.5) -> Colour:
    """A line's colour on a ground: darker, or lighter where darker could not be seen."""
    return mix(base, (0, 0, 0), strength) if luminance(base) > 70 else mix(base, (255, 255, 255), strength * 0.6)


def dye(colour: str, rng: np.random.Generator) -> Dye:
    """A product's shade of a colour, and its print's (a neutral and a colour, both far from the ground)."""
    red, green, blue = np.clip(np.array(COLOURS[colour]) + rng.integers(-5, 6, 3) + rng.integers(-8, 9), 0, 255)
    base = (int(red), int(green), int(blue))
    names = [n for n in COLOURS if _distance(COLOURS[n], base) > 150]
    neutral = [n for n in ("white", "black") if n in names]
    return Dye(base, COLOURS[neutral[int(rng.integers(len(neutral)))]], COLOURS[names[int(rng.integers(len(names)))]])


def _distance(a: Colour, b: Colour) -> float:
    return float(np.linalg.norm(np.subtract(a, b)))


class _Stamp:
    """Draws filled shapes given in garment coordinates."""

    def __init__(self, ground: Colour, size: int, to_px: ToPx) -> None:
        self.draw = aggdraw.Draw("RGB", (size, size), ground)
        self.to_px, self.size = to_px, size

    def polygons(self, shapes: np.ndarray, colour: Colour, opacity: int = 255) -> None:
        """Draws shapes (K, N, 2)."""
        if len(shapes):
            brush = aggdraw.Brush(colour, opacity)
            pixels = self.to_px(shapes.reshape(-1, 2)).reshape(len(shapes), -1)
            for shape in pixels.tolist():
                self.draw.polygon(shape, brush)

    def image(self) -> Image.Image:
        return Image.frombytes("RGB", (self.size, self.size), self.draw.tobytes())


def _circle(sides: int = 12) -> np.ndarray:
    angle = np.linspace(0, 2 * np.pi, sides, endpoint=False)
    return np.stack([np.cos(angle), np.sin(angle)], axis=1)


def _at(centres: np.ndarray, shape: np.ndarray) -> np.ndarray:
    """One copy of a shape (N, 2) at each centre (K, 2)."""
    return centres[:, None] + shape[None]


def _bars(box: np.ndarray, period: float, share: float, axis: int) -> np.ndarray:
    """Bars across the box (2, 2): `share` of each period is covered."""
    starts = np.arange(box[0, axis], box[1, axis], period)
    bars = np.empty((len(starts), 4, 2))
    bars[:, :, 1 - axis] = [box[0, 1 - axis], box[1, 1 - axis], box[1, 1 - axis], box[0, 1 - axis]]
    bars[:, :2, axis], bars[:, 2:, axis] = starts[:, None], starts[:, None] + share * period
    return bars


def _grid(box: np.ndarray, period: float) -> np.ndarray:
    """Centres (K, 2) of a staggered grid."""
    x, y = np.meshgrid(*(np.arange(box[0, k], box[1, k] + period, period) for k in (0, 1)))
    x[1::2] += period / 2
    return np.stack([x.ravel(), y.ravel()], axis=1)


def print_cloth(
    pattern: str, colours: Dye, rng: np.random.Generator, to_px: ToPx, box: np.ndarray, emblem: tuple, size: int
) -> Image.Image:
    """A picture filled with printed cloth.

    Args:
        pattern: solid, striped, checked, dotted, floral or graphic.
        colours: ground and print.
        rng: the product's generator: the same one gives the same print.
        to_px: garment coordinates to pixels.
        box: (2, 2), the garment's smallest and largest x and y.
        emblem: x, y and half size of a graphic.
        size: sides of the picture, in pixels.
    """
    stamp, unit = _Stamp(colours.base, size, to_px), float(np.max(box[1] - box[0])) * rng.uniform(0.88, 1.15)
    upright, box = rng.random() < 0.25, box + unit * np.array([[-0.05], [0.05]])
    if pattern == "striped":
        stamp.polygons(_bars(box, 0.088 * unit, 0.42, 0 if upright else 1), colours.accent)
    elif pattern == "checked":
        for axis in (0, 1):
            stamp.polygons(_bars(box, 0.14 * unit, 0.36, axis), colours.accent, 105)
        for axis in (0, 1):
            stamp.polygons(_bars(box + 0.088 * unit, 0.14 * unit, 0.11, axis), colours.second, 190)
    elif pattern == "dotted":
        stamp.polygons(_at(_grid(box, 0.092 * unit), _circle() * 0.026 * unit), colours.accent)
    elif pattern == "floral":
        _flowers(stamp, colours, rng, box, 0.14 * unit)
    elif pattern == "graphic":
        _emblem(stamp, colours, rng, emblem)
    return stamp.image()


def _flowers(stamp: _Stamp, colours: Dye, rng: np.random.Generator, box: np.ndarray, period: float) -> None:
    centres = _grid(box, period)
    centres = centres + rng.uniform(-0.16, 0.16, centres.shape) * period
    leaf = _circle(8) * [0.30, 0.11] * period
    green = (60, 130, 70) if _distance(colours.base, COLOURS["green"]) > 110 else (225, 235, 190)
    turn = np.array([[0.7, 0.7], [-0.7, 0.7]])
    stamp.polygons(_at(centres + np.array([0.34, 0.22]) * period, leaf @ turn), green)
    petal, angles = _circle(8) * 0.15 * period, np.arange(5) * 2 * np.pi / 5
    petals = centres[:, None] + 0.19 * period * np.stack([np.sin(angles), -np.cos(angles)], axis=1)[None]
    flower = rng.random(len(centres)) < 0.6
    stamp.polygons(_at(petals[flower].reshape(-1, 2), petal), colours.accent)
    stamp.polygons(_at(petals[~flower].reshape(-1, 2), petal), colours.second)
    heart = (250, 200, 40) if _distance(colours.accent, (250, 200, 40)) > 120 else (190, 60, 40)
    stamp.polygons(_at(centres, _circle(8) * 0.11 * period), heart)


def _emblem(stamp: _Stamp, colours: Dye, rng: np.random.Generator, emblem: tuple[float, float, float]) -> None:
    """A disc, star, heart, bolt or mountain with a line of lettering under it."""
    x, y, half = emblem
    angle = np.linspace(0, 2 * np.pi, 30, endpoint=False)
    star = _circle(10)[:, ::-1] * np.where(np.arange(10) % 2, 0.45, 1.0)[:, None] * [1, -1]
    heart = np.stack(
        [np.sin(angle) ** 3, -(13 * np.cos(angle) - 5 * np.cos(2 * angle) - 2 * np.cos(3 * angle)) / 16], 1
    )
    bolt = np.array([(0.25, -1), (-0.6, 0.15), (-0.05, 0.15), (-0.3, 1), (0.6, -0.25), (0.08, -0.25)])
    peaks = np.array([(-1, 0.7), (-0.35, -0.6), (0, 0.0), (0.3, -0.4), (1, 0.7)])
    shapes = (star, heart, bolt, peaks)
    shape = shapes[int(rng.integers(len(shapes)))]
    at = np.array([x, y])
    if rng.random() < 0.5:
        stamp.polygons((at + _circle(24) * half)[None], colours.accent)
        stamp.polygons((at + shape * half * 0.72)[None], colours.second)
    else:
        stamp.polygons((at + shape * half)[None], colours.accent)
        stamp.polygons((at + shape * half * 0.5)[None], colours.second)
    letters = np.linspace(-0.85, 0.85, 6)[:, None] * [half, 0] + [0, half * 1.3]
    block = np.array([(-0.11, -0.14), (0.11, -0.14), (0.11, 0.14), (-0.11, 0.14)]) * half
    stamp.polygons(_at(at + letters, block), colours.accent)


def waves(u: np.ndarray, v: np.ndarray, rng: np.random.Generator, count: int = 4, drape: float = 2.5) -> np.ndarray:
    """A smooth random field in about [-1, 1] that varies `drape` times faster across the garment than down it."""
    field = np.zeros_like(u)
    for _ in range(count):
        kx, ky, phase = rng.uniform(0.5, 1.6) * drape, rng.uniform(-1.3, 1.3), rng.uniform(0, 6.28)
        field += np.sin(6.28 * (kx * u + ky * v) + phase)
    return field / count**0.5 / 1.4


def texture(
    fabric: str, fit: str, u: np.ndarray, v: np.ndarray, product: np.random.Generator, view: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """The light that a fabric throws back: a factor on its colour, and a white gloss to add (both as large as u and v).

    Args:
        fabric: cotton, denim, knit, leather or chiffon.
        fit: loose cloth folds deeper than tight cloth.
        u, v: garment coordinates of each pixel, as fractions of the garment's extent.
        product: the generator of what belongs to the product (slubs, fading).
        view: the generator of what differs between pictures (folds).
    """
    folds = waves(u, v, view) * {"tight": 0.03, "conventional": 0.05, "loose": 0.085}[fit]
    gloss = np.zeros_like(u)
    if fabric == "knit":
        column = np.abs((u / 0.044) % 1 - 0.5) * 2  # 0 in the middle of a rib, 1 in the groove
        stitch = np.cos(6.28 * (v / 0.036 + column * 0.5))
        return 1.02 + folds - 0.30 * column**2 + 0.15 * stitch, gloss
    if fabric == "denim":
        twill = np.sin(6.28 * (u + v) / 0.036)
        slub = waves(u * 9, v * 0.8, product, 3)
        faded = np.exp(-(((np.abs(u) - 0.11) / 0.07) ** 2)) * (0.6 + 0.4 * waves(u, v, product, 2))
        return 0.95 + folds * 0.6 + 0.12 * twill + 0.07 * slub, 0.30 * np.clip(faded, 0, 1) + 0.06 * (1 + twill)
    if fabric == "leather":
        bend = waves(u, v * 1.6, view, 3, drape=3.0)
        gloss = 0.62 * np.exp(-(((bend - 0.35) / 0.10) ** 2)) + 0.22 * np.exp(-(((bend + 0.45) / 0.16) ** 2))
        return 0.86 + folds + 0.16 * bend, gloss
    if fabric == "chiffon":
        return 1.0 + folds + 0.09 * waves(u * 4, v * 0.5, view, 3), gloss + 0.06
    weave = np.sin(6.28 * u / 0.036) * np.sin(6.28 * v / 0.036)
    return 1.0 + folds + 0.02 * weave, gloss


def background(base: Colour, rng: np.random.Generator, size: int, strength: float) -> np.ndarray:
    """A backdrop (size, size, 3) in 0 to 255 on which a garment of the base colour stands out.

    Plain where strength is 0; else plain, a gradient, a room with a floor, panels, or soft spots of light.
    """
    order = rng.permutation(len(BACKGROUNDS))
    kind, (cut, tilt, x, y) = int(rng.integers(5)), rng.random(4)
    far = [BACKGROUNDS[i] for i in order if _distance(BACKGROUNDS[i], base) > 85]
    one, two = np.array(far[0], np.float32), np.array(far[1], np.float32)
    if strength == 0:
        return np.broadcast_to(np.array(PLAIN, np.float32), (size, size, 3))
    share = min(1.0, 0.5 * strength)
    across = np.arange(size, dtype=np.float32)[None] / size
    down = across.T
    weight = np.zeros((size, size), np.float32)
    if kind == 0:
        return np.broadcast_to(one, (size, size, 3))
    elif kind == 1:
        weight = share * np.clip(down * tilt + across * (1 - tilt), 0, 1)
    elif kind == 2:
        above = (
            0.66 + 0.2 * cut - 0.06 * (tilt - 0.5) * across - down
        )  # the wall's skirting board is where this is small
        weight = np.where(np.abs(above) < 0.01, 0.55, np.where(above < 0, 1.0, 0.12 * down)).astype(np.float32)
    elif kind == 3:
        weight += share * ((across * (3 + int(4 * cut)) + tilt) % 2 > 1)
    else:
        weight = share * np.exp(-((across - x) ** 2 + (down - y) ** 2) / 0.08) * 1.3
    return one + weight[..., None].astype(np.float32) * (two - one)
