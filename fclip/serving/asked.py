"""What somebody asks the page, as an address that can be shared, and back.

    asked = Asked.read([("q", "red dress"), ("f.gender", "Women"), ("max.price", "50"), ("liked", "1163")])
    asked.address()     # /?q=red+dress&liked=1163&f.gender=Women&max.price=50
    asked.question()    # {"texts": ["red dress"], "where": {"gender": ["Women"], "price": {"max": 50.0}}, …}

Buttons send a pair of their own after everything else: the last verdict on a picture counts, and `forget`, `drop` and
`clear` take something back. They leave no trace in the address.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import urlencode

from fclip.errors import UserError
from fclip.serving.schemas import MAX_TEXT
from fclip.store.filters import NUMBER

SHOWN, MOST_SHOWN = 12, 96  # products, at first and after "show more"
VARIED = 0.4  # diversity, when somebody asks for different ones
PHRASES = 8  # to avoid
Pairs = Iterable[tuple[str, str]]


@dataclass(frozen=True)
class Asked:
    """All of a question but its photographs, as it was typed.

    Attributes:
        words, avoid: the two text boxes; phrases to avoid stand between commas.
        items: ids of pictures to search like.
        verdicts: id → whether it is liked.
        chosen: group → values, any of which will do.
        ends: group → lowest and highest, either may be empty.
        varied: products unlike each other.
        k: number of products.
    """

    words: str = ""
    avoid: str = ""
    items: tuple[str, ...] = ()
    verdicts: Mapping[str, bool] = field(default_factory=dict)
    chosen: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    ends: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    varied: bool = False
    k: int = SHOWN

    @classmethod
    def read(cls, pairs: Pairs) -> Asked:
        """From the pairs of an address or a form; unknown and empty ones are passed over."""
        asked = cls()
        for name, value in pairs:
            if value.strip():
                asked = asked._with(name, value)
        return asked

    def _with(self, name: str, value: str) -> Asked:
        if name == "q":
            return replace(self, words=value.strip())
        if name == "avoid":
            return replace(self, avoid=value.strip())
        if name == "item":
            return replace(self, items=_added(self.items, value))
        if name in ("liked", "disliked"):
            return replace(self, verdicts=_without(self.verdicts, value) | {value: name == "liked"})
        if name == "varied":
            return replace(self, varied=True)
        if name == "k" and value.isascii() and value.isdigit() and len(value) < 9:
            return replace(self, k=min(max(int(value), SHOWN), MOST_SHOWN))
        if name == "clear":
            return replace(self, chosen={}, ends={})
        if name == "drop":
            return replace(self, chosen=_without(self.chosen, value), ends=_without(self.ends, value))
        if name == "forget":
            items = tuple(item for item in self.items if item != value)
            return replace(self, items=items, verdicts=_without(self.verdicts, value))
        return self._filtered(*name.partition(".")[::2], value)

    def _filtered(self, kind: str, group: str, value: str) -> Asked:
        if kind == "f" and group:
            return replace(self, chosen={**self.chosen, group: _added(self.chosen.get(group, ()), value)})
        if kind in ("min", "max") and group:
            value, (low, high) = value.strip(), self.ends.get(group, ("", ""))
            return replace(self, ends={**self.ends, group: (value, high) if kind == "min" else (low, value)})
        return self

    def pairs(self) -> Iterator[tuple[str, str]]:
        """Of the address, in its own order."""
        yield from ((name, value) for name, value in (("q", self.words), ("avoid", self.avoid)) if value)
        yield from (("item", item) for item in self.items)
        yield from (("liked" if liked else "disliked", item) for item, liked in self.verdicts.items())
        yield from ((f"f.{group}", value) for group, values in self.chosen.items() for value in values)
        for group, both in self.ends.items():
            yield from ((f"{kind}.{group}", end) for kind, end in zip(("min", "max"), both, strict=True) if end)
        yield from [("varied", "1")] * self.varied
        yield from [("k", str(self.k))] * (self.k != SHOWN)

    def address(self) -> str:
        """The page with this question."""
        query = urlencode(list(self.pairs()))
        return f"/?{query}" if query else "/"

    def like(self, item: str) -> Asked:
        """The question for more of the kind of one picture, within the same filters."""
        return Asked(items=(item,), avoid=self.avoid, chosen=self.chosen, ends=self.ends, varied=self.varied)

    def without_ids(self, gone: set[str]) -> Asked:
        """Without pictures that the index no longer has."""
        items = tuple(item for item in self.items if item not in gone)
        return replace(self, items=items, verdicts={i: liked for i, liked in self.verdicts.items() if i not in gone})

    @property
    def liked(self) -> list[str]:
        return [item for item, liked in self.verdicts.items() if liked]

    @property
    def disliked(self) -> list[str]:
        return [item for item, liked in self.verdicts.items() if not liked]

    @property
    def looks_for_something(self) -> bool:
        """Whether there is something to search with, photographs aside."""
        return bool(self.words or self.items or self.liked)

    def where(self) -> dict[str, Any]:
        """The filters.

        Raises:
            UserError: an end of a range that is no number.
        """
        ranges = {group: _range(group, *both) for group, both in self.ends.items()}
        return {group: list(values) for group, values in self.chosen.items()} | ranges

    def question(self) -> dict[str, Any]:
        """What `fclip.serving.schemas.Question` is made of.

        Raises:
            UserError: words that are too long, or an end of a range that is no number.
        """
        for name, text in (("what you look for", self.words), ("what to avoid", self.avoid)):
            if len(text) > MAX_TEXT:
                raise UserError(
                    f"expected at most {MAX_TEXT:,} characters for {name}, got {len(text):,}; keep the best"
                )
        avoid = [phrase.strip() for phrase in self.avoid.split(",") if phrase.strip()]
        if len(avoid) > PHRASES:
            raise UserError(f"expected at most {PHRASES} things to avoid, got {len(avoid)}; keep the worst")
        return {
            "texts": [self.words] if self.words else [],
            "items": list(self.items),
            "avoid": avoid,
            "liked": self.liked,
            "disliked": self.disliked,
            "where": self.where() or None,
            "diversity": VARIED if self.varied else 0.0,
            "k": self.k,
        }


def _added(values: tuple[str, ...], value: str) -> tuple[str, ...]:
    return values if value in values else (*values, value)


def _without(mapping: Mapping[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in mapping.items() if name != key}


def _range(group: str, low: str, high: str) -> dict[str, float]:
    ends = {}
    for name, text in (("min", low), ("max", high)):
        if text:
            number = text.replace(",", ".")
            if not NUMBER.fullmatch(number):
                raise UserError(f"expected a number for {group}, got {text[:30]!r}; write it like 19.90")
            ends[name] = float(number)
    if len(ends) == 2 and ends["min"] > ends["max"]:
        raise UserError(f"expected {group} from a smaller to a larger number, got {low} to {high}; swap them")
    return ends
