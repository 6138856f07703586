"""What a split says about its pictures: each one's caption and attribute codes, read once, in the catalogue's order.

>>> labels = label(model.captions, catalogue)
>>> captions, own = candidates(labels.texts)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from eval.metrics.surfacing import UNKNOWN, Ints

if TYPE_CHECKING:
    from datasets import Dataset

Codebook = dict[tuple[str, object], int]
"""(group, value) → code; shared by the splits that are compared."""


class Captions(Protocol):
    """What turns attributes into captions: a model's `captions`."""

    @property
    def groups(self) -> Sequence[str]:
        """Attribute groups that the captions name."""
        ...

    def render(self, attributes: Mapping[str, Any]) -> str:
        """The caption; "" when nothing is known."""
        ...


@dataclass(frozen=True)
class Labels:
    """N pictures with a caption, G attribute groups."""

    groups: tuple[str, ...]
    rows: Ints  # (N,) row of the catalogue
    ids: list[str]
    items: list[str]
    texts: list[str]  # caption of each picture
    codes: Ints  # (N, G), -1 = unknown
    without: int  # pictures left out because their caption is empty

    def take(self, keep: Ints) -> Labels:
        """These pictures only, in this order."""
        ids, items, texts = ([column[i] for i in keep] for column in (self.ids, self.items, self.texts))
        return replace(self, rows=self.rows[keep], codes=self.codes[keep], ids=ids, items=items, texts=texts)


def label(captions: Captions, catalogue: Dataset, book: Codebook | None = None) -> Labels:
    """Reads captions and attributes of a split; pictures with an empty caption are left out and counted.

    Args:
        captions: `groups` and `render`.
        catalogue: the split.
        book: codes given so far; grows.
    """
    book = {} if book is None else book
    groups = tuple(captions.groups)
    columns = catalogue.select_columns(["id", "item", "attributes"])
    rows, ids, items, texts, codes = [], [], [], [], []
    for row, cell in enumerate(columns):
        attributes = cell["attributes"] or {}
        text = captions.render(attributes)
        if text:
            rows.append(row)
            ids.append(str(cell["id"]))
            items.append(str(cell["item"]))
            texts.append(text)
            codes.append([_code(book, group, attributes.get(group)) for group in groups])
    matrix = np.array(codes, np.int64).reshape(len(rows), len(groups))
    return Labels(groups, np.array(rows, np.int64), ids, items, texts, matrix, len(columns) - len(rows))


def candidates(texts: Sequence[str]) -> tuple[list[str], Ints]:
    """The unique captions in order of first appearance, and the place (N,) of each picture's own among them."""
    places: dict[str, int] = {}
    own = [places.setdefault(text, len(places)) for text in texts]
    return list(places), np.array(own, np.int64)


def _code(book: Codebook, group: str, value: Any) -> int:
    """Several values are one value: the sorted tuple of them."""
    if isinstance(value, (list, tuple)):
        value = tuple(sorted({v for v in value if v}))
    return book.setdefault((group, value), len(book)) if value else UNKNOWN
