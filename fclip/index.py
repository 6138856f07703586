"""A searchable catalogue: vectors, attributes and thumbnails in LanceDB, in one folder.

    index = build_index("garments-index", "runs/demo/best", open_catalogue("garments.csv"))
    answers = index.search(query_vector(model, texts=["red dress"]), k=4, where={"gender": "Women"})

LanceDB (Apache-2.0) is embedded, a plain folder that many processes read, and filters exactly. Filters are structured
data (column → value or values), never text in a query language. The fingerprint of the model that made the vectors is
kept: vectors of another model mean nothing here, and are refused.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import and_, or_
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from fclip.errors import UserError, nearest
from fclip.files import new_folder, read_json, write_json

if TYPE_CHECKING:
    from datasets import Dataset

    from fclip.model import Model

FORMAT = 1
TABLE = "pictures"
THUMBNAIL_PX = 256
OWN_COLUMNS = ("id", "item", "split", "title", "thumbnail", "vector", "_distance")
Where = Mapping[str, "str | Sequence[str]"]


@dataclass(frozen=True)
class Answer:
    """One picture found.

    Attributes:
        id, item, title: of the picture and its product.
        score: cosine similarity to the query, -1..1.
        attributes: group → value.
        thumbnail: JPEG bytes.
    """

    id: str
    item: str
    title: str | None
    score: float
    attributes: dict[str, Any]
    thumbnail: bytes


class Index:
    """An opened index. Use `open_index` or `build_index`."""

    def __init__(self, folder: Path, about: dict[str, Any]) -> None:
        import lancedb

        self.folder, self.about = folder, about
        self._table = lancedb.connect(str(folder / "lance")).open_table(TABLE)

    def __len__(self) -> int:
        return self._table.count_rows()

    @property
    def groups(self) -> list[str]:
        """The columns that can be filtered on."""
        return [name for name in self._table.schema.names if name not in OWN_COLUMNS]

    def check_model(self, model: Model) -> None:
        """Raises UserError when the index holds another model's vectors."""
        if model.fingerprint != self.about["fingerprint"]:
            raise UserError(
                f"the index {self.folder} was built by model {self.about['fingerprint']} ({self.about['checkpoint']}), "
                f"got model {model.fingerprint}; search with that checkpoint or build the index again"
            )

    def search(self, vector: np.ndarray, k: int = 10, where: Where | None = None) -> list[Answer]:
        """The nearest products, best first, one picture (the nearest) of each.

        Args:
            vector: query (D,).
            k: number of products.
            where: column → value, or several of which any will do.

        Raises:
            UserError: a column that is not there, or k below 1.
        """
        if k < 1:
            raise UserError(f"expected at least 1 answer, got k={k}")
        if vector.shape != (self.about["dimension"],):
            raise UserError(f"expected a vector of {self.about['dimension']} numbers, got shape {vector.shape}")
        condition, total = self._condition(where or {}), len(self)
        limit = 2 * k
        while True:
            query = self._table.search(vector.astype(np.float32)).distance_type("cosine").limit(limit)
            rows = (query.where(condition) if condition is not None else query).to_list()
            nearest_of_item: dict[str, dict[str, Any]] = {}
            for row in rows:
                nearest_of_item.setdefault(row["item"], row)
            if len(nearest_of_item) >= k or limit >= total:
                return [self._answer(row) for row in list(nearest_of_item.values())[:k]]
            limit = min(4 * limit, total)

    def values(self, group: str) -> dict[str, int]:
        """The values of a column with their counts, the most frequent first."""
        self._check(group)
        column = self._table.to_lance().to_table(columns=[group])[group].combine_chunks()
        flat = column.flatten() if pa.types.is_list(column.type) else column
        counts = {c["values"]: c["counts"] for c in flat.value_counts().to_pylist() if c["values"] is not None}
        return dict(sorted(counts.items(), key=lambda pair: -pair[1]))

    def _check(self, group: str) -> None:
        if group not in self.groups:
            raise UserError(f"no column {group!r} in the index; {nearest(group, self.groups)}")

    def _condition(self, where: Where) -> Any:
        from lancedb.expr import col, func, lit

        conditions = []
        for group, wanted in where.items():
            self._check(group)
            values = [wanted] if isinstance(wanted, str) else list(wanted)
            several = pa.types.is_list(self._table.schema.field(group).type)
            tests = [func("array_has", col(group), lit(v)) if several else col(group) == lit(v) for v in values]
            conditions.append(reduce(or_, tests))
        return reduce(and_, conditions) if conditions else None

    def _answer(self, row: dict[str, Any]) -> Answer:
        attributes = {group: row[group] for group in self.groups if row[group]}
        title, score = row.get("title"), 1 - row["_distance"]
        return Answer(row["id"], row["item"], title, score, attributes, row["thumbnail"])


