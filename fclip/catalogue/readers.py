"""Opening a catalogue of any format: one function, which finds the reader.

    >>> catalogue = open_catalogue("drawn:100")
    >>> catalogue = open_catalogue(["$FCLIP_DATA/catalogue", "$FCLIP_DATA/catalogue/thumbs.parquet"])

| format                    | what                                                   | module                      |
|---------------------------|--------------------------------------------------------|-----------------------------|
| drawn                     | `drawn`, `drawn:ITEMS`, `drawn:ITEMS:SEED`: drawn here | `drawn`                     |
| saved                     | a folder of `save_catalogue`                           | `storage`                   |
| fashion-products          | Fashion Product Images: styles.csv, or Parquet         | `fashion_products`          |
| deepfashion-attributes    | Category & Attribute Prediction, fine or else coarse   | `deepfashion`               |
| deepfashion-fine          | … 26 attributes: Anno_fine/                            | `deepfashion`               |
| deepfashion-coarse        | … 1,000 attributes: Anno_coarse/ or Anno/              | `deepfashion`               |
| deepfashion-inshop        | In-shop Retrieval: Anno/list_*_inshop.*                | `deepfashion_inshop`        |
| deepfashion-consumer2shop | Consumer-to-shop: Anno/list_*_consumer2shop.txt        | `deepfashion_consumer2shop` |
| deepfashion-landmarks     | Landmark Detection: Anno/list_landmarks.txt            | `deepfashion_landmarks`     |
| deepfashion2              | DeepFashion2: train/annos/, validation/annos/          | `deepfashion2`              |
| deepfashion-multimodal    | DeepFashion-MultiModal: labels/, captions.json         | `deepfashion_multimodal`    |
| hm                        | H&M: articles.csv and images/                          | `hm`                        |
| fashion-mnist             | Fashion-MNIST: *-images-idx3-ubyte, packed or not      | `fashion_mnist`             |
| table                     | .csv, .tsv, .parquet, or a folder with metadata.csv    | `table`                     |
| folder                    | pictures in a subfolder per class                      | `folder`                    |
| shards                    | WebDataset: .tar files, a glob, a brace pattern        | `shards`                    |
| hub                       | owner/name on the Hugging Face hub                     | `hub`                       |

A DeepFashion benchmark without the files that tell it from the others is recognised by its partition's columns.
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

MAPPED = ("fashion-products", "hm", "table", "shards", "hub")  # formats whose columns can be mapped
DEEPFASHION = (
    "deepfashion-attributes",
    "deepfashion-fine",
    "deepfashion-coarse",
    "deepfashion-inshop",
    "deepfashion-consumer2shop",
    "deepfashion-landmarks",
    "deepfashion2",
    "deepfashion-multimodal",
)
FIXED = ("drawn", "saved", *DEEPFASHION, "fashion-mnist", "folder")
FORMATS = (*FIXED, *MAPPED)
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
            has follows it into its split (query and gallery: into test).
        format: the format of every source; None: recognised for each.
        columns: which column is what, for tables, shards and hub data sets.
        stream: leave the pictures of shards (WebDataset, Parquet) where they are, see `fclip.catalogue.streaming`.

    Raises:
        UserError: nothing there, an unknown format, or a source that cannot be read.
    """
    sources = [expand(s) for s in ([source] if isinstance(source, str | Path) else source)]
    if not sources:
        raise UserError("no source given; expected at least one path")
    if format is not None and format not in FORMATS:
        raise UserError(f"unknown catalogue format {format!r}; {nearest(format, FORMATS)}")
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
    from fclip.catalogue.fashion_mnist import is_fashion_mnist

    path = Path(source)
    if source == "drawn" or source.startswith("drawn:"):
        return "drawn"
    if path.is_dir():
        return _detect_folder(path)
    if path.is_file() and is_fashion_mnist(path):
        return "fashion-mnist"
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
    from fclip.catalogue.fashion_mnist import is_fashion_mnist

    if (path / "state.json").is_file() and (path / "dataset_info.json").is_file():
        return "saved"
    if (path / "styles.csv").is_file():
        return "fashion-products"
    if (path / "articles.csv").is_file() and _is_hm(path / "articles.csv"):
        return "hm"
    if deepfashion := _detect_deepfashion(path):
        return deepfashion
    if is_fashion_mnist(path):
        return "fashion-mnist"
    suffixes = {p.suffix.lower() for p in path.iterdir() if not p.name.startswith(".")}
    if ".tar" in suffixes:
        return "shards"
    return _detect_table(str(path)) if suffixes & set(TABLES) else "folder"


