"""Which gallery items answer which query.

Three ways to say it, one form inside: every query belongs to a class, every class has members in the gallery. Labels
need memory for the gallery once, however many pairs they make.

    >>> Relevance.of_labels(["id_1", "id_2"], ["id_2", "id_1", "id_1"]).total   # the same product: in-shop
    array([2, 1])
    >>> Relevance.of_own([1, 0], n_gallery=3)                                   # one caption per picture
    >>> Relevance.of_pairs([0, 0, 1], [4, 2, 2], n_queries=2, n_gallery=5)      # anything else

A pair that is named twice counts once. A query may have no relevant item: its total is 0 and the metrics leave it out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.integer[Any]]
Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class Relevance:
    """Relevant gallery items of Q queries; made by `of_labels`, `of_own` or `of_pairs`."""

    classes: Ints  # (Q,) class of each query, 0 … C-1
    starts: Ints  # (C+1,) where the members of each class begin
    members: Ints  # gallery items, ascending within a class
    n_gallery: int

    @staticmethod
    def of_labels(queries: Sequence[Any] | NDArray[Any], gallery: Sequence[Any] | NDArray[Any]) -> Relevance:
        """Equal labels (product ids, categories; text or numbers) are relevant to each other."""
        asked, items = np.asarray(queries), np.asarray(gallery)
        if len(asked) and len(items) and (asked.dtype.kind in "US") != (items.dtype.kind in "US"):
            raise ValueError(
                f"expected labels of one kind, got {asked.dtype} for queries and {items.dtype} for gallery"
            )
        names, codes = np.unique(np.concatenate([asked, items]), return_inverse=True)
        return _grouped(codes[: len(asked)], codes[len(asked) :], np.arange(len(items)), len(names), len(items))

    @staticmethod
    def of_own(own: Sequence[int] | Ints, n_gallery: int) -> Relevance:
        """Query i has the one relevant item `own[i]`."""
        places = _within(own, n_gallery, "gallery")
        everything = np.arange(n_gallery)
        return _grouped(places, everything, everything, n_gallery, n_gallery)

    @staticmethod
    def of_pairs(
        queries: Sequence[int] | Ints, gallery: Sequence[int] | Ints, n_queries: int, n_gallery: int
    ) -> Relevance:
        """Item `gallery[p]` is relevant to query `queries[p]`."""
        if len(queries) != len(gallery):
            raise ValueError(f"expected pairs, got {len(queries)} queries and {len(gallery)} gallery items")
        asked, items = _within(queries, n_queries, "query"), _within(gallery, n_gallery, "gallery")
        asked, items = np.unique(np.stack([asked, items]), axis=1)
        return _grouped(np.arange(n_queries), asked, items, n_queries, n_gallery)

    @property
    def total(self) -> Ints:
        """(Q,) how many items are relevant to each query."""
        return np.diff(self.starts)[self.classes]

    def pairs(self) -> tuple[Ints, Ints]:
        """Every relevant pair, by query: the query and the gallery item."""
        return self._expand(self.classes)

    def mask(self, queries: slice, items: slice) -> Flags:
        """(n, m) which of these gallery items are relevant to which of these queries?"""
        classes, place = np.unique(self.classes[queries], return_inverse=True)
        row, item = self._expand(classes)
        inside = (item >= items.start) & (item < items.stop)
        of_class = np.zeros((len(classes), items.stop - items.start), bool)
        of_class[row[inside], item[inside] - items.start] = True
        return of_class[place]

    def holds(self, items: Ints) -> Flags:
        """(Q,) is `items[i]` relevant to query i? -1 is not."""
        of_member = np.repeat(np.arange(len(self.starts) - 1), np.diff(self.starts))
        keys = of_member * self.n_gallery + self.members  # ascending
        wanted = self.classes * self.n_gallery + items
        place = np.searchsorted(keys, wanted)
        return (items >= 0) & (place < len(keys)) & (np.append(keys, -1)[place] == wanted)

    def _expand(self, classes: Ints) -> tuple[Ints, Ints]:
        size = np.diff(self.starts)[classes]
        row = np.repeat(np.arange(len(classes)), size)
        within = np.arange(size.sum()) - np.repeat(np.cumsum(size) - size, size)
        return row, self.members[np.repeat(self.starts[:-1][classes], size) + within]


def _grouped(classes: Ints, of_item: Ints, items: Ints, n_classes: int, n_gallery: int) -> Relevance:
    order = np.argsort(of_item, kind="stable")
    starts = np.concatenate([[0], np.cumsum(np.bincount(of_item, minlength=n_classes))])
    return Relevance(classes, starts, items[order], n_gallery)


def _within(places: Sequence[int] | Ints, size: int, what: str) -> Ints:
    found = np.asarray(places, np.int64).reshape(-1)
    if len(found) and (found.min() < 0 or found.max() >= size):
        raise ValueError(f"expected {what} places in 0 … {size - 1}, got {found.min()} … {found.max()}")
    return found
