"""What is asked, among what, and what answers it: the tasks of `eval.retrieval`, before any model is asked.

A task knows names and relevance only, so that two models, and the baselines, answer exactly the same.

    >>> shown = read_pictures(split, captions, category="category")
    >>> task = own_tasks(shown)["text_to_image"]()
    >>> task.queries.texts[:2], task.relevance.total[:2]
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from eval.labels import Captions
from eval.metrics.relevance import Relevance
from fclip.errors import UserError, nearest

if TYPE_CHECKING:
    from datasets import Dataset

Ints = NDArray[np.integer[Any]]
TASKS = ("text_to_image", "image_to_text", "image_to_image", "category_to_product")
CATEGORIES = ("category", "articleType", "subCategory", "masterCategory", "clothes type")
"""Where the category is looked for when it is not named: the column, then these attribute groups."""


@dataclass(frozen=True)
class Pictures:
    """N pictures of a split."""

    ids: list[str]
    items: list[str]
    texts: list[str]  # caption of each, "" where nothing is known
    plain: list[str]  # the caption without the category
    categories: list[str]  # "" where unknown; all "" where the catalogue has none

    def take(self, keep: Sequence[int] | Ints) -> Pictures:
        """These pictures only, in this order."""
        return Pictures(*[[column[i] for i in keep] for column in vars(self).values()])


@dataclass(frozen=True)
class Things:
    """n queries or gallery items: texts, pictures, or products of both.

    A product's vector is normalise(w · normalise(mean of its pictures) + (1 - w) · text), its pictures' alone where its
    text is "".
    """

    names: list[str]  # (n,) as examples show them
    texts: list[str] | None = None  # (n,)
    pictures: Ints | None = None  # (p,) places among the pictures
    of: Ints | None = None  # (p,) the thing that each picture shows; None: the i-th the i-th
    image_weight: float = 1.0


@dataclass(frozen=True)
class Task:
    """Q queries to a gallery of M."""

    queries: Things
    gallery: Things
    relevance: Relevance
    units: list[str]  # (Q,) what is resampled for intervals
    unit: str  # what those are: product, caption or category
    exclude: Ints | None = None  # (Q,) the item that is the query itself
    answers: list[str] | None = None  # (M,) what of the train split makes an item frequent: captions or categories

    def sampled(self, queries: int, seed: int) -> Task:
        """At most so many queries, drawn without replacement, in their order."""
        total = len(self.units)
        if total <= queries:
            return self
        keep = np.sort(np.random.default_rng(seed).choice(total, queries, replace=False))
        asked = Things([self.queries.names[i] for i in keep], [(self.queries.texts or [])[i] for i in keep])
        relevance = replace(self.relevance, classes=self.relevance.classes[keep])
        return replace(self, queries=asked, relevance=relevance, units=[self.units[i] for i in keep])


def read_pictures(split: Dataset, captions: Captions, category: str | None = None) -> Pictures:
    """Names, captions and categories of all pictures.

    Args:
        category: the column `category` or an attribute group; None: the first of `CATEGORIES` that there is.

    Raises:
        UserError: there is no such attribute group.
    """
    source = category_source(split, category)
    column = source == "category" and "category" in split.features
    wanted = ["id", "item", "attributes", *(["category"] if column else [])]
    rows: list[tuple[str, str, str, str, str]] = []
    for cell in split.select_columns(wanted):
        attributes = cell["attributes"] or {}
        found = cell["category"] if column else attributes.get(source) if source else None
        found = found if isinstance(found, str) else ""  # several at once are no category
        rest = {g: v for g, v in attributes.items() if not (isinstance(v, str) and v.lower() == found.lower())}
        rows.append((str(cell["id"]), str(cell["item"]), captions.render(attributes), captions.render(rest), found))
    return Pictures(*[list(values) for values in zip(*rows, strict=True)])


def category_source(split: Dataset, category: str | None) -> str | None:
    """The column or attribute group of the categories; None where there is none and none was asked for."""
    known = [*(["category"] if "category" in split.features else []), *split.features["attributes"]]
    if category is None:
        return next((name for name in CATEGORIES if name in known), None)
    if category not in known:
        raise UserError(f"no category {category!r} in this catalogue; {nearest(category, known)}")
    return category


def own_tasks(shown: Pictures, image_weight: float = 0.9) -> dict[str, Callable[[], Task]]:
    """Tasks by product: what shows or says the same product is relevant, and so is what has the same caption."""
    return {
        "text_to_image": lambda: _captions_of_products(shown),
        "image_to_text": lambda: _pictures_to_captions(shown),
        "image_to_image": lambda: _other_pictures(shown),
        "category_to_product": lambda: _categories(shown, _products(shown, image_weight)),
    }


def marqo_tasks(shown: Pictures, image_weight: float = 0.9) -> dict[str, Callable[[], Task]]:
    """Marqo's: unique texts as queries, every picture a document of its own."""
    return {
        "text_to_image": lambda: _unique_captions(shown),
        "category_to_product": lambda: _categories(shown, _documents(shown, image_weight)),
    }


