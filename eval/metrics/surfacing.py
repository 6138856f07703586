"""Surfacing accuracy: does the caption nearest to a picture say what the picture shows?

The definitions are those of section 6.1 of the paper behind this toolkit. The candidates are the *unique* captions of
the evaluated pictures.

    text SFA       share of pictures whose nearest caption is their own
    attribute SFA  share of a picture's known attributes that the nearest caption states too

Ties are settled against the model. Two cosines closer than `TIE` are equal: float32 dot products of equal vectors
differ by about 1e-7 with their place in the matrix, and a collapsed model must score 0 instead of winning by rounding.
So the own caption counts only when it is strictly nearer than every other, and of several nearest captions the one
that agrees with the fewest attributes is taken.

Attributes are integer codes: `codes[i, g]` is the value of group g of picture i, -1 = unknown. A group with several
values at once is one value, the sorted tuple of them: it agrees as a whole or not at all.

No pictures: every array is empty and every share is nan, never 0.

    >>> shown = surface(images, captions, own, codes, caption_codes)
    >>> shown.correct.mean(), attribute_accuracy(shown.hits, codes)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eval.metrics.means import known_mean, share
from eval.metrics.search import TIE

Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.integer[Any]]
Flags = NDArray[np.bool_]

UNKNOWN = -1


@dataclass(frozen=True)
class Surfaced:
    """What surfaced for N pictures among M captions, G attribute groups."""

    nearest: Ints  # (N,) the nearest caption, of tied ones that with the fewest agreeing attributes
    tied: Flags  # (N,) several captions were nearest
    hits: Flags  # (N, G) the attribute is known and the nearest caption agrees
    cosine: Floats  # (N,) of the picture and its own caption
    rank: Ints  # (N,) of the own caption among all, from 1, behind those tied with it
    caption_rank: Ints  # (M,) of the best own picture among all others' pictures, from 1, behind those tied with it

    @property
    def correct(self) -> Flags:
        """(N,) the own caption is strictly nearer than every other."""
        return self.rank == 1


def surface(
    images: Floats, captions: Floats, own: Ints, codes: Ints, caption_codes: Ints, cells: int = 1 << 24
) -> Surfaced:
    """Looks for the nearest caption of every picture.

    Args:
        images: (N, D) unit rows.
        captions: (M, D) unit rows, one per unique caption.
        own: (N,) the caption of each picture, 0 … M-1; a caption without a picture gets caption_rank N+1.
        codes: (N, G) attributes of the pictures, -1 = unknown.
        caption_codes: (M, G) attributes that the captions state, see `reflected`.
        cells: scores held in memory at once; all N x M never are.

    Raises:
        ValueError: shapes disagree, or embeddings are not finite or not of unit length.
    """
    images, captions = _unit(images, "image"), _unit(captions, "caption")
    _check(images, captions, own, codes, caption_codes)
    n, m = len(images), len(captions)
    nearest, rank, tied = np.zeros(n, np.int64), np.zeros(n, np.int64), np.zeros(n, bool)
    cosine, ahead = paired_cosine(images, captions, own), np.zeros(m, np.int64)
    best_own = np.full(m, -np.inf, np.float32)
    np.maximum.at(best_own, own, cosine)

    step = max(1, cells // max(m, 1))
    for start in range(0, n, step):
        part = slice(start, start + step)
        scores = images[part] @ captions.T  # (step, M) float32
        near = scores >= scores.max(1, keepdims=True) - TIE
        nearest[part], tied[part] = scores.argmax(1), near.sum(1) > 1
        for row in np.flatnonzero(tied[part]):
            nearest[start + row] = _worst(near[row], codes[start + row], caption_codes)
        rank[part] = _rank(scores, own[part])
        ahead += _strangers_ahead(scores, own[part], best_own)
    hits = (codes != UNKNOWN) & (caption_codes[nearest] == codes)
    return Surfaced(nearest, tied, hits, cosine, rank, ahead + 1)


def paired_cosine(images: Floats, captions: Floats, own: Ints, step: int = 1 << 14) -> Floats:
    """(N,) cosine of each picture with its own caption, in float32."""
    parts = [
        np.einsum("nd,nd->n", images[i : i + step], captions[own[i : i + step]]) for i in range(0, len(images), step)
    ]
    return np.concatenate(parts) if parts else np.zeros(0, np.float32)


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


def _unit(vectors: Floats, name: str) -> Floats:
    vectors = np.asarray(vectors, np.float32)
    if not np.isfinite(vectors).all():
        raise ValueError(f"expected finite {name} embeddings, got nan or infinity; the model has diverged")
    if len(vectors) and not np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-3):
        raise ValueError(f"expected {name} embeddings of unit length; normalise them")
    return vectors


def _check(images: Floats, captions: Floats, own: Ints, codes: Ints, caption_codes: Ints) -> None:
    if len(own) != len(images) or len(codes) != len(images) or len(caption_codes) != len(captions):
        raise ValueError(
            f"expected one row per picture and per caption, got {len(images)} pictures, {len(own)} own captions, "
            f"{len(codes)} attribute rows; {len(captions)} captions, {len(caption_codes)} attribute rows"
        )
    if len(own) and (own.min() < 0 or own.max() >= len(captions)):
        raise ValueError(f"expected own captions in 0 … {len(captions) - 1}, got {own.min()} … {own.max()}")


def _rank(scores: Floats, own: Ints) -> Ints:
    """(n,) rank of the own caption; the own one is among those counted, so this starts at 1."""
    mine = scores[np.arange(len(own)), own]
    return (scores >= mine[:, None] - TIE).sum(1)


def _strangers_ahead(scores: Floats, own: Ints, best_own: Floats) -> Ints:
    """(M,) how many of these pictures lie as near to a caption as its best own picture, without being its own."""
    near = scores >= best_own - TIE
    mine = near[np.arange(len(own)), own]
    return near.sum(0) - np.bincount(own[mine], minlength=len(best_own))


def _worst(near: Flags, codes: Ints, caption_codes: Ints) -> int:
    """Of the tied captions the one that agrees with the fewest known attributes."""
    tied = np.flatnonzero(near)
    agree = ((caption_codes[tied] == codes) & (codes != UNKNOWN)).sum(1)
    return int(tied[agree.argmin()])
