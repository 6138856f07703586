"""A catalogue as shards for training that streams: WebDataset tar files or Parquet files, and an index of them.

    fclip catalogue shop/products.csv --to webdataset --out shop-shards

Splits lie apart (`train-00000.tar`, `val-00000.tar`, …). Pictures keep their bytes where they are JPEG, PNG or WebP;
others become PNG. Every picture is decoded before it is written (a JPEG at an eighth of its size, which finds where it
is cut off in a sixth of the time). `index.json` counts the pictures, has a SHA-256 for every shard, and lists what
could not be read.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from fclip.catalogue.schema import SPLITS
from fclip.errors import UserError, nearest
from fclip.files import new_folder, read_json, sha256, write_json
from fclip.images import UnreadableImageError, decode, encoded

if TYPE_CHECKING:
    from datasets import Dataset

Row = dict[str, Any]
INDEX = "index.json"
SHARD_SIZE = 1000  # pictures
ROW_GROUP = 64  # pictures of a Parquet shard that are read together
SIGNATURES = {b"\xff\xd8\xff": "jpg", b"\x89PNG\r\n\x1a\n": "png"}


def write_shards(
    catalogue: Dataset, form: str, folder: str | Path, shard_size: int = SHARD_SIZE, overwrite: bool = False
) -> dict[str, Any]:
    """Writes a catalogue as shards.

    Args:
        catalogue: in the schema.
        form: "webdataset" or "parquet".
        folder: where to.
        shard_size: pictures in a shard.
        overwrite: whether to replace shards that are already there.

    Returns:
        the index: "form", "pictures", "splits" (pictures of each), "shards" ("file", "split", "pictures", "bytes",
        "sha256" of each) and "skipped" ("id" and "reason" of each picture that cannot be read).

    Raises:
        UserError: an unknown form, the folder is something else, or the disk is full.
    """
    if form not in WRITERS:
        raise UserError(f"unknown form {form!r}; {nearest(form, WRITERS)}")
    folder = Path(folder)
    check_replaceable(folder)
    shards: list[dict[str, Any]] = []
    skipped: list[dict[str, str]] = []
    with new_folder(folder, overwrite) as beside:
        for split in SPLITS:
            rows = _readable(_rows(catalogue, split), skipped)
            for number, part in enumerate(_parts(rows, shard_size)):
                file = beside / f"{split}-{number:05d}.{SUFFIXES[form]}"
                WRITERS[form](file, part, number * shard_size, catalogue)
                about = {"file": file.name, "split": split, "pictures": len(part)}
                shards.append(about | {"bytes": file.stat().st_size, "sha256": sha256(file)})
        counts = {s: sum(a["pictures"] for a in shards if a["split"] == s) for s in SPLITS}
        counts = {split: count for split, count in counts.items() if count}
        index = {"form": form, "pictures": sum(counts.values()), "splits": counts, "shards": shards, "skipped": skipped}
        write_json(beside / INDEX, index)
    return index


def check_replaceable(folder: Path) -> None:
    """Raises UserError when a folder holds something else than shards that this module wrote."""
    if folder.is_dir() and any(folder.iterdir()) and not (folder / INDEX).is_file():
        raise UserError(f"{folder} holds no shards of ours, so it is not overwritten; choose another name")


def damaged_shards(folder: str | Path) -> list[str]:
    """The shards of a folder that are missing or not what was written, by its index; none where it has no index."""
    folder = Path(folder)
    if not (folder / INDEX).is_file():
        return []
    index = read_json(folder / INDEX, "an index of shards")
    listed = index.get("shards", []) if isinstance(index, dict) else []  # another program's index.json
    return [f"shard {folder / a['file']} {fault}" for a in listed if (fault := _fault(folder / a["file"], a))]


def _fault(file: Path, about: dict[str, Any]) -> str:
    if not file.is_file():
        return f"is missing ({about['pictures']} pictures); copy it again"
    if sha256(file) != about["sha256"]:
        return f"is damaged: it is not what was written ({about['pictures']} pictures); copy it again"
    return ""


def _rows(catalogue: Dataset, split: str) -> Iterator[Row]:
    """The rows of a split, a few in memory at a time."""
    rows = [i for i, s in enumerate(catalogue["split"][:]) if s == split]
    yield from catalogue.select(rows)


def _readable(rows: Iterator[Row], skipped: list[dict[str, str]]) -> Iterator[Row]:
    """Rows with their picture as (bytes, suffix) in place of the cell; the others are noted."""
    for row in rows:
        try:
            yield row | {"image": _picture(row["image"])}
        except (OSError, UnreadableImageError, pa.ArrowException) as error:
            skipped.append({"id": row["id"], "reason": str(error)})


def _picture(cell: dict[str, Any]) -> tuple[bytes, str]:
    """Bytes and suffix of a sound picture: as they are where every reader knows them, else PNG.

    Raises:
        OSError: the file is missing.
        UnreadableImageError: it cannot be decoded to its end.
    """
    data = encoded(cell)
    suffix = _suffix(data)
    decoded = decode({"bytes": data, "path": cell["path"]}, size_px=1 if suffix else None)
    if suffix:
        return data, suffix
    stream = io.BytesIO()
    decoded.save(stream, "png")
    return stream.getvalue(), "png"


def _suffix(data: bytes) -> str | None:
    """Of the formats that every reader knows."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    return next((suffix for signature, suffix in SIGNATURES.items() if data.startswith(signature)), None)


def _parts(rows: Iterator[Row], size: int) -> Iterator[list[Row]]:
    while part := list(islice(rows, size)):
        yield part


def _write_tar(file: Path, rows: Sequence[Row], first: int, catalogue: Dataset) -> None:
    with tarfile.open(file, "w") as shard:
        for number, row in enumerate(rows, start=first):
            data, suffix = row["image"]
            about = {name: value for name, value in row.items() if name != "image"}
            for kind, content in ((suffix, data), ("json", json.dumps(about, ensure_ascii=False).encode())):
                member = tarfile.TarInfo(f"{number:08d}.{kind}")
                member.size = len(content)
                shard.addfile(member, io.BytesIO(content))


def _write_parquet(file: Path, rows: Sequence[Row], first: int, catalogue: Dataset) -> None:
    """Pictures are not compressed again, and stand in small row groups, so that few are read for one."""
    cells = [
        {"bytes": row["image"][0], "path": f"{number:08d}.{row['image'][1]}"} for number, row in enumerate(rows, first)
    ]
    schema = catalogue.features.arrow_schema
    columns = [cells if name == "image" else [row[name] for row in rows] for name in schema.names]
    arrays = [pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)]
    table = pa.Table.from_arrays(arrays, schema=schema)
    pq.write_table(table, file, row_group_size=ROW_GROUP, compression="none")


WRITERS: dict[str, Callable[[Path, Sequence[Row], int, Dataset], None]] = {
    "webdataset": _write_tar,
    "parquet": _write_parquet,
}
SUFFIXES = {"webdataset": "tar", "parquet": "parquet"}
