"""How a training picture varies: pose, crop, mirror, light; drawn from the generator that is given.

    pixels = augment(pixels, preprocess, DataConfig(crop=0.8, flip=0.5), np.random.default_rng(0))

What is drawn is a `View`; `fclip.device_augmentation` gives a whole batch its views. Hue is left alone: colour is an
attribute.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as T

from fclip.config import DataConfig
from fclip.errors import UserError
from fclip.model import Preprocess

LUMA = (0.2989, 0.587, 0.114)  # weights of red, green and blue in grey (ITU-R BT.601)
LEVELS = np.arange(256)
GREY = 127  # of what is erased
NEARLY = 1.25  # pixels of a picture to one of the tower's, up to which no filter is needed against aliasing

cv2.setNumThreads(0)  # loaders have a process for each core, and threads of OpenCV's do not survive a fork


def training_sizes(size: tuple[int, int], first: float, epochs: float, step_px: int = 8) -> list[tuple[int, int]]:
    """(height, width) of each epoch: from the share `first` of `size` evenly up to `size`, in multiples of `step_px`.

    A last epoch that is not finished counts as one.

    Raises:
        UserError: `first` is not a share.
    """
    if not 0 < first <= 1:
        raise UserError(f"data.first_size should be above 0 and at most 1, got {first}")
    epochs = math.ceil(epochs)
    if first == 1:
        return [size] * epochs

    def part(side: int, share: float) -> int:
        return max(1, round(side * share / step_px)) * step_px

    growing = [first + (1 - first) * epoch / (epochs - 1) for epoch in range(epochs - 1)]
    return [*((part(size[0], share), part(size[1], share)) for share in growing), size]


Box = tuple[int, int, int, int]
"""Top, left, height and width in pixels."""


@dataclass(frozen=True)
class Pose:
    """A picture made smaller, turned clockwise about the middle of its frame, and moved.

    Attributes:
        height, width: of the smaller picture, in pixels as the rest.
        turn_deg: clockwise.
        right, down: the move, after the turn.
    """

    height: int
    width: int
    turn_deg: float
    right: int
    down: int


@dataclass(frozen=True)
class View:
    """What is done to one picture.

    Attributes:
        size: (height, width) of the picture, which its pose leaves.
        pose: comes first; None: none.
        crop: what is then cut out and resized to the tower's input.
        mirrored: left to right.
        brightness, contrast: factors.
        erased: of the tower's input, greyed out; None: nothing.
    """

    size: tuple[int, int]
    pose: Pose | None
    crop: Box
    mirrored: bool
    brightness: float
    contrast: float
    erased: Box | None


def draw_view(size: tuple[int, int], preprocess: Preprocess, data: DataConfig, rng: np.random.Generator) -> View:
    """Draws what is done to a picture of (height, width) pixels.

    The crop has the picture's own aspect ratio when the tower squashes, else that of its input, times a random factor
    up to `data.aspect`; it keeps at least the share `data.crop` of the largest such crop.
    """
    pose = draw_pose(size, data, rng) if is_posed(data) else None
    crop = _draw_crop(size, preprocess, data, rng)
    mirrored = rng.random() < data.flip
    brightness = contrast = 1.0
    if data.brightness or data.contrast:
        brightness, contrast = (
            1 + rng.uniform(-most, most) if most else 1.0 for most in (data.brightness, data.contrast)
        )
    erased = _draw_erased(preprocess.size, rng) if data.erase and rng.random() < data.erase else None
    return View(size, pose, crop, mirrored, brightness, contrast, erased)


def draw_pose(size: tuple[int, int], data: DataConfig, rng: np.random.Generator) -> Pose:
    """Draws a pose in a frame of (height, width) pixels.

    The size is drawn evenly from `data.scale`, the angle up to `data.turn_deg` either way, and the place up to
    the share `data.shift` of the room that the smaller picture has.
    """
    height, width = size
    share, turn = rng.uniform(*data.scale), rng.uniform(-data.turn_deg, data.turn_deg)
    x, y = rng.uniform(-data.shift, data.shift, 2)
    h, w = max(1, round(height * share)), max(1, round(width * share))
    return Pose(h, w, turn, round(x * (width - w) / 2), round(y * (height - h) / 2))


def _draw_crop(size: tuple[int, int], preprocess: Preprocess, data: DataConfig, rng: np.random.Generator) -> Box:
    height, width = size
    target = width / height if preprocess.resize_mode == "squash" else preprocess.size[1] / preprocess.size[0]
    share = rng.uniform(data.crop, 1)
    stretch = math.exp(rng.uniform(-1, 1) * math.log(data.aspect))
    most = min(width, height * target)  # width of the largest crop of this aspect ratio
    w = min(width, max(1, round(most * math.sqrt(share * stretch))))
    h = min(height, max(1, round(most / target * math.sqrt(share / stretch))))
    return int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1)), h, w


def _draw_erased(size: tuple[int, int], rng: np.random.Generator) -> Box:
    height, width = size
    h, w = (int(side * rng.uniform(0.1, 0.4)) for side in size)
    return int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1)), h, w


def augment(pixels: Tensor, preprocess: Preprocess, data: DataConfig, rng: np.random.Generator) -> Tensor:
    """A random crop resized to the tower's input, mirrored, relit: uint8 (3, H, W) → uint8 (3, size).

    A random pose comes first, at the picture's own resolution, as it does to a photographer.
    """
    height, width = pixels.shape[-2:]
    view = draw_view((height, width), preprocess, data, rng)
    if view.pose is not None:
        pixels = apply_pose(pixels, view.pose, preprocess.fill_color)
    picture = _resized_crop(pixels, view.crop, preprocess.size)
    if view.mirrored:
        cv2.flip(picture, 1, dst=picture)
    if (view.brightness, view.contrast) != (1, 1):
        relight(picture, view.brightness, view.contrast)
    if view.erased is not None:
        top, left, h, w = view.erased
        picture[top : top + h, left : left + w] = GREY
    planes = np.empty((3, *preprocess.size), dtype=np.uint8)
    cv2.split(picture, list(planes))
    return torch.from_numpy(planes)


def _resized_crop(pixels: Tensor, crop: Box, size: tuple[int, int]) -> np.ndarray:
    """A box of a picture (3, H, W), resized: uint8 (*size, 3).

    By the antialiased triangle filter; up to `NEARLY` the plain one is as good, and a quarter of the time.
    """
    top, left, h, w = crop
    if max(h / size[0], w / size[1]) > NEARLY:
        return T.resized_crop(pixels, *crop, list(size), antialias=True).permute(1, 2, 0).contiguous().numpy()
    picture = pixels.permute(1, 2, 0).numpy()
    return cv2.resize(picture[top : top + h, left : left + w], (size[1], size[0]), interpolation=cv2.INTER_LINEAR)


def relight(picture: np.ndarray, brightness: float, contrast: float) -> None:
    """Torchvision's `adjust_brightness`, then `adjust_contrast`, of uint8 (H, W, 3), in place.

    There are 256 levels: what becomes of each is looked up, and rounded once, not down and down again.
    """
    light = (LEVELS * brightness).clip(0, 255)
    lit = np.minimum(picture, np.uint8(math.ceil(255 / brightness))) if brightness > 1 else picture
    grey = brightness * sum(weight * value for weight, value in zip(LUMA, cv2.mean(lit), strict=False))
    levels = (contrast * light + (1 - contrast) * grey).clip(0, 255).round().astype(np.uint8)
    cv2.LUT(picture, levels, dst=picture)


def is_augmented(data: DataConfig) -> bool:
    """Whether anything random is done to pictures; without it they are learned from as they are measured."""
    relit = data.brightness or data.contrast or data.erase
    return data.crop < 1 or data.aspect > 1 or bool(data.flip or relit) or is_posed(data)


def is_posed(data: DataConfig) -> bool:
    """Whether pictures get a random pose."""
    return data.scale != (1, 1) or data.turn_deg > 0


def pose(pixels: Tensor, data: DataConfig, rng: np.random.Generator, fill: int = 255) -> Tensor:
    """The picture made smaller, turned and moved in a frame of its own size: uint8 (3, H, W) → uint8 (3, H, W).

    As `draw_pose` says; `fill` is what is seen beside it.
    """
    height, width = pixels.shape[-2:]
    return apply_pose(pixels, draw_pose((height, width), data, rng), fill)


def apply_pose(pixels: Tensor, pose: Pose, fill: int = 255) -> Tensor:
    """The picture in a pose, beside it `fill`: uint8 (3, H, W) → uint8 (3, H, W)."""
    height, width = pixels.shape[-2:]
    h, w = pose.height, pose.width
    small = T.resize(pixels, [h, w], antialias=True).float() - fill  # around zero: torchvision's own fill leaves a rim
    top, left = (height - h) // 2, (width - w) // 2
    framed = T.pad(small, [left, top, width - w - left, height - h - top])
    move, bilinear = [pose.right, pose.down], T.InterpolationMode.BILINEAR
    posed = T.affine(framed, pose.turn_deg, move, 1.0, [0.0, 0.0], interpolation=bilinear) + fill
    return posed.round().clamp(0, 255).to(torch.uint8)