def open_index(folder: str | Path) -> Index:
    """Opens an index.

    Raises:
        UserError: no index there, or one of another format.
    """
    folder = Path(folder)
    if not (folder / "index.json").is_file():
        raise UserError(
            f"no index in {folder}; build one with: fclip index --checkpoint DIR --catalogue PATH --out {folder}"
        )
    about = read_json(folder / "index.json", "an index")
    if about.get("format") != FORMAT:
        raise UserError(f"expected index format {FORMAT}, got {about.get('format')!r} in {folder}; build it again")
    return Index(folder, about)


def build_index(
    folder: str | Path,
    model: Model,
    catalogue: Dataset,
    checkpoint: str = "",
    overwrite: bool = False,
    progress: bool = False,
) -> Index:
    """Embeds a catalogue, batch by batch, into a new index; unreadable pictures are left out and listed in index.json.

    Args:
        folder: of the index; written beside and renamed.
        model: from `load_checkpoint`.
        catalogue: from `open_catalogue`.
        checkpoint: where the model came from, so that `fclip search` finds it again.
        overwrite: replace an index that is there.
        progress: show a progress bar.

    Raises:
        UserError: the folder is in use, or no picture can be read.
    """
    import lancedb

    skipped: list[tuple[str, str]] = []
    with new_folder(folder, overwrite) as beside:
        table = None
        database = lancedb.connect(str(beside / "lance"))
        for rows in _row_batches(model, catalogue, skipped, progress):
            if table is None:
                table = database.create_table(TABLE, rows)
            else:
                table.add(rows)
        if table is None:
            first = skipped[0][1] if skipped else "the catalogue is empty"
            raise UserError(f"no picture to index: {first}")
        about = {
            "format": FORMAT,
            "fingerprint": model.fingerprint,
            "model": model.name,
            "checkpoint": str(Path(checkpoint).resolve()) if checkpoint else "",
            "dimension": int(table.schema.field("vector").type.list_size),
            "pictures": table.count_rows(),
            "skipped": [list(problem) for problem in skipped],
        }
        write_json(beside / "index.json", about)
    return open_index(folder)


def _row_batches(
    model: Model, catalogue: Dataset, skipped: list[tuple[str, str]], progress: bool
) -> Iterator[pa.Table]:
    from fclip.embedding import embed_batches

    for part in embed_batches(model, catalogue, progress=progress):
        skipped += part.skipped
        if len(part.rows):
            yield _rows(catalogue.select(part.rows), part.vectors)


def _rows(pictures: Dataset, vectors: np.ndarray) -> pa.Table:
    table = pictures.with_format("arrow")[:]
    columns: dict[str, Any] = {name: table[name] for name in ("id", "item", "split")}
    columns["title"] = table["title"] if "title" in table.column_names else pa.nulls(len(table), pa.string())
    attributes = table["attributes"].combine_chunks()
    for field in attributes.type:
        columns[field.name] = attributes.field(field.name)
    columns["thumbnail"] = pa.array([_thumbnail(cell) for cell in pictures["image"]], pa.binary())
    flat = pa.array(vectors.reshape(-1), pa.float32())
    columns["vector"] = pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1])
    return pa.table(columns)


def _thumbnail(cell: Mapping[str, Any]) -> bytes:
    from fclip.images import decode

    picture = decode(cell, THUMBNAIL_PX)
    picture.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX))
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=88)
    return stream.getvalue()
