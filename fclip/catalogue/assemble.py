"""From Arrow columns to a catalogue: the last step of every reader.

Readers collect columns (pyarrow arrays or plain lists); this makes the one shape of `fclip.catalogue.schema` of them.
Everything is a column operation, so a million rows take seconds, and pictures stay where they are.

    >>> assemble({"id": ["1"], "image": ["/data/1.jpg"]}, {"colour": ["red"]})[0]["attributes"]
    {'colour': 'red'}
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import pyarrow as pa
import pyarrow.compute as pc

from fclip.catalogue.schema import SPLITS, features, split_of
from fclip.errors import UserError, nearest

if TYPE_CHECKING:
    from datasets import Dataset, Features

Column: TypeAlias = Sequence[Any] | pa.Array | pa.ChunkedArray

PICTURE = pa.struct({"bytes": pa.binary(), "path": pa.string()})
OPTIONAL = ("category", "title", "bbox", "landmarks", "view")
SPLIT_NAMES = {name: name for name in SPLITS} | {
    "training": "train",
    "validation": "val",
    "valid": "val",
    "dev": "val",
    "testing": "test",
}


def assemble(columns: Mapping[str, Column], attributes: Mapping[str, Column]) -> Dataset:
    """Builds a catalogue.

    Args:
        columns: `id` and `image` (paths, bytes or both), and if known `item`, `split` (as the source spells them, empty
            where unknown), category, title, bbox, landmarks, view.
        attributes: group → values, or lists of values; None where unknown.

    Raises:
        UserError: there are no rows, or a split of an unknown name.
    """
    ids = as_text(columns["id"])
    if not len(ids):
        raise UserError("the catalogue has no rows; expected at least one picture")
    items = pc.coalesce(empty_to_null(as_text(columns["item"])), ids) if "item" in columns else ids
    splits = fill_splits(items, columns.get("split"))
    groups = {name: as_values(values) for name, values in attributes.items()}
    multi = [name for name, values in groups.items() if pa.types.is_list(values.type)]
    optional = [name for name in OPTIONAL if name in columns]
    shape = features(groups, multi, optional)
    struct = pa.StructArray.from_arrays(list(groups.values()), list(groups)) if groups else [{}] * len(ids)
    known = {"id": ids, "item": items, "image": pictures(columns["image"]), "split": splits, "attributes": struct}
    known |= {name: columns[name] for name in optional}
    fields = [_cast(known[field.name], field.type) for field in shape.arrow_schema]
    return _dataset(pa.Table.from_arrays(fields, schema=shape.arrow_schema), shape)


def _cast(column: Column, type_: pa.DataType) -> pa.ChunkedArray:
    """A column of exactly this type; a list or an array of the right type passes through without a copy."""
    if not isinstance(column, pa.Array | pa.ChunkedArray):
        column = pa.array(column, type_)
    chunked = column if isinstance(column, pa.ChunkedArray) else pa.chunked_array([column])
    return chunked if chunked.type == type_ else chunked.cast(type_)


def as_text(column: Column) -> pa.Array:
    """One contiguous text array. Ids are text: "0123" keeps its zero, the number 123 becomes "123"."""
    return _cast(column, pa.string()).combine_chunks()


def as_values(column: Column) -> pa.Array:
    """Attribute values: text, or lists of text; empty text is unknown."""
    array = column if isinstance(column, pa.Array | pa.ChunkedArray) else pa.array(column)
    if pa.types.is_list(array.type) or pa.types.is_large_list(array.type):
        return _cast(array, pa.list_(pa.string())).combine_chunks()
    return empty_to_null(as_text(array))


def empty_to_null(array: pa.Array) -> pa.Array:
    """None in place of empty text."""
    return pc.if_else(pc.equal(array, ""), None, array)


def fill_splits(items: pa.Array, given: Column | None) -> list[str]:
    """The split of every row: as given, else that of the product's other rows, else by the product's hash.

    Raises:
        UserError: a given split has an unknown name.
    """
    products = items.to_pylist()
    texts: list[str | None] = as_text(given).to_pylist() if given is not None else [None] * len(products)
    names = {text: split_name(text) for text in set(texts)}
    splits = [names[text] for text in texts]
    known = {item: split for item, split in zip(products, splits, strict=True) if split}
    for item in set(products) - known.keys():
        known[item] = split_of(item)
    return [split or known[item] for item, split in zip(products, splits, strict=True)]


def split_name(text: str | None) -> str | None:
    """Our name of a split: "validation", "valid" and "dev" are val; None where the text is empty.

    Raises:
        UserError: no such split.
    """
    if text is None or not text.strip():
        return None
    name = SPLIT_NAMES.get(text.strip().lower())
    if name is None:
        raise UserError(f"unknown split {text!r} in the data; {nearest(text, SPLIT_NAMES)}")
    return name


def pictures(column: Column, root: Path | None = None) -> pa.ChunkedArray:
    """The image column: from paths, from encoded bytes, or from {bytes, path} as the datasets library keeps them.

    Args:
        column: paths (N,), bytes (N,) or structs (N,).
        root: the folder that relative paths start from.

    Raises:
        UserError: the column holds neither.
    """
    array = column if isinstance(column, pa.Array | pa.ChunkedArray) else pa.array(column)
    chunks = (array if isinstance(array, pa.ChunkedArray) else pa.chunked_array([array])).chunks
    return pa.chunked_array([_picture_chunk(chunk, root) for chunk in chunks], PICTURE)


def _picture_chunk(chunk: pa.Array, root: Path | None) -> pa.Array:
    data, path = pa.nulls(len(chunk), pa.binary()), pa.nulls(len(chunk), pa.string())
    if pa.types.is_struct(chunk.type) and chunk.type.get_field_index("bytes") >= 0:
        data, path = chunk.field("bytes").cast(pa.binary()), chunk.field("path").cast(pa.string())
    elif pa.types.is_binary(chunk.type) or pa.types.is_large_binary(chunk.type):
        data = chunk.cast(pa.binary())
    elif pa.types.is_string(chunk.type) or pa.types.is_large_string(chunk.type) or pa.types.is_null(chunk.type):
        path = empty_to_null(chunk.cast(pa.string()))
    else:
        raise UserError(f"the image column holds {chunk.type}; expected paths or encoded pictures (bytes)")
    if root is not None:
        below = pc.binary_join_element_wise(str(root), path, "/")
        path = pc.if_else(pc.match_substring_regex(path, r"^(/|[A-Za-z]:[\\/]|\w+://)"), path, below)
    return pa.StructArray.from_arrays([data, path], ["bytes", "path"])


def align(parts: Sequence[Dataset]) -> list[Dataset]:
    """The catalogues with the same columns and attribute groups; what one does not know is None.

    A group that is a list in one becomes a list in all.
    """
    groups: dict[str, bool] = {}  # group → whether it holds lists
    for part in parts:
        for field in part.data.schema.field("attributes").type:
            groups[field.name] = groups.get(field.name, False) or pa.types.is_list(field.type)
    optional = [name for name in OPTIONAL if any(name in part.column_names for part in parts)]
    shape = features(groups, [g for g, multi in groups.items() if multi], optional)
    return [_aligned(part, shape.arrow_schema, shape) for part in parts]


def _aligned(part: Dataset, schema: pa.Schema, shape: Features) -> Dataset:
    table, columns = part.data.table, []
    for field in schema:
        if field.name == "attributes":
            chunks = [_aligned_attributes(chunk, field.type) for chunk in table["attributes"].chunks]
            columns.append(pa.chunked_array(chunks, field.type))
        else:
            columns.append(table[field.name] if field.name in table.column_names else pa.nulls(len(table), field.type))
    return _dataset(pa.Table.from_arrays(columns, schema=schema), shape)


def _aligned_attributes(chunk: pa.StructArray, struct: pa.StructType) -> pa.Array:
    groups = {}
    for group in struct:
        values = (
            chunk.field(group.name) if chunk.type.get_field_index(group.name) >= 0 else pa.nulls(len(chunk), group.type)
        )
        if values.type != group.type:  # a value becomes a list of one
            values = pa.ListArray.from_arrays(
                pa.array(range(len(values) + 1), pa.int32()), values, mask=values.is_null()
            )
        groups[group.name] = values
    return pa.StructArray.from_arrays(list(groups.values()), list(groups)) if groups else chunk


def with_splits(catalogue: Dataset, splits: Sequence[str]) -> Dataset:
    """The catalogue with another split column."""
    table = catalogue.data.table
    at = table.column_names.index("split")
    return _dataset(table.set_column(at, "split", pa.array(splits, pa.string())), catalogue.features)


def _dataset(table: pa.Table, shape: Features) -> Dataset:
    from datasets import Dataset, DatasetInfo
    from datasets.table import InMemoryTable

    return Dataset(InMemoryTable(table), info=DatasetInfo(features=shape))
