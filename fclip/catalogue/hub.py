"""A data set of the Hugging Face hub, or a local folder that `datasets.load_dataset` understands.

    fclip catalogue owner/name --map attributes=colour,gender

Columns are mapped as a table's are; class labels become their names. The data set's splits are kept, except that a
single one (most hub data sets have only "train") says nothing, and products are then split by their hash.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from fclip.catalogue.assemble import split_name
from fclip.catalogue.table import Columns, from_table
from fclip.errors import UserError

if TYPE_CHECKING:
    from datasets import Dataset


def open_hub(source: str | Path, columns: Columns | None = None) -> Dataset:
    """Loads every split of a data set and maps its columns.

    Raises:
        UserError: it cannot be loaded: no such data set, no network, or no access.
    """
    from datasets import Dataset, Image, concatenate_datasets, load_dataset
    from datasets.exceptions import DatasetsError

    try:
        loaded = load_dataset(str(source))
    except (DatasetsError, OSError, ValueError) as error:
        reason = str(error).split("\n")[0][:200].rstrip(".")
        raise UserError(
            f"cannot load {source} from the hub: {reason}; give a local folder of it, or download it first where there "
            f"is a network (hf download --repo-type dataset {source} --local-dir FOLDER)"
        ) from None
    parts: dict[str, Dataset] = {"train": loaded} if isinstance(loaded, Dataset) else dict(loaded)
    names = [_split_column(name, len(part)) for name, part in parts.items()] if len(parts) > 1 else []
    whole = concatenate_datasets(list(parts.values()))
    table = named_labels(whole)
    if names and "split" not in table.column_names:
        table = table.append_column("split", pa.chunked_array(names))
    chosen = columns or Columns()
    images = [name for name, kind in whole.features.items() if isinstance(kind, Image)]
    if chosen.image is None and len(images) == 1:
        chosen = replace(chosen, image=images[0])
    return from_table(table, chosen, None, name=str(source))


def _split_column(name: str, rows: int) -> pa.Array:
    return pa.repeat(pa.scalar(split_name(name)), rows)


def named_labels(data: Dataset) -> pa.Table:
    """The table of a data set of any features, with names in place of class numbers."""
    from datasets import ClassLabel

    table = data.with_format("arrow")[:] if data._indices is not None else data.data.table
    labels: dict[str, Any] = {n: f for n, f in data.features.items() if isinstance(f, ClassLabel)}
    for name, feature in labels.items():
        known = pc.if_else(pc.greater_equal(table[name], 0), table[name], None)  # -1 stands for unknown
        words = pc.take(pa.array(feature.names, pa.string()), known)
        table = table.set_column(table.column_names.index(name), name, words)
    return table
