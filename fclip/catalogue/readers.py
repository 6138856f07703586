"""Opening a catalogue of any format: one function, which finds the reader.

    >>> catalogue = open_catalogue("drawn:100")
    >>> catalogue = open_catalogue(["$FCLIP_DATA/catalogue", "$FCLIP_DATA/catalogue/thumbs.parquet"])

| format              | what                                                              | module             |
|---------------------|-------------------------------------------------------------------|--------------------|
| drawn               | `drawn`, `drawn:ITEMS`, `drawn:ITEMS:SEED`: garments drawn here    | `drawn`            |
| saved               | a folder of `save_catalogue`                                      | `storage`          |
| fashion-products    | Fashion Product Images: styles.csv and images/, or Parquet        | `fashion_products` |
| deepfashion-fine    | DeepFashion, 26 attributes: Anno_fine/                            | `deepfashion`      |
| deepfashion-coarse  | DeepFashion, 1,000 attributes: Anno_coarse/ or Anno/, Eval/       | `deepfashion`      |
| table               | .csv, .tsv, .parquet, or a folder with metadata.csv               | `table`            |
| folder              | pictures in a subfolder per class                                 | `folder`           |
| shards              | WebDataset: .tar files, a glob, a brace pattern                   | `shards`           |
| hub                 | owner/name on the Hugging Face hub                                | `hub`              |
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fclip.errors import UserError, nearest
from fclip.files import expand

if TYPE_CHECKING:
    from datasets import Dataset

    from fclip.catalogue.table import Columns

Source = str | Path

MAPPED = ("fashion-products", "table", "shards", "hub")  # formats whose columns can be mapped
FIXED = ("drawn", "saved", "deepfashion-fine", "deepfashion-coarse", "folder")
TABLES = (".csv", ".tsv", ".parquet")


def open_catalogue(
    source: Source | Sequence[Source],
    *,
    format: str | None = None,  # noqa: A002
    columns: Columns | None = None,
    stream: bool = False,
) -> Dataset:
    """Opens one source, or several as one catalogue.

    Args:
        source: a path, a pattern, `drawn…` or `owner/name`; `~` and `$VARIABLES` are expanded. Of several, attribute
            groups are united; a picture whose id an earlier source has is left out; a product that an earlier source
            has follows it into its split.
        format: the format of every source; None: recognised for each.
        columns: which column is what, for tables, shards and hub data sets.
        stream: leave the pictures of shards (WebDataset, Parquet) where they are, see `fclip.catalogue.streaming`.

    Raises:
        UserError: nothing there, an unknown format, or a source that cannot be read.
    """
    sources = [expand(s) for s in ([source] if isinstance(source, str | Path) else source)]
    if not sources:
        raise UserError("no source given; expected at least one path")
    if format is not None and format not in MAPPED + FIXED:
        raise UserError(f"unknown catalogue format {format!r}; {nearest(format, MAPPED + FIXED)}")
    formats = [format or detect(s) for s in sources]
    if columns is not None and not set(formats) & set(MAPPED):
        raise UserError(
            f"format {formats[0]} has columns of its own; leave the column mapping out, or use --format table"
        )
    parts = [_open(s, f, columns, stream) for s, f in zip(sources, formats, strict=True)]
    return parts[0] if len(parts) == 1 else concatenate(parts)


def detect(source: str) -> str:
    """The format of an expanded source.

    Raises:
        UserError: there is no such path, and it is no name of a hub data set.
    """
    path = Path(source)
    if source == "drawn" or source.startswith("drawn:"):
        return "drawn"
    if path.is_dir():
        return _detect_folder(path)
    if path.suffix == ".tar":
        return "shards"
    if path.suffix.lower() in TABLES and (path.exists() or re.search(r"[*?\[]", source)):
        return _detect_table(source)
    if path.exists():
        raise UserError(f"{source} is no catalogue; expected a folder, {', '.join(TABLES)} or .tar file")
    if re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", source) and path.suffix.lower() not in TABLES and not path.parent.exists():
        return "hub"
    raise UserError(f"no such path: {source}; expected a file or folder, drawn:ITEMS, or OWNER/NAME of a hub data set")


def _detect_folder(path: Path) -> str:
    if (path / "state.json").is_file() and (path / "dataset_info.json").is_file():
        return "saved"
    if (path / "styles.csv").is_file():
        return "fashion-products"
    if (path / "Anno_fine").is_dir():
        return "deepfashion-fine"
    if (path / "Anno_coarse").is_dir() or (path / "Anno").is_dir():
        return "deepfashion-coarse"
    suffixes = {p.suffix.lower() for p in path.iterdir() if not p.name.startswith(".")}
    if ".tar" in suffixes:
        return "shards"
    return _detect_table(str(path)) if suffixes & set(TABLES) else "folder"


def _detect_table(source: str) -> str:
    """Fashion Product Images is known by its column names; any other table is a table."""
    from fclip.catalogue.fashion_products import is_fashion_products
    from fclip.catalogue.table import column_names, table_files

    return "fashion-products" if is_fashion_products(column_names(table_files(source)[0])) else "table"


def _open(source: str, name: str, columns: Columns | None, stream: bool) -> Dataset:
    """Opens one source with the reader of its format."""
    from fclip.catalogue import deepfashion, fashion_products, folder, hub, shards, storage, streaming, table

    if stream:
        return streaming.open_stream(source, name, columns)
    fixed: dict[str, Any] = {
        "drawn": _open_drawn,
        "saved": storage.load_catalogue,
        "deepfashion-fine": deepfashion.open_fine,
        "deepfashion-coarse": deepfashion.open_coarse,
        "folder": folder.open_folder,
    }
    mapped: dict[str, Any] = {
        "fashion-products": fashion_products.open_fashion_products,
        "table": table.open_table,
        "shards": shards.open_shards,
        "hub": hub.open_hub,
    }
    return mapped[name](source, columns) if name in mapped else fixed[name](source)


def _open_drawn(source: str) -> Dataset:
    """`drawn:ITEMS:SEED`."""
    from fclip.catalogue.drawn import draw_catalogue

    numbers = source.split(":")[1:]
    if len(numbers) > 2 or not all(n.isdigit() for n in numbers):
        raise UserError(f"bad source {source!r}; expected drawn, drawn:ITEMS or drawn:ITEMS:SEED, such as drawn:1000:7")
    items, seed = [*map(int, numbers), *(1000, 0)[len(numbers) :]]
    return draw_catalogue(items=items, seed=seed)


def concatenate(parts: Sequence[Dataset]) -> Dataset:
    """Several catalogues as one, see `open_catalogue`."""
    from datasets import concatenate_datasets

    from fclip.catalogue.assemble import align, with_splits

    ids: set[str] = set()
    splits: dict[str, str] = {}  # of every product so far
    kept = []
    for part in align(parts):
        names, items, own = (part.data[column].to_pylist() for column in ("id", "item", "split"))
        followed = [splits.get(item, split) for item, split in zip(items, own, strict=True)]
        rows = [row for row, id_ in enumerate(names) if id_ not in ids]
        if len(rows) < len(part):
            logging.getLogger(__name__).warning(
                "%d pictures left out: an earlier source has their ids", len(part) - len(rows)
            )
        for row in rows:
            splits.setdefault(items[row], followed[row])
        ids.update(names)
        part = part if followed == own else with_splits(part, followed)
        kept.append(part if len(rows) == len(part) else part.select(rows))
    return concatenate_datasets([part for part in kept if len(part)])
