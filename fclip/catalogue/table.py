"""A table of products: CSV, TSV or Parquet, one row per picture, with a folder of image files or the pictures inside.

    fclip catalogue shop/products.csv --map id=sku --map image=file --map attributes=colour,size

Columns that nobody names are guessed by their name (`Columns`, `GUESSES`); what was chosen is logged (INFO). Tables are
read as text: the id "0123" keeps its zero and a product called "NA" its name; only empty fields are unknown. Prices as
people write them and cells of several values are read where they are asked for: `--map numbers=price --map
lists=colour`. Pictures are not looked at while opening.
"""

from __future__ import annotations

import glob
import logging
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from fclip.catalogue.assemble import Column, as_text, as_values, assemble, pictures
from fclip.catalogue.lists import is_list, read_lists, said_of_lists
from fclip.catalogue.numbers import read_numbers, said_of_numbers
from fclip.errors import UserError, nearest

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.getLogger(__name__)

SUFFIXES = (".csv", ".tsv", ".parquet")
IMAGE_FOLDERS = ("images", "image", "img")
OTHER = ("view", "bbox", "landmarks")  # columns that are what they are called
MAX_VALUES = 200  # a column with more distinct texts than this is a description or a code, no attribute
HEADER_BYTES = 1 << 20  # of a text table's first line that are looked at
NUMBERS = r"^-?[\d.,]+$"
FLAGS = r"(?i)^(-?[\d.,]+|true|false)$"
MAX_LENGTH = 50  # characters a value has on average


@dataclass(frozen=True)
class Columns:
    """Which column of a table is what. None: guessed by name, see `GUESSES`."""

    id: str | None = None  # of the picture; none in the table: the image path
    item: str | None = None  # the product, which several pictures may share: the unit of splitting; none: the id
    image: str | None = None  # a path (absolute, beside the table or in its image folder) or the encoded bytes
    split: str | None = None  # train, val or test; none or empty: by a hash of the product
    title: str | None = None  # the product's name
    attributes: tuple[str, ...] = ()  # none: every other column of few and short texts that are no numbers or flags
    numbers: tuple[str, ...] = ()  # attributes besides, to filter by range: "1.299,90 €" is 1299.9
    lists: tuple[str, ...] = ()  # attributes besides, of several values in a cell: red|blue


SEVERAL = ("attributes", "numbers", "lists")  # fields that name any number of columns

GUESSES = {
    "id": ("id", "image_id", "picture_id", "__key__"),
    "item": ("item", "item_id", "product_id", "product", "sku", "group", "article_id"),
    "image": ("image", "image_path", "path", "file", "file_name", "filename", "img", "picture", "jpeg", "jpg", "png"),
    "split": ("split", "subset", "partition"),
    "title": ("title", "name", "product_name", "productdisplayname"),
}


def columns_from_pairs(pairs: Iterable[str]) -> Columns:
    """Columns from the command line: `["id=sku", "attributes=colour,size", "numbers=price"]`.

    Raises:
        UserError: a pair without "=", or of an unknown name.
    """
    known = [field.name for field in fields(Columns)]
    chosen: dict[str, Any] = {}
    for pair in pairs:
        name, equals, column = pair.partition("=")
        if not equals or not column:
            raise UserError(f"column mapping {pair!r}: expected NAME=COLUMN, such as id=sku")
        if name not in known:
            raise UserError(f"column mapping {pair!r}: no field {name!r}; {nearest(name, known)}")
        several = tuple(c.strip() for c in column.split(","))
        chosen[name] = chosen.get(name, ()) + several if name in SEVERAL else column
    return Columns(**chosen)


def open_table(source: str | Path, columns: Columns | None = None) -> Dataset:
    """Opens a .csv, .tsv or .parquet file, a folder that holds one, or several Parquet files (a folder or a glob).

    Raises:
        UserError: no such table, an unreadable one, or one without the columns asked for.
    """
    files = table_files(source)
    table = read_parquet(files) if files[0].suffix.lower() == ".parquet" else read_csv(files[0])
    return from_table(table, columns or Columns(), files[0].parent, name=str(source))


