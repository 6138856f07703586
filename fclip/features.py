"""What a locked image tower makes of the training pictures: computed once, kept on the disk, read instead of pictures.

    features = stored_features(accelerator, model, cut_image_tower(model.clip.visual), pictures, Path("OUT/features"))
    features[7]   # (F,)

FOLDER/KEY/features.npy     a row per training picture, float32 (float64 for a model in float64)
FOLDER/KEY/unreadable.json  row → why the picture cannot be read

The key tells the weights, how pictures enter, the pictures, the precision and the kind of device. The rows are computed
in the same parts whatever the number of processes and the batch size, so that their bits do not depend on them.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from fclip.errors import UserError
from fclip.files import new_folder, read_json, write_json
from fclip.images import UnreadableImageError
from fclip.locked import Cut
from fclip.model import Model
from fclip.references import shard_of

if TYPE_CHECKING:
    from fclip.batches import TrainingPictures

PART = 64  # pictures per forward pass
IN_MEMORY = 1 << 28  # bytes; a larger file is mapped


@dataclass(frozen=True)
class Features:
    """Rows of features.

    Attributes:
        values: (N, …), in memory or mapped.
        unreadable: row → why there is no picture.
    """

    values: np.ndarray
    unreadable: dict[int, str]

    def __getitem__(self, row: int) -> Tensor:
        """The features of a row.

        Raises:
            UnreadableImageError: its picture could not be read.
        """
        if row in self.unreadable:
            raise UnreadableImageError(self.unreadable[row])
        return torch.from_numpy(np.array(self.values[row]))


def stored_features(
    accelerator: Accelerator, model: Model, cut: Cut, pictures: TrainingPictures, folder: Path, workers: int = 0
) -> Features:
    """The features of all rows; computed by all processes together where the folder does not have them.

    Args:
        accelerator: of the run; its autocast is to be on.
        model: in the mode that it learns in.
        cut: of its image tower.
        pictures: the training set, unaugmented.
        folder: on a disk that all processes see.
        workers: processes that decode.

    Raises:
        UserError: a full disk, or a damaged file.
    """
    target = folder / key_of(model, cut, pictures, accelerator.mixed_precision)
    there = [target.is_dir()]
    broadcast_object_list(there)  # the main process tells: it may be writing before another has looked
    if not there[0]:
        _compute(accelerator, model, cut, pictures, target, workers)
    return read_features(target)


def try_features(
    accelerator: Accelerator, model: Model, cut: Cut, pictures: TrainingPictures, workers: int = 0, parts: int = 4
) -> tuple[Features, float]:
    """Stand-ins for the features of all rows, and the seconds that computing those would take, all processes together.

    The fastest of some parts counts; nothing is written. Arguments as `stored_features` has them.
    """
    shape, dtype = _shape(model, cut)
    some = [range(r, min(r + PART, len(pictures))) for r in range(0, len(pictures), PART)][:parts]
    spent, clock = [], time.monotonic()
    for rows, _, _ in _encoded(model, cut, pictures, some, workers, progress=False):
        now = time.monotonic()
        spent.append((now - clock) / len(rows))
        clock = now
    seconds = min(spent) * len(pictures) / accelerator.num_processes
    return Features(np.broadcast_to(np.ones(shape, dtype), (len(pictures), *shape)), {}), seconds


def key_of(model: Model, cut: Cut, pictures: TrainingPictures, precision: str = "no") -> str:
    """Sixteen hex digits that tell everything that features depend on."""
    found = hashlib.blake2b(digest_size=8)
    card, device = model.card, model.device.type
    found.update(json.dumps([card.architecture, repr(card.preprocess), precision, device, cut.above]).encode())
    for name, value in model.clip.visual.state_dict().items():
        if not (cut.above and name.startswith(cut.above)):
            found.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            found.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    for row in range(len(pictures)):
        found.update(picture_key(pictures.cell(row)))
    return found.hexdigest()


def picture_key(cell: dict[str, Any]) -> bytes:
    """The id with the picture's bytes; of a file or a shard, where it lies, its size and when it was changed."""
    image = cell["image"] or {}
    if image.get("bytes") is not None:
        return repr((str(cell["id"]), len(image["bytes"]))).encode() + image["bytes"]
    path = image.get("path") or ""
    file = Path(shard_of(path) or path)
    found = file.stat() if file.is_file() else None
    about = (cell["id"], path, found and found.st_size, found and found.st_mtime_ns)
    return repr(about).encode()


