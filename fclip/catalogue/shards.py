"""WebDataset shards: tar files in which `0001.jpg` and `0001.json` make one sample.

Source: https://github.com/webdataset/webdataset (the tar layout)

    fclip catalogue "shards/shop-{000..012}.tar"

The JSON object's fields are the columns: any names, mapped as a table's are. Pictures are copied once to the datasets
library's cache and memory-mapped from there, so that training can shuffle them freely.
"""

from __future__ import annotations

import glob
import json
import logging
import os
import re
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from fclip.catalogue.table import Columns, from_table
from fclip.errors import UserError
from fclip.references import in_tar

if TYPE_CHECKING:
    from datasets import Dataset

BLOCK = 512  # bytes, of a tar file
PICTURES = ("jpg", "jpeg", "png", "webp")


def open_shards(source: str | Path, columns: Columns | None = None) -> Dataset:
    """Opens a .tar file, a folder of them, a glob or a brace pattern.

    What is damaged is left out, and logged by shard and key: a shard that is cut off loses the samples after the cut.

    Raises:
        UserError: no such shard, or none with a sound sample.
    """
    catalogue, damage = read_shards(source, columns or Columns())
    log_damage(damage)
    return catalogue


def read_shards(source: str | Path, columns: Columns, stream: bool = False) -> tuple[Dataset, list[str]]:
    """The catalogue of some shards, and what is damaged, by shard and key.

    Args:
        source: of the shards.
        columns: which field is what.
        stream: leave the pictures in the shards, see `fclip.catalogue.streaming`.

    Raises:
        UserError: no such shard, or none with a sound sample.
    """
    files = shard_files(source)
    # Size and time are part of the arguments, because the cache's key is made of them: a rewritten shard is read anew.
    data = _cached_samples(str(source), {"shards": stamps(files), "stream": stream})
    table: pa.Table = data.data.table
    fields, damage = _fields(table["json"].to_pylist(), table["damage"].to_pylist(), columns)
    damaged = [row for row, reason in enumerate(damage) if reason]
    places = table.select(["shard", "__key__"]).take(pa.array(damaged, pa.int64())).to_pylist()
    lines = [_line(place, str(damage[row])) for place, row in zip(places, damaged, strict=True)]
    if len(damaged) == len(table):
        raise UserError(lines[0])
    table = _without(table.drop_columns(["json", "damage", "shard"]), damaged)
    if "id" in fields:  # a sample without JSON has its key still
        fields["id"] = pc.coalesce(fields["id"], table["__key__"])
    for name in fields.keys() - set(table.column_names):
        table = table.append_column(name, fields[name])
    return from_table(table, columns, None, name=str(source)), lines


def stamps(files: Iterable[Path]) -> tuple[tuple[str, int, int], ...]:
    """Path, size and time of each file."""
    return tuple((str(f.absolute()), f.stat().st_size, f.stat().st_mtime_ns) for f in files)


def log_damage(lines: Sequence[str]) -> None:
    """Warns of what was left out."""
    log = logging.getLogger(__name__)
    if lines:
        log.warning("%d damaged samples or shards are left out:\n%s", len(lines), "\n".join(lines))


def _cached_samples(source: str, arguments: dict[str, Any]) -> Dataset:
    from datasets import Dataset, Features, Image, Value
    from datasets.exceptions import DatasetGenerationError

    text = Value("string")
    shape = {"__key__": text, "image": Image(decode=False), "json": text, "damage": text, "shard": text}
    try:
        return Dataset.from_generator(_samples, features=Features(shape), gen_kwargs=arguments)
    except DatasetGenerationError as error:
        raise UserError(f"cannot read {source}: {error.__cause__ or error.__context__}") from None
    except ValueError:  # what the datasets library says to no samples at all
        raise UserError(f"no samples in {source}; expected pairs such as 0001.jpg and 0001.json") from None


def _line(place: dict[str, str | None], reason: str) -> str:
    """Shard, key and reason; without a key it is the whole shard, or what is left of it, that cannot be read."""
    if place["__key__"] is None:
        return f"cannot read shard {place['shard']}: {reason}"
    return f"shard {place['shard']}: {place['__key__']}: {reason}"


def _without(table: pa.Table, rows: Sequence[int]) -> pa.Table:
    """The table without some rows; slices, so that what is memory-mapped stays so."""
    ends = [*rows, len(table)]
    starts = [0, *(row + 1 for row in rows)]
    return pa.concat_tables([table.slice(a, b - a) for a, b in zip(starts, ends, strict=True)])


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