def table_files(source: str | Path) -> list[Path]:
    """The files of a table: one CSV or TSV, or any number of Parquet files."""
    path = Path(source)
    if path.is_dir():
        found = sorted(p for p in path.iterdir() if p.suffix.lower() in SUFFIXES)
        found = [p for p in found if p.name == "metadata.csv"] or found
    else:
        found = [path] if path.exists() else sorted(Path(p) for p in glob.glob(str(source)))
    if not found:
        raise UserError(f"no table in {source}; expected a {', '.join(SUFFIXES)} file")
    if len(found) > 1 and {p.suffix.lower() for p in found} != {".parquet"}:
        raise UserError(f"several tables in {source}: {', '.join(p.name for p in found[:5])}; name one of them")
    return found


def read_csv(path: Path) -> pa.Table:
    """Reads every column as text.

    Raises:
        UserError: the file is empty, of another encoding than UTF-8, or its rows differ in length.
    """
    names = column_names(path)
    convert = pacsv.ConvertOptions(column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False)
    with readable(path):
        table = pacsv.read_csv(path, parse_options=_layout(path), convert_options=convert)
    return _without_blank(table.rename_columns([name.strip() for name in names]))


def _without_blank(table: pa.Table) -> pa.Table:
    """Without the columns that have neither a name nor a value: the separators at the end of every line."""
    named = [place for place, name in enumerate(table.column_names) if name or _has_value(table.column(place))]
    return table.select(named)


def _has_value(column: pa.ChunkedArray) -> bool:
    return bool(pc.any(pc.not_equal(pc.utf8_trim_whitespace(column), "")).as_py())


def column_names(path: Path) -> list[str]:
    """The columns of a table file, read from its head."""
    with readable(path):
        if path.suffix.lower() == ".parquet":
            return pq.read_schema(path).names
        with pacsv.open_csv(path, parse_options=_layout(path)) as reader:
            return reader.schema.names


def _layout(path: Path) -> pacsv.ParseOptions:
    with open(path, "rb") as file:
        header = file.readline(HEADER_BYTES)
    return pacsv.ParseOptions(delimiter=separator(header, path.suffix), newlines_in_values=True)


