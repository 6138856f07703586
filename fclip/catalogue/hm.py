"""H&M Personalized Fashion Recommendations: 105,542 articles of one retailer, nearly all with a picture.

Source: https://www.kaggle.com/competitions/h-and-m-personalized-fashion-recommendations

    fclip catalogue data/hm --format hm

| file                       | what                                                                            |
|----------------------------|---------------------------------------------------------------------------------|
| articles.csv               | 25 columns: codes, their names (`ATTRIBUTES`), prod_name, detail_desc           |
| images/010/0108775015.jpg  | by article; the folder is its first three digits                                |
| customers.csv, transactions_train.csv | not read                                                             |

An article is a product in one colour: `id` is article_id, `item` product_code, so that the colours of a product stay in
one split. Ids are ten digits, the first a 0; copies that lost it (a spreadsheet reads a number) get it back. Some
hundred articles have no picture. "Unknown" and "undefined" are unknown. `category` is the product type, `title`
prod_name; for the description: `--map title=detail_desc`. There are no splits: they are made by product.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from fclip.catalogue.assemble import as_text
from fclip.catalogue.fashion_products import read_rows
from fclip.catalogue.locate import locate
from fclip.catalogue.table import Columns, from_table
from fclip.errors import UserError

if TYPE_CHECKING:
    from datasets import Dataset

ATTRIBUTES = (
    "product_type_name",
    "product_group_name",
    "graphical_appearance_name",
    "colour_group_name",
    "perceived_colour_value_name",
    "perceived_colour_master_name",
    "department_name",
    "index_name",
    "index_group_name",
    "section_name",
    "garment_group_name",
)
NEEDED = ("article_id", "product_code", "prod_name", *ATTRIBUTES)
UNKNOWN = ("", "Unknown", "undefined", "Undefined")


def open_hm(source: str | Path, columns: Columns | None = None) -> Dataset:
    """Opens the articles, one row each.

    Args:
        source: the folder of articles.csv, or the table itself.
        columns: replaces parts of the mapping, for example fewer attributes.

    Raises:
        UserError: no table, one without the data set's columns, or a row that was cut off.
    """
    path = Path(source)
    path = path / "articles.csv" if path.is_dir() else path
    table = read_rows(path)
    missing = [name for name in NEEDED if name not in table.column_names]
    if missing:
        raise UserError(f"{path} is no H&M articles table: it lacks {', '.join(missing)}; try --format table")
    for name, digits in (("article_id", 10), ("product_code", 7)):
        table = _replaced(table, name, pc.utf8_lpad(as_text(table[name]), digits, "0"))
    for name in ATTRIBUTES:
        table = _replaced(table, name, _known(as_text(table[name])))
    ids = table["article_id"].to_pylist()
    paths = locate(path.parent, [f"images/{id_[:3]}/{id_}.jpg" for id_ in ids])
    table = table.append_column("image", pa.array(paths, pa.string()))
    table = table.append_column("category", table["product_type_name"])
    mapping = Columns(id="article_id", item="product_code", image="image", title="prod_name", attributes=ATTRIBUTES)
    chosen = {name: value for name, value in vars(columns or Columns()).items() if value}
    return from_table(table, replace(mapping, **chosen), path.parent, name=str(path))


def is_hm(names: list[str]) -> bool:
    """Whether a table's columns are those of this data set."""
    return {"article_id", "product_code", "garment_group_name"} <= set(names)


def _replaced(table: pa.Table, name: str, column: pa.Array) -> pa.Table:
    return table.set_column(table.column_names.index(name), name, column)


def _known(text: pa.Array) -> pa.Array:
    return pc.if_else(pc.is_in(text, pa.array(UNKNOWN)), None, text)