def read_features(folder: Path) -> Features:
    """Reads a folder of features; a small file into memory.

    Raises:
        UserError: it is damaged.
    """
    file = folder / "features.npy"
    try:
        values = np.load(file, mmap_mode="r" if file.stat().st_size > IN_MEMORY else None)
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read the features in {folder}: {error}; remove the folder") from None
    unreadable = read_json(folder / "unreadable.json", "the unreadable pictures")
    return Features(values, {int(row): why for row, why in unreadable.items()})


def _compute(
    accelerator: Accelerator, model: Model, cut: Cut, pictures: TrainingPictures, target: Path, workers: int
) -> None:
    main, world = accelerator.is_main_process, accelerator.num_processes
    shape, dtype = _shape(model, cut)
    with ExitStack() as stack:
        where = [str(stack.enter_context(new_folder(target, overwrite=True))) if main else ""]
        broadcast_object_list(where)
        file = Path(where[0]) / "features.npy"
        start = [_write_header(file, (len(pictures), *shape), dtype) if main else 0]
        broadcast_object_list(start)
        parts = [range(r, min(r + PART, len(pictures))) for r in range(0, len(pictures), PART)]
        mine = parts[accelerator.process_index :: world]
        unreadable: dict[int, str] = {}
        with file.open("r+b") as stream:  # not through a map: that would crash on a full disk
            for rows, values, problems in _encoded(model, cut, pictures, mine, workers, main):
                unreadable |= problems
                stream.seek(start[0] + rows[0] * int(np.prod(shape)) * dtype.itemsize)
                for row in rows:
                    stream.write(values.pop(row, np.zeros(shape, dtype)).astype(dtype, copy=False).tobytes())
        found = gather_object([unreadable])  # waits for all
        if main:
            merged = {str(row): why for part in found for row, why in part.items()}
            write_json(Path(where[0]) / "unreadable.json", merged)
    accelerator.wait_for_everyone()


def _shape(model: Model, cut: Cut) -> tuple[tuple[int, ...], np.dtype]:
    """Of one row."""
    blank = torch.zeros(1, 3, *model.preprocess.size, dtype=torch.uint8, device=model.device)
    row = _features(model, cut, blank)[0]
    return row.shape, row.dtype


@torch.no_grad()
def _features(model: Model, cut: Cut, pixels: Tensor) -> np.ndarray:
    """uint8 (B, 3, H, W) → (B, …), at least float32."""
    values = cut.body(model.preprocess.normalise(pixels))
    return (values if values.dtype == torch.float64 else values.float()).cpu().numpy()


class _Rows(torch.utils.data.Dataset):
    def __init__(self, pictures: TrainingPictures) -> None:
        self._pictures = pictures

    def __getitem__(self, row: int) -> tuple[int, Tensor | None, str]:
        try:
            return row, self._pictures.pixels(row), ""
        except UnreadableImageError as error:
            return row, None, str(error)


def _encoded(
    model: Model, cut: Cut, pictures: TrainingPictures, parts: list[range], workers: int, progress: bool
) -> Iterator[tuple[list[int], dict[int, np.ndarray], dict[int, str]]]:
    """Of each part its rows, the features of those that can be read, and why the others cannot."""
    loader = DataLoader(
        _Rows(pictures),  # type: ignore[arg-type]
        batch_sampler=[list(part) for part in parts],
        num_workers=workers,
        collate_fn=list,
        generator=torch.Generator(),  # the global one is the training's
    )
    bar = tqdm(loader, desc="encoding pictures once", unit="batch", disable=not progress, leave=False)
    for samples in bar:
        good = {row: pixels for row, pixels, _ in samples if pixels is not None}
        stacked = torch.stack(list(good.values())).to(model.device) if good else None
        values: Sequence[np.ndarray] | np.ndarray = () if stacked is None else _features(model, cut, stacked)
        problems = {row: why for row, pixels, why in samples if pixels is None}
        yield [row for row, _, _ in samples], dict(zip(good, values, strict=True)), problems


def _write_header(file: Path, shape: tuple[int, ...], dtype: np.dtype) -> int:
    """Begins a .npy file; returns where its values start."""
    about = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    with file.open("wb") as stream:
        np.lib.format.write_array_header_2_0(stream, about)
        return stream.tell()
