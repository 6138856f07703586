"""A catalogue as one portable folder, memory-mapped when it is opened again.

    fclip catalogue shop/products.csv --save shop.catalogue

The folder holds Arrow files, with the pictures inside them unless asked otherwise. It appears only when it is complete.
"""

from __future__ import annotations

import os
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from fclip.catalogue.schema import features
from fclip.errors import UserError
from fclip.files import new_folder
from fclip.images import encoded

if TYPE_CHECKING:
    from datasets import Dataset, Features

BATCH = 100  # pictures in memory at a time while writing


def save_catalogue(catalogue: Dataset, folder: str | Path, embed_images: bool = True, overwrite: bool = False) -> Path:
    """Writes a catalogue.

    Args:
        catalogue: in the schema.
        folder: where to; its parents are made.
        embed_images: whether to copy the pictures inside. A picture that cannot be read is kept as an empty one, which
            the report of the saved catalogue names.
        overwrite: whether to replace a catalogue that is already there.

    Raises:
        UserError: the folder exists, or (with overwrite) is something else than a saved catalogue.
    """
    folder = Path(folder).absolute()
    if overwrite and folder.is_dir() and any(folder.iterdir()) and not is_saved(folder):
        raise UserError(f"{folder} is not a saved catalogue, so it is not overwritten; choose another name")
    with new_folder(folder, overwrite) as beside, TemporaryDirectory(dir=beside) as scratch:
        _write(catalogue, beside, Path(scratch), embed_images)
    return folder


def _write(catalogue: Dataset, folder: Path, scratch: Path, embed_images: bool) -> None:
    # `save_to_disk` embeds pictures by itself and stops at the first missing one; plain structs it leaves alone.
    plain = _retyped(catalogue, _plain(catalogue.features))
    if embed_images:
        plain = plain.map(
            lambda batch: {"image": [_embedded(cell) for cell in batch["image"]]},
            batched=True,
            batch_size=BATCH,
            writer_batch_size=BATCH,
            features=plain.features,
            cache_file_name=str(scratch / "pictures.arrow"),
            new_fingerprint="pictures",
            desc="Reading pictures",
        )
    plain.save_to_disk(folder)


def _embedded(cell: dict[str, Any]) -> dict[str, Any]:
    """The cell with its bytes inside, and of its path only the name."""
    path = cell["path"]
    try:
        data = encoded(cell)
    except (OSError, ValueError):  # ValueErrors are pyarrow's, of a damaged Parquet shard
        data = b""
    return {"bytes": data, "path": os.path.basename(path) if path else None}


def is_saved(folder: Path) -> bool:
    """Whether a folder was written by `save_catalogue` (or `datasets.Dataset.save_to_disk`)."""
    return (folder / "state.json").is_file() and (folder / "dataset_info.json").is_file()


def load_catalogue(folder: str | Path) -> Dataset:
    """Opens a saved catalogue.

    Raises:
        UserError: the folder is damaged, or holds a data set that is no catalogue.
    """
    from datasets import load_from_disk

    try:
        data = load_from_disk(str(folder))
    except (OSError, ValueError, KeyError) as error:  # pyarrow's errors are ValueErrors and OSErrors
        raise UserError(f"cannot open {folder}: {str(error).splitlines()[0]}; save it again") from None
    names = data.column_names
    if names[:5] != ["id", "item", "image", "split", "attributes"]:
        raise UserError(
            f"{folder} is a saved data set but no catalogue: its columns are {', '.join(names)}; try --format hub"
        )
    groups = data.features["attributes"]
    multi = [name for name, kind in groups.items() if type(kind).__name__ == "List"]
    return _retyped(data, features(groups, multi, names[5:]))


def _plain(known: Features) -> Features:
    """The features with the picture as an ordinary struct."""
    from datasets import Features, Value

    return Features(dict(known) | {"image": {"bytes": Value("binary"), "path": Value("string")}})


def _retyped(data: Dataset, shape: Features) -> Dataset:
    """The same Arrow data under features of the same Arrow types; nothing is copied."""
    from datasets import Dataset, DatasetInfo

    table = data.data.replace_schema_metadata(shape.arrow_schema.metadata)
    return Dataset(table, info=DatasetInfo(features=shape), indices_table=data._indices)
