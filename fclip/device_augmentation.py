"""Training pictures varied a batch at a time, where the model is (`data.augment_on: device`).

    batch = augment_batch(batch, data)   # "pixels" as they were read, with a "view" each → "pixels" (B, 3, size)

The loader draws what is done to each picture (`fclip.augmentation`, from the same random numbers as on the processor)
and sends it beside the picture. Here the same steps are done to all of them: pose, crop, mirror, light. Crops are
resized as torchvision does it, by the antialiased triangle filter, written as two matrix products: kornia's own are
not antialiased, and its affine warp inverts matrices, for which a processor waits for its GPU. Turns and light are
kornia's. Nothing here waits for a GPU.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as T

from fclip.augmentation import GREY, NEARLY, View, is_posed
from fclip.config import DataConfig

LONGEST = 2.0  # the longer side at most, as a multiple of the side that crops need: one banner would widen its batch
STEP_PX = 32  # canvases are multiples of it, so that a GPU meets few sizes
AT_ONCE = 256  # pictures that are floats at a time


def as_row(view: View) -> Tensor:
    """What is done to a picture as numbers (20,) float32, in the order in which `_columns` reads them."""
    height, width = view.size
    pose = view.pose
    placed: tuple[float, ...] = (0, 0, height, width, 0, 0, 0)
    if pose is not None:
        top, left = (height - pose.height) // 2, (width - pose.width) // 2
        placed = (top, left, pose.height, pose.width, pose.turn_deg, pose.right, pose.down)
    light = (view.mirrored, view.brightness, view.contrast)
    return torch.tensor([*view.size, *placed, *view.crop, *light, *(view.erased or (0, 0, 0, 0))], dtype=torch.float32)


def _columns(views: Tensor) -> tuple[Tensor, ...]:
    """Rows (B, 20) → whole picture (B, 4), its place in the frame (B, 4), turn and move (B, 3), crop (B, 4), light
    (B, 3), erased (B, 4); boxes are top, left, height, width."""
    size, *rest = views.split([2, 4, 3, 4, 3, 4], dim=1)
    return torch.cat([torch.zeros_like(size), size], dim=1), *rest


def shortened(pixels: Tensor, side_px: int) -> Tensor:
    """A picture (3, H, W) no longer than `LONGEST` sides of `side_px`."""
    height, width = pixels.shape[-2:]
    scale = LONGEST * side_px / max(height, width)
    if scale >= 1:
        return pixels
    return T.resize(pixels, [max(1, int(height * scale)), max(1, int(width * scale))], antialias=True)


def stacked(samples: list[dict[str, Any]]) -> dict[str, Any]:
    """Pictures of any size at the top left of a canvas that holds the largest, with their views, and the size to be."""
    most = np.max([s["pixels"].shape for s in samples], axis=0)
    height, width = (-(-int(side) // STEP_PX) * STEP_PX for side in most[1:])
    canvas = torch.zeros(len(samples), 3, height, width, dtype=torch.uint8)
    for place, sample in zip(canvas, samples, strict=True):
        pixels = sample["pixels"]
        place[:, : pixels.shape[1], : pixels.shape[2]] = pixels
    return {"pixels": canvas, "view": torch.stack([s["view"] for s in samples]), "size": samples[0]["size"]}


@torch.no_grad()
def augment_batch(batch: dict[str, Any], data: DataConfig, fill: int = 255) -> dict[str, Any]:
    """A batch from `stacked`, its "pixels" (B, 3, H, W) made views (B, 3, *size) of them, uint8 both.

    Args:
        batch: also has the "view" of each picture (B, 20) on the same device, and "size".
        data: what may have been drawn; what it leaves out is not computed.
        fill: what is beside a posed picture.
    """
    rest = {k: v for k, v in batch.items() if k not in ("view", "size")}
    parts = zip(batch["pixels"].split(AT_ONCE), batch["view"].split(AT_ONCE), strict=True)
    return rest | {"pixels": torch.cat([_views(pixels, views, batch["size"], data, fill) for pixels, views in parts])}


def _views(pixels: Tensor, views: Tensor, size: tuple[int, int], data: DataConfig, fill: int) -> Tensor:
    whole, placed, moved, crop, light, erased = _columns(views)
    images = pixels.float()
    if is_posed(data):
        canvas = (images.shape[2], images.shape[3])
        images = _turned(_resized(images - fill, whole, placed, canvas), whole, moved) + fill
    images = _resized(images, crop, None, size)
    images = torch.where(light[:, 0].view(-1, 1, 1, 1) > 0, images.flip(-1), images)
    if data.brightness or data.contrast:
        images = _relit(images / 255, light[:, 1], light[:, 2]) * 255
    if data.erase:
        rows, columns = (_inside(side, erased, axis) for axis, side in enumerate(size))
        images = torch.where(rows[:, None, :, None] & columns[:, None, None, :], GREY, images)
    return images.round_().clamp_(0, 255).to(torch.uint8)


def _resized(images: Tensor, source: Tensor, target: Tensor | None, size: tuple[int, int]) -> Tensor:
    """A box of each image (B, C, H, W) resized to a box of a canvas (B, C, *size), zero beside it; None: all of it."""
    rows, columns = (_weights(images.shape[2 + axis], size, source, target, axis) for axis in (0, 1))
    return rows[:, None] @ images @ columns[:, None].mT


def _weights(n_in: int, size: tuple[int, int], source: Tensor, target: Tensor | None, axis: int) -> Tensor:
    """What each input pixel along an axis adds to each output pixel (B, n_out, n_in): torchvision's antialiasing.

    A triangle over two output pixels, or two input pixels where the picture is enlarged, cut at the box and normalised.
    Also over two input pixels where a crop is nearly as large as the output both ways, as on the processor.
    """
    n_out, first, length = size[axis], source[:, axis, None], source[:, axis + 2, None]
    first_out, length_out = (0, n_out) if target is None else (target[:, axis, None], target[:, axis + 2, None])
    step = length / length_out  # (B, 1)
    centres = first + (_centres(n_out, source) - first_out) * step  # (B, n_out)
    half = step.clamp(min=1)
    if target is None:
        half = half.where(_shrinks(source, size), 1)
    distance = (_centres(n_in, source) - centres[..., None]).abs() / half[..., None]
    weights = (1 - distance).clamp_(min=0) * _inside(n_in, source, axis)[:, None]
    weights /= weights.sum(dim=-1, keepdim=True).clamp_(min=1e-6)
    return weights if target is None else weights * _inside(n_out, target, axis)[..., None]


def _shrinks(crop: Tensor, size: tuple[int, int]) -> Tensor:
    """Whether crops (B, 4) become so much smaller that they need a filter against aliasing: (B, 1)."""
    height, width = (crop[:, axis + 2, None] / size[axis] for axis in (0, 1))
    return torch.maximum(height, width) > NEARLY


def _centres(number: int, like: Tensor) -> Tensor:
    return torch.arange(number, dtype=like.dtype, device=like.device) + 0.5


def _inside(number: int, box: Tensor, axis: int) -> Tensor:
    """Which pixels along an axis lie in boxes (B, 4): (B, number)."""
    first, centres = box[:, axis, None], _centres(number, box)
    return (centres > first) & (centres < first + box[:, axis + 2, None])


def _turned(images: Tensor, whole: Tensor, moved: Tensor) -> Tensor:
    """Images (B, C, H, W) turned clockwise about the middle of their frame, then moved; zero beside it."""
    from kornia.geometry.transform import remap

    middle_y, middle_x = ((whole[:, axis + 2] / 2).view(-1, 1, 1) for axis in (0, 1))
    turn, right, down = moved[:, :, None, None].unbind(dim=1)
    cos, sin = turn.deg2rad().cos(), turn.deg2rad().sin()
    x = _centres(images.shape[3], whole) - middle_x - right
    y = _centres(images.shape[2], whole)[:, None] - middle_y - down
    from_x, from_y = cos * x + sin * y + middle_x, cos * y - sin * x + middle_y
    return remap(images, from_x - 0.5, from_y - 0.5, padding_mode="zeros", align_corners=True)


def _relit(images: Tensor, brightness: Tensor, contrast: Tensor) -> Tensor:
    """Images (B, 3, H, W) in 0..1 with factors (B,) each."""
    from kornia.enhance import adjust_brightness_accumulative, adjust_contrast_with_mean_subtraction

    return adjust_contrast_with_mean_subtraction(adjust_brightness_accumulative(images, brightness), contrast)