def separator(header: bytes, suffix: str = ".csv") -> str:
    """What parts the columns by the header: comma, semicolon (Excel in Europe) or tab; none: as the suffix says.

    The columns of a .tsv are parted by tabs wherever its header has one, however many commas its names have.
    """
    usual = "\t" if suffix.lower() == ".tsv" else ","
    plain = re.sub(rb'"[^"]*"', b"", header)
    if usual == "\t" and b"\t" in plain:
        return usual
    return max((usual, *",;\t"), key=lambda mark: plain.count(mark.encode()))  # the first of equals


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turns what the readers of tables raise into one line."""
    from datasets.exceptions import DatasetsError

    try:
        yield
    except PermissionError:
        raise UserError(f"cannot read table {path}: no permission; expected a file that you may read") from None
    except (pa.ArrowException, DatasetsError, OSError, ValueError) as error:
        if path.suffix.lower() != ".parquet" and path.is_file() and (line := _not_utf8(path)):
            raise UserError(f"cannot read table {path}: {line}; save it as UTF-8") from None
        reason = str(error.__cause__ or error).strip().split("\n")[0][:200].rstrip(".")
        wanted = "an intact Parquet file" if path.suffix.lower() == ".parquet" else "UTF-8 text with a header"
        raise UserError(f"cannot read table {path}: {reason}; expected {wanted}") from None


def _not_utf8(path: Path) -> str | None:
    """The first line of a text file that is not UTF-8, with its number."""
    with open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                line.decode()
            except UnicodeDecodeError as error:
                near = line[max(0, error.start - 20) : error.end + 10].decode("latin-1").strip()
                return f"line {number} is not UTF-8, near {near!r}"
    return None


def read_parquet(files: Sequence[Path]) -> pa.Table:
    """Reads Parquet files that may hold the pictures: through the datasets library, memory-mapped from its cache.

    Raises:
        UserError: a file is corrupt, or the files have different columns.
    """
    from datasets import load_dataset

    for file in files:
        column_names(file)  # finds a corrupt file sooner and names it
    with readable(files[0]):
        data = load_dataset("parquet", data_files=[glob.escape(str(f)) for f in files], split="train")
    return data.data.table


def from_table(table: pa.Table, columns: Columns, root: Path | None, name: str = "the table") -> Dataset:
    """A catalogue from a table of any source.

    Args:
        table: (N, columns), text where it came from a text file.
        columns: what is what.
        root: the folder that relative image paths start from; None where there is none.
        name: of the table, for messages.

    Raises:
        UserError: no rows, no image column, or an unknown column.
    """
    if not table.num_rows:
        raise UserError(f"no rows in {name}; expected one row per picture")
    chosen = resolve(columns, table.column_names, name)
    assert chosen.image is not None
    image = pictures(table[chosen.image], image_root(table[chosen.image], root))
    path = pc.struct_field(image, "path")
    numbers = pa.array(range(table.num_rows)).cast(pa.string())
    inside = path.null_count or pa.types.is_struct(table[chosen.image].type)
    id_column = chosen.id or (None if inside else chosen.image)
    found: dict[str, Column] = {"image": image}
    found["id"] = as_text(table[id_column] if id_column else numbers)
    for field in ("item", "split", "title"):
        column = getattr(chosen, field)
        found |= {field: as_values(table[column])} if column else {}
    texts = [f for f in ("category", "view") if f in table.column_names and not pa.types.is_nested(table[f].type)]
    found |= {f: as_values(table[f]) for f in texts}
    if "bbox" in table.column_names and pa.types.is_list(table["bbox"].type):
        found["bbox"] = table["bbox"]
    if "landmarks" in table.column_names and pa.types.is_list(table["landmarks"].type):
        found["landmarks"] = table["landmarks"]
    asked, read = asked_columns(table, chosen)
    groups = attribute_columns(table, chosen) | asked
    if logger.isEnabledFor(logging.INFO):
        said = said_of(table, replace(chosen, id=id_column), list(groups), guessed=not columns.attributes)
        for line in [*said, *read]:
            logger.info("%s", line)
    return assemble(found, groups)


def resolve(columns: Columns, names: Sequence[str], table: str = "the table") -> Columns:
    """Fills what nobody named by guessing, and checks what was named.

    Raises:
        UserError: a named column is not in the table, is there twice or is to be numbers and lists, or no column holds
            the pictures.
    """
    for twice in (name for name in names if names.count(name) > 1):
        got = f"{twice!r} twice" if twice else "several without one"
        raise UserError(f"expected a name of its own for each column of {table}, got {got}; mend its header")
    lower = {name.lower(): name for name in reversed(names)}
    several = (*columns.attributes, *columns.numbers, *columns.lists)
    for column in (columns.id, columns.item, columns.image, columns.split, columns.title, *several):
        if column is not None and column not in names:
            raise UserError(f"no column {column!r} in {table}; {nearest(column, names)}")
    if both := set(columns.numbers) & set(columns.lists):
        raise UserError(f"expected column {min(both)!r} in numbers or in lists, got it in both; leave it out of one")
    chosen = columns
    for field, guesses in GUESSES.items():
        guess = next((lower[g] for g in guesses if g in lower), None)
        chosen = replace(chosen, **{field: getattr(columns, field) or guess})  # type: ignore[arg-type]
    if chosen.image is None:
        raise UserError(f"no image column in {table}; name it with image=COLUMN, one of: {', '.join(names)}")
    return chosen


def image_root(column: pa.ChunkedArray, root: Path | None) -> Path | None:
    """The folder that paths start from: the table's, or its image folder if the first picture lies there."""
    if root is None or not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        return None
    first = next((path for path in column.slice(0, 100).to_pylist() if path), "")
    inside = [root.absolute() / folder for folder in IMAGE_FOLDERS]
    return next(
        (folder for folder in inside if not (root / first).exists() and (folder / first).exists()), root.absolute()
    )


def attribute_columns(table: pa.Table, columns: Columns) -> dict[str, Column]:
    """The attribute groups: those named, else those in a struct `attributes`, else every column that looks like one."""
    if columns.attributes:
        return {name: table[name] for name in columns.attributes}
    if _has_struct(table):
        struct = table["attributes"].combine_chunks()
        return {field.name: struct.field(field.name) for field in struct.type}
    return {name: table[name] for name in _untaken(table, columns) if is_attribute(table[name])}


