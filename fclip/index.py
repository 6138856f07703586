"""A searchable catalogue: vectors, attributes and thumbnails in LanceDB, in one folder.

    model = load_checkpoint("runs/demo/best")
    index = build_index("garments-index", model, open_catalogue("garments.csv"), checkpoint="runs/demo/best")
    answers = index.search(query_vector(model, texts=["red dress"]), k=4, where={"gender": "Women"})

LanceDB (Apache-2.0) is embedded, a plain folder that many processes read, and filters exactly. Filters are structured
data (group → value or values), never text in a query language. The fingerprint of the model that made the vectors is
kept: vectors of another model mean nothing here, and are refused.

    index.json   fingerprint and checkpoint of the model, attribute groups, pictures that were left out
    lance/       the table: id, item, split, title, thumbnail, vector, and one column for each attribute group

The column of a group is called by its place, group_0, group_1 …: a group may have any name, also "id" or "a.b`c".
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fclip.catalogue.schema import groups_of
from fclip.errors import UserError, nearest
from fclip.files import expand, new_folder, read_json, write_json

if TYPE_CHECKING:
    from datasets import Dataset

    from fclip.model import Model
    from fclip.queries.explanation import Explanation

FORMAT = 1
TABLE = "pictures"
THUMBNAIL_PX = 256  # longer side
WRITTEN_AT_ONCE = 2048  # pictures; every write is a file and a version of the table
Where = Mapping[str, "str | Sequence[str]"]


@dataclass(frozen=True)
class Answer:
    """One picture found.

    Attributes:
        id, item, title: of the picture and its product.
        score: cosine similarity to the query, -1..1.
        attributes: group → value.
        thumbnail: JPEG bytes.
        why: when it was asked for.
    """

    id: str
    item: str
    title: str | None
    score: float
    attributes: dict[str, Any]
    thumbnail: bytes
    why: Explanation | None = None


class Index:
    """An opened index. Use `open_index` or `build_index`.

    Attributes:
        folder: where it lies.
        about: what index.json says.
        groups: the attribute groups, which can be filtered on.
    """

    def __init__(self, folder: Path, about: dict[str, Any], table: Any) -> None:
        self.folder, self.about, self._table = folder, about, table
        self._columns = {group: f"group_{place}" for place, group in enumerate(about["groups"])}

    def __len__(self) -> int:
        return self._table.count_rows()

    @property
    def groups(self) -> list[str]:
        return list(self._columns)

    def check_model(self, model: Model) -> None:
        """Raises UserError when the index holds another model's vectors."""
        if model.fingerprint != self.about["fingerprint"]:
            checkpoint = f" ({self.about['checkpoint']})" * bool(self.about["checkpoint"])
            raise UserError(
                f"the index {self.folder} was built with model {self.about['fingerprint']}{checkpoint}, got model "
                f"{model.fingerprint}; search with that checkpoint or build the index again"
            )

    def search(self, vector: np.ndarray, k: int = 10, where: Where | None = None) -> list[Answer]:
        """The nearest products, best first, one picture (the nearest) of each; fewer than k where no more fit.

        Args:
            vector: query (D,), of any length but zero.
            k: number of products.
            where: group → value, or several of which any will do. Of several groups, all must fit.

        Raises:
            UserError: a group that is not there or is given no value, k below 1, or a vector of another dimension.
        """
        if k < 1:
            raise UserError(f"expected at least 1 answer, got k={k}")
        if vector.shape != (self.about["dimension"],):
            raise UserError(f"expected a vector of {self.about['dimension']} numbers, got shape {vector.shape}")
        query = self._table.search(vector.astype(np.float32)).distance_type("cosine")
        if where:
            query = query.where(self._condition(where))
        query, limit = query.select(["item", "_distance"]).with_row_id(True), 2 * k
        while True:
            rows = query.limit(limit).to_arrow().to_pylist()
            best: dict[str, dict[str, Any]] = {}  # product → its nearest picture
            for row in rows:
                best.setdefault(row["item"], row)
            if len(best) >= k or len(rows) < limit:
                return self._answers(list(best.values())[:k])
            limit *= 4

    def values(self, group: str) -> dict[str, int]:
        """The values of a group and the number of pictures that have each, the most frequent first.

        Raises:
            UserError: a group that is not there.
        """
        column = self._column(group)
        found = self._table.search().select([column]).to_arrow()[column]
        flat = pc.list_flatten(found) if pa.types.is_list(found.type) else found
        counts = {c["values"]: c["counts"] for c in flat.value_counts().to_pylist() if c["values"] is not None}
        return dict(sorted(counts.items(), key=lambda pair: (-pair[1], pair[0])))

    def _column(self, group: str) -> str:
        if group not in self._columns:
            raise UserError(f"no attribute group {group!r} in the index {self.folder}; {nearest(group, self.groups)}")
        return self._columns[group]

    def _condition(self, where: Where) -> str:
        """SQL of column names and literals of LanceDB's own making; its expressions know no lists yet (0.40)."""
        from lancedb.expr import col, lit

        tests = []
        for group, wanted in where.items():
            column, values = self._column(group), [wanted] if isinstance(wanted, str) else list(wanted)
            if not values:
                raise UserError(f"expected at least one value of {group} to filter by, got none; leave it out")
            if pa.types.is_list(self._table.schema.field(column).type):
                tests.append(" OR ".join(f"array_has({column}, {lit(value).to_sql()})" for value in values))
            else:
                tests.append(col(column).isin(values).to_sql())
        return " AND ".join(f"({test})" for test in tests)

    def _answers(self, found: list[dict[str, Any]]) -> list[Answer]:
        """The rows of what `search` found, read in one go and put into its order again."""
        if not found:
            return []
        columns = ["id", "item", "title", "thumbnail", *self._columns.values()]
        query = self._table.take_row_ids([row["_rowid"] for row in found]).select(columns).with_row_id()
        rows = {row["_rowid"]: row for row in query.to_arrow().to_pylist()}
        return [self._answer(rows[row["_rowid"]], 1 - row["_distance"]) for row in found]

    def _answer(self, row: dict[str, Any], score: float) -> Answer:
        attributes = {group: row[column] for group, column in self._columns.items() if row[column]}
        return Answer(row["id"], row["item"], row["title"], score, attributes, row["thumbnail"])


