"""A product as the page shows it: a name, a few facts, a picture of known size, and why it is there."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fclip.queries.colours import GROUP as MEASURED
from fclip.serving.api import thumbnail_address
from fclip.serving.asked import Asked
from fclip.serving.panel import label, ordered

if TYPE_CHECKING:
    from fclip.index import Answer
    from fclip.queries.explanation import Explanation

FACTS = 3  # under the name; the others where somebody asks why
TALL = 1.15  # times as high as wide: frames are 3 wide and 4 high
USUAL_SIZE = (192, 256)  # where a thumbnail does not tell


@dataclass(frozen=True)
class Why:
    """An explanation for people.

    Attributes:
        shares: parts of the question and their percentage, where there are several.
        reasons: label, value, and who asked for it.
        paid: whether it was moved down for what to avoid.
    """

    shares: tuple[tuple[str, int], ...]
    reasons: tuple[tuple[str, str, str], ...]
    paid: bool


@dataclass(frozen=True)
class Card:
    """A product on the page.

    Attributes:
        id, name: of the picture.
        facts: values under the name, in one line.
        details: label → values, all that is known.
        thumbnail, size: its address, and width and height in pixels, so that nothing moves while it loads.
        more: address of products like it.
        liked: whether it is.
        why: where the question says something.
    """

    id: str
    name: str
    facts: str
    details: Mapping[str, str]
    thumbnail: str
    size: tuple[int, int]
    more: str
    liked: bool
    why: Why | None


def card_of(answer: Answer, asked: Asked, names: Mapping[str, str]) -> Card:
    """A product.

    Args:
        answer: as it was found.
        asked: the question.
        names: id → name, of pictures that are part of the question.
    """
    why = None if answer.why is None else why_of(answer.why, names)
    return Card(
        *(answer.id, name_of(answer), facts_of(answer), _details(answer)),
        *(thumbnail_address(answer.id), size_of(answer.thumbnail), asked.like(answer.id).address()),
        *(asked.verdicts.get(answer.id, False), why),
    )


def name_of(answer: Answer) -> str:
    """The title; a catalogue without titles has facts, or at least ids."""
    return answer.title or facts_of(answer) or answer.item


def facts_of(answer: Answer) -> str:
    """The first values, as "Women · Red · Dresses"; numbers say what they are. One colour is enough."""
    stated = [group for group in answer.attributes if group != MEASURED]
    groups = stated if any("colo" in group.casefold() for group in stated) else list(answer.attributes)
    values = [_fact(group, answer.attributes[group]) for group in ordered(groups)]
    return " · ".join(values[:FACTS])


def _fact(group: str, value: object) -> str:
    text = _text(value)
    return f"{label(group)} {text}" if text.replace(".", "", 1).isdigit() else text


def are_square(cards: Sequence[Card]) -> bool:
    """Whether most of the pictures would leave much of a tall frame empty."""
    return sum(card.size[1] < TALL * card.size[0] for card in cards) > len(cards) / 2


def _details(answer: Answer) -> dict[str, str]:
    return {label(group): _text(answer.attributes[group]) for group in ordered(list(answer.attributes))}


def _text(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def why_of(why: Explanation, names: Mapping[str, str]) -> Why:
    """An explanation, with names in place of ids."""
    shares = tuple((names.get(part.name, part.name), round(100 * part.share)) for part in why.shares)
    reasons = tuple(
        (label(reason.group), reason.value, " and ".join(names.get(part, part) for part in reason.asked_by))
        for reason in why.reasons
    )
    return Why(shares if len(shares) > 1 and any(share for _, share in shares) else (), reasons, why.penalty > 0.05)


def size_of(thumbnail: bytes) -> tuple[int, int]:
    """Width and height, from the head of the file."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(thumbnail), formats=("JPEG",)) as picture:
            return picture.size
    except OSError:
        return USUAL_SIZE
