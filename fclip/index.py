"""A searchable catalogue: vectors, attributes and thumbnails in a store, and what they mean in one small file.

    index = open_index("garments-index")                                     # or s3://bucket/garments-index
    answers = index.search(query_vector(model, texts=["red dress"]), k=4, where={"gender": "Women"})

The store is LanceDB's, in the same folder, or a Qdrant server's. Filters are structured data (`fclip.store.filters`),
never text in a query language. The fingerprint of the model that made the vectors is kept: vectors of another model
mean nothing here, and are refused.

    index.json   fingerprint and checkpoint of the model, attribute groups, where the vectors are, how they are searched
                 and with what recall (of all pictures, and under filters), pictures that were left out
    pictures-1/  the store: id, item, split, title, thumbnail, vector, and one column for each attribute group;
                 a later build makes pictures-2, and index.json tells which one counts
    sample-1.npy vectors of pictures drawn at random

The column of a group is called by its place, group_0, group_1 …: a group may have any name, also "id" or "a.b`c".
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fclip.errors import UserError
from fclip.places import Place
from fclip.store import Hit, Store, open_store
from fclip.store.filters import Group, Kind, Where, known_group, parse_where

if TYPE_CHECKING:
    from fclip.model import Model
    from fclip.queries.explanation import Explanation
    from fclip.recommend import Encoder

__all__ = ["Answer", "Candidates", "Index", "Where", "build_index", "is_index", "open_index"]

FORMAT = 2
ABOUT = "index.json"
BUILDING = "building.json"  # in its place while the first build is unfinished
IN_ONE_GO = 100  # pictures whose thumbnails are read with the search; of more, only those that are shown


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
    thumbnail: bytes = field(repr=False)
    why: Explanation | None = None


@dataclass(frozen=True)
class Candidates:
    """Pictures near a query, the nearest first, for choosing among them.

    Attributes:
        ids, items: of the pictures and their products.
        scores: cosine similarity to the query (N,).
        vectors: their own (N, D).
    """

    ids: list[str]
    items: list[str]
    scores: np.ndarray
    vectors: np.ndarray


class Index:
    """An opened index. Use `open_index` or `build_index`.

    Attributes:
        folder: where it lies: a folder, or an object store's address.
        about: what index.json says.
        store: its rows.
        schema: the attribute groups, which can be filtered on, and how they are held.
    """

    def __init__(self, place: Place, about: dict[str, Any], store: Store) -> None:
        self.folder: Path | str = place.path or place.uri
        self.about, self.store = about, store
        self.schema = schema_of(about)
        self._place = place
        self._shown = ["title", "thumbnail", *(group.column for group in self.schema.values())]

    def __len__(self) -> int:
        return self.count()

    @property
    def groups(self) -> list[str]:
        return list(self.schema)

    @property
    def numbers(self) -> list[str]:
        """The groups whose values are numbers, which can be asked for by a range."""
        return [name for name, group in self.schema.items() if group.kind == "number"]

    @cached_property
    def sample(self) -> np.ndarray:
        """Unit vectors (M, D) of pictures drawn at random when the index was built, M at most 4096."""
        data = self._place.read(self.about["sample"])
        if data is None:
            raise UserError(f"the index {self.folder} is damaged: no {self.about['sample']}; build it again")
        return np.load(io.BytesIO(data), allow_pickle=False)

    @cached_property
    def mean(self) -> np.ndarray:
        """The mean (D,) of the sample."""
        return self.sample.mean(axis=0)

    def check_model(self, model: Model | Encoder) -> None:
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
            where: group → value, several of which any will do, {"not": values} or {"min": number, "max": number}. Of
                several groups, all must fit.

        Raises:
            UserError: a group that is not there or is given no value, k below 1, or a vector of another dimension.
            StoreUnavailableError: the store cannot be reached.
        """
        self._check(vector, k)
        conditions, limit = parse_where(where, self.schema), 2 * k
        while True:
            columns = self._shown if limit <= IN_ONE_GO else ()
            hits = self.store.search(vector, limit, conditions, columns=columns)
            best: dict[str, Hit] = {}  # product → its nearest picture
            for hit in hits:
                best.setdefault(hit.item, hit)
            if len(best) >= k or len(hits) < limit:
                return self._answers(list(best.values())[:k], bool(columns))
            limit *= 4

    def candidates(self, vector: np.ndarray, limit: int, where: Where | None = None) -> Candidates:
        """The nearest pictures, several of a product if they are near, with their vectors; as `search` otherwise."""
        self._check(vector, limit)
        hits = self.store.search(vector, limit, parse_where(where, self.schema), vectors=True)
        vectors = np.array([hit.vector for hit in hits], np.float32).reshape(len(hits), len(vector))
        scores = np.array([hit.score for hit in hits], np.float32)
        return Candidates([hit.id for hit in hits], [hit.item for hit in hits], scores, vectors)

    def read(self, ids: Sequence[str]) -> list[Answer]:
        """Pictures by their ids, in that order, with a score of 0; those that are not there are left out."""
        return [self._answer(row, 0.0) for row in self.store.get(ids, ["item", *self._shown])]

    def vectors(self, ids: Sequence[str]) -> np.ndarray:
        """The vectors (N, D) of pictures.

        Raises:
            UserError: no picture of that id.
        """
        rows = {row["id"]: row["vector"] for row in self.store.get(list(dict.fromkeys(ids)), ["vector"])}
        for name in ids:
            if name not in rows:
                raise UserError(f"no picture {name!r} in the index {self.folder}; name one of its ids")
        found = np.array([rows[name] for name in ids], np.float32)
        return found.reshape(len(ids), self.about["dimension"])

    def values(self, group: str, where: Where | None = None) -> dict[str, int]:
        """The values of a group and the number of pictures that have each, the most frequent first.

        Args:
            group: of `groups`; the values of a number group are written as text, too.
            where: counts only pictures that fit.

        Raises:
            UserError: a group that is not there.
        """
        column = known_group(group, self.schema).column
        counts = self.store.facet(column, parse_where(where, self.schema))
        return {as_text(value): count for value, count in counts.items()}

    def count(self, where: Where | None = None) -> int:
        """The pictures that fit; all of them without a filter."""
        return self.store.count(parse_where(where, self.schema))

    def _check(self, vector: np.ndarray, k: int) -> None:
        if k < 1:
            raise UserError(f"expected at least 1 answer, got k={k}")
        if vector.shape != (self.about["dimension"],):
            raise UserError(f"expected a vector of {self.about['dimension']} numbers, got shape {vector.shape}")

    def _answers(self, hits: list[Hit], complete: bool) -> list[Answer]:
        if complete:
            return [self._answer({"id": hit.id, "item": hit.item, **hit.fields}, hit.score) for hit in hits]
        rows = {row["id"]: row for row in self.store.get([hit.id for hit in hits], ["item", *self._shown])}
        return [self._answer(rows[hit.id], hit.score) for hit in hits if hit.id in rows]

    def _answer(self, row: Mapping[str, Any], score: float) -> Answer:
        known = {name: row[group.column] for name, group in self.schema.items() if row[group.column] not in (None, [])}
        attributes = {name: value if isinstance(value, list) else as_text(value) for name, value in known.items()}
        return Answer(row["id"], row["item"], row["title"], score, attributes, row["thumbnail"])


