"""A folder of pictures: one subfolder per class, or train/val/test subfolders of those, or simply pictures.

    fclip catalogue pictures/          # pictures/dress/1.jpg, or pictures/train/dress/1.jpg

The class becomes the attribute `category`. Every picture is a product of its own; its id is its path in the folder.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from fclip.catalogue.assemble import SPLIT_NAMES, assemble
from fclip.catalogue.table import IMAGE_FOLDERS
from fclip.errors import UserError

if TYPE_CHECKING:
    from datasets import Dataset

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")


def open_folder(source: str | Path) -> Dataset:
    """Opens an image folder; nothing is decoded, so a corrupt file is a row like any other.

    Raises:
        UserError: there is no picture in the folder.
    """
    root = Path(source).absolute()
    found = sorted(_pictures(root))
    if not found:
        raise UserError(f"no pictures in {root}; expected {', '.join(SUFFIXES)} files, in a subfolder per class or not")
    folders = [name.split("/")[:-1] for name in found]
    tops = {parts[0].lower() if parts else "" for parts in folders}
    splits = [parts[0] for parts in folders] if tops <= SPLIT_NAMES.keys() else None
    classes = [parts[1:] for parts in folders] if splits else folders
    categories = [parts[0] if parts and parts[0].lower() not in IMAGE_FOLDERS else None for parts in classes]
    columns = {"id": found, "image": [f"{root}/{name}" for name in found], "category": categories}
    return assemble(columns | ({"split": splits} if splits else {}), {"category": categories})


def _pictures(root: Path) -> list[str]:
    """The pictures below a folder, as paths from it; hidden files and folders are left out."""
    found = []
    for folder, below, files in os.walk(root):
        below[:] = [name for name in below if not name.startswith((".", "__MACOSX"))]
        inside = Path(folder).relative_to(root).as_posix()
        prefix = "" if inside == "." else f"{inside}/"
        found += [prefix + f for f in files if f.lower().endswith(SUFFIXES) and not f.startswith(".")]
    return found