def _is_hm(path: Path) -> bool:
    """By the header alone: a row that was cut off is for the reader to name."""
    from fclip.catalogue.hm import is_hm

    with open(path, encoding="utf-8-sig", errors="replace") as file:
        return is_hm(file.readline().strip().split(","))


def _detect_deepfashion(path: Path) -> str | None:
    """Which of DeepFashion's data sets a folder holds, by the files that only this one has."""
    if (path / "Anno_fine").is_dir():
        return "deepfashion-fine"
    if any((path / name / "annos").is_dir() for name in ("train", "validation")):
        return "deepfashion2"
    if any(path.glob("labels/**/shape_anno_all.txt")) or (path / "labels" / "texture").is_dir():
        return "deepfashion-multimodal"
    if (path / "Anno_coarse").is_dir() or any((path / "Anno").glob("list_category_*.txt")):
        return "deepfashion-coarse"
    for name in ("inshop", "consumer2shop"):
        if any((path / "Anno").glob(f"list_*_{name}.*")):
            return f"deepfashion-{name}"
    if (path / "Anno" / "list_landmarks.txt").is_file():
        return "deepfashion-landmarks"
    if (path / "Eval" / "list_eval_partition.txt").is_file():
        return _detect_partition(path / "Eval" / "list_eval_partition.txt")
    return "deepfashion-coarse" if (path / "Anno").is_dir() else None


def _detect_partition(path: Path) -> str:
    """By the columns of the third line, the first row."""
    with open(path, encoding="utf-8", errors="replace") as file:
        columns = [len(line.split()) for line, _ in zip(file, range(3), strict=False)]
    names = {3: "deepfashion-inshop", 4: "deepfashion-consumer2shop"}
    return names.get(columns[-1] if columns else 0, "deepfashion-coarse")


def _detect_table(source: str) -> str:
    """Published tables are known by their column names; any other table is a table."""
    from fclip.catalogue.fashion_products import is_fashion_products
    from fclip.catalogue.hm import is_hm
    from fclip.catalogue.table import column_names, table_files

    names = column_names(table_files(source)[0])
    return "fashion-products" if is_fashion_products(names) else "hm" if is_hm(names) else "table"


def _open(source: str, name: str, columns: Columns | None, stream: bool) -> Dataset:
    """Opens one source with the reader of its format."""
    from fclip.catalogue import (
        deepfashion,
        deepfashion2,
        deepfashion_consumer2shop,
        deepfashion_inshop,
        deepfashion_landmarks,
        deepfashion_multimodal,
        fashion_mnist,
        fashion_products,
        folder,
        hm,
        hub,
        shards,
        storage,
        streaming,
        table,
    )

    if stream:
        return streaming.open_stream(source, name, columns)
    fixed: dict[str, Any] = {
        "drawn": _open_drawn,
        "saved": storage.load_catalogue,
        "deepfashion-attributes": deepfashion.open_attributes,
        "deepfashion-fine": deepfashion.open_fine,
        "deepfashion-coarse": deepfashion.open_coarse,
        "deepfashion-inshop": deepfashion_inshop.open_inshop,
        "deepfashion-consumer2shop": deepfashion_consumer2shop.open_consumer2shop,
        "deepfashion-landmarks": deepfashion_landmarks.open_landmarks,
        "deepfashion2": deepfashion2.open_deepfashion2,
        "deepfashion-multimodal": deepfashion_multimodal.open_multimodal,
        "fashion-mnist": fashion_mnist.open_fashion_mnist,
        "folder": folder.open_folder,
    }
    mapped: dict[str, Any] = {
        "fashion-products": fashion_products.open_fashion_products,
        "hm": hm.open_hm,
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
        for row in rows:  # another source's picture of a product in a benchmark's query or gallery belongs to neither
            splits.setdefault(items[row], "test" if followed[row] in ("query", "gallery") else followed[row])
        ids.update(names)
        part = part if followed == own else with_splits(part, followed)
        kept.append(part if len(rows) == len(part) else part.select(rows))
    return concatenate_datasets([part for part in kept if len(part)])