def open_index(folder: str | Path) -> Index:
    """Opens an index.

    Raises:
        UserError: no index there, a damaged one, or one of another format.
    """
    import lancedb

    folder = Path(folder)
    if not is_index(folder):
        raise UserError(
            f"no index in {folder}; build one with: fclip index --checkpoint DIR --catalogue PATH --out {folder}"
        )
    about = read_json(folder / "index.json", "an index")
    found = about.get("format") if isinstance(about, dict) else None
    if found != FORMAT:
        raise UserError(f"expected index format {FORMAT}, got {found!r} in {folder}; build it again")
    try:
        return Index(folder, about, lancedb.connect(str(folder / "lance")).open_table(TABLE))
    except (ValueError, KeyError, OSError, RuntimeError) as error:  # what LanceDB raises
        reason = str(error).splitlines()[0][:200]
        raise UserError(f"the index {folder} is damaged: {reason}; build it again with --overwrite") from None


def is_index(folder: Path) -> bool:
    """Whether a folder was written by `build_index`."""
    return (folder / "index.json").is_file()


def build_index(
    folder: str | Path,
    model: Model,
    catalogue: Dataset,
    checkpoint: str = "",
    overwrite: bool = False,
    progress: bool = False,
    batch_size: int = 64,
    workers: int = 0,
) -> Index:
    """Embeds a catalogue, batch by batch, into a new index; unreadable pictures are left out and listed in index.json.

    Args:
        folder: of the index; written beside and renamed.
        model: from `load_checkpoint` or `open_model`.
        catalogue: from `open_catalogue`.
        checkpoint: where the model came from, so that `fclip search` finds it again.
        overwrite: replace an index that is there; nothing else is ever replaced.
        progress: show a progress bar.
        batch_size: pictures embedded at once.
        workers: processes that decode; 0: this one.

    Raises:
        UserError: the folder is in use, or no picture can be read.
    """
    folder = Path(folder)
    if overwrite and folder.exists() and not is_index(folder) and not _is_empty(folder):
        raise UserError(f"{folder} is no index, so it is not overwritten; choose another name")
    skipped: list[tuple[str, str]] = []
    with new_folder(folder, overwrite) as beside:
        table = None
        # One chunk after the other, and not LanceDB's streaming: that reads in a thread which outlives an interruption.
        for chunk in _chunks(_row_batches(model, catalogue, skipped, batch_size, progress, workers)):
            if table is None:
                table = _new_table(beside, chunk)
            else:
                table.add(chunk)
        if table is None:
            first = f"the first problem: {skipped[0][1]}" if skipped else "the catalogue is empty"
            raise UserError(f"expected a picture to index, got none of {len(catalogue)}; {first}")
        about = {
            "format": FORMAT,
            "fingerprint": model.fingerprint,
            "model": model.name,
            "checkpoint": _place(checkpoint),
            "dimension": int(table.schema.field("vector").type.list_size),
            "pictures": table.count_rows(),
            "groups": groups_of(catalogue),
            "skipped": [list(problem) for problem in skipped],
        }
        write_json(beside / "index.json", about)
    return open_index(folder)


