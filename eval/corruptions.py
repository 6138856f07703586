"""Pictures made worse on purpose: seven corruptions and five geometric shifts, each in five severities.

    corrupt(picture, "blur", severity=3, key="1163.jpg")     # the same arguments: the same pixels

What is random (noise, a direction, a place) is drawn from a generator of seed, kind and picture: another severity
of the same picture goes further in the same direction, and every model is shown the same pictures.

| corruption | amount at severities 1 … 5                                                                        |
|------------|---------------------------------------------------------------------------------------------------|
| noise      | standard deviation of Gaussian noise, whites being 1                                              |
| blur       | deviation of a Gaussian, pixels at a shorter side of 224                                          |
| jpeg       | quality                                                                                           |
| brightness | added to the value of HSV, whites being 1; lighter or darker is drawn, since whites cannot be lighter |
| contrast   | factor of the distance from each channel's mean                                                   |
| pixelate   | share of the sides that is left                                                                   |
| occlusion  | share of the area under one grey rectangle                                                        |

| shift       | amount                                                                        |
|-------------|-------------------------------------------------------------------------------|
| shift       | share of the sides, direction drawn                                           |
| scale       | size of the whole picture within its frame                                    |
| rotation    | degrees, left or right is drawn                                               |
| crop        | share of each side that is kept, place drawn                                  |
| perspective | share of half the sides by which the corners move inwards at most, each drawn |

What comes into view beside a shifted picture has the median colour of its border.

Source: Hendrycks & Dietterich, Benchmarking Neural Network Robustness, ICLR 2019 (ImageNet-C): kinds and amounts of
noise, blur, jpeg, brightness, contrast and pixelate. Occlusion, the drawn sign and the shifts are ours.
"""

from __future__ import annotations

import hashlib
import io
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

SEVERITIES = 5
REFERENCE_PX = 224  # the shorter side for which the blur is stated
GREY = (127, 127, 127)

Picture = Image.Image
Make = Callable[[Picture, float, np.random.Generator], Picture]


def corrupt(picture: Picture, kind: str, severity: int, key: str, seed: int = 0) -> Picture:
    """The picture with one corruption or shift.

    Args:
        picture: RGB.
        kind: a key of `KINDS`.
        severity: 1 … 5; 0: as it is.
        key: what the picture is called: with the seed it decides what is random.
        seed: another one, another draw.
    """
    if severity == 0:
        return picture
    make, amounts = KINDS[kind]
    return make(picture, amounts[severity - 1], np.random.default_rng([seed, _number(kind), _number(key)]))


def _noise(picture: Picture, deviation: float, rng: np.random.Generator) -> Picture:
    pixels = _unit(picture)
    return _picture(pixels + deviation * rng.standard_normal(pixels.shape, np.float32))


def _blur(picture: Picture, deviation: float, rng: np.random.Generator) -> Picture:
    return picture.filter(ImageFilter.GaussianBlur(deviation * min(picture.size) / REFERENCE_PX))


def _jpeg(picture: Picture, quality: float, rng: np.random.Generator) -> Picture:
    stream = io.BytesIO()
    picture.save(stream, "jpeg", quality=int(quality))
    return Image.open(stream).convert("RGB")


def _brightness(picture: Picture, added: float, rng: np.random.Generator) -> Picture:
    pixels = _unit(picture)
    value = pixels.max(2, keepdims=True)
    lit = np.clip(value + (added if rng.random() < 0.5 else -added), 0, 1)
    black = value == 0  # has no hue: becomes grey
    return _picture(np.where(black, lit, pixels * lit / np.where(black, 1, value)))


def _contrast(picture: Picture, factor: float, rng: np.random.Generator) -> Picture:
    pixels = _unit(picture)
    mean = pixels.mean((0, 1))
    return _picture((pixels - mean) * factor + mean)


def _pixelate(picture: Picture, share: float, rng: np.random.Generator) -> Picture:
    return picture.resize(_scaled(picture.size, share), Image.Resampling.BOX).resize(picture.size, Image.Resampling.BOX)


def _occlusion(picture: Picture, share: float, rng: np.random.Generator) -> Picture:
    stretch = math.exp(rng.uniform(-0.4, 0.4))
    across, down = math.sqrt(share) * stretch, math.sqrt(share) / stretch
    w, h = min(picture.width, round(picture.width * across)), min(picture.height, round(picture.height * down))
    left, top = (round(rng.random() * room) for room in (picture.width - w, picture.height - h))
    hidden = picture.copy()
    hidden.paste(GREY, (left, top, left + w, top + h))
    return hidden


