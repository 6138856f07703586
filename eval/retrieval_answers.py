"""How a task of `eval.retrieval_tasks` is answered: by a model, by chance, by frequency, by pixels; and the scores.

found = answer(task, embedded, 10)              # eval.metrics.search.Found
values = retrieval_values(found.ranking, [1, 5, 10])
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eval.metrics.search import TIE, Found, top_k
from eval.retrieval_tasks import Task, Things
from fclip.errors import UserError

Vectors = NDArray[np.floating[Any]]
EXAMPLES = 50


@dataclass(frozen=True)
class Embedded:
    """What a model made of a split: pictures (N, D) and the place and vector of every text that tasks need."""

    pictures: Vectors
    place: Mapping[str, int]
    texts: Vectors

    def of(self, things: Things) -> Vectors:
        """(n, D) one vector for each thing."""
        if things.pictures is None:
            return self._of_texts(things.texts or [])
        if things.texts is None:
            return self.pictures[things.pictures]
        images = self._means(things, len(things.names))
        said = np.array([bool(text) for text in things.texts])
        weight = np.where(said, things.image_weight, 1)[:, None]
        texts = np.zeros_like(images)
        texts[said] = self._of_texts([text for text in things.texts if text])
        return _unit(weight * images + (1 - weight) * texts)

    def _of_texts(self, texts: Sequence[str]) -> Vectors:
        return self.texts[[self.place[text] for text in texts]]

    def _means(self, things: Things, n: int) -> Vectors:
        assert things.pictures is not None
        sums = np.zeros((n, self.pictures.shape[1]), np.float32)
        of = things.of if things.of is not None else np.arange(n)
        np.add.at(sums, of, _unit(self.pictures[things.pictures]))
        return _unit(sums)


def texts_of(tasks: Sequence[Task]) -> list[str]:
    """Every text that must be embedded, once."""
    sides = [side for task in tasks for side in (task.queries, task.gallery)]
    return list(dict.fromkeys(text for side in sides for text in side.texts or [] if text))


def check(name: str, task: Task, ks: Sequence[int]) -> None:
    """Can the task be asked?

    Raises:
        UserError: it has no query, none with a relevant item, or fewer than k candidates.
    """
    if not task.units:
        raise UserError(f"{name}: there is no query, the pictures have no {task.unit}; leave it out with --task")
    candidates = len(task.gallery.names) - (task.exclude is not None)
    if candidates < max(ks):
        raise UserError(
            f"{name}: {candidates} candidates are fewer than k = {max(ks)}; pass --k {max(candidates, 1)} or less, "
            "or take a larger split"
        )
    if not (relevant_of(task) > 0).any():
        raise UserError(f"{name}: none of {len(task.units)} queries has a relevant item; leave it out with --task")


def relevant_of(task: Task) -> NDArray[np.integer[Any]]:
    """(Q,) how many candidates are relevant; the query itself is none."""
    relevance = task.relevance
    return relevance.total - (0 if task.exclude is None else relevance.holds(task.exclude))


def answer(task: Task, embedded: Embedded, k: int) -> Found:
    """The k best items by cosine."""
    queries, gallery = embedded.of(task.queries), embedded.of(task.gallery)
    return top_k(queries, gallery, k, task.relevance, task.exclude)


def most_frequent(task: Task, train: Counter[str], k: int) -> Found | None:
    """One list for every query: what is frequent in train comes first; None where frequency says nothing."""
    if task.answers is None or not train:
        return None
    counts = np.array([train.get(answer, 0) if answer else 0 for answer in task.answers])
    levels, place = np.unique(counts, return_inverse=True)
    height = place / max(len(levels), 1)
    gallery = np.stack([height, np.sqrt(1 - height**2)], 1)
    return top_k(np.tile([1.0, 0.0], (len(task.units), 1)), gallery, k, task.relevance, task.exclude)


def ties(found: Found) -> int:
    """Queries whose best two items are equally near."""
    return 0 if found.cosine.shape[1] < 2 else int((np.abs(found.cosine[:, 0] - found.cosine[:, 1]) <= TIE).sum())


def examples(task: Task, found: Found) -> list[dict[str, Any]]:
    """Some queries, evenly over all, with what was found for them."""
    chosen = np.unique(np.linspace(0, len(task.units) - 1, min(EXAMPLES, len(task.units))).astype(int)).tolist()
    return [
        {
            "query": task.queries.names[q],
            "found": [task.gallery.names[i] for i in found.item[q]],
            "relevant": found.relevant[q].tolist(),
            "cosine": found.cosine[q].round(5).tolist(),
            "relevant_in_all": int(found.ranking.total[q]),
        }
        for q in chosen
    ]


def _unit(vectors: Vectors) -> Vectors:
    """Rows of length 1; a zero row stays, and is told by whoever searches with it."""
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(length > 0, length, 1)
