"""Surfacing accuracy: does the caption nearest to a picture say what the picture shows?

The definitions are those of section 6.1 of the paper behind this toolkit. The candidates are the *unique* captions of
the evaluated pictures.

    text SFA       share of pictures whose nearest caption is their own
    attribute SFA  share of a picture's known attributes that the nearest caption states too

Ties are settled against the model. Two cosines closer than `TIE` are equal: a collapsed model must score 0 instead of
winning by rounding. Blocks are float32 products, what is close is computed again in float64 (`eval.metrics.search`), so
that no answer depends on how the work is cut.
So the own caption counts only when it is strictly nearer than every other, and of several nearest captions the one
that agrees with the fewest attributes is taken.

Attributes are integer codes: `codes[i, g]` is the value of group g of picture i, -1 = unknown. A group with several
values at once is one value, the sorted tuple of them: it agrees as a whole or not at all.

No pictures: every array is empty and every share is nan, never 0.

    >>> shown = surface(images, captions, own, codes, caption_codes)
    >>> shown.correct.mean(), attribute_accuracy(shown.hits, codes)
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eval.metrics.means import known_mean, share
from eval.metrics.search import BAND, CELLS, TIE, Block, leave_out
from eval.metrics.vectors import Floats, Ints, UnitRows, cosines, slices, unit_rows

Flags = NDArray[np.bool_]

UNKNOWN = -1
SURE = 1e-12  # float64 products err by far less


@dataclass(frozen=True)
class Surfaced:
    """What surfaced for N pictures among M captions, G attribute groups."""

    nearest: Ints  # (N,) the nearest caption, of tied ones that with the fewest agreeing attributes
    tied: Flags  # (N,) several captions were nearest
    hits: Flags  # (N, G) the attribute is known and the nearest caption agrees
    cosine: NDArray[np.float64]  # (N,) of the picture and its own caption
    rank: Ints  # (N,) of the own caption among all, from 1, behind those tied with it
    caption_rank: Ints  # (M,) of the best own picture among all others' pictures, from 1, behind those tied with it

    @property
    def correct(self) -> Flags:
        """(N,) the own caption is strictly nearer than every other."""
        return self.rank == 1


def surface(
    images: Floats, captions: Floats, own: Ints, codes: Ints, caption_codes: Ints, cells: int = CELLS
) -> Surfaced:
    """Looks for the nearest caption of every picture.

    Args:
        images: (N, D) unit rows, may be memory-mapped.
        captions: (M, D) unit rows, one per unique caption.
        own: (N,) the caption of each picture, 0 … M-1; a caption without a picture gets caption_rank N+1.
        codes: (N, G) attributes of the pictures, -1 = unknown.
        caption_codes: (M, G) attributes that the captions state, see `reflected`.
        cells: scores held in memory at once; changes the memory, never the answers.

    Raises:
        ValueError: shapes disagree, or embeddings are not finite or not of unit length.
    """
    shown, said = _unit(images, "image"), _unit(captions, "caption")
    _check(images, captions, own, codes, caption_codes)
    n, m = len(images), len(captions)
    nearest, rank, tied = np.zeros(n, np.int64), np.ones(n, np.int64), np.zeros(n, bool)
    cosine, ahead = cosines(shown, said, np.arange(n), own), np.zeros(m, np.int64)
    best_own = np.full(m, -np.inf)
    np.maximum.at(best_own, own, cosine)

    columns = slice(0, m)
    every_caption = said.fast(columns).T
    for part in slices(n, max(1, cells // max(m, 1))):
        scores = shown.fast(part) @ every_caption  # (n, M) float32
        block = Block(shown, said, part, columns, scores)
        nearest[part] = scores.argmax(1)
        for row, near in _ties(block):
            tied[part.start + row] = True
            nearest[part.start + row] = _worst(near, codes[part.start + row], caption_codes)
        mine = np.arange(len(scores))
        leave_out(scores, mine, own[part])  # from here on strangers only
        rank[part] += block.reach(mine, np.zeros_like(mine), cosine[part] - TIE)
        turned = Block(said, shown, columns, part, scores.T)
        ahead += turned.reach(np.arange(m), np.zeros(m, np.int64), best_own - TIE)
    hits = (codes != UNKNOWN) & (caption_codes[nearest] == codes)
    return Surfaced(nearest, tied, hits, cosine, rank, ahead + 1)


def _ties(block: Block) -> Iterator[tuple[int, Ints]]:
    """The rows with several nearest captions, and which these are.

    Rows in which float32 sees a rival are computed again in float64, which is certain but within `SURE` of the bar;
    rows with a rival there, once more by `cosines`, whose bits do not depend on the block.
    """
    near = block.scores >= block.scores.max(1, keepdims=True) - (TIE + 3 * BAND)
    rows = np.flatnonzero(near.sum(1) > 1)
    if not len(rows):
        return
    over = block.queries.exact(rows + block.rows.start) @ block.items.exact(block.cols).T  # (r, M)
    over -= over.max(1, keepdims=True) - TIE
    for row, by in zip(rows, over, strict=True):
        close = np.flatnonzero(by >= 0)
        if (np.abs(by) < SURE).any():
            rivals = np.flatnonzero(near[row])
            found = cosines(block.queries, block.items, np.full(len(rivals), block.rows.start + row), rivals)
            close = rivals[found >= found.max() - TIE]
        if len(close) > 1:
            yield int(row), close


def reflected(own: Ints, codes: Ints, n_captions: int) -> Ints:
    """The attributes a caption states: in each group the commonest known value of the pictures that bear it.

    A caption written from the attributes has one value per group. Where a template writes two values alike, the
    commonest stands for it, the lowest code of equally common ones.

    Returns: (n_captions, G), -1 where no picture knows the group.
    """
    stated = np.full((n_captions, codes.shape[1]), UNKNOWN, np.int64)
    for group in range(codes.shape[1]):
        known = codes[:, group] != UNKNOWN
        pairs, counts = np.unique(np.stack([own[known], codes[known, group]], 1), axis=0, return_counts=True)
        pairs = pairs[np.lexsort((-pairs[:, 1], counts))]  # the last assignment wins: the commonest, lowest code
        stated[pairs[:, 0], group] = pairs[:, 1]
    return stated


def attribute_accuracy(hits: NDArray[Any], codes: Ints) -> dict[str, Any]:
    """Attribute SFA: `micro` over all known attributes, `groups` (G,), `macro` = mean of the groups known at all.

    Args:
        hits: (N, G) agreement, 0 … 1, 0 where unknown.
        codes: (N, G), -1 = unknown.

    Returns: nan where nothing is known.
    """
    known = codes != UNKNOWN
    groups = share(hits.sum(0), known.sum(0))
    return {"micro": float(share(hits.sum(), known.sum())), "macro": known_mean(groups), "groups": groups}


def recall_at(rank: Ints, k: int) -> float:
    """Share of ranks up to k; nan when there are none."""
    return float(share((rank <= k).sum(), len(rank)))


def _unit(vectors: Floats, name: str) -> UnitRows:
    rows = unit_rows(vectors, name)
    if not np.allclose(rows.norm, 1, atol=1e-3):
        raise ValueError(f"expected {name} embeddings of unit length; normalise them")
    return rows


def _check(images: Floats, captions: Floats, own: Ints, codes: Ints, caption_codes: Ints) -> None:
    if len(own) != len(images) or len(codes) != len(images) or len(caption_codes) != len(captions):
        raise ValueError(
            f"expected one row per picture and per caption, got {len(images)} pictures, {len(own)} own captions, "
            f"{len(codes)} attribute rows; {len(captions)} captions, {len(caption_codes)} attribute rows"
        )
    if len(own) and (own.min() < 0 or own.max() >= len(captions)):
        raise ValueError(f"expected own captions in 0 … {len(captions) - 1}, got {own.min()} … {own.max()}")


def _worst(tied: Ints, codes: Ints, caption_codes: Ints) -> int:
    """Of the tied captions the one that agrees with the fewest known attributes."""
    agree = ((caption_codes[tied] == codes) & (codes != UNKNOWN)).sum(1)
    return int(tied[agree.argmin()])
