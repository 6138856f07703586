"""Cells become values, and rows must not contradict each other; what does not fit is told by file, line and column.

found = Found()
found.systems.extend(rows_of(lines, SystemRow, found.wrong))
found.wrong or list(contradictions(found))      # ["answers.csv, line 7, column rating: expected 1 to 10, got '11'"]
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from operator import attrgetter
from typing import Any, TypeVar

from user_study.answers import UNSURE, PictureRow, QueryRow, SystemRow, kind_of

R = TypeVar("R", PictureRow, SystemRow, QueryRow)
TRUE, FALSE = ("1", "yes", "true", "True", "TRUE"), ("0", "no", "false", "False", "FALSE")


@dataclass(frozen=True)
class Line:
    """A row of a file before it is understood."""

    where: str  # file and line
    cells: Mapping[str, str]


@dataclass(frozen=True)
class Found:
    """Rows, each with its file and line, and what is wrong."""

    pictures: list[tuple[str, PictureRow]] = field(default_factory=list)
    systems: list[tuple[str, SystemRow]] = field(default_factory=list)
    queries: list[tuple[str, QueryRow]] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)


def rows_of(
    lines: Iterable[Line], row: type[R], wrong: list[str], renamed: Mapping[str, str] | None = None
) -> list[tuple[str, R]]:
    """Cells as values.

    Args:
        wrong: cells that do not fit are told here; their rows are left out.
        renamed: column of the row → that of the file, where they differ.
    """
    found, columns = [], {f.name: f for f in dataclasses.fields(row)}
    sources = {name: (renamed or {}).get(name, name) for name in columns}
    for line in lines:
        values: dict[str, Any] = {}
        for name, about in columns.items():
            try:
                values[name] = _value(line.cells[sources[name]], kind_of(row, name), about.metadata)
            except ValueError as error:
                wrong.append(f"{line.where}, column {sources[name]}: {error}")
        if len(values) == len(columns):
            found.append((line.where, row(**values)))
    return found


def contradictions(found: Found) -> Iterator[str]:
    """What no study can have given, a line for each."""
    yield from _twice(found.systems, lambda r: (r.participant, r.query, r.system), "this system of this query")
    yield from _twice(found.pictures, lambda r: (r.participant, r.query, r.system, r.place), "this picture")
    yield from _twice(found.queries, lambda r: (r.participant, r.query), "this query")
    for name in ("position", "letter"):
        named = [(where, row) for where, row in found.systems if getattr(row, name) is not None]
        yield from _twice(named, attrgetter("participant", "query", name), f"this {name} of a page")
    yield from _systems(found)
    yield from _pictures(found)
    yield from _queries(found)


def _systems(found: Found) -> Iterator[str]:
    number = len({row.system for _, row in found.systems})
    generated: dict[str, bool] = {}
    for where, row in found.systems:
        if row.rank is not None and row.rank > number:
            yield f"{where}, column rank: expected 1 to {number}, the number of systems, got {row.rank:g}"
        if row.failed and not row.rank is row.rating is None:
            yield f"{where}, column failed: the system gave no answer, but has a rank or a rating"
        if generated.setdefault(row.system, row.generated) != row.generated:
            yield f"{where}, column generated: {row.system!r} was {generated[row.system]:d} before"


def _pictures(found: Found) -> Iterator[str]:
    systems = {(row.participant, row.query, row.system): row for _, row in found.systems}
    for where, row in found.pictures:
        system = systems.get((row.participant, row.query, row.system))
        if system is None:
            yield f"{where}: systems has no row of participant {row.participant!r}, query {row.query}, {row.system!r}"
        elif system.failed:
            yield f"{where}: a picture of a system that failed"


def _queries(found: Found) -> Iterator[str]:
    asked = {(row.participant, row.query): row for _, row in found.queries}
    for where, one in found.systems:
        query = asked.get((one.participant, one.query))
        if asked and query is None:
            yield f"{where}: queries has no row of participant {one.participant!r}, query {one.query}"
        if query is not None and query.kind != one.kind:
            yield f"{where}, column kind: {one.kind}, in queries {query.kind}"
    shown = {(row.participant, row.query, row.letter) for _, row in found.systems}
    for where, row in found.queries:
        if row.started and row.submitted and _order(row.started, row.submitted):
            yield f"{where}, column submitted: before it was started, or one has a time zone and the other has not"
        if row.guess not in (None, UNSURE) and (row.participant, row.query, row.guess) not in shown:
            yield f"{where}, column guess: expected a letter of the page or {UNSURE}, got {row.guess!r}"
        if row.repeats is not None and ((row.participant, row.repeats) not in asked or row.repeats == row.query):
            yield f"{where}, column repeats: the participant has no other query {row.repeats}"


def _twice(rows: Iterable[tuple[str, Any]], key: Callable[[Any], Any], what: str) -> Iterator[str]:
    seen: dict[Any, str] = {}
    for where, row in rows:
        if (before := seen.setdefault(key(row), where)) != where:
            yield f"{where}: {what} comes twice, first in {before}"


def _order(started: datetime, submitted: datetime) -> bool:
    """Whether two times are in the wrong order or cannot be compared."""
    return (started.tzinfo is None) != (submitted.tzinfo is None) or submitted < started


def _value(text: str, kind: type, about: Mapping[str, Any]) -> Any:
    """A cell's value.

    Raises:
        ValueError: it does not fit; what was expected and what came.
    """
    if not text:
        if about["empty"] is None:
            raise ValueError("expected a value, got an empty cell")
        return None
    parse, wanted = PARSERS.get(kind, (_object, 'a JSON object such as {"gender": "Women"}'))
    least, most = about["least"], about["most"]
    if about["among"]:
        wanted = " / ".join(about["among"])
    elif least is not None:
        wanted += f" from {least}" + ("" if most is None else f" to {most}")
    try:
        value = parse(text)
    except ValueError:
        raise ValueError(f"expected {wanted}, got {text!r}") from None
    outside = (least is not None and value < least) or (most is not None and value > most)
    if outside or (about["among"] and value not in about["among"]):
        raise ValueError(f"expected {wanted}, got {text!r}")
    return value


def _whole(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,9}", text):
        raise ValueError(text)
    return int(text)


def _number(text: str) -> float:
    if not re.fullmatch(r"[0-9]{1,9}([.,][0-9]+)?", text):  # neither nan nor 1e3; a comma where spreadsheets write it
        raise ValueError(text)
    return float(text.replace(",", "."))


def _flag(text: str) -> bool:
    if text not in TRUE + FALSE:
        raise ValueError(text)
    return text in TRUE


def _object(text: str) -> dict[str, Any]:
    value = json.loads(text)
    if not isinstance(value, dict):
        raise ValueError(text)
    return value


PARSERS: Mapping[type, tuple[Callable[[str], Any], str]] = {
    str: (str, "text"),
    int: (_whole, "a whole number"),
    float: (_number, "a number"),
    bool: (_flag, "1 or 0"),
    datetime: (datetime.fromisoformat, "a time such as 2026-03-01T12:30:00"),
}
