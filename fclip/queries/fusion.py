"""Several texts and pictures as one score for each candidate.

    fused = fuse("late", parts, candidates.vectors, background)
    best = np.argsort(-fused.scores)

    mean   each kind (text, image, item) averaged and brought to unit length, then their weighted mean; cosine to it
    slerp  the same, but words and pictures are mixed along the great circle between them
    late   each part is scored on its own: its cosine (that of a picture without the catalogue's mean), in standard
           deviations of the catalogue from what is usual there; then the weighted mean of these scores
    rrf    weighted reciprocal ranks: the sum of weight / (60 + rank of the candidate for the part)

`late` puts words and pictures on one scale. Cosines to a text and to a picture are not: they have other means and
spreads (the modality gap), and a mixture of vectors follows whatever spreads wider. Without the catalogue's mean a
picture asks for what is its own, not for being a picture of the catalogue. In all but rrf the score is a straight line
in the candidate's vector, so the nearest neighbours of one direction are exactly the best.

Sources: Shoemake, Animating rotation with quaternion curves, 1985, and Jang et al., Spherical linear interpolation and
text-anchoring for zero-shot composed image retrieval, 2024 (slerp); Bruch, Gai & Ingber, An analysis of fusion
functions for hybrid retrieval, 2023 (convex combination of normalised scores); Cormack, Clarke & Büttcher, Reciprocal
rank fusion, 2009 (60).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fclip.errors import UserError, nearest

Floats = NDArray[np.floating[Any]]
KINDS = ("text", "image", "item")
RRF_OFFSET = 60


@dataclass(frozen=True)
class Background:
    """What the catalogue usually looks like.

    Attributes:
        mean: of its vectors (D,).
        sample: some of its vectors (M, D), unit.
    """

    mean: Floats
    sample: Floats

    def centre(self, vectors: Floats) -> Floats:
        """Unit vectors (N, D) without the catalogue's mean, at unit length again."""
        return units(vectors - self.mean)

    def spread(self, vectors: Floats) -> tuple[Floats, Floats]:
        """Mean and standard deviation of the cosines of each vector (P, D) to the sample, each (P,)."""
        cosines = vectors @ self.sample.T
        return cosines.mean(1), deviations(cosines)


@dataclass(frozen=True)
class Parts:
    """The texts and pictures of a question.

    Attributes:
        vectors: unit (P, D).
        kinds: of each part: "text", "image" or "item".
        weights: kind → share of all its parts together; relative, at least one above 0.
    """

    vectors: Floats
    kinds: Sequence[str]
    weights: Mapping[str, float]

    def shares(self) -> Floats:
        """The weight of each part (P,): that of its kind, divided among the parts of the kind; they sum to 1."""
        found = np.array([self.weights[kind] / self.kinds.count(kind) for kind in self.kinds])
        return found / found.sum()

    def counted(self) -> Parts:
        """Those that have weight."""
        kept = [place for place, kind in enumerate(self.kinds) if self.weights[kind] > 0]
        return Parts(self.vectors[kept], tuple(self.kinds[place] for place in kept), self.weights)


@dataclass(frozen=True)
class Fused:
    """What the candidates score.

    Attributes:
        scores: (N,), higher is better.
        contributions: (P, N) what each part adds to a score beyond what it adds to the catalogue's usual picture.
        deviation: standard deviation of the score over the catalogue; over the candidates for rrf.
    """

    scores: Floats
    contributions: Floats
    deviation: float


def fuse(name: str, parts: Parts, vectors: Floats, background: Background) -> Fused:
    """Scores candidates.

    Args:
        name: a key of FUSIONS. A question of one part is that part's cosine in all of them.
        parts: what is asked.
        vectors: of the candidates (N, D), unit.
        background: of the catalogue.

    Raises:
        UserError: no such fusion.
    """
    check_fusion(name)
    places = [place for place, kind in enumerate(parts.kinds) if parts.weights[kind] > 0]
    counted = parts.counted()
    found = FUSIONS[name if len(places) > 1 else "mean"](counted, vectors, background)
    contributions = np.zeros((len(parts.kinds), len(vectors)), found.contributions.dtype)
    contributions[places] = found.contributions
    return Fused(found.scores, contributions, found.deviation)


def check_fusion(name: str) -> None:
    """Raises UserError when there is no such fusion."""
    if name not in FUSIONS:
        raise UserError(f"no fusion {name!r}; {nearest(name, FUSIONS)}")