def pair_tasks(shown: Pictures) -> dict[str, Callable[[], Task]]:
    """CLIP_benchmark's: picture i and caption i are a pair, nothing else is relevant."""
    rows = _captioned(shown)
    captions = [shown.texts[i] for i in rows]
    pictures, texts = _some_pictures(shown, rows), Things(captions, captions)
    items, own = [shown.items[i] for i in rows], Relevance.of_own(np.arange(len(rows)), len(rows))
    return {
        "text_to_image": lambda: Task(texts, pictures, own, items, "product", answers=captions),
        "image_to_text": lambda: Task(pictures, texts, own, items, "product", answers=captions),
    }


def _captions_of_products(shown: Pictures) -> Task:
    by_text, by_item = _places(shown.texts), _places(shown.items)
    pairs = list(dict.fromkeys((shown.items[i], shown.texts[i]) for i in _captioned(shown)))
    # Where all pictures of a product have its caption the caption alone says what is relevant.
    classes: list[Hashable] = [
        text if set(by_item[item]) <= set(by_text[text]) else (item, text) for item, text in pairs
    ]
    members = {key: sorted({*by_text[text], *by_item[item]}) for key, (item, text) in zip(classes, pairs, strict=True)}
    texts = [text for _, text in pairs]
    relevance = _relevance(classes, members, len(shown.ids))
    everything = _some_pictures(shown, np.arange(len(shown.ids)))
    items = [item for item, _ in pairs]
    return Task(Things(texts, texts), everything, relevance, items, "product", answers=shown.texts)


def _pictures_to_captions(shown: Pictures) -> Task:
    captions = list(dict.fromkeys(text for text in shown.texts if text))
    place = {text: i for i, text in enumerate(captions)}
    members: dict[Hashable, set[int]] = defaultdict(set)
    for item, text in zip(shown.items, shown.texts, strict=True):
        members[item] |= {place[text]} if text else set()
    relevance = _relevance(shown.items, {item: sorted(found) for item, found in members.items()}, len(captions))
    everything = _some_pictures(shown, np.arange(len(shown.ids)))
    return Task(everything, Things(captions, captions), relevance, shown.items, "product", answers=captions)


def _other_pictures(shown: Pictures) -> Task:
    everything, rows = _some_pictures(shown, np.arange(len(shown.ids))), np.arange(len(shown.ids))
    return Task(everything, everything, Relevance.of_labels(shown.items, shown.items), shown.items, "product", rows)


def _unique_captions(shown: Pictures) -> Task:
    captions = list(dict.fromkeys(text for text in shown.texts if text))
    everything = _some_pictures(shown, np.arange(len(shown.ids)))
    relevance = Relevance.of_labels(captions or np.zeros(0, "U1"), shown.texts)
    return Task(Things(captions, captions), everything, relevance, captions, "caption", answers=shown.texts)


def _categories(shown: Pictures, gallery: tuple[Things, list[str]]) -> Task:
    things, of_thing = gallery
    asked = sorted({category for category in shown.categories if category})
    relevance = Relevance.of_labels(asked or np.zeros(0, "U1"), of_thing)
    return Task(Things(asked, asked), things, relevance, asked, "category", answers=of_thing)


def _products(shown: Pictures, image_weight: float) -> tuple[Things, list[str]]:
    """Every product once, with its first caption and category; the caption does not name the category."""
    place = {item: i for i, item in enumerate(dict.fromkeys(shown.items))}
    of = np.array([place[item] for item in shown.items], np.int64)
    texts, categories = [""] * len(place), [""] * len(place)
    for at, text, category in zip(of, shown.plain, shown.categories, strict=True):
        texts[at], categories[at] = texts[at] or text, categories[at] or category
    return Things(list(place), texts, np.arange(len(of)), of, image_weight), categories


def _documents(shown: Pictures, image_weight: float) -> tuple[Things, list[str]]:
    rows = np.arange(len(shown.ids))
    return Things(shown.ids, shown.texts, rows, rows, image_weight), shown.categories


def _captioned(shown: Pictures) -> list[int]:
    return [i for i, text in enumerate(shown.texts) if text]


def _some_pictures(shown: Pictures, rows: Sequence[int] | Ints) -> Things:
    return Things([shown.ids[i] for i in rows], pictures=np.asarray(rows, np.int64))


def _places(names: Sequence[str]) -> dict[str, list[int]]:
    places: dict[str, list[int]] = defaultdict(list)
    for i, name in enumerate(names):
        places[name].append(i)
    return places


def _relevance(classes: Sequence[Hashable], members: Mapping[Any, Sequence[int]], n_gallery: int) -> Relevance:
    """Query i is answered by `members[classes[i]]`, which ascend."""
    number = {key: i for i, key in enumerate(members)}
    starts = np.concatenate([[0], np.cumsum([len(found) for found in members.values()])]).astype(np.int64)
    flat = np.array([place for found in members.values() for place in found], np.int64)
    return Relevance(np.array([number[key] for key in classes], np.int64), starts, flat, n_gallery)
