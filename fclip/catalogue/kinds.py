"""What the attribute groups of a catalogue hold: words, several words, or numbers.

    kinds = group_kinds(catalogue)                      # {"colour": "text", "tags": "texts", "price": "number"}

A catalogue keeps every value as text. Groups whose values all read as numbers are filtered by range, and automatic
captions leave them out: a picture does not show what it costs.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from fclip.store.filters import NUMBER, Kind

if TYPE_CHECKING:
    from datasets import Dataset

AT_ONCE = 10_000  # rows whose attributes are in memory


def group_kinds(catalogue: Dataset) -> dict[str, Kind]:
    """Group → how it is held: a number, where every known value reads as one and there is a value."""
    shape = catalogue.features["attributes"]
    kinds: dict[str, Kind] = {
        name: "texts" if type(kind).__name__ == "List" else "text" for name, kind in shape.items()
    }
    hoped = {name for name, kind in kinds.items() if kind == "text"}
    seen: set[str] = set()
    for attributes in attribute_chunks(catalogue):
        for name in list(hoped):
            known = group_column(attributes, name).drop_null()
            hoped -= set() if _all_numbers(known) else {name}
            seen |= {name} if len(known) else set()
        if not hoped:
            break
    return kinds | dict.fromkeys(sorted(hoped & seen), "number")


def word_groups(catalogue: Dataset) -> list[str]:
    """The attribute groups that automatic captions are made of: those that are no numbers."""
    return [group for group, kind in group_kinds(catalogue).items() if kind != "number"]


def attribute_chunks(catalogue: Dataset) -> Iterator[pa.ChunkedArray]:
    """The attributes of all rows, some at a time."""
    column = catalogue.select_columns(["attributes"]).with_format("arrow")
    for start in range(0, len(column), AT_ONCE):
        yield column[start : start + AT_ONCE]["attributes"]


def group_column(attributes: pa.ChunkedArray, name: str) -> pa.ChunkedArray:
    """By place: a name with a dot would be taken for a path."""
    place = [attributes.type.field(i).name for i in range(attributes.type.num_fields)].index(name)
    return pc.struct_field(attributes, [place])


def _all_numbers(known: pa.ChunkedArray) -> bool:
    return all(NUMBER.fullmatch(value) for value in known.unique().to_pylist())
