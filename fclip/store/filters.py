"""Filters as data: what a question may demand of an attribute, read from JSON or from a command line.

    where = where_from_text(["price=10..50", "usage!=Sports", "colour=red|pink"])
    conditions = parse_where(where, index.schema)

A `where` is a plain mapping, and each of its groups must fit:

    {"gender": "Women", "colour": ["red", "pink"]}    this value, or any of these
    {"price": {"min": 10, "max": 50}}                 from 10 to 50, both included; either end may be missing
    {"usage": {"not": ["Sports"]}}                    none of these; a picture whose usage is unknown fits

Of a group that holds several values for a picture, any of them counts. What a store is asked is made of `Condition`
objects alone: no name and no value ever becomes part of a query language.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, Literal

from fclip.errors import UserError, nearest, shown

Value = str | float
Where = Mapping[str, Any]
Kind = Literal["text", "texts", "number"]

NUMBER = re.compile(r"-?(0|[1-9]\d{0,14})(\.\d{1,14})?")
"""What reads as a number. A leading zero (0108775015) says that it is a code; more digits would not survive."""

LARGEST = sys.float_info.max  # what a store holds as a number

COMPARISON = re.compile(r"\s*([^<>=!]+?)\s*([<>])(?:=\s*|\s*(?!.*=))(.*?)\s*")
"""Group, sign and end of what a filter does not know. In GROUP=<3 and GROUP<3=VALUE the sign is part of a name."""


@dataclass(frozen=True)
class Group:
    """An attribute group as a store holds it.

    Attributes:
        column: its name there: a group may be called anything, also "id" or "a.b`c".
        kind: one text, several texts, or one number.
    """

    column: str
    kind: Kind


Schema = Mapping[str, Group]
"""Group → how it is held."""


@dataclass(frozen=True)
class OneOf:
    """The column has one of the values."""

    column: str
    values: tuple[Value, ...]


@dataclass(frozen=True)
class NoneOf:
    """The column has none of the values; unknown fits."""

    column: str
    values: tuple[Value, ...]


@dataclass(frozen=True)
class Between:
    """The column has a number from low to high, both included; None: no bound. Unknown does not fit."""

    column: str
    low: float | None
    high: float | None


Condition = OneOf | NoneOf | Between


def parse_where(where: Where | None, schema: Schema) -> tuple[Condition, ...]:
    """A filter as conditions on columns, all of which must hold.

    Raises:
        UserError: a group that is not there, no value, a value of another type, or a range of words.
    """
    conditions: list[Condition] = []
    for name, wanted in (where or {}).items():
        group = known_group(name, schema)
        if isinstance(wanted, Mapping):
            conditions += _from_mapping(name, group, wanted)
        else:
            conditions.append(OneOf(group.column, _values(name, group, wanted)))
    return tuple(conditions)


def known_group(name: str, schema: Schema) -> Group:
    """Raises UserError when there is no such group, naming the nearest."""
    if name not in schema:
        raise UserError(f"no attribute group {name!r} in the index; {nearest(name, schema)}")
    return schema[name]


def _from_mapping(name: str, group: Group, wanted: Mapping[str, Any]) -> list[Condition]:
    if not wanted or wanted.keys() - {"min", "max", "not"}:
        said = ", ".join(map(str, wanted)) or "nothing"
        raise UserError(f"expected min, max or not to filter {name} by, got {said}")
    conditions: list[Condition] = []
    if "not" in wanted:
        conditions.append(NoneOf(group.column, _values(name, group, wanted["not"])))
    ends = [wanted.get("min"), wanted.get("max")]
    if wanted.keys() & {"min", "max"}:
        if group.kind != "number":
            by = f"filter by its values, as in {name}=VALUE; if they are numbers, index it with --map numbers={name}"
            raise UserError(f"{name} has no numbers, so it has no range; {by}")
        low, high = (None if end is None else _number(name, end) for end in ends)
        if low is None and high is None:
            raise UserError(f"expected a number for min or max of {name}, got neither")
        if low is not None and high is not None and low > high:
            raise UserError(f"expected {name} from a smaller to a larger number, got {low:g} to {high:g}")
        conditions.append(Between(group.column, low, high))
    return conditions


def _values(name: str, group: Group, wanted: Any) -> tuple[Value, ...]:
    """One value or several, each of the group's type."""
    several = (
        list(wanted) if isinstance(wanted, Sequence | set | frozenset) and not isinstance(wanted, str) else [wanted]
    )
    if not several:
        raise UserError(f"expected at least one value of {name} to filter by, got none; leave it out")
    if group.kind == "number":
        return tuple(_number(name, value) for value in several)
    for value in several:
        if not isinstance(value, str):
            raise UserError(f"expected words to filter {name} by, got {shown(value)}")
    return tuple(several)


