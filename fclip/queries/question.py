"""A question to an index: all that an answer depends on but the catalogue, and what it becomes once encoded."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from pathlib import Path
from typing import TYPE_CHECKING

from fclip.errors import UserError, nearest, shown
from fclip.images import Source, is_source
from fclip.queries.defaults import DEFAULT_FUSION, TEXT_SHARE
from fclip.queries.fusion import KINDS, Floats, check_fusion

if TYPE_CHECKING:
    from fclip.index import Where
    from fclip.tokenizer import Tokenizer

MOST_WEIGHT = 1e6  # as good as leaving all else out
WORDS = 10  # that a note names
WORDY = ("texts", "items", "avoid", "liked", "disliked")  # what a question has in strings
CELL = 'name a file, or give {"bytes": …, "path": None} or a picture of Pillow'


@dataclass(frozen=True)
class Query:
    """A question; everything that it depends on but the catalogue.

    Raises:
        UserError: nothing to look for, an empty text, a value of another type, or a number, fusion or kind of weight
            that does not exist.
    """

    texts: Sequence[str] = ()  # what is looked for, in words
    images: Sequence[Source] = ()  # and in photographs: paths or catalogue cells
    items: Sequence[str] = ()  # and by pictures of the index, by id; their products are not among the answers
    avoid: Sequence[str] = ()  # what should not be there, said positively: "stripes"
    liked: Sequence[str] = ()  # ids; alone they are looked for
    disliked: Sequence[str] = ()  # ids; their products are not among the answers
    where: Where | None = None  # filters, see `Index.search`
    k: int = 4  # products
    weights: Mapping[str, float] | None = None  # "text", "image", "item" → times as much as usual; 0 leaves it out
    fusion: str = DEFAULT_FUSION  # a key of `fclip.queries.fusion.FUSIONS`
    diversity: float = 0.0  # 0: by score alone, 1: as unlike each other as the candidates are
    explain: bool = False  # answers tell why

    def __post_init__(self) -> None:
        for name in (*WORDY, "images"):
            given = getattr(self, name)
            several = isinstance(given, Iterable) and not isinstance(given, (str, bytes, Path, Mapping))
            object.__setattr__(self, name, tuple(given) if several else (given,))
        self._check_types()
        if not (self.texts or self.images or self.items or self.liked):
            instead = "only what to avoid" if self.avoid or self.disliked else "nothing"
            raise UserError(f"expected a text, a picture, an item or a like to search with, got {instead}")
        if not all(text.strip() for text in (*self.texts, *self.avoid)):
            raise UserError("expected words, got an empty text")
        if self.k < 1:
            raise UserError(f"expected at least 1 answer, got k={self.k}")
        if not 0 <= self.diversity <= 1:
            raise UserError(f"diversity should lie between 0 and 1, got {self.diversity:g}")
        check_fusion(self.fusion)
        self._check_weights()

    def _check_types(self) -> None:
        for name in WORDY:
            for value in getattr(self, name):
                _check(isinstance(value, str), f"strings for {name}", value)
        for value in self.images:
            _check(is_source(value), "paths or catalogue cells for images", value, CELL)
        _check(_is_number(self.k, Integral), "a whole number for k", self.k, "e.g. k=4")
        _check(_is_number(self.diversity), "a number for diversity", self.diversity, "from 0 to 1")
        _check(isinstance(self.fusion, str), "a name for fusion", self.fusion, nearest("", TEXT_SHARE))
        for name, example in (("where", '{"colour": "red"}'), ("weights", '{"text": 2}')):
            given = getattr(self, name)
            _check(given is None or isinstance(given, Mapping), f"a mapping for {name}", given, f"e.g. {example}")
        for group in self.where or {}:
            _check(isinstance(group, str), "strings as groups of where", group)

    def _check_weights(self) -> None:
        for kind, weight in (self.weights or {}).items():
            if kind not in KINDS:
                raise UserError(f"no weight of {shown(kind)}; {nearest(str(kind), KINDS)}")
            _check(_is_number(weight), f"a number as weight of {kind}", weight, "e.g. 2 to count twice as much")
            if not 0 <= weight <= MOST_WEIGHT:
                raise UserError(
                    f"expected a weight of 0 or more for {kind}, up to {MOST_WEIGHT:g}, got {shown(weight)}"
                )
        if not any(self.weight(kind) for kind in self.kinds()):
            raise UserError("all that is asked with has weight 0; leave out a weight")

    def kinds(self) -> tuple[str, ...]:
        """The kind of each part: texts, then images, then items."""
        counts = len(self.texts), len(self.images), len(self.asked_items())
        return tuple(kind for kind, count in zip(KINDS, counts, strict=True) for _ in range(count))

    def asked_items(self) -> Sequence[str]:
        """The items that are looked for: the likes when there is nothing else."""
        return self.items if self.texts or self.images or self.items else self.liked

    def weight(self, kind: str) -> float:
        """The share of a kind: that of words or pictures as tuned, times what was asked for."""
        found, share = set(self.kinds()), TEXT_SHARE[self.fusion]
        usual = share if kind == "text" else (1 - share) / max(1, len(found - {"text"}))
        return usual * (self.weights or {}).get(kind, 1)


@dataclass(frozen=True)
class EncodedQuery:
    """A question and the unit vectors of its words and photographs (T, D), (I, D), (A, D): no model is needed now."""

    query: Query
    texts: Floats
    images: Floats
    avoid: Floats


def _check(fits: bool, expected: str, got: object, instead: str = "") -> None:
    """Raises UserError where a value is of another type."""
    if not fits:
        raise UserError(f"expected {expected}, got {shown(got)}{f'; {instead}' if instead else ''}")


def _is_number(value: object, kind: type = Real) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)


def text_notes(tokenizer: Tokenizer, texts: Sequence[str]) -> list[str]:
    """What a person should know about these texts: words that the model never saw, words beyond what it reads."""
    unknown = list(dict.fromkeys(word for words in texts for word in tokenizer.unknown_words(words)))
    more = f" and {len(unknown) - WORDS:,} more words" if len(unknown) > WORDS else ""
    named = ", ".join(map(_shortened, unknown[:WORDS]))
    notes = [f"the model never saw {named}{more} in training"] if unknown else []
    for text in texts:
        if tokenizer.is_truncated(text):
            notes.append(f"only the first {tokenizer.context_length - 2} tokens of “{_shortened(text)}” are read")
    return notes


def _shortened(text: str, length: int = 40) -> str:
    return text if len(text) <= length else f"{text[:length]}…"
