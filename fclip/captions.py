"""Captions from attributes: one small template language, and its augmentation for training.

    >>> caption = Captions("garment[ with [{pattern} pattern, ][{sleeve}, ][{neckline} neckline]]")
    >>> caption.render({"pattern": "solid", "sleeve": "long sleeve", "neckline": None})
    'garment with solid pattern, long sleeve'

`{group}` is the value, a list joined by "and"; `{group|possessive}` makes women's of Women. `[…]` is optional: it
disappears when an attribute named directly in it is unknown, or when it names none and all optional parts inside it
have disappeared.
Trailing commas and doubled spaces are tidied, everything is lower-case. A caption that states nothing is "".
The sentence for DeepFashion is that of Dress-UP, section 4.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from fclip.errors import UserError, nearest

Attributes = Mapping[str, "str | Sequence[str] | None"]
MOST_WRITTEN = 1 << 16  # captions kept

# name → (template, paraphrases). A paraphrase may leave groups out: short queries are what people type.
STYLES: dict[str, tuple[str, tuple[str, ...]]] = {
    "deepfashion": (
        "garment[ with [{pattern} pattern, ][{sleeve}, ][{length} length, ][{neckline} neckline, ]"
        "[{fabric} fabric, ][{fit} fit]]",
        (
            "[{fit} fit ][{pattern} ][{fabric} ]garment[, {sleeve}][, {neckline} neckline][, {length} length]",
            "[{pattern} ][{fabric} ]garment[ with [{neckline} neckline, ][{sleeve}]]",
        ),
    ),
    "drawn": (
        "[{colour} ]{category}[ with [{pattern} pattern, ][{sleeve}, ][{length} length, ][{neckline} neckline, ]"
        "[{fabric} fabric, ][{fit} fit]]",
        (
            "[{fit} ][{pattern} ][{colour} ][{fabric} ]{category}[, {sleeve}][, {neckline} neckline][, {length}]",
            "[{length} ][{colour} ][{pattern} ]{category}[ in {fabric}][, {sleeve}][, {neckline} neckline][, {fit}]",
        ),
    ),
    "products": (
        "[{gender|possessive} ][{baseColour} ]{articleType}[, {season}][, {usage}]",
        (
            "[{baseColour} ]{articleType}[ for {gender}][, {season}][, {usage} wear]",
            "[{season} ][{usage} ][{gender|possessive} ]{articleType}[ in {baseColour}]",
        ),
    ),
}


@dataclass(frozen=True)
class Field:
    """`{group}` or `{group|possessive}`."""

    group: str
    possessive: bool = False


Node = str | Field | list["Node"]


def parse(template: str) -> list[Node]:
    """Parses a template to text, fields and (as lists) optional parts.

    Raises:
        UserError: an unbalanced bracket, an empty field or an unknown filter.
    """
    stack: list[list[Node]] = [[]]
    for token in re.split(r"(\{[^{}]*\}|[\[\]{}])", template):
        if token == "[":
            stack.append([])
        elif token == "]":
            if len(stack) == 1:
                raise UserError(f"caption template has a ']' without '[': {template!r}")
            optional = stack.pop()
            stack[-1].append(optional)
        elif token in ("{", "}"):
            raise UserError(f"caption template has a lone {token!r}; a field is written {{group}}: {template!r}")
        elif token.startswith("{"):
            stack[-1].append(_field(token, template))
        elif token:
            stack[-1].append(token)
    if len(stack) > 1:
        raise UserError(f"caption template has a '[' without ']': {template!r}")
    return stack[0]


def _field(token: str, template: str) -> Field:
    group, _, filter_name = token[1:-1].partition("|")
    if not group or filter_name not in ("", "possessive"):
        raise UserError(f"expected {{group}} or {{group|possessive}}, got {token} in caption template {template!r}")
    return Field(group, filter_name == "possessive")


def _fields(nodes: list[Node]) -> list[str]:
    """The groups named by a parsed template, in order, each once."""
    found: dict[str, None] = {}
    for node in nodes:
        names = [node.group] if isinstance(node, Field) else _fields(node) if isinstance(node, list) else []
        found.update(dict.fromkeys(names))
    return list(found)


def _words(field_: Field, attributes: Attributes) -> str:
    value = attributes.get(field_.group)
    values = value if isinstance(value, (list, tuple)) else [value]
    text = " and ".join(words for v in values if (words := str(v or "").strip(" ,")))
    if field_.possessive and text.lower() not in ("", "unisex"):
        text += "'" if text.lower().endswith("s") else "'s"
    return text


def _render(nodes: list[Node], attributes: Attributes, stated: set[str], optional: bool = True) -> str | None:
    """Renders one level; None when an optional one must disappear. `stated` collects the groups that were written."""
    parts: list[str] = []
    written: set[str] = set()
    nested, shown = 0, 0
    for node in nodes:
        if isinstance(node, str):
            parts.append(node)
        elif isinstance(node, Field):
            words = _words(node, attributes)
            if optional and not words:
                return None
            written |= {node.group} if words else set()
            parts.append(words)
        else:
            text = _render(node, attributes, written)
            nested, shown = nested + 1, shown + (text is not None)
            parts.append(text or "")
    if optional and nested and not shown and not written:
        return None
    stated |= written
    return "".join(parts)


def _tidy(text: str) -> str:
    text = re.sub(r"\s+", " ", text)
    text = re.sub(r"\s*,(\s*,)*\s*", ", ", text)
    return text.strip(" ,").lower()


@dataclass(frozen=True)
class Captions:
    """How attributes become sentences; travels with the checkpoint.

    Attributes:
        template: the canonical sentence: what models are measured and indexed with.
        paraphrases: other sentences for training; each is used as often as the canonical one.
        drop: in training, the chance that an attribute is left out of the caption, so that short queries work too.
            At least one attribute stays.
        whole: the share of training captions that keep all their attributes all the same.
    """

    template: str
    paraphrases: tuple[str, ...] = ()
    drop: float = 0.0
    whole: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.drop < 1 or not 0 <= self.whole <= 1:
            raise UserError(f"caption drop and whole are shares below 1, got drop={self.drop}, whole={self.whole}")
        if not self.groups:
            raise UserError(f"the caption template names no attribute, e.g. {{colour}}: {self.template!r}")
        further = [g for nodes in self._parsed[1:] for g in _fields(nodes) if g not in self.groups]
        if further:  # the loss would not know that the caption states it
            raise UserError(
                f"a paraphrase names {further[0]}, which the template does not; it names {', '.join(self.groups)}"
            )

    @cached_property
    def _parsed(self) -> list[list[Node]]:
        return [parse(t) for t in (self.template, *self.paraphrases)]

    @cached_property
    def _written(self) -> dict[str, tuple[str, set[str]]]:
        return {}

    @cached_property
    def groups(self) -> tuple[str, ...]:
        """The attribute groups that the canonical sentence can state, in its order."""
        return tuple(_fields(self._parsed[0]))

    def render(self, attributes: Attributes) -> str:
        """The canonical caption; "" when it would state nothing."""
        return self._write(0, attributes)[0]

    def sample(self, attributes: Attributes, rng: np.random.Generator) -> tuple[str, set[str]]:
        """A training caption (template drawn, attributes dropped) and the groups that it states."""
        which = int(rng.integers(len(self._parsed)))
        known = [g for g in self.groups if attributes.get(g)]
        dropped: set[str] = set()
        if self.drop and known and rng.random() >= self.whole:
            dropped = {g for g in known if rng.random() < self.drop}
            dropped.discard(known[int(rng.integers(len(known)))])
        kept = {g: v for g, v in attributes.items() if g not in dropped}
        caption, stated = self._write(which, kept)
        return (caption, stated) if stated else self._write(0, attributes)

    def _write(self, which: int, attributes: Attributes) -> tuple[str, set[str]]:
        """The caption and what it states; those of garments that repeat are kept, which takes a tenth of the time."""
        key = f"{which} {attributes!r}"
        found = self._written.get(key)
        if found is None:
            stated: set[str] = set()
            text = _render(self._parsed[which], attributes, stated, optional=False)
            found = (_tidy(text or "") if stated else "", stated)
            if len(self._written) >= MOST_WRITTEN:
                self._written.clear()
            self._written[key] = found
        return found[0], set(found[1])


def captions_for(groups: Sequence[str], style: str = "auto", **options: object) -> Captions:
    """The captions of a named style, or those that fit a catalogue's attribute groups.

    Args:
        groups: the catalogue's attribute groups, without those of numbers: `fclip.catalogue.kinds.word_groups`.
        style: a key of STYLES, or "auto": the style of which at least half the groups are known, else "value group, …".
        options: `drop`, `whole`; `paraphrases` to replace the style's own.

    Raises:
        UserError: an unknown style, or "auto" for a catalogue without groups of words.
    """
    if style != "auto":
        if style not in STYLES:
            raise UserError(f"no caption style {style!r}; {nearest(style, [*STYLES, 'auto'])}")
        template, paraphrases = STYLES[style]
    else:
        template, paraphrases = _best_style(groups)
    return Captions(template, **{"paraphrases": paraphrases, **options})  # type: ignore[arg-type]


def _best_style(groups: Sequence[str]) -> tuple[str, tuple[str, ...]]:
    known = {name: set(_fields(parse(template))) for name, (template, _) in STYLES.items()}
    name = max(known, key=lambda n: len(known[n] & set(groups)) - 0.1 * len(known[n]))
    if 2 * len(known[name] & set(groups)) >= len(known[name]):
        return STYLES[name]
    if not groups:
        raise UserError("the catalogue has no attribute groups of words; name columns with --map attributes=…")
    return "".join(f"[{{{g}}} {g}, ]" for g in groups), ()
