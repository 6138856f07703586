"""The filters of the page: the index's own attribute groups, their values and how many pictures have each.

    facets = facets_of(counts, everything, asked)       # counts: group → value → pictures among what fits the others

What people of a study missed comes first: the department, the colour, and when a style is from.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from fclip.queries.colours import OTHER_WORDS
from fclip.serving.asked import Asked

FIRST = ("gender", "department", "colo", "type", "categor", "size", "price", "season", "year", "usage")
"""Parts of the names of groups, in the order that the page shows them; other groups follow."""
OTHER_NAMES = {
    "navy blue": "navy",
    "mauve": "plum",
    "burgundy": "maroon",
    "mustard": "goldenrod",
    "charcoal": "dimgray",
}
"""Names of colours that a browser does not know → one that it does."""
LISTED = 40  # values with a box to tick
SUGGESTED = 300  # further values, offered while somebody types
Counts = Mapping[str, int]


@dataclass(frozen=True)
class Choice:
    """A value, the number of pictures that have it, and whether it is chosen."""

    value: str
    pictures: int
    chosen: bool


@dataclass(frozen=True)
class Facet:
    """A group that can be filtered on.

    Attributes:
        group, label: its name in the index and for people.
        choices: values, those that are chosen first, then the most frequent; none of a number.
        suggested: values beyond them.
        bounds: the smallest and the largest of a number; None of words.
        ends: what was typed for them.
    """

    group: str
    label: str
    choices: tuple[Choice, ...] = ()
    suggested: tuple[str, ...] = ()
    bounds: tuple[str, str] | None = None
    ends: tuple[str, str] = ("", "")

    @property
    def chosen(self) -> str:
        """What is filtered for, in words."""
        if any(self.ends):
            low, high = self.ends
            return f"{low} to {high}" if low and high else f"from {low}" if low else f"up to {high}"
        return ", ".join(choice.value for choice in self.choices if choice.chosen)


def label(group: str) -> str:
    """A group's name for people: baseColour → Base colour, product_type → Product type."""
    words = re.sub(r"(?<=[a-z])(?=[A-Z])|_+", " ", group).strip()
    return words[:1].upper() + (words[1:] if words.isupper() else words[1:].lower()) if words else group


def ordered(groups: list[str]) -> list[str]:
    """What people ask for most first, then as in the index."""

    def rank(group: str) -> int:
        return next((place for place, part in enumerate(FIRST) if part in group.casefold()), len(FIRST))

    return sorted(groups, key=rank)


def facets_of(
    counts: Mapping[str, Counts], whole: Mapping[str, Counts], numbers: set[str], asked: Asked
) -> list[Facet]:
    """The page's filters; groups that tell nothing apart are left out.

    Args:
        counts: group → value → pictures, among those that fit the filters on other groups.
        whole: the same of the whole index.
        numbers: the groups that are numbers.
        asked: what is chosen.
    """
    used = {*asked.chosen, *asked.ends}
    shown = [group for group in ordered(list(whole)) if len(whole[group]) > 1 or group in used]
    return [
        _numbers(group, whole[group], asked) if group in numbers else _values(group, counts.get(group, {}), asked)
        for group in shown
    ]


def _numbers(group: str, whole: Counts, asked: Asked) -> Facet:
    known = sorted(whole, key=float)
    bounds = (known[0], known[-1]) if known else ("", "")
    return Facet(group, label(group), bounds=bounds, ends=asked.ends.get(group, ("", "")))


def _values(group: str, counts: Counts, asked: Asked) -> Facet:
    chosen = asked.chosen.get(group, ())
    others = [value for value in sorted(counts, key=lambda v: (-counts[v], v)) if value not in chosen]
    free = max(0, LISTED - len(chosen))
    listed = [*chosen, *others[:free]]
    choices = tuple(Choice(value, counts.get(value, 0), value in chosen) for value in listed)
    return Facet(group, label(group), choices, tuple(others[free : free + SUGGESTED]))


def swatch(group: str, value: str) -> str | None:
    """The colour that a value names, as SVG writes it; None of other groups and of no one colour."""
    from PIL import ImageColor

    if "colo" not in group.casefold():
        return None
    name = value.casefold()
    last = re.split(r"[\s-]+", name)[-1] if name else ""
    alike = (name.replace(" ", ""), OTHER_NAMES.get(name), last, OTHER_WORDS.get(last))
    return next((one for one in alike if one in ImageColor.colormap), None)
