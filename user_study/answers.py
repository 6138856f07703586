"""What participants answered: three tables, their columns, and the data dictionary that is made from them.

    pictures  a verdict on each picture that was shown
    systems   a rank, a rating and a comment on each system of each query
    queries   what was asked, when it was asked and submitted

    write_answers(answers, "export", "csv")          # export/pictures.csv, systems.csv, queries.csv, DICTIONARY.md
    answers = read_answers("export")                 # `user_study.reading`

A field below is a column; what it holds and what an empty cell means stands beside it, and nowhere else.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, get_args, get_type_hints

from fclip.files import write_bytes, write_json, write_text

KINDS = ("own", "calibration", "repeat")
UNSURE = "unsure"
LARGEST_RATING = 10


def column(
    says: str, empty: str | None = None, least: int | None = None, most: int | None = None, among: Sequence[str] = ()
) -> Any:
    """A column: what it holds; what an empty cell means (None: it must not be empty); its bounds or its words."""
    about = {"says": says, "empty": empty, "least": least, "most": most, "among": tuple(among)}
    return dataclasses.field(metadata=about)


@dataclass(frozen=True)
class PictureRow:
    """A picture as one participant saw it."""

    participant: str = column("pseudonym of the participant")
    query: int = column("the participant's query, in the order asked", least=0)
    system: str = column("name of the system")
    letter: str | None = column("what the system was called on this page", "not recorded")
    position: int | None = column("where the system stood on this page, 1 first", "not recorded", least=1)
    place: int = column("where the picture stood among the system's, 1 first", least=1)
    item: str | None = column("product or file that the picture shows", "not recorded")
    relevant: bool | None = column("1: relevant, 0: not relevant", "not answered")


@dataclass(frozen=True)
class SystemRow:
    """A system's answers to one query, as one participant judged them."""

    participant: str = column("pseudonym of the participant")
    query: int = column("the participant's query, in the order asked", least=0)
    kind: str = column("own: the participant's; calibration: asked of all; repeat: asked again", among=KINDS)
    system: str = column("name of the system")
    letter: str | None = column("what it was called on this page", "not recorded")
    position: int | None = column("where it stood on this page, 1 first", "not recorded", least=1)
    rank: float | None = column("1: preferred to all others; equal ranks are ties", "not answered", least=1)
    rating: float | None = column("1 worst to 10 best", "not answered", least=1, most=LARGEST_RATING)
    comment: str | None = column("the participant's words", "none")
    failed: bool = column("1: the system gave no answer, and could not be judged")
    generated: bool = column("1: its pictures show garments that do not exist")


@dataclass(frozen=True)
class QueryRow:
    """A query of one participant."""

    participant: str = column("pseudonym of the participant")
    query: int = column("the participant's query, in the order asked", least=0)
    kind: str = column("own: the participant's; calibration: asked of all; repeat: asked again", among=KINDS)
    text: str | None = column("the words of the query; of a calibration query also its name", "none")
    images: int | None = column("photographs that came with it", "not recorded", least=0)
    filters: dict[str, Any] | None = column("attribute → values it was restricted to, as JSON", "no filter")  # noqa: RUF009
    started: datetime | None = column("when the page was first shown, ISO 8601", "not recorded")  # noqa: RUF009
    submitted: datetime | None = column("when the answers were complete, ISO 8601", "never: does not count")  # noqa: RUF009
    guess: str | None = column(f"letter of the system held to be generated, or {UNSURE}", "not asked")
    repeats: int | None = column("the query that this one repeats", "none", least=0)


Row = PictureRow | SystemRow | QueryRow
TABLES: Mapping[str, type[Row]] = {"pictures": PictureRow, "systems": SystemRow, "queries": QueryRow}


