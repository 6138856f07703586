"""Attribute values as sentences: the prompts whose embeddings `eval.classes` averages to a class (CLIP, section 3.1.4).

    >>> prompts("neckline", "v-shaped", model.captions)
    ['garment with v-shaped neckline', 'a photo of a garment with a v-shaped neckline', …]

A value's prompts are the model's own captions of that value alone, its template and its paraphrases, and the templates
of the group below; a group that is not listed has `GENERAL`. A model that never saw the own captions, or one that saw
nothing else, so has some that it knows. `{value}` is the value, `{group}` the group's name.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from fclip.captions import Captions
from fclip.errors import UserError

GENERAL = (
    "a photo of a garment, {group}: {value}",
    "a {value} garment",
    "clothing with {value} {group}",
    "a product photo of clothing, {value}",
)
_KIND = (
    "a photo of {value}",
    "a product photo of {value}",
    "a picture of a person wearing {value}",
    "{value}, fashion catalogue",
)
_COLOUR = (
    "a {value} garment",
    "a photo of {value} clothing",
    "clothing of {value} colour",
    "a {value} fashion product",
)
TEMPLATES: dict[str, tuple[str, ...]] = {
    "category": _KIND,
    "articleType": _KIND,
    "subCategory": _KIND,
    "masterCategory": _KIND,
    "clothes type": _KIND,
    "colour": _COLOUR,
    "baseColour": _COLOUR,
    "pattern": ("a garment with a {value} pattern", "a photo of {value} clothing", "{value} print fabric"),
    "sleeve": ("a garment with {value}", "a photo of {value} clothing", "a {value} top"),
    "neckline": ("a photo of a garment with a {value} neckline", "a {value} neck top", "clothing with {value} collar"),
    "length": ("a {value} length garment", "a photo of a {value} dress or skirt", "clothing of {value} length"),
    "fabric": ("a garment made of {value}", "a photo of {value} clothing", "{value} fabric"),
    "fit": ("a {value} fitting garment", "a photo of clothing with a {value} fit", "{value} fit"),
    "gender": ("clothing for {value}", "a photo of a fashion product for {value}", "a {value} garment"),
    "season": ("{value} clothing", "a photo of a garment for {value}", "a fashion product for the {value} season"),
    "usage": ("{value} wear", "a photo of clothing for {value} use", "a {value} fashion product"),
}
"""Group → templates."""


def prompts(
    group: str, value: str, captions: Captions, templates: Mapping[str, Sequence[str]] = TEMPLATES
) -> list[str]:
    """All prompts of a value, each once, the model's own caption first."""
    own = [captions.template, *captions.paraphrases]
    written = [_own(template, group, value) for template in own]
    written += [t.format(value=value, group=group).lower() for t in templates.get(group, GENERAL)]
    return list(dict.fromkeys(text for text in written if text))


def templates_with(changes: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """The templates with those of some groups replaced.

    Args:
        changes: "GROUP=a template with {value}"; several of a group are its ensemble.

    Raises:
        UserError: one is not written so.
    """
    given: dict[str, tuple[str, ...]] = {}
    for change in changes:
        group, _, template = change.partition("=")
        try:
            filled = template.format(value="\0", group=group)
        except (KeyError, IndexError, ValueError):
            filled = ""
        if not group or "\0" not in filled:
            raise UserError(f"expected --prompt 'GROUP=a template with {{value}}', got {change!r}")
        given[group] = (*given.get(group, ()), template)
    return TEMPLATES | given


def sentences(group: str, value: str, captions: Captions, written: Sequence[str] = ()) -> list[str]:
    """The prompts of a value where templates are given once for all groups, as DeepFashion's benchmark asks.

    Args:
        written: sentences with {} for the value; none: the model's own caption of the value alone, or the bare value
            where its captions do not name the group.

    Raises:
        UserError: a sentence without {}.
    """
    for sentence in written:
        if "{}" not in sentence:
            raise UserError(f"expected {{}} in a prompt, where the value goes, got {sentence!r}")
    return [sentence.replace("{}", value) for sentence in written] or [captions.render({group: value}) or value]


def _own(template: str, group: str, value: str) -> str:
    """The caption that states this value alone; "" where the template does not name the group."""
    return Captions(template).render({group: value})
