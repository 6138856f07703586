"""A catalogue's pictures as the rows of an index.

    kinds = group_kinds(catalogue)                      # which groups are numbers, which are lists
    for batch in embed_batches(model, catalogue, also=made_of):
        store.add(rows_of(catalogue.select(batch.rows), batch.vectors, batch.also, kinds))

Colours measured from the pictures are one more group, `MEASURED`, in the indexes that have it. Two keys tell what has
changed since: "picture", of the bytes of the file, and "facts", of what the catalogue says.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa

from fclip.catalogue.kinds import attribute_chunks, group_column, group_kinds
from fclip.errors import UserError
from fclip.images import UnreadableImageError, decode, encoded
from fclip.queries.colours import GROUP as MEASURED
from fclip.queries.colours import measured_colour
from fclip.store.filters import NUMBER, Kind

if TYPE_CHECKING:
    from datasets import Dataset
    from PIL.Image import Image

THUMBNAIL_PX = 256  # longer side
Kinds = Mapping[str, Kind]


class Made(NamedTuple):
    """What a row has of a picture besides its vector: a JPEG, the key of its bytes, and its colour if wanted."""

    thumbnail: bytes
    picture: str
    colour: str | None = None


def index_kinds(catalogue: Dataset, measure_colour: bool) -> dict[str, Kind]:
    """The groups of an index: the catalogue's, and the measured colour.

    Raises:
        UserError: the catalogue has a group of that name.
    """
    kinds = group_kinds(catalogue)
    if MEASURED in kinds:
        raise UserError(f"{MEASURED!r} is the name of what is measured; give the catalogue's group another one")
    return kinds | ({MEASURED: "text"} if measure_colour else {})


def check_kinds(catalogue: Dataset, kinds: Kinds) -> None:
    """Raises UserError when a catalogue does not fit into an index with these groups."""
    shape, kinds = catalogue.features["attributes"], {name: kind for name, kind in kinds.items() if name != MEASURED}
    several = {name: _several(kind) for name, kind in shape.items()}
    if several != {name: kind == "texts" for name, kind in kinds.items()}:
        raise UserError(
            f"the index has the attribute groups {', '.join(kinds) or '(none)'}, the catalogue "
            f"{', '.join(several) or '(none)'}; build the index again with --overwrite"
        )
    for attributes in attribute_chunks(catalogue):
        for name in (name for name, kind in kinds.items() if kind == "number"):
            for value in group_column(attributes, name).drop_null().to_pylist():
                if not NUMBER.fullmatch(value):
                    raise UserError(
                        f"{name} has only numbers in the index, got {value!r}; build the index again with --overwrite"
                    )


def schema(kinds: Kinds, dimension: int) -> pa.Schema:
    """The columns of an index's store."""
    texts = ("id", "item", "split", "title", "picture", "facts")
    held = {"text": pa.string(), "texts": pa.list_(pa.string()), "number": pa.float64()}
    return pa.schema(
        [(name, pa.string()) for name in texts]
        + [("thumbnail", pa.binary()), ("vector", pa.list_(pa.float32(), dimension))]
        + [(f"group_{place}", held[kind]) for place, kind in enumerate(kinds.values())]
    )


def rows_of(pictures: Dataset, vectors: np.ndarray, made: Sequence[Made], kinds: Kinds) -> pa.Table:
    """Pictures, their vectors (N, D) and what `made_of` says of them as rows."""
    table, wanted = pictures.with_format("arrow")[:], schema(kinds, vectors.shape[1])
    columns: dict[str, Any] = {name: table[name] for name in ("id", "item", "split")}
    columns["title"] = table["title"] if "title" in table.column_names else pa.nulls(len(table), pa.string())
    columns["thumbnail"] = [one.thumbnail for one in made]
    columns["picture"] = [one.picture for one in made]
    columns["facts"] = facts(table)
    columns["vector"] = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1), pa.float32()), vectors.shape[1])
    for place, name in enumerate(kinds):
        told = pa.array([one.colour for one in made], pa.string()) if name == MEASURED else None
        column = group_column(table["attributes"], name) if told is None else told
        columns[f"group_{place}"] = column.cast(wanted.field(f"group_{place}").type)
    return pa.table({name: columns[name] for name in wanted.names}, schema=wanted)


def made_of(cell: Mapping[str, Any], measure_colour: bool = False) -> Made:
    """Of a picture's cell.

    Raises:
        UnreadableImageError: no picture.
    """
    small = _small(cell)
    return Made(_jpeg(small), picture_key(cell), measured_colour(small) if measure_colour else None)


def thumbnail(cell: Mapping[str, Any]) -> bytes:
    """The picture as JPEG, `THUMBNAIL_PX` at its longer side; smaller ones keep their size."""
    return _jpeg(_small(cell))


def _small(cell: Mapping[str, Any]) -> Image:
    picture = decode(cell, THUMBNAIL_PX)
    picture.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX))
    return picture


def _jpeg(picture: Image) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=88)
    return stream.getvalue()


def picture_key(cell: Mapping[str, Any]) -> str:
    """Changes with the bytes of a picture.

    Raises:
        UnreadableImageError: they cannot be read.
    """
    try:
        return hashlib.blake2b(encoded(cell), digest_size=16).hexdigest()
    except (OSError, ValueError) as error:  # ValueErrors are pyarrow's, of a damaged Parquet shard
        raise UnreadableImageError(f"cannot read picture {cell['path']}: {str(error).splitlines()[0]}") from None


def facts(table: pa.Table) -> list[str]:
    """Of each row of a catalogue a key that changes with anything that it says besides the picture."""
    names = [name for name in ("item", "split", "title", "attributes") if name in table.column_names]
    return [
        hashlib.blake2b(json.dumps(row, sort_keys=True).encode(), digest_size=16).hexdigest()
        for row in table.select(names).to_pylist()
    ]


def _several(feature: Any) -> bool:
    return type(feature).__name__ == "List"