@dataclass(frozen=True)
class Answers:
    """A study's answers; `queries` is empty when they were collected by hand, and all count as submitted."""

    pictures: tuple[PictureRow, ...]
    systems: tuple[SystemRow, ...]
    queries: tuple[QueryRow, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """The systems, in the order of their first row."""
        return tuple(dict.fromkeys(row.system for row in self.systems))

    @property
    def participants(self) -> tuple[str, ...]:
        """Who answered or began, in the order of their first row."""
        rows: list[QueryRow | SystemRow] = [*self.queries, *self.systems]
        return tuple(dict.fromkeys(row.participant for row in rows))

    def submitted(self) -> Answers:
        """Without queries that were never submitted."""
        if not self.queries:
            return self
        kept = {(row.participant, row.query) for row in self.queries if row.submitted is not None}
        return Answers(
            tuple(row for row in self.pictures if (row.participant, row.query) in kept),
            tuple(row for row in self.systems if (row.participant, row.query) in kept),
            tuple(row for row in self.queries if (row.participant, row.query) in kept),
        )


def kind_of(row: type[Row], name: str) -> type:
    """The Python type of a column, without None."""
    hint = get_type_hints(row)[name]
    return next((part for part in get_args(hint) if part is not type(None)), hint) if _optional(hint) else hint


def dictionary(tables: Mapping[str, type[Row]] = TABLES) -> str:
    """The data dictionary as Markdown: every column of every table."""
    told = {str: "text", int: "whole number", float: "number", bool: "0 or 1", datetime: "time"}
    lines = ["# Data dictionary", ""]
    for name, row in tables.items():
        lines += [f"## {name}", "", (row.__doc__ or "").strip(), ""]
        lines += ["| column | type | holds | empty |", "|---|---|---|---|"]
        for field in dataclasses.fields(row):
            about, kind = field.metadata, told.get(kind_of(row, field.name), "JSON")
            bounds = [f"from {about['least']}"] if about["least"] is not None else []
            bounds += [f"to {about['most']}"] if about["most"] is not None else []
            bounds += [" / ".join(about["among"])] if about["among"] else []
            kind = f"{kind}, {' '.join(bounds)}" if bounds else kind
            lines.append(f"| {field.name} | {kind} | {about['says']} | {about['empty'] or 'never'} |")
        lines.append("")
    return "\n".join(lines)


def write_answers(answers: Answers, folder: str | Path, form: str = "csv") -> list[Path]:
    """Writes the three tables and their dictionary into a folder that exists.

    Args:
        form: csv, json or parquet.

    Returns: the files.

    Raises:
        ValueError: another form.
    """
    written = []
    for name, row in TABLES.items():
        file = Path(folder, f"{name}.{form}")
        rows = [{key: _plain(value) for key, value in vars(one).items()} for one in getattr(answers, name)]
        columns = [field.name for field in dataclasses.fields(row)]
        if form == "csv":
            write_text(file, _csv(columns, rows))
        elif form == "json":
            write_json(file, rows)
        elif form == "parquet":
            write_bytes(file, _parquet(row, columns, rows))
        else:
            raise ValueError(f"expected csv, json or parquet, got {form!r}")
        written.append(file)
    write_text(Path(folder, "DICTIONARY.md"), dictionary())
    return [*written, Path(folder, "DICTIONARY.md")]


def _csv(columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> str:
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\r\n")  # RFC 4180; so that cells with either sign are quoted
    writer.writerow(columns)
    for row in rows:
        values = [row[name] for name in columns]
        whole = [isinstance(value, bool) or (isinstance(value, float) and value.is_integer()) for value in values]
        writer.writerow([int(value) if short else value for value, short in zip(values, whole, strict=True)])
    return stream.getvalue()


def _parquet(row: type[Row], columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    kinds = {int: pa.int64(), float: pa.float64(), bool: pa.bool_()}
    schema = pa.schema([(name, kinds.get(kind_of(row, name), pa.string())) for name in columns])
    stream = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(list(rows), schema=schema), stream)
    return stream.getvalue()


def _plain(value: Any) -> Any:
    """A value that every form can hold: times as ISO 8601, filters as JSON."""
    if isinstance(value, datetime):
        return value.isoformat()
    return json.dumps(value, ensure_ascii=False, sort_keys=True) if isinstance(value, dict) else value


def _optional(hint: Any) -> bool:
    return type(None) in get_args(hint)