def as_text(value: str | float) -> str:
    """A value as it is shown: 2018.0 → 2018."""
    return value if isinstance(value, str) else f"{value:.15g}"


def schema_of(about: Mapping[str, Any]) -> dict[str, Group]:
    """The attribute groups as index.json tells of them."""
    kinds: dict[str, Kind] = dict.fromkeys(about["numbers"], "number")
    kinds |= dict.fromkeys(about["lists"], "texts")
    return {name: Group(f"group_{i}", kinds.get(name, "text")) for i, name in enumerate(about["groups"])}


def open_index(folder: str | Path) -> Index:
    """Opens an index, in a folder or an object store.

    Raises:
        UserError: no index there, a damaged one, or one of another format.
        StoreUnavailableError: its store cannot be reached.
    """
    place = Place(folder)
    about = read_about(place)
    if about is None:
        if place.read(BUILDING) is not None:
            raise UserError(f"the index in {place} is unfinished; go on with: fclip index --resume … --out {place}")
        raise UserError(
            f"no index in {place}; build one with: fclip index --checkpoint DIR --catalogue PATH --out {place}"
        )
    found = about.get("format") if isinstance(about, dict) else None
    if found != FORMAT:
        raise UserError(f"expected index format {FORMAT}, got {found!r} in {place}; build it again with --overwrite")
    try:
        return Index(place, about, open_store(store_uri(place, about), about["search"]["settings"]))
    except (UserError, KeyError) as error:
        raise UserError(f"the index {place} is damaged: {error}; build it again with --overwrite") from None


def read_about(place: Place) -> Any:
    """What index.json says; None where there is none.

    Raises:
        UserError: it is no JSON.
    """
    data = place.read(ABOUT)
    try:
        return None if data is None else json.loads(data)
    except ValueError as error:
        raise UserError(f"expected an index in {place}, cannot read its {ABOUT}: {error}") from None


def store_uri(place: Place, about: Mapping[str, Any]) -> str:
    """Where the vectors are: a folder inside the index, unless a server has them."""
    return about["store"] if "/" in about["store"] else place.join(about["store"])


def is_index(folder: str | Path) -> bool:
    """Whether `build_index` wrote to this folder."""
    return Place(folder).read(ABOUT) is not None


def build_index(*args: Any, **options: Any) -> Index:
    """See `fclip.indexing.build_index`."""
    from fclip.indexing import build_index as build

    return build(*args, **options)
