"""What a model gets right and wrong on a split, picture by picture: what the report shows beside the scores.

    insight = look(open_subject("runs/plain/best", ["data/catalogue"], "val"))
    for matrix in confusions(insight): ...

The nearest captions are those of `eval.metrics.surfacing`; a result tells whether they were right, not which they
were, so that they are looked for again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from eval.labels import Codebook, Labels, candidates, label
from eval.metrics.confusion import commonest, confusion, renumbered
from eval.metrics.long_tail import bin_names, by_frequency, edges_of, training_counts
from eval.metrics.means import share
from eval.metrics.surfacing import UNKNOWN, Ints, Surfaced, reflected, surface
from eval.metrics.uncertainty import ratio_interval
from eval.scores import Score
from eval.scores import score as as_score
from eval.subject import Subject, embed_images, embed_texts
from fclip.errors import UserError

if TYPE_CHECKING:
    from datasets import Dataset

OTHER, NONE = "(other)", "(none stated)"


@dataclass(frozen=True)
class Insight:
    """A model's answers on N pictures with M unique captions, V attribute values of G groups."""

    subject: Subject
    labels: Labels
    captions: list[str]  # (M,)
    own: Ints  # (N,)
    surfaced: Surfaced
    found: Ints  # (N, G) the values that the nearest caption states, -1 = none
    images: NDArray[np.float32]  # (N, D) unit rows
    texts: NDArray[np.float32]  # (M, D)
    values: list[str]  # (V,) names of the codes
    in_training: Ints  # (V,) training pictures with each value

    @property
    def pictures(self) -> Dataset:
        """The catalogue's rows of the N pictures."""
        return self.subject.pictures.select(self.labels.rows)


@dataclass(frozen=True)
class Confusion:
    """Counts of true (rows) against found values (columns) of a group."""

    group: str
    rows: list[str]
    columns: list[str]
    counts: NDArray[np.int64]


@dataclass(frozen=True)
class Failure:
    """A picture and the caption that surfaced for it."""

    row: int  # 0 … N - 1
    item: str
    id: str
    own: str
    found: str
    rank: int  # of the own caption
    own_cosine: float
    found_cosine: float
    wrong: list[str]  # "colour: navy, found blue"


@dataclass(frozen=True)
class Bin:
    """Values that training saw about equally often."""

    name: str
    low: int  # training pictures, the fewest
    high: int  # and the most
    values: int  # of the split's
    known: int  # attributes of the split's pictures
    score: Score  # the share of them that the nearest caption states


@dataclass(frozen=True)
class ValueScore:
    """How a value of an attribute group was recognised."""

    group: str
    value: str
    trained: int  # training pictures
    known: int  # pictures of the split
    found: float  # share of them whose nearest caption states it


def look(subject: Subject, *, batch_size: int = 64, progress: bool = False) -> Insight:
    """Embeds a split and its captions and looks for the nearest.

    Raises:
        UserError: no picture has a caption or can be read, or the embeddings are not finite.
    """
    model: Any = subject.model
    model.require_text()
    book: Codebook = {}
    labels = label(model.captions, subject.pictures, book)
    if not labels.ids:
        raise UserError(f"no picture of split {subject.split} has a caption; choose another split or model")
    train = label(model.captions, _train(subject), book)
    images = embed_images(model, subject.pictures.select(labels.rows), batch_size=batch_size, progress=progress)
    labels = labels.take(np.asarray(images.rows, np.int64))
    captions, own = candidates(labels.texts)
    texts = np.asarray(embed_texts(model, captions), np.float32)
    codes = reflected(own, labels.codes, len(captions))
    try:
        surfaced = surface(images.vectors, texts, own, labels.codes, codes)
    except ValueError as error:
        raise UserError(f"model {model.name}: {error}") from None
    counts = training_counts(train.codes, len(book))
    values = [" and ".join(value) if isinstance(value, tuple) else str(value) for _, value in book]
    found = codes[surfaced.nearest]
    return Insight(subject, labels, captions, own, surfaced, found, images.vectors, texts, values, counts)


