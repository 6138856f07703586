"""Decoded and resized pictures on the local disk, for training that waits for its decoders (`data.cache`).

    cache = PictureCache(folder, catalogue, side_px=224)
    pixels = cache.get(row) or cache.put(row, picture)

One memory-mapped file of uint8 pixels, a slot for each picture, and one of marks that say what is in a slot. Loader
workers and processes share it, and it outlives the run. Pixels are written before their mark, which has their checksum:
a slot half written by a process that was killed is written again.
"""

from __future__ import annotations

import hashlib
import math
import os
import shutil
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.compute as pc
import torch
from torch import Tensor

from fclip.errors import UserError
from fclip.files import expand, new_folder

if TYPE_CHECKING:
    from datasets import Dataset

MARK = np.dtype([("height", "<u2"), ("width", "<u2"), ("checksum", "<u4")])
SPARED = 0.9  # the scale from which on a picture is kept as it is: resizing would cost more than the room
LONGEST = 1.5  # side ratio up to which a picture fits its slot with its shorter side whole
MADE_BY = 2  # of the form: another number makes another cache


class PictureCache:
    """Pictures of a catalogue, no smaller than training needs them.

    A picture's shorter side becomes `side_px` (none is enlarged); one longer than `LONGEST` becomes smaller still.

    Args:
        folder: of all caches; each catalogue and size has its own folder there.
        catalogue: whose rows are cached.
        side_px: the shorter side.

    Raises:
        UserError: the disk is too small, or the folder cannot be written.
    """

    def __init__(self, folder: str | Path, catalogue: Dataset, side_px: int) -> None:
        self._rows, self._side, self._slot = len(catalogue), side_px, slot_of(side_px)
        self._open: tuple[np.ndarray, np.ndarray] | None = None
        self.folder = Path(expand(folder)) / f"{fingerprint(catalogue)}-{side_px}px"
        if not self.folder.is_dir():
            self._make()

    def _make(self) -> None:
        """Reserves the whole room at once, so that a disk that is too small is known before the first step."""
        sizes = {"pixels": self._rows * self._slot * 3, "marks": self._rows * MARK.itemsize}
        with new_folder(self.folder, overwrite=True) as beside:  # of another run that began at the same time
            free, needed = shutil.disk_usage(beside).free, sum(sizes.values())
            if needed > free:
                raise UserError(
                    f"data.cache needs {needed / 2**30:.1f} GiB in {self.folder.parent} for {self._rows} pictures, "
                    f"{free / 2**30:.1f} GiB are free; name a larger disk, or leave data.cache out"
                )
            for name, size in sizes.items():
                with (beside / name).open("wb") as stream:
                    os.posix_fallocate(stream.fileno(), 0, size)

    def _maps(self) -> tuple[np.ndarray, np.ndarray]:
        """Pixels (N, slot) and marks (N,); every process opens its own."""
        if self._open is None:
            pixels = np.memmap(self.folder / "pixels", np.uint8, "r+", shape=(self._rows, self._slot * 3))
            self._open = pixels, np.memmap(self.folder / "marks", MARK, "r+", shape=(self._rows,))
        return self._open

    def __getstate__(self) -> dict[str, Any]:
        """Without the maps: a pickled one would be a copy of the whole file."""
        return self.__dict__ | {"_open": None}

    def get(self, row: int) -> Tensor | None:
        """The picture (3, H, W), uint8, or None when it is not there (yet)."""
        pixels, marks = self._maps()
        height, width, checksum = (int(value) for value in marks[row])
        size = height * width * 3
        if not 0 < size <= self._slot * 3:
            return None
        found = np.array(pixels[row, :size])
        if zlib.crc32(found.data) != checksum:
            return None
        return torch.from_numpy(found).view(height, width, 3).permute(2, 0, 1)

    def put(self, row: int, picture: np.ndarray) -> Tensor:
        """Keeps a picture (H, W, 3), uint8; returns it as `get` will."""
        values = np.ascontiguousarray(fitted(picture, self._side))
        pixels, marks = self._maps()
        pixels[row, : values.size] = values.reshape(-1)
        marks[row] = (values.shape[0], values.shape[1], zlib.crc32(values.data))
        return torch.from_numpy(values).permute(2, 0, 1)


def slot_of(side_px: int) -> int:
    """Pixels of the largest picture that is kept."""
    return math.ceil(side_px * side_px * LONGEST)


def fitted(picture: np.ndarray, side_px: int) -> np.ndarray:
    """A picture (H, W, 3) no larger than needed, in its own shape: its shorter side `side_px`, or less if it is a
    long one; a tenth more is left."""
    from PIL import Image

    (height, width), slot = picture.shape[:2], slot_of(side_px)
    scale = min(1, side_px / min(width, height), math.sqrt(slot / (width * height)))
    size = (max(1, math.floor(width * scale + 1e-6)), max(1, math.floor(height * scale + 1e-6)))
    size = (min(size[0], slot), min(size[1], slot))  # a line of pixels
    if scale == 1 or (scale > SPARED and width * height <= slot):
        return picture
    return np.array(Image.fromarray(picture).resize(size, Image.Resampling.BICUBIC, reducing_gap=3.0))


def fingerprint(catalogue: Dataset) -> str:
    """Sixteen hex digits that change when a row, a path or a picture's length does; files are not looked at."""
    found, table = hashlib.sha256(f"{MADE_BY}".encode()), catalogue.select_columns(["id", "image"]).with_format("arrow")
    for start in range(0, len(catalogue), 1000):
        part = table[start : start + 1000]
        cells = part["image"].combine_chunks()
        lengths = pc.binary_length(cells.field("bytes")).to_pylist()
        found.update(repr((part["id"].to_pylist(), cells.field("path").to_pylist(), lengths)).encode())
    return found.hexdigest()[:16]
