"""From cloth to picture: cuts a garment's parts, sews them, gives them their fabric's sheen, puts them in their scene.

    image, alpha = sew(garment, cloth, colours, "denim", place)
    picture = light(texture(image, attributes, box, place, product, view), alpha, backdrop, lamp, pose)

Nothing here is random by itself: what varies comes as a place, a backdrop, a lamp or a generator from `drawn`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import aggdraw
import numpy as np
from PIL import Image, ImageFilter

from fclip.catalogue import fabrics
from fclip.catalogue.outlines import Garment, Points


@dataclass(frozen=True)
class Place:
    """Where the garment stands: pixel = turn @ point + shift."""

    turn: np.ndarray
    shift: np.ndarray

    def __call__(self, points: Points) -> Points:
        return points @ self.turn.T + self.shift


def sew(
    garment: Garment, cloth: Image.Image, colours: fabrics.Dye, fabric: str, place: Place
) -> tuple[Image.Image, Image.Image]:
    """Cuts the parts out of the cloth, back to front, each with its outline; returns the garment and its opacity."""
    image, size, unit = cloth.copy(), cloth.width, cloth.width / 128
    sheer = 150 if fabric == "chiffon" else 255
    alpha = aggdraw.Draw("L", (size, size), 0)
    edge, edge_px = fabrics.ink(colours.base, 0.55), 1.1 * unit
    for part in garment.parts:
        points = place(part.outline)
        _cut(image, cloth, points, part.tone, aggdraw.Pen(edge, edge_px))
        alpha.polygon(points.ravel().tolist(), aggdraw.Pen(255, edge_px), aggdraw.Brush(sheer))
    if fabric == "chiffon" and len(garment.lining):
        alpha.polygon(place(garment.lining).ravel().tolist(), aggdraw.Brush(235))
    _stitch(image, garment, colours.base, fabric, place, unit)
    return image, Image.frombytes("L", (size, size), alpha.tobytes())


def _cut(image: Image.Image, cloth: Image.Image, points: Points, tone: float, pen: Any) -> None:
    """Lays one part, cut from the cloth, on the picture; only its own box is touched, for speed."""
    low = np.clip(np.floor(points.min(axis=0)) - 3, 0, cloth.width - 1).astype(int)
    high = np.clip(np.ceil(points.max(axis=0)) + 4, low + 1, cloth.width).astype(int)
    box = (int(low[0]), int(low[1]), int(high[0]), int(high[1]))
    outline = (points - low).ravel().tolist()
    piece, toned = image.crop(box), cloth.crop(box)
    if tone != 1:
        toned = Image.blend(Image.new("RGB", toned.size), toned, tone)
    mask = aggdraw.Draw("L", toned.size, 0)
    mask.polygon(outline, aggdraw.Brush(255))
    piece.paste(toned, mask=Image.frombytes("L", toned.size, mask.tobytes()))
    draw = aggdraw.Draw(piece)
    draw.polygon(outline, pen)
    draw.flush()
    image.paste(piece, box[:2])


def _stitch(image: Image.Image, garment: Garment, base: fabrics.Colour, fabric: str, place: Place, unit: float) -> None:
    """Draws seams, folds, zips and buttons."""
    draw, dark = aggdraw.Draw(image), fabrics.ink(base, 0.5)
    thread = fabrics.THREADS.get(fabric, fabrics.ink(base, 0.35))
    pens = {
        "seam": aggdraw.Pen(dark, 0.9 * unit, 220),
        "stitch": aggdraw.Pen(thread, 0.9 * unit, 230),
        "fold": aggdraw.Pen(dark, 1.5 * unit, 85),
        "rib": aggdraw.Pen(dark, 0.7 * unit, 120),
        "zip": aggdraw.Pen((206, 206, 200) if fabrics.luminance(base) < 150 else (84, 84, 88), 2.2 * unit),
    }
    for line in garment.lines:
        draw.line(place(line.points).ravel().tolist(), pens[line.kind])
    radius = 1.2 * unit
    face = fabrics.THREADS.get(
        fabric, fabrics.mix(base, (255, 255, 255), 0.75) if fabrics.luminance(base) < 170 else dark
    )
    for x, y in place(np.array(garment.buttons)).tolist() if garment.buttons else ():
        draw.ellipse(
            (x - radius, y - radius, x + radius, y + radius), aggdraw.Pen(dark, 0.5 * unit), aggdraw.Brush(face)
        )
    draw.flush()


def texture(
    image: Image.Image, attributes: dict[str, str | None], box: np.ndarray, place: Place,
    product: np.random.Generator, view: np.random.Generator,
) -> np.ndarray:  # fmt: skip
    """The sewn garment (S, S, 3) as its fabric throws the light back."""
    along = np.arange(image.width, dtype=np.float32)
    x, y = along[None] - np.float32(place.shift[0]), along[:, None] - np.float32(place.shift[1])
    inverse = np.linalg.inv(place.turn) / float(np.max(box[1] - box[0]))
    u, v = (np.float32(row[0]) * x + np.float32(row[1]) * y for row in inverse)
    factor, gloss = fabrics.texture(str(attributes["fabric"]), str(attributes["fit"]), u, v, product, view)
    matt = np.asarray(image, np.float32) * factor[..., None]
    return matt + gloss[..., None] * (255 - matt)


def light(garment: np.ndarray, alpha: Image.Image, backdrop: np.ndarray, lamp: np.ndarray, pose: float) -> Image.Image:
    """Puts the garment before its backdrop: rounded by soft shade at its edges, with a shadow and a slant of light."""
    size = alpha.width
    soft = alpha.filter(ImageFilter.BoxBlur(size / 26))
    dx, dy, depth, gain, slant, warm = lamp.tolist()
    opacity, rounded = (np.asarray(m, np.float32)[..., None] / 255 for m in (alpha, soft))
    lit = garment * (0.74 + 0.30 * np.minimum(rounded * 1.1, 1))
    scene = backdrop
    if pose > 0:
        offset = (round(0.02 * size * (1.2 + dy)), round(0.03 * size * dx))
        scene = backdrop * (1 - 0.17 * min(pose, 1.5) * (1 + depth) * np.roll(rounded, offset, axis=(0, 1)))
    scene = scene + opacity * (np.clip(lit, 0, 255) - scene)
    across = np.linspace(-1, 1, size, dtype=np.float32)[None, :, None]
    strength = min(pose, 2.0)
    tint = (1 + strength * 0.025 * np.array([warm, 0, -warm])).astype(np.float32)
    scene = scene * ((1 + strength * (0.07 * gain + 0.07 * slant * across)) * tint)
    return Image.fromarray(np.clip(scene, 0, 255).astype(np.uint8))
