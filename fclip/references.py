"""Pictures that stay inside their shard: a reference stands in a catalogue where a path would, and is read by decoding.

    shop-0001.tar#1536+20480          bytes 1536 to 22016 of a tar file
    shop-0001.parquet#image/3/17      column image, row group 3, row 17 of it

So a catalogue of shards of any size is a small table, and everything that reads pictures reads these.
"""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path

BYTES = re.compile(r"(?s)(.+\.tar)#(\d+)\+(\d+)")
ROW = re.compile(r"(?s)(.+\.parquet)#(.+)/(\d+)/(\d+)")
GROUPS_KEPT = 16  # row groups in memory: a batch drawn from a window of the order comes back to the same few


def in_tar(file: Path, offset: int, size: int) -> str:
    """The reference to some bytes of a tar file."""
    return f"{file}#{offset}+{size}"


def in_parquet(file: Path, column: str, group: int, row: int) -> str:
    """The reference to a cell of a Parquet file, whose column holds bytes or {bytes, path}."""
    return f"{file}#{column}/{group}/{row}"


def read_reference(path: str) -> bytes | None:
    """What a reference refers to; None where the path is no reference.

    Raises:
        OSError: the shard is gone, cut off or damaged (pyarrow's errors are OSErrors and ValueErrors).
    """
    if match := BYTES.fullmatch(path):
        file, offset, size = match[1], int(match[2]), int(match[3])
        with open(file, "rb") as stream:
            stream.seek(offset)
            data = stream.read(size)
        if len(data) < size:
            raise OSError(f"{file} is cut off")
        return data
    if match := ROW.fullmatch(path):
        return _row_group(match[1], match[2], int(match[3]))[int(match[4])].as_py()
    return None


def shard_of(path: str) -> str | None:
    """The file that a reference reads from; None where the path is no reference."""
    match = BYTES.fullmatch(path) or ROW.fullmatch(path)
    return match[1] if match else None


@lru_cache(maxsize=GROUPS_KEPT)
def _row_group(file: str, column: str, group: int):  # type: ignore[no-untyped-def]  # pyarrow is not imported up here
    """The pictures of one row group, a binary array."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(file) as shard:
        cells = shard.read_row_group(group, columns=[column])[column].combine_chunks()
    return cells.field("bytes") if hasattr(cells, "field") else cells
