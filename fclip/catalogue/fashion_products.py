"""Fashion Product Images: 44,000 studio photographs of one retailer with eight catalogue attributes.

Source: https://www.kaggle.com/datasets/paramaggarwal/fashion-product-images-dataset

    fclip catalogue data/fashion-dataset --format fashion-products

Three forms: as published (`styles.csv` and `images/<id>.jpg`), with the further columns image, split and group (product
model), and as Parquet with the pictures in the column `jpeg`. In the published table some product names hold commas
without quotes; they are put together again, because a reader that skips those lines loses products silently.
"""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from fclip.catalogue.assemble import as_text
from fclip.catalogue.table import Columns, from_table, read_parquet, table_files
from fclip.errors import UserError

if TYPE_CHECKING:
    from datasets import Dataset

ATTRIBUTES = ("gender", "masterCategory", "subCategory", "articleType", "baseColour", "season", "year", "usage")
NAME = "productDisplayName"


def open_fashion_products(source: str | Path, columns: Columns | None = None) -> Dataset:
    """Opens any of the three forms; `category` is the article type.

    Args:
        source: the folder of styles.csv, the table itself, or Parquet files (a folder or a glob).
        columns: replaces parts of the mapping, for example fewer attributes.

    Raises:
        UserError: no table, or one without the data set's columns.
    """
    styles = Path(source) / "styles.csv"
    files = [styles] if styles.is_file() else table_files(source)
    table = read_parquet(files) if files[0].suffix.lower() == ".parquet" else read_rows(files[0], NAME)
    missing = [name for name in ("id", *ATTRIBUTES, NAME) if name not in table.column_names]
    if missing:
        raise UserError(
            f"{files[0]} is no Fashion Product Images table: it lacks {', '.join(missing)}; try --format table"
        )
    for name in ATTRIBUTES:
        table = table.set_column(table.column_names.index(name), name, _known(table[name]))
    if "image" not in table.column_names and "jpeg" not in table.column_names:
        table = table.append_column("image", pc.binary_join_element_wise("images/", as_text(table["id"]), ".jpg", ""))
    table = table.append_column("category", table["articleType"])
    mapping = Columns(id="id", title=NAME, attributes=ATTRIBUTES)
    chosen = {name: value for name, value in vars(columns or Columns()).items() if value}
    return from_table(table, replace(mapping, **chosen), files[0].parent, name=str(source))


def is_fashion_products(names: list[str]) -> bool:
    """Whether a table's columns are those of this data set."""
    return {"articleType", "masterCategory", NAME} <= set(names)


def read_rows(path: Path, spilling: str | None = None) -> pa.Table:
    """Reads a published table as text, with every row.

    Args:
        path: comma-separated, with a header.
        spilling: the column whose texts may hold commas without quotes, which are put together again.

    Raises:
        UserError: the file is missing, empty or cut off, or a row has another number of fields.
    """
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file)
            header = next(reader, [])
            rows = [_joined(row, header, spilling, f"{path}, line {reader.line_num}") for row in reader if row]
    except (OSError, csv.Error, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path}: {error}; expected UTF-8 text with a header") from None
    values = zip(*rows, strict=True) if rows else [()] * len(header)
    return pa.table({name: pa.array(column, pa.string()) for name, column in zip(header, values, strict=True)})


def _joined(row: list[str], header: list[str], spilling: str | None, where: str) -> list[str]:
    """The row with the spilled parts in one field again."""
    spilled = len(row) - len(header)
    if spilled < 0 or (spilled and spilling not in header):
        raise UserError(f"{where}: expected {len(header)} fields, got {len(row)}; mend or remove the line")
    start = header.index(spilling) if spilled and spilling else 0
    return [*row[:start], ",".join(row[start : start + spilled + 1]), *row[start + spilled + 1 :]]


def _known(column: pa.ChunkedArray) -> pa.Array:
    """Attribute values; "NA" and empty are unknown."""
    text = as_text(column)
    return pc.if_else(pc.is_in(text, pa.array(["", "NA"])), None, text)
