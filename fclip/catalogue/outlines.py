"""What a drawn garment is made of: parts, lines, buttons and landmarks, and the curves that outline them.

Coordinates are the garment's own: x to the right of the picture, 0 on the middle line; y downwards, 0 at the neck point
(upper and full garments) or the waist (lower ones); shoulders are about 0.9 apart. "Left" is the left of the upright
picture, as in DeepFashion's landmarks (https://mmlab.ie.cuhk.edu.hk/projects/DeepFashion.html).

    body = Part(symmetric(path((0, 0.2), (0.2, 0), (0.5, 0.1, 0.5, 1.3), (0, 1.3))))
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

Points = np.ndarray
"""(N, 2), x and y."""


class Part(NamedTuple):
    """A piece of cloth: its closed outline, and how much lighter (> 1) or darker (< 1) than the cloth it is."""

    outline: Points
    tone: float = 1.0


class Line(NamedTuple):
    """An open line: "seam" (dark, thin), "stitch" (the fabric's thread), "fold" (soft), "zip" (metal), "rib"."""

    points: Points
    kind: str


@dataclass
class Garment:
    """What is drawn, in order: parts from back to front, then lines and buttons."""

    parts: list[Part] = field(default_factory=list)
    lines: list[Line] = field(default_factory=list)
    buttons: list[tuple[float, float]] = field(default_factory=list)
    lining: Points = field(default_factory=lambda: np.zeros((0, 2)))  # what stays opaque under a sheer cloth
    landmarks: dict[str, tuple[float, float]] = field(default_factory=dict)
    emblem: tuple[float, float, float] = (0.0, 0.6, 0.26)  # x, y, half size of a graphic

    def pair(self, name: str, x: float, y: float) -> None:
        """Adds the left and right landmark of a symmetric pair."""
        self.landmarks |= {f"left {name}": (-x, y), f"right {name}": (x, y)}

    def line(self, kind: str, *pieces: tuple[float, ...], both: bool = True) -> None:
        """Adds a line, and by default its mirror image."""
        points = path(*pieces)
        self.lines += [Line(points, kind)] + ([Line(mirror(points), kind)] if both else [])

    def twice(self, outline: Points, tone: float = 1.0) -> None:
        """Adds a part and its mirror image."""
        self.parts += [Part(outline, tone), Part(mirror(outline), tone)]


def path(*pieces: tuple[float, ...], steps: int = 8) -> Points:
    """A polyline: (x, y) is a straight piece to that point, (cx, cy, x, y) a quadratic curve by that control point."""
    points = [np.array([pieces[0]], dtype=float)]
    t = np.linspace(0, 1, steps + 1)[1:, None]
    for piece in pieces[1:]:
        start, end = points[-1][-1], np.array(piece[-2:])
        curve = (1 - t) ** 2 * start + 2 * t * (1 - t) * np.array(piece[:2]) + t**2 * end
        points.append(curve if len(piece) == 4 else end[None])
    return np.concatenate(points)


def mirror(points: Points) -> Points:
    """The left side of a right side."""
    return points * [-1.0, 1.0]


def symmetric(right: Points) -> Points:
    """The closed outline of which this is the right half, from the top of the middle line to its bottom."""
    return np.concatenate([right, mirror(right)[::-1]])