def _samples(shards: Iterable[tuple[str, int, int]], stream: bool) -> Iterator[dict[str, Any]]:
    """One dict per sample of every shard, and one with "damage" where something is wrong."""
    for path, size, _ in shards:
        empty = {"__key__": None, "image": None, "json": None, "damage": None, "shard": path}
        try:
            for sample in _read_shard(path, size, stream):
                yield empty | sample
        except (tarfile.TarError, EOFError, OSError) as error:
            streamed = "; a compressed one cannot be streamed" if stream else ""
            yield empty | {"damage": f"{error}; write it anew{streamed}"}


def _read_shard(path: str, size: int, stream: bool) -> Iterator[dict[str, Any]]:
    """The samples of one tar file: neighbouring files of one name up to the first dot.

    What comes before a cut is kept, but for the sample that the cut may go through.
    """
    sample: dict[str, Any] = {}
    try:
        with tarfile.open(path, "r:" if stream else "r|*") as shard:
            for member in filter(tarfile.TarInfo.isfile, shard):
                key, kind = _key(member.name)
                if sample and sample["__key__"] != key:
                    yield sample
                    sample = {}
                sample = sample or {"__key__": key}
                if member.offset_data + member.size > size and stream:  # reading it would tell, but nobody does yet
                    raise EOFError("unexpected end of data")
                if kind in PICTURES:
                    sample["image"] = _picture(path, member, shard, stream)
                elif kind == "json":
                    sample["json"] = _content(shard, member).decode(errors="replace")
        _check_end(Path(path))
    except (tarfile.TarError, EOFError, OSError):
        if sample:  # what is whole is kept
            yield sample if "image" in sample and "json" in sample else sample | {"damage": "the shard is cut off here"}
        raise
    if sample:
        yield sample


def _check_end(file: Path) -> None:
    """Raises EOFError when a tar file has no end mark: `tarfile` takes a cut through a header for the end."""
    with file.open("rb") as stream:
        plain = stream.read(BLOCK)[257:262] == b"ustar"
        stream.seek(-min(BLOCK, file.stat().st_size), os.SEEK_END)
        if plain and any(stream.read()):
            raise EOFError("unexpected end of data")


def _key(name: str) -> tuple[str, str]:
    """Of a file in a shard: what it shares with the other files of its sample, and the rest of its name."""
    folder, _, file = name.rpartition("/")
    stem, _, kind = file.partition(".")
    return f"{folder}/{stem}" if folder else stem, kind.lower()


def _picture(path: str, member: tarfile.TarInfo, shard: tarfile.TarFile, stream: bool) -> dict[str, Any]:
    if stream:
        return {"bytes": None, "path": in_tar(Path(path), member.offset_data, member.size)}
    return {"bytes": _content(shard, member), "path": f"{Path(path).name}/{member.name}"}


def _content(shard: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    content = shard.extractfile(member)
    assert content is not None
    return content.read()


def _fields(
    texts: list[str | None], damage: list[str | None], columns: Columns
) -> tuple[dict[str, pa.Array], list[str | None]]:
    """The fields of all sound JSON objects as columns, and what is damaged, bad JSON included.

    An object `attributes` becomes a struct of that name; fields of it that `columns` names become columns besides.
    """
    rows, inner = [], []
    wanted = (*columns.attributes, *columns.numbers, *columns.lists)
    damage = list(damage)
    for number, text in enumerate(texts):
        if damage[number]:
            continue
        try:
            row = json.loads(text or "{}")
            inside = row.pop("attributes", None) or {}
            rows.append({name: inside[name] for name in wanted if name in inside} | row)
            inner.append({**inside})
        except (ValueError, TypeError, AttributeError):
            damage[number] = f"a shard's JSON is no object of fields: {text!r:.80}"
    names = dict.fromkeys(name for row in rows for name in row)
    fields = {name: _column([row.get(name) for row in rows], name in columns.numbers) for name in names}
    groups = dict.fromkeys(name for inside in inner for name in inside)
    if groups:
        parts = [_column([inside.get(name) for inside in inner]) for name in groups]
        fields["attributes"] = pa.StructArray.from_arrays(parts, list(groups))
    return fields, damage


def _column(values: list[Any], numbers: bool = False) -> pa.Array:
    """A column of text, or of lists of text if any value is a list; objects in lists are left as they are.

    Where `numbers` are asked for, JSON's own get many decimals: the point of 9.125 parts no thousands.
    """
    if numbers:
        values = [f"{v:.14f}" if isinstance(v, float) else v for v in values]
    if any(isinstance(v, list) for v in values):
        if any(isinstance(x, dict) for v in values if isinstance(v, list) for x in v):
            return pa.array(values)
        lists = [v if isinstance(v, list) or v is None else [v] for v in values]
        return pa.array([None if v is None else [str(x) for x in v] for v in lists], pa.list_(pa.string()))
    return pa.array([None if v is None else v if isinstance(v, str) else json.dumps(v) for v in values], pa.string())
