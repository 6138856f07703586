"""A column whose cells hold several values: red|blue, or parted by semicolons, or by commas.

    values, mark = read_lists(table["colour"])          # [["red", "blue"], None, …], "|"

One mark parts the cells of a whole column, so that "wool, 80 %|silk" are two values.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from fclip.catalogue.assemble import as_text

MARKS = "|;,"  # the first of these that occurs in a column parts the values of all its cells


class Lists(NamedTuple):
    """A column that was read."""

    values: pa.Array
    """(N,) lists of text, in the order of the cell; None where there is no value."""

    mark: str | None
    """What parted the values; None where nothing did, or where they were lists before."""


def is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


def read_lists(column: pa.Array | pa.ChunkedArray) -> Lists:
    """Reads a column (N,) of text, or of lists; a value of a cell counts once."""
    if is_list(column.type):
        whole = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
        cells = whole.cast(pa.list_(pa.string())).to_pylist()
        return Lists(pa.array([_clean(cell or []) for cell in cells], pa.list_(pa.string())), None)
    text = as_text(column)
    mark = next((mark for mark in MARKS if pc.any(pc.match_substring(text, mark)).as_py()), None)
    parted = {cell: _values(cell, mark) for cell in pc.unique(text).to_pylist()}
    return Lists(pa.array([parted[cell] for cell in text.to_pylist()], pa.list_(pa.string())), mark)


def _values(cell: str | None, mark: str | None) -> list[str] | None:
    return _clean((cell or "").split(mark) if mark else [cell or ""])


def _clean(values: Iterable[str | None]) -> list[str] | None:
    stripped = [(value or "").strip() for value in values]
    return list(dict.fromkeys(value for value in stripped if value)) or None


def said_of_lists(name: str, lists: Lists) -> str:
    """How a column was read, as one line."""
    most = pc.max(pc.list_value_length(lists.values)).as_py() or 0
    parted = f", parted by {lists.mark!r}" if lists.mark else ""
    return f"{name}: lists of up to {most} values{parted}"