def directions(name: str, parts: Parts, background: Background) -> Floats:
    """Unit vectors (S, D) whose neighbours hold the best candidates: one, or one for each part for rrf."""
    counted = parts.counted()
    if name == "rrf":
        return counted.vectors
    if name == "late" and len(counted.kinds) > 1:
        asked = _centred_parts(counted, background)
        return units(((counted.shares() / background.spread(asked)[1]) @ asked)[None])
    mix = _slerp_factors if name == "slerp" else _mean_factors
    return units((mix(counted) @ counted.vectors)[None])


def units(vectors: Floats) -> Floats:
    """Rows (N, D) of unit length; a row of zeros stays."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)


def deviations(scores: Floats) -> Floats:
    """(P,) standard deviations of the rows; 1 where all scores of a row are the same, which then count nothing."""
    found = scores.std(1)
    return np.where(found > 1e-6, found, 1)


def _mean(parts: Parts, vectors: Floats, background: Background) -> Fused:
    return _along(_mean_factors(parts), parts, vectors, background)


def _slerp(parts: Parts, vectors: Floats, background: Background) -> Fused:
    return _along(_slerp_factors(parts), parts, vectors, background)


def _along(factors: Floats, parts: Parts, vectors: Floats, background: Background) -> Fused:
    """Cosine to the sum of the parts times these factors (P,)."""
    weighted = parts.vectors * (factors / np.linalg.norm(factors @ parts.vectors))[:, None]
    cosines = weighted @ vectors.T
    deviation = background.spread(weighted.sum(0, keepdims=True))[1]
    return Fused(cosines.sum(0), cosines - weighted @ background.sample.mean(0)[:, None], float(deviation[0]))


def _mean_factors(parts: Parts) -> Floats:
    """(P,) each kind's mean at unit length times its weight."""
    factors = np.zeros(len(parts.kinds))
    for kind in dict.fromkeys(parts.kinds):
        own = np.array([k == kind for k in parts.kinds])
        length = np.linalg.norm(parts.vectors[own].mean(0))
        factors[own] = parts.weights[kind] / own.sum() / max(float(length), 1e-12)
    return factors


def _slerp_factors(parts: Parts) -> Floats:
    """(P,) words at unit length and pictures at unit length, mixed along the great circle between them."""
    factors, words = _mean_factors(parts), np.array([kind == "text" for kind in parts.kinds])
    if words.all() or not words.any():
        return factors
    pictures = sum(parts.weights[kind] for kind in {*parts.kinds} - {"text"})
    sides = [factors * own for own in (words, ~words)]
    sides = [side / max(float(np.linalg.norm(side @ parts.vectors)), 1e-12) for side in sides]
    angle = np.arccos(np.clip(np.dot(*(side @ parts.vectors for side in sides)), -1, 1))
    share = parts.weights["text"] / (parts.weights["text"] + pictures)
    if np.sin(angle) < 1e-4:  # the same direction, or no way that is shortest
        return share * sides[0] + (1 - share) * sides[1]
    return (np.sin(share * angle) * sides[0] + np.sin((1 - share) * angle) * sides[1]) / np.sin(angle)


def _late(parts: Parts, vectors: Floats, background: Background) -> Fused:
    asked = _centred_parts(parts, background)
    usual, deviation = background.spread(asked)
    factors = parts.shares() / deviation
    contributions = factors[:, None] * (asked @ vectors.T - usual[:, None])
    spread = background.spread((factors @ asked)[None])[1]
    return Fused(contributions.sum(0), contributions, float(spread[0]))


def _centred_parts(parts: Parts, background: Background) -> Floats:
    """Pictures without the catalogue's mean; words as they are: that mean is of pictures, and words lie elsewhere."""
    words = np.array([kind == "text" for kind in parts.kinds])[:, None]
    return np.where(words, parts.vectors, background.centre(parts.vectors))


def _rrf(parts: Parts, vectors: Floats, background: Background) -> Fused:
    cosines = (parts.vectors @ vectors.T).round(6)  # the last digits hang on a row's place in the product
    ahead = np.stack([len(row) - np.searchsorted(np.sort(row), row, side="right") for row in cosines])
    contributions = parts.shares()[:, None] / (RRF_OFFSET + 1 + ahead)
    scores = contributions.sum(0)
    return Fused(scores, contributions, float(scores.std()))


FUSIONS: dict[str, Callable[[Parts, Floats, Background], Fused]] = {
    "mean": _mean,
    "slerp": _slerp,
    "late": _late,
    "rrf": _rrf,
}
