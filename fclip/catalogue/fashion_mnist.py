"""Fashion-MNIST: 70,000 grey garments of 28×28 pixels in ten classes.

    fclip catalogue data/fashion-mnist                              # the folder, or one file of pictures of it:
    fclip catalogue data/fashion-mnist/t10k-images-idx3-ubyte.gz

The class becomes the attribute `category`. Pictures of the train files are in the splits train and val, a tenth of them
in val, by a hash of the id; those of the t10k files are in test.

Source: Xiao et al. 2017, Fashion-MNIST, arXiv:1708.07747; github.com/zalandoresearch/fashion-mnist
"""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import TYPE_CHECKING

from fclip.catalogue.idx import read_idx, read_labels
from fclip.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    from datasets import Dataset
    from numpy.typing import NDArray

CLASSES = (
    "t-shirt/top",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
)
PICTURES = re.compile(r"(?P<part>train|t10k)-images[-.]idx3-ubyte(\.gz)?")


def is_fashion_mnist(path: Path) -> bool:
    """Whether a file, or any file of a folder, is named as the pictures of the data set are."""
    names = [p.name for p in path.iterdir()] if path.is_dir() else [path.name]
    return any(map(PICTURES.fullmatch, names))


def open_fashion_mnist(source: str | Path) -> Dataset:
    """Opens the folder with the files, packed by gzip or not, or one file of pictures.

    Raises:
        UserError: no such file, one that is damaged, or labels that do not fit the pictures.
    """
    from fclip.catalogue.assemble import assemble

    path = Path(source)
    columns: dict[str, list] = {"id": [], "image": [], "split": [], "category": []}
    for file in _picture_files(path):
        part = PICTURES.fullmatch(file.name)["part"]  # type: ignore[index]
        pictures = read_idx(file)
        ids = [f"{part}/{row:05d}" for row in range(len(pictures))]
        columns["id"] += ids
        columns["image"] += [_png(picture) for picture in pictures]
        columns["split"] += [_split(part, id_) for id_ in ids]
        columns["category"] += _categories(file, len(pictures))
    return assemble(columns, {"category": columns["category"]})


def _picture_files(path: Path) -> list[Path]:
    """One file for each part, the unpacked one if there are both."""
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    parts: dict[str, Path] = {}
    for file in files:
        if named := PICTURES.fullmatch(file.name):
            parts.setdefault(named["part"], file)
    if not parts:
        raise UserError(
            f"no pictures of Fashion-MNIST in {path}; expected train-images-idx3-ubyte.gz or t10k-images-idx3-ubyte.gz"
        )
    return list(parts.values())


def _categories(pictures: Path, expected: int) -> list[str | None]:
    """The classes of a file of pictures, by the file of labels beside it; without one none is known."""
    name = pictures.name.replace("images", "labels").replace("idx3", "idx1").removesuffix(".gz")
    beside = (pictures.with_name(n) for n in (name, f"{name}.gz"))
    file = next((f for f in beside if f.exists()), None)
    if file is None:
        logging.getLogger(__name__).warning("no %s beside %s: its pictures have no category", name, pictures)
        return [None] * expected
    labels = read_labels(file)
    if len(labels) != expected or (expected and labels.max() >= len(CLASSES)):
        raise UserError(
            f"{file} does not fit {pictures.name}: expected {expected} labels from 0 to {len(CLASSES) - 1}, found "
            f"{len(labels)} up to {max(labels, default=0)}"
        )
    return [CLASSES[label] for label in labels]


def _split(part: str, id_: str) -> str:
    from fclip.catalogue.schema import split_of

    if part == "t10k":
        return "test"
    return "val" if split_of(id_) == "val" else "train"


def _png(picture: NDArray[np.uint8]) -> dict[str, bytes | None]:
    """A picture as a catalogue has it: the bytes of a file, without loss."""
    import cv2

    return {"bytes": cv2.imencode(".png", picture)[1].tobytes(), "path": None}