def _number(name: str, value: Any) -> float:
    """A finite number, also when it is written as text."""
    if isinstance(value, str) and NUMBER.fullmatch(value.strip()):
        return float(value)
    real = isinstance(value, Real) and not isinstance(value, bool)
    if real and -LARGEST <= value <= LARGEST:  # no NaN
        return float(value)
    raise UserError(f"expected a number to filter {name} by, got {shown(value)}")


def where_from_text(conditions: Sequence[str]) -> dict[str, Any]:
    """Conditions as they are written on a command line → a filter.

    GROUP=VALUE, GROUP=ONE|OTHER, GROUP!=VALUE, GROUP=10..50, GROUP=10.. and GROUP=..50.

    Raises:
        UserError: no such form, one with < or >, or a group twice.
    """
    where: dict[str, Any] = {}
    for condition in conditions:
        _check_comparison(condition)
        group, _, rest = condition.partition("=")
        unwanted, group = group.endswith("!"), group.removesuffix("!").strip()
        values = [value.strip() for value in rest.split("|")]
        if not group or not all(values):
            forms = "GROUP=VALUE, GROUP=ONE|OTHER, GROUP!=VALUE, GROUP=10..50, GROUP=10.. or GROUP=..50"
            raise UserError(f"expected --where {forms}, got {condition!r}")
        if group in where:
            raise UserError(f"--where names {group} twice; write --where '{group}=ONE|OTHER'")
        ends = _range(rest)
        where[group] = {"not": values} if unwanted else values if ends is None else ends
    return where


def _check_comparison(condition: str) -> None:
    """Raises UserError for "price<=50", saying how a range is written."""
    found = COMPARISON.fullmatch(condition)
    if found is None:
        return
    group, sign, end = found.groups()
    group = "GROUP" if NUMBER.fullmatch(group) else group
    low, high = (end if NUMBER.fullmatch(end) else example for example in ("10", "50"))
    meant = f"{group}=..{high}" if sign == "<" else f"{group}={low}.."
    ranges = f"{group}=10.., {group}=..50 and {group}=10..50, ends included"
    raise UserError(f"expected --where {meant}, got {condition!r}; ranges are {ranges}")


def _range(text: str) -> dict[str, float] | None:
    """10..50 → its ends; None where the text is no range."""
    low, dots, high = (part.strip() for part in text.partition(".."))
    ends = {name: end for name, end in (("min", low), ("max", high)) if end}
    if not dots or not ends or not all(NUMBER.fullmatch(end) for end in ends.values()):
        return None
    return {name: float(end) for name, end in ends.items()}


def where_in_words(where: Where) -> str:
    """A filter as one line, as it is written on a command line: "colour=red|pink, price=10..50"."""
    return ", ".join(part for group, wanted in where.items() for part in _in_words(group, wanted))


def _in_words(group: str, wanted: Any) -> list[str]:
    if not isinstance(wanted, Mapping):
        return [f"{group}={_alternatives(wanted)}"]
    said = [f"{group}!={_alternatives(wanted['not'])}"] if "not" in wanted else []
    ends = ["" if (end := wanted.get(name)) is None else f"{end:.15g}" for name in ("min", "max")]
    return said + [f"{group}={'..'.join(ends)}"] * any(ends)


def _alternatives(wanted: Any) -> str:
    several = [wanted] if isinstance(wanted, str | int | float) else wanted
    return "|".join(value if isinstance(value, str) else f"{value:.15g}" for value in several)
