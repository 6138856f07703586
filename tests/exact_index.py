"""An index in memory that searches by brute force: what questions are tested on, and held against."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from fclip.errors import UserError, nearest
from fclip.index import Answer


@dataclass(frozen=True)
class Found:
    """The nearest pictures, one row each."""

    ids: list[str]
    items: list[str]
    scores: np.ndarray
    vectors: np.ndarray


class ExactIndex:
    """`rows`: (id, item, vector, attributes) of each picture. `searches` counts what it was asked."""

    def __init__(self, rows, fingerprint="f00"):
        self.ids, self.items, vectors, self.attributes = (list(column) for column in zip(*rows, strict=True))
        self.all = np.array(vectors, np.float32) / np.linalg.norm(vectors, axis=1, keepdims=True).astype(np.float32)
        self.mean, self.sample = self.all.mean(0), self.all
        self.about = {"dimension": self.all.shape[1], "fingerprint": fingerprint, "checkpoint": ""}
        self.groups = list(dict.fromkeys(group for known in self.attributes for group in known))
        self.numbers, self.searches = [], []

    def __len__(self):
        return len(self.ids)

    def check_model(self, model):
        if model.fingerprint != self.about["fingerprint"]:
            raise UserError("was built with model")

    def fits(self, where):
        def ok(known):
            return all(known.get(g) in ([w] if isinstance(w, str) else w) for g, w in (where or {}).items())

        return [row for row, known in enumerate(self.attributes) if ok(known)]

    def candidates(self, vector, limit, where=None):
        self.searches.append(vector)
        rows = np.array(self.fits(where), int)
        cosines = self.all[rows] @ vector / np.linalg.norm(vector)
        order = np.argsort(-cosines, kind="stable")[:limit]
        near = rows[order]
        return Found([self.ids[r] for r in near], [self.items[r] for r in near], cosines[order], self.all[near])

    def search(self, vector, k=10, where=None):
        found, first = self.candidates(vector, len(self), where), {}
        for name, item, score in zip(found.ids, found.items, found.scores, strict=True):
            first.setdefault(item, self.answer(self.ids.index(name), float(score)))
        return list(first.values())[:k]

    def answer(self, row, score=0.0):
        return Answer(self.ids[row], self.items[row], None, score, self.attributes[row], b"")

    def read(self, ids):
        return [self.answer(self.ids.index(name)) for name in ids if name in self.ids]

    def vectors(self, ids):
        for name in ids:
            if name not in self.ids:
                raise UserError(f"no picture {name!r} in the index; {nearest(name, self.ids)}")
        return self.all[[self.ids.index(name) for name in ids]]

    def values(self, group, where=None):
        return dict(Counter(self.attributes[row][group] for row in self.fits(where)))

    def count(self, where=None):
        return len(self.fits(where))