def asked_columns(table: pa.Table, columns: Columns) -> tuple[dict[str, Column], list[str]]:
    """The attribute groups that were named as numbers or as lists, and how each was read, a line each.

    Raises:
        UserError: a column that holds something else.
    """
    read = {name: _numbers(name, table[name]) for name in columns.numbers}
    read |= {name: _lists(name, table[name]) for name in columns.lists}
    return {name: values for name, (values, _) in read.items()}, [line for _, line in read.values()]


def _numbers(name: str, column: pa.ChunkedArray) -> tuple[Column, str]:
    _check_flat(name, column.type, "numbers")
    numbers = read_numbers(column)
    if numbers.unread and numbers.values.null_count == len(column):
        got = f"such as {numbers.unread[0]!r}"
        raise UserError(f"expected numbers in column {name!r}, got only others, {got}; leave it out of --map numbers=…")
    return numbers.values, said_of_numbers(name, numbers)


def _lists(name: str, column: pa.ChunkedArray) -> tuple[Column, str]:
    _check_flat(name, column.type.value_type if is_list(column.type) else column.type, "lists")
    lists = read_lists(column)
    return lists.values, said_of_lists(name, lists)


def _check_flat(name: str, kind: pa.DataType, wanted: str) -> None:
    if pa.types.is_nested(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        raise UserError(f"expected text or {wanted} in column {name!r}, got {kind}; leave it out of --map {wanted}=…")


def said_of(table: pa.Table, columns: Columns, groups: Sequence[str], guessed: bool = True) -> list[str]:
    """What was taken for what, and which columns are no attributes: a line each.

    Args:
        table: (N, columns).
        columns: all that was chosen.
        groups: the attribute groups.
        guessed: whether the groups were guessed; what somebody did not name is not spoken of.
    """
    roles = {field: getattr(columns, field) for field in ("id", "item", "image", "split", "title")}
    roles |= {name: name for name in ("category", *OTHER) if name in table.column_names}
    roles["attributes"] = ",".join(groups) or None
    lines = ["columns: " + ", ".join(f"{field}={column}" for field, column in roles.items() if column)]
    reasons = {}
    if guessed and not _has_struct(table):
        reasons = {name: why_no_attribute(table[name]) for name in _untaken(table, columns) if name not in groups}
    if reasons:
        others = [name for name in groups if name not in (*columns.numbers, *columns.lists)]
        count = [name for name, reason in reasons.items() if reason == "numbers"]
        left = ", ".join(f"{name} ({reason})" for name, reason in reasons.items())
        wanted = "it" if len(reasons) == 1 else "those you want"
        ranges = f", or to filter by range in --map numbers={','.join(count)}" if count else ""
        lines.append(f"left out: {left}; name {wanted} in --map attributes={','.join([*others, '…'])}{ranges}")
    return lines


def _has_struct(table: pa.Table) -> bool:
    return "attributes" in table.column_names and pa.types.is_struct(table["attributes"].type)


def _untaken(table: pa.Table, columns: Columns) -> list[str]:
    """The columns that may be attributes: no other role, and neither pictures nor records."""
    taken = {columns.id, columns.item, columns.image, columns.split, columns.title, *OTHER}
    data = (pa.types.is_struct, pa.types.is_binary, pa.types.is_large_binary)
    return [n for n in table.column_names if n not in taken and not any(is_(table[n].type) for is_ in data)]


def is_attribute(column: pa.ChunkedArray) -> bool:
    """Whether a column looks like an attribute: few and short texts, not all of them numbers or flags."""
    return why_no_attribute(column) is None


def why_no_attribute(column: pa.ChunkedArray) -> str | None:
    """Why a column does not look like an attribute; None where it does."""
    if pa.types.is_list(column.type) and pa.types.is_string(column.type.value_type):
        return why_no_attribute(pc.list_flatten(column))
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        number = pa.types.is_integer(column.type) or pa.types.is_floating(column.type)
        return "numbers" if number else str(column.type)
    different = pc.count_distinct(column).as_py()
    if different > min(MAX_VALUES, max(20, len(column) // 2)) + 1:
        return f"{different:,} different values"
    values = [v for v in pc.unique(column).to_pylist() if v]
    if not values:
        return "empty"
    for reason, pattern in (("numbers", NUMBERS), ("numbers or flags", FLAGS)):
        if pc.all(pc.match_substring_regex(pa.array(values, pa.string()), pattern)).as_py():
            return reason
    return "long texts" if sum(map(len, values)) > MAX_LENGTH * len(values) else None