def _place(checkpoint: str) -> str:
    """What `open_model` finds from any folder: a full path, also in NAME:FILE; a published name as it is."""
    name, colon, file = "", "", checkpoint
    if not Path(expand(checkpoint)).exists():
        name, colon, file = checkpoint.partition(":")
    path = Path(expand(file))
    return f"{name}{colon}{path.resolve()}" if file and path.exists() else checkpoint


def _new_table(folder: Path, chunk: pa.Table) -> Any:
    import lancedb  # not before the first chunk: the processes that decode have been forked then

    return lancedb.connect(str(folder / "lance")).create_table(TABLE, chunk)


def _is_empty(folder: Path) -> bool:
    return folder.is_dir() and not any(folder.iterdir())


def _row_batches(
    model: Model, catalogue: Dataset, skipped: list[tuple[str, str]], batch_size: int, progress: bool, workers: int
) -> Iterator[pa.Table]:
    from fclip.embedding import embed_batches

    for part in embed_batches(model, catalogue, batch_size, progress, workers):
        skipped += part.skipped
        if len(part.rows):
            yield _rows(catalogue.select(part.rows), part.vectors)


def _chunks(batches: Iterator[pa.Table]) -> Iterator[pa.Table]:
    """Tables of about `WRITTEN_AT_ONCE` rows."""
    held: list[pa.Table] = []
    for batch in batches:
        held.append(batch)
        if sum(map(len, held)) >= WRITTEN_AT_ONCE:
            yield pa.concat_tables(held)
            held = []
    if held:
        yield pa.concat_tables(held)


def _rows(pictures: Dataset, vectors: np.ndarray) -> pa.Table:
    """Some pictures and their vectors (N, D) as rows of the table."""
    table = pictures.with_format("arrow")[:]
    columns: dict[str, Any] = {name: table[name] for name in ("id", "item", "split")}
    columns["title"] = table["title"] if "title" in table.column_names else pa.nulls(len(table), pa.string())
    columns["thumbnail"] = pa.array([_thumbnail(cell) for cell in pictures["image"]], pa.binary())
    columns["vector"] = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1), pa.float32()), vectors.shape[1])
    for place in range(table["attributes"].type.num_fields):
        columns[f"group_{place}"] = pc.struct_field(table["attributes"], [place])
    return pa.table(columns)


def _thumbnail(cell: Mapping[str, Any]) -> bytes:
    """The picture as JPEG, `THUMBNAIL_PX` at its longer side; smaller ones keep their size."""
    from fclip.images import decode

    picture = decode(cell, THUMBNAIL_PX)
    picture.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX))
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=88)
    return stream.getvalue()
