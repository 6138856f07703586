"""Catalogues that outgrow the machine: pictures stay in their shards, the rest is a memory-mapped table.

    catalogue = open_catalogue("shards/", stream=True)      # the preset's data.stream

A stream here is no stream: every picture has an address (`fclip.references`), so any one can be read without those
before it. Against an iterable over shards (webdataset, `datasets.IterableDataset`) this is smaller and stricter: the
order of a run is that of `BatchOrder`, whose cursor is the number of steps, so a run resumes inside an epoch without
decoding what it had; processes and loader workers take parts of the same batches, so nothing comes twice or never,
whatever their number; and validation, index and report read the same catalogue. What a stream is for, reading a shard
from front to back, `data.shuffle_window` keeps: neighbours in the shards stay neighbours in the order.

Shards are indexed once (headers and attributes, not pictures) into the datasets library's cache. Indexing takes memory
with every sample; afterwards a process holds some bytes for each.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from fclip.catalogue.shards import log_damage, read_shards, shard_files, stamps
from fclip.catalogue.storage import is_saved, load_catalogue, save_catalogue
from fclip.catalogue.table import Columns, from_table, resolve, table_files
from fclip.errors import UserError
from fclip.files import read_json, write_json
from fclip.references import in_parquet

if TYPE_CHECKING:
    from datasets import Dataset

MADE_BY = 1  # of the index's form: another number makes all of them anew


def open_stream(source: str, name: str, columns: Columns | None = None) -> Dataset:
    """Opens shards without reading their pictures.

    Args:
        source: WebDataset shards or Parquet files with the pictures inside.
        name: its format.
        columns: which column is what.

    Raises:
        UserError: another format, or no sound sample.
    """
    files, columns = _files(source, name), columns or Columns()
    folder = _index_folder(repr((MADE_BY, stamps(files), columns)))
    listing = folder.with_name(f"{folder.name}.damaged.json")
    if not is_saved(folder):
        read = read_shards(source, columns, stream=True) if name == "shards" else _index_parquet(files, columns)
        index, damage = read
        write_json(listing, damage)
        save_catalogue(index, folder, embed_images=False)
    log_damage(read_json(listing, "what is damaged"))
    return load_catalogue(folder)


def _files(source: str, name: str) -> list[Path]:
    if name == "shards":
        return shard_files(source)
    files = table_files(source) if name == "table" else []
    if not files or files[0].suffix.lower() != ".parquet":
        raise UserError(
            f"{source} cannot be streamed: expected WebDataset shards or Parquet files with the pictures inside; "
            f"write some: fclip catalogue {source} --to webdataset --out FOLDER"
        )
    return files


def _index_folder(key: str) -> Path:
    from datasets import config

    parent = Path(config.HF_DATASETS_CACHE) / "fclip-streams"
    parent.mkdir(parents=True, exist_ok=True)
    return parent / hashlib.sha256(key.encode()).hexdigest()[:16]


def _index_parquet(files: list[Path], columns: Columns) -> tuple[Dataset, list[str]]:
    """The catalogue of Parquet files with references in place of pictures, and the files that cannot be read."""
    parts, damage = [], []
    for file in files:
        try:
            parts.append(_parquet_part(file.absolute(), columns))
        except (pa.ArrowException, OSError) as error:
            reason = str(error).strip().partition("\n")[0].rstrip(".")
            damage.append(f"cannot read shard {file}: {reason}; write it anew")
    if not parts:
        raise UserError(damage[0])
    table = pa.concat_tables(parts, promote_options="default")
    return from_table(table, columns, None, name=str(files[0])), damage


def _parquet_part(file: Path, columns: Columns) -> pa.Table:
    """All columns of a file but the picture, and a reference to that."""
    with pq.ParquetFile(file) as shard:
        names = shard.schema_arrow.names
        image = resolve(columns, names, str(file)).image
        assert image is not None
        _check_inside(shard.schema_arrow.field(image).type, file, image)
        table = shard.read(columns=[name for name in names if name != image])
        sizes = [shard.metadata.row_group(group).num_rows for group in range(shard.metadata.num_row_groups)]
    paths = [in_parquet(file, image, group, row) for group, size in enumerate(sizes) for row in range(size)]
    cells = pa.StructArray.from_arrays([pa.nulls(len(paths), pa.binary()), pa.array(paths)], ["bytes", "path"])
    return table.append_column(image, cells)


def _check_inside(kind: pa.DataType, file: Path, image: str) -> None:
    inside = pa.types.is_struct(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind)
    if not inside:
        raise UserError(f"column {image!r} of {file} holds {kind}, not pictures; a table of paths needs no data.stream")