def _shift(picture: Picture, share: float, rng: np.random.Generator) -> Picture:
    angle = rng.uniform(0, 2 * math.pi)
    return _framed(picture, picture, round(share * picture.width * math.cos(angle)),
                   round(share * picture.height * math.sin(angle)))  # fmt: skip


def _scale(picture: Picture, size: float, rng: np.random.Generator) -> Picture:
    small = picture.resize(_scaled(picture.size, size), Image.Resampling.BICUBIC)  # antialiased
    return _framed(picture, small, (picture.width - small.width) // 2, (picture.height - small.height) // 2)


def _rotation(picture: Picture, angle_deg: float, rng: np.random.Generator) -> Picture:
    turn = angle_deg if rng.random() < 0.5 else -angle_deg
    return picture.rotate(turn, Image.Resampling.BICUBIC, fillcolor=_border(picture))


def _crop(picture: Picture, share: float, rng: np.random.Generator) -> Picture:
    w, h = _scaled(picture.size, share)
    left, top = (round(rng.random() * room) for room in (picture.width - w, picture.height - h))
    return picture.crop((left, top, left + w, top + h))


def _perspective(picture: Picture, share: float, rng: np.random.Generator) -> Picture:
    w, h = picture.size
    corners = np.array([[0, 0], [w, 0], [w, h], [0, h]], np.float64)
    inwards = np.sign(corners.mean(0) - corners)
    moved = corners + inwards * rng.random((4, 2)) * share * np.array([w, h]) / 2
    solved = homography(moved, corners)
    return picture.transform(
        picture.size, Image.Transform.PERSPECTIVE, solved, Image.Resampling.BICUBIC, fillcolor=_border(picture)
    )


def homography(source: NDArray[Any], target: NDArray[Any]) -> tuple[float, ...]:
    """The 8 coefficients a … h with x' = (ax + by + c) / (gx + hy + 1), y' = (dx + ey + f) / (gx + hy + 1).

    Args:
        source, target: (4, 2) points x, y and where they go.
    """
    rows, values = [], []
    for (x, y), (u, v) in zip(source, target, strict=True):
        rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
        values += [u, v]
    return tuple(np.linalg.solve(np.array(rows), np.array(values)).tolist())


CORRUPTIONS: dict[str, tuple[Make, tuple[float, ...]]] = {
    "noise": (_noise, (0.08, 0.12, 0.18, 0.26, 0.38)),
    "blur": (_blur, (1, 2, 3, 4, 6)),
    "jpeg": (_jpeg, (25, 18, 15, 10, 7)),
    "brightness": (_brightness, (0.1, 0.2, 0.3, 0.4, 0.5)),
    "contrast": (_contrast, (0.4, 0.3, 0.2, 0.1, 0.05)),
    "pixelate": (_pixelate, (0.6, 0.5, 0.4, 0.3, 0.25)),
    "occlusion": (_occlusion, (0.1, 0.2, 0.3, 0.4, 0.5)),
}
SHIFTS: dict[str, tuple[Make, tuple[float, ...]]] = {
    "shift": (_shift, (0.06, 0.12, 0.18, 0.24, 0.3)),
    "scale": (_scale, (0.85, 0.7, 0.55, 0.4, 0.3)),
    "rotation": (_rotation, (10, 20, 30, 45, 60)),
    "crop": (_crop, (0.9, 0.8, 0.7, 0.6, 0.5)),
    "perspective": (_perspective, (0.2, 0.35, 0.5, 0.65, 0.8)),
}
KINDS = CORRUPTIONS | SHIFTS


def _number(text: str) -> int:
    """The same in every process, unlike `hash`."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def _unit(picture: Picture) -> NDArray[np.float32]:
    """(H, W, 3) in 0 … 1."""
    return np.asarray(picture, np.float32) / np.float32(255)


def _picture(pixels: NDArray[Any]) -> Picture:
    return Image.fromarray((pixels * 255).round().clip(0, 255).astype(np.uint8))


def _scaled(size: tuple[int, int], share: float) -> tuple[int, int]:
    return max(1, round(size[0] * share)), max(1, round(size[1] * share))


def _framed(picture: Picture, part: Picture, left: int, top: int) -> Picture:
    """A picture pasted into a frame as large as another one, in the colour of that one's border."""
    frame = Image.new("RGB", picture.size, _border(picture))
    frame.paste(part, (left, top))
    return frame


def _border(picture: Picture) -> tuple[int, ...]:
    pixels = np.asarray(picture)
    edge = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    return tuple(int(level) for level in np.median(edge, axis=0))
