"""Why an answer: which part of the question brought it up, and which of its attributes the question asked for.

    why = explain(answer.attributes, wishes, contributions)
    print(why)      # 64 % “in red”, 36 % photo.jpg; baseColour Red (“in red”), articleType Shirts (photo.jpg)

A part's share is what it adds to this answer's score beyond what it adds to the catalogue's usual picture; what it adds
below that counts nothing. An attribute is named when words name its value, or when the items and pictures asked with
have it: for a picture, when most of the products nearest to it do.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fclip.queries.fusion import Floats

NEIGHBOURS = 10  # products that tell what a picture shows
MOST = 0.6  # of them


@dataclass(frozen=True)
class Share:
    """A part of the question ("text", "image" or "item"), its name, and its share in the score, 0 … 1."""

    kind: str
    name: str
    share: float


@dataclass(frozen=True)
class Reason:
    """An attribute of the answer that parts of the question ask for."""

    group: str
    value: str
    asked_by: tuple[str, ...]


@dataclass(frozen=True)
class Explanation:
    """Why an answer was found.

    Attributes:
        shares: of the parts; they sum to 1, or are all 0 where nothing is above what is usual.
        reasons: attributes that were asked for.
        penalty: what it paid for being like an avoided phrase, in standard deviations of the score.
    """

    shares: tuple[Share, ...]
    reasons: tuple[Reason, ...] = ()
    penalty: float = 0.0

    def __str__(self) -> str:
        parts = ", ".join(f"{part.share:.0%} {part.name}".replace("%", " %", 1) for part in self.shares)
        named = ", ".join(f"{r.group} {r.value} ({', '.join(r.asked_by)})" for r in self.reasons)
        paid = f"lost {self.penalty:.1f} deviations for what to avoid" if self.penalty > 0 else ""
        return "; ".join(filter(None, (parts, named, paid)))


@dataclass(frozen=True)
class Wish:
    """A part of the question, and what it asks for: its words, or the attributes of the pictures it stands for."""

    kind: str
    name: str
    words: str = ""
    attributes: Sequence[Mapping[str, Any]] = ()


def explain(
    attributes: Mapping[str, Any], wishes: Sequence[Wish], contributions: Floats, penalty: float = 0.0
) -> Explanation:
    """Why a candidate was found.

    Args:
        attributes: of the candidate, group → value or values.
        wishes: the parts of the question, then what else moved it (what was liked).
        contributions: (P,) of the first P wishes to the candidate's score.
        penalty: what it paid.
    """
    above = np.maximum(contributions, 0)
    total = float(above.sum())
    shares = [
        Share(wish.kind, wish.name, float(part) / total if total > 0 else 0.0)
        for wish, part in zip(wishes, above, strict=False)
    ]
    reasons = []
    for group, found in attributes.items():
        for value in found if isinstance(found, (list, tuple)) else [found]:
            asked_by = tuple(wish.name for wish in wishes if asks_for(wish, group, str(value)))
            reasons += [Reason(group, str(value), asked_by)] if asked_by else []
    return Explanation(tuple(shares), tuple(reasons), penalty)


def asks_for(wish: Wish, group: str, value: str) -> bool:
    """Whether words name a value, or most of the pictures have it."""
    if wish.kind == "text":
        return names(wish.words, value)
    counts = Counter(v for attributes in wish.attributes for v in set(_values(attributes.get(group))))
    return bool(wish.attributes) and counts[value] >= MOST * len(wish.attributes)


def names(words: str, value: str) -> bool:
    """Whether a value stands in a text: its words one after the other, singular or plural, in any case."""
    text, wanted = _stems(words), _stems(value)
    return bool(wanted) and any(text[i : i + len(wanted)] == wanted for i in range(len(text)))


def _values(value: Any) -> list[str]:
    return [str(v) for v in (value if isinstance(value, (list, tuple)) else [value]) if v]


def _stems(text: str) -> list[str]:
    """Words in lower case without a possessive or plural ending, roughly: dresses → dress, women's → women."""
    words = re.findall(r"[^\W_]+", re.sub(r"['’]s\b|s['’](?=\s|$)", "", text.casefold()))
    return [re.sub(r"(?<=ss|sh|ch|.x)es$|(?<=[^s\W]{2})s$", "", word) for word in words]
