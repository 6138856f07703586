"""Questions to an index: words, photographs and items of the index together, and what to avoid.

    recommender = Recommender.open("garments-index")
    answers = recommender.ask(texts=["red summer dress"], images=["photo.jpg"], where={"gender": "Women"}, k=4)
    answers = recommender.ask(items=["1163"], texts=["in blue"], avoid=["stripes"], liked=["4711"], diversity=0.3)

A question is encoded first (`encode`, the only step that needs the model) and answered then (`answer`). Candidates are
a few hundred nearest neighbours from the index; what `fclip.queries` adds to a plain search runs on them alone.
Nothing is remembered between questions: likes and dislikes are part of the question, and leaving one out undoes it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from fclip.errors import UserError
from fclip.images import Source
from fclip.index import Answer, Index, open_index
from fclip.queries.avoidance import away_from, penalties
from fclip.queries.diversity import diversify
from fclip.queries.explanation import NEIGHBOURS, Wish, explain
from fclip.queries.feedback import moved
from fclip.queries.fusion import KINDS, Background, Floats, Parts, directions, fuse, units
from fclip.queries.question import EncodedQuery, Query, text_notes
from fclip.queries.relaxing import advice, unknown_values

if TYPE_CHECKING:
    from fclip.index import Candidates
    from fclip.model import Model

__all__ = ["EncodedQuery", "Encoder", "ModelEncoder", "Query", "Recommender", "query_vector"]

CANDIDATES = 300  # pictures of each search that are scored, or ten for each answer that is wanted
Pool = tuple[list[str], list[str], Floats]  # ids, items, vectors (N, D)


class Encoder(Protocol):
    """What a recommender needs of a model; `ModelEncoder` makes it of ours."""

    fingerprint: str

    def embed_texts(self, texts: list[str]) -> Floats:
        """Unit vectors (N, D), float32."""
        ...

    def embed_pictures(self, sources: list[Source]) -> Floats:
        """Unit vectors (N, D), float32.

        Raises:
            UnreadableImageError: the first that cannot be read.
        """
        ...


class ModelEncoder:
    """A `Model` as an encoder."""

    def __init__(self, model: Model) -> None:
        self.model, self.fingerprint, self.tokenizer = model, model.fingerprint, model.tokenizer

    def embed_texts(self, texts: list[str]) -> Floats:
        from fclip.embedding import embed_texts

        return embed_texts(self.model, texts)

    def embed_pictures(self, sources: list[Source]) -> Floats:
        from fclip.embedding import embed_pictures

        return embed_pictures(self.model, sources)


class Recommender:
    """An index with the encoder that answers its questions."""

    def __init__(self, index: Index, encoder: Encoder) -> None:
        index.check_model(encoder)
        self.index, self.encoder = index, encoder

    @classmethod
    def open(cls, index: str | Path, checkpoint: str | Path | None = None) -> Recommender:
        """Opens an index folder and its model: the one it was built with, unless another place is named.

        Raises:
            UserError: no index, no checkpoint, or a checkpoint of another model.
        """
        from fclip.pretrained import is_model, open_model

        opened = open_index(index)
        known = opened.about["checkpoint"]
        if checkpoint is None and not (known and is_model(known)):
            found = f"which is no longer in {known}" if known else "and does not know where that lies"
            raise UserError(
                f"the index {index} was built with model {opened.about['fingerprint']}, {found}; "
                "name its folder with --checkpoint DIR"
            )
        return cls(opened, ModelEncoder(open_model(known if checkpoint is None else checkpoint, opened.groups)))

    def ask(self, texts: Sequence[str] = (), images: Sequence[Source] = (), **further: Any) -> list[Answer]:
        """The k best products, best first; arguments as `Query`, errors as `Query`, `encode` and `answer`."""
        return self.answer(self.encode(Query(texts, images, **further)))

    def encode(self, query: Query) -> EncodedQuery:
        """The step that needs the model; several questions may be encoded together by whoever makes an EncodedQuery.

        Raises:
            UnreadableImageError: a photograph that cannot be read.
        """
        words = self.encoder.embed_texts([*query.texts, *query.avoid]) if query.texts or query.avoid else self._none
        images = self.encoder.embed_pictures(list(query.images)) if query.images else self._none
        return EncodedQuery(query, words[: len(query.texts)], images, words[len(query.texts) :])

    def answer(self, encoded: EncodedQuery) -> list[Answer]:
        """The k best products, one picture of each; fewer where no more fit.

        The score is the cosine to a question of one part; of several, what `fclip.queries.fusion` makes of them.

        Raises:
            UserError: an id or a filter's group that is not in the index.
        """
        query, parts = encoded.query, self._parts(encoded)
        plain = len(parts.kinds) == 1 and not (query.items or query.liked or query.disliked)
        if plain and not (len(encoded.avoid) or query.diversity or query.explain):
            return self.index.search(parts.vectors[0], query.k, query.where)
        pool = self._pool(encoded, parts)
        if not pool[0]:
            return []
        fused = fuse(query.fusion, parts, pool[2], self._background)
        paid = penalties(encoded.avoid, pool[2], self._background)
        scores = fused.scores - fused.deviation * paid
        best = _best_of_each(scores, pool[1])
        best = best[diversify(scores[best], pool[2][best], query.k, query.diversity)]
        place = {pool[0][row]: row for row in best}
        answers = self.index.read(list(place))  # what was deleted since the search is left out
        answers = [replace(answer, score=float(scores[place[answer.id]])) for answer in answers]
        if not query.explain:
            return answers
        wishes, told = self._wishes(encoded), fused.contributions.T
        rows = [place[answer.id] for answer in answers]
        reasons = [explain(a.attributes, wishes, told[r], float(paid[r])) for a, r in zip(answers, rows, strict=True)]
        return [replace(answer, why=why) for answer, why in zip(answers, reasons, strict=True)]

    def notes(self, texts: Query | Sequence[str] = (), images: Sequence[Source] = (), **further: Any) -> list[str]:
        """What the asker should know: words the model never saw or does not read, filters that no product fits.

        Args:
            texts, images, further: as of `ask`, or a `Query` alone.

        Raises:
            UserError: a question that makes no sense, or a filter's group that is not in the index.
        """
        query = texts if isinstance(texts, Query) else Query(texts, images, **further)
        tokenizer, where = getattr(self.encoder, "tokenizer", None), query.where or {}
        notes = [] if tokenizer is None else text_notes(tokenizer, [*query.texts, *query.avoid])
        relaxed = [advice(self.index, where)] if where and not self.index.count(where) else []
        known = {group: self.index.values(group) for group in where if group not in self.index.numbers}
        return [*notes, *unknown_values(where, known), *relaxed]

    @cached_property
    def _background(self) -> Background:
        return Background(self.index.mean, self.index.sample)

    @property
    def _none(self) -> Floats:
        return np.zeros((0, self.index.about["dimension"]), np.float32)

    def _vectors(self, ids: Sequence[str]) -> Floats:
        return self.index.vectors(ids) if ids else self._none

    def _parts(self, encoded: EncodedQuery) -> Parts:
        """What is looked for, moved by what was liked and disliked."""
        query = encoded.query
        vectors = np.concatenate([encoded.texts, encoded.images, self._vectors(query.asked_items())])
        if query.liked or query.disliked:
            liked, disliked = self._vectors(query.liked), self._vectors(query.disliked)
            vectors = moved(vectors, liked, disliked, self._background.mean)
        return Parts(vectors, query.kinds(), {kind: query.weight(kind) for kind in KINDS})

    def _pool(self, encoded: EncodedQuery, parts: Parts) -> Pool:
        """Candidates of enough products; with a phrase to avoid also such as lie away from it."""
        query, limit = encoded.query, max(CANDIDATES, 10 * encoded.query.k)
        hidden = self._products([*query.asked_items(), *query.disliked])
        ways = list(directions(query.fusion, parts, self._background))
        if len(encoded.avoid):
            ways += list(away_from(np.mean(ways, axis=0), encoded.avoid, self._background))
        while True:
            found = [self.index.candidates(way, limit, query.where) for way in ways]
            pool = _joined(found, hidden)
            if len(set(pool[1])) >= query.k or all(len(part.ids) < limit for part in found):
                return pool
            limit *= 4

    def _products(self, ids: Sequence[str]) -> set[str]:
        return {answer.item for answer in self.index.read(ids)} if ids else set()

    def _wishes(self, encoded: EncodedQuery) -> list[Wish]:
        """The parts of the question in the order of its vectors, then what was liked."""
        query = encoded.query
        wishes = [Wish("text", f"“{text}”", text) for text in query.texts]
        for place, (source, vector) in enumerate(zip(query.images, encoded.images, strict=True), start=1):
            near = [answer.attributes for answer in self.index.search(vector, NEIGHBOURS)]
            wishes.append(Wish("image", _name(source, place), attributes=near))
        known = {answer.id: answer.attributes for answer in self.index.read([*query.asked_items(), *query.liked])}
        wishes += [Wish("item", name, attributes=[known[name]]) for name in query.asked_items()]
        if query.liked:
            wishes.append(Wish("liked", "what was liked", attributes=[known[name] for name in query.liked]))
        return wishes


def query_vector(
    model: Model, texts: Sequence[str] = (), images: Sequence[Source] = (), text_weight: float = 0.5
) -> Floats:
    """One unit vector (D,) for any mix of texts and pictures, for a plain search.

    Each modality is averaged on its own and brought to unit length first, so that four photographs do not outvote one
    sentence; then the two are mixed by `text_weight` (0: only pictures, 1: only text).

    Raises:
        UserError: neither text nor picture, an empty text, an unreadable picture, or a weight outside 0..1.
    """
    if not texts and not images:
        raise UserError("expected a text or a picture to search with, got neither")
    if not 0 <= text_weight <= 1:
        raise UserError(f"text weight should lie between 0 and 1, got {text_weight}")
    encoder = ModelEncoder(model)
    parts = []
    if texts:
        parts.append((text_weight if images else 1.0, encoder.embed_texts(list(texts))))
    if images:
        parts.append((1 - text_weight if texts else 1.0, encoder.embed_pictures(list(images))))
    return units(np.sum([weight * units(vectors.mean(axis=0)) for weight, vectors in parts], axis=0))


def _best_of_each(scores: Floats, items: Sequence[str]) -> np.ndarray:
    """Places of the best picture of each product, the best product first."""
    first: dict[str, int] = {}
    for place in np.argsort(-scores, kind="stable"):
        first.setdefault(items[place], int(place))
    return np.array(list(first.values()), dtype=int)


def _joined(found: Sequence[Candidates], hidden: set[str]) -> Pool:
    """Several searches as one, each picture once, without the products that are hidden."""
    place = {name: (part, row) for part in reversed(found) for row, name in enumerate(part.ids)}
    kept = [(name, part, row) for name, (part, row) in place.items() if part.items[row] not in hidden]
    vectors = np.array([part.vectors[row] for _, part, row in kept], np.float32)
    return [name for name, _, _ in kept], [part.items[row] for _, part, row in kept], vectors


def _name(source: Source, place: int) -> str:
    path = source.get("path") if isinstance(source, Mapping) else source
    return Path(path).name if path and isinstance(path, (str, Path)) else f"photo {place}"
