"""WebDataset shards: tar files in which `0001.jpg` and `0001.json` make one sample.

Source: https://github.com/webdataset/webdataset (the tar layout)

    fclip catalogue "shards/shop-{000..012}.tar"

The JSON object's fields are the columns: any names, mapped as a table's are. Pictures are copied once to the datasets
library's cache and memory-mapped from there, so that training can shuffle them freely.
"""

from __future__ import annotations

import glob
import json
import re
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from fclip.catalogue.table import Columns, from_table
from fclip.errors import UserError

if TYPE_CHECKING:
    from datasets import Dataset

PICTURES = ("jpg", "jpeg", "png", "webp")


def open_shards(source: str | Path, columns: Columns | None = None) -> Dataset:
    """Opens a .tar file, a folder of them, a glob or a brace pattern.

    Raises:
        UserError: no such shard, a corrupt one, or one without pictures.
    """
    from datasets import Dataset, Features, Image, Value
    from datasets.exceptions import DatasetGenerationError

    files = shard_files(source)
    # Size and time are part of the arguments, because the cache's key is made of them: a rewritten shard is read anew.
    stamped = tuple((str(f), f.stat().st_size, f.stat().st_mtime_ns) for f in files)
    shape = Features({"__key__": Value("string"), "image": Image(decode=False), "json": Value("string")})
    try:
        data = Dataset.from_generator(_samples, features=shape, gen_kwargs={"shards": stamped})
    except DatasetGenerationError as error:
        cause = error.__cause__ if isinstance(error.__cause__, UserError) else error.__context__
        raise UserError(str(cause) if isinstance(cause, UserError) else f"cannot read {source}: {cause}") from None
    except ValueError:  # what the datasets library says to no samples at all
        raise UserError(f"no samples in {source}; expected pairs such as 0001.jpg and 0001.json") from None
    table: pa.Table = data.data.table
    fields, groups = _fields(table["json"].to_pylist())
    table = table.drop_columns(["json"])
    for name in fields.keys() - set(table.column_names):
        table = table.append_column(name, fields[name])
    chosen = columns or Columns()
    return from_table(table, replace(chosen, attributes=chosen.attributes or groups), None, name=str(source))


def shard_files(source: str | Path) -> list[Path]:
    """The tar files that a source names, in order."""
    path = Path(source)
    names = [str(p) for p in path.glob("*.tar")] if path.is_dir() else _expand_braces(str(source))
    files = [Path(f) for name in names for f in ([name] if Path(name).exists() else glob.glob(name) or [name])]
    missing = [f for f in files if not f.is_file()]
    if missing or not files:
        raise UserError(f"no such shard: {missing[0] if missing else source}; expected .tar files")
    return sorted(files)


def _expand_braces(pattern: str) -> list[str]:
    """`a-{08..10}.tar` → a-08.tar, a-09.tar, a-10.tar."""
    match = re.search(r"\{(\d+)\.\.(\d+)\}", pattern)
    if not match:
        return [pattern]
    first, last = match.groups()
    numbers = [f"{n:0{len(first)}d}" for n in range(int(first), int(last) + 1)]
    return [name for n in numbers for name in _expand_braces(pattern[: match.start()] + n + pattern[match.end() :])]


def _samples(shards: Iterable[tuple[str, int, int]]) -> Iterator[dict[str, Any]]:
    """One dict per sample of every shard."""
    for path, *_ in shards:
        try:
            yield from _read_shard(path)
        except (tarfile.TarError, EOFError, OSError) as error:
            raise UserError(f"cannot read shard {path}: {error}; write it anew") from None


def _read_shard(path: str) -> Iterator[dict[str, Any]]:
    """The samples of one tar file: neighbouring files of one name up to the first dot."""
    sample: dict[str, Any] = {}
    with tarfile.open(path, "r|*") as shard:
        for member in shard:
            if not member.isfile():
                continue
            folder, _, name = member.name.rpartition("/")
            stem, _, kind = name.partition(".")
            key = f"{folder}/{stem}" if folder else stem
            if sample and sample["__key__"] != key:
                yield sample
                sample = {}
            sample = sample or {"__key__": key, "image": None, "json": None}
            content = shard.extractfile(member)
            assert content is not None
            if kind.lower() in PICTURES:
                sample["image"] = {"bytes": content.read(), "path": f"{Path(path).name}/{member.name}"}
            elif kind.lower() == "json":
                sample["json"] = content.read().decode()
    if sample:
        yield sample


def _fields(texts: list[str | None]) -> tuple[dict[str, pa.Array], tuple[str, ...]]:
    """The fields of all JSON objects as columns, and which of them were written inside an object `attributes`."""
    rows: list[dict[str, Any]] = []
    groups: dict[str, None] = {}
    for text in texts:
        try:
            row = json.loads(text or "{}")
            inside = row.pop("attributes", None) or {}
            groups |= dict.fromkeys(inside)
            rows.append(row | inside)
        except (ValueError, TypeError, AttributeError):
            raise UserError(f"a shard's JSON is no object of fields: {text!r:.80}") from None
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: _column([row.get(name) for row in rows]) for name in names}, tuple(groups)


def _column(values: list[Any]) -> pa.Array:
    """A column of text, or of lists of text if any value is a list."""
    if any(isinstance(v, list) for v in values):
        lists = [v if isinstance(v, list) or v is None else [v] for v in values]
        return pa.array([None if v is None else [str(x) for x in v] for v in lists], pa.list_(pa.string()))
    return pa.array([None if v is None else v if isinstance(v, str) else json.dumps(v) for v in values], pa.string())