def confusions(insight: Insight, limit: int = 12) -> list[Confusion]:
    """A matrix for each attribute group, of its `limit` commonest values; the rest is one value, "(other)"."""
    made = []
    for column, group in enumerate(insight.labels.groups):
        true, found = insight.labels.codes[:, column], insight.found[:, column]
        values = commonest(true, limit)
        if not len(values):
            continue
        places = renumbered(true, values), renumbered(found, values)
        counts = confusion(*places, len(values) + 1)
        names = [*(insight.values[value] for value in values), OTHER]
        keep = np.array([*[True] * len(values), bool(counts[-1].any() or counts[:, -2].any())])
        columns = np.array([*keep, bool(counts[:, -1].any())])
        shown = [name for name, kept in zip([*names, NONE], columns, strict=True) if kept]
        rows = [name for name, kept in zip(names, keep, strict=True) if kept]
        made.append(Confusion(group, rows, shown, counts[keep][:, columns]))
    return made


def long_tail(insight: Insight, resamples: int = 1000, seed: int = 0) -> list[Bin]:
    """Accuracy by how often training saw a value, the bins that the split has values in."""
    codes, counts = insight.labels.codes, insight.in_training
    present = np.unique(codes[codes != UNKNOWN])
    edges = edges_of(counts[present])
    found, known = by_frequency(insight.surfaced.hits, codes, counts, edges)
    low, high = ratio_interval(found, known, insight.labels.items, resamples, seed)
    held = np.bincount(np.searchsorted(edges, counts[present], side="right") - 1, minlength=len(edges))
    scores = [as_score(*row) for row in zip(share(found.sum(0), known.sum(0)), low, high, strict=True)]
    bounds = zip(bin_names(edges), edges, [*(edge - 1 for edge in edges[1:]), int(counts.max())], strict=True)
    rows = zip(bounds, held.tolist(), known.sum(0).astype(int).tolist(), scores, strict=True)
    return [Bin(*bound, *row) for bound, *row in rows if row[0]]


def by_value(insight: Insight) -> list[ValueScore]:
    """Every value that the split has."""
    rows = []
    for column, group in enumerate(insight.labels.groups):
        true, hits = insight.labels.codes[:, column], insight.surfaced.hits[:, column]
        for code in np.unique(true[true != UNKNOWN]).tolist():
            here = true == code
            trained = int(insight.in_training[code])
            rows.append(ValueScore(group, insight.values[code], trained, int(here.sum()), float(hits[here].mean())))
    return rows


def galleries(insight: Insight, number: int = 8, seed: int = 0) -> dict[str, list[Failure]]:
    """Pictures whose caption was found, whose caption was not (both drawn), and those that are farthest off."""
    rank, items = insight.surfaced.rank, insight.labels.items
    order = np.random.default_rng(seed).permutation(len(rank))
    far = np.argsort(-rank, kind="stable")
    chosen = {
        "right": order[rank[order] == 1],
        "wrong": order[rank[order] > 1],
        "farthest": far[rank[far] > 1],
    }
    return {name: [_example(insight, row) for row in _one_each(rows, items, number)] for name, rows in chosen.items()}


def _train(subject: Subject) -> Dataset:
    return subject.whole.select([i for i, split in enumerate(subject.whole["split"][:]) if split == "train"])


def _one_each(rows: Ints, items: Sequence[str], number: int) -> list[int]:
    """The first rows of different products."""
    first: dict[str, int] = {}
    for row in rows.tolist():
        first.setdefault(items[row], row)
        if len(first) == number:
            break
    return list(first.values())


def _example(insight: Insight, row: int) -> Failure:
    labels, nearest = insight.labels, int(insight.surfaced.nearest[row])
    true, found = labels.codes[row], insight.found[row]
    wrong = [
        f"{group}: {insight.values[t]}, found {'none' if f == UNKNOWN else insight.values[f]}"
        for group, t, f in zip(labels.groups, true, found, strict=True)
        if t not in (UNKNOWN, f)
    ]
    cosines = insight.images[row] @ insight.texts[[insight.own[row], nearest]].T
    texts = labels.texts[row], insight.captions[nearest]
    rank = int(insight.surfaced.rank[row])
    return Failure(row, labels.items[row], labels.ids[row], *texts, rank, float(cosines[0]), float(cosines[1]), wrong)
