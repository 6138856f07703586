"""Answers from files: an export's folder, or one table that somebody collected by hand.

    answers = read_answers("export")         # pictures, systems and queries as .csv, .json or .parquet
    answers = read_answers("answers.csv")    # participant, system, relevant_1 … relevant_n, rank, rating

Columns of the hand-made table: a row for each participant and system. `relevant_i` is 1 or 0 for the picture in place
i; rank 1 is the best, rating goes from 1 to 10. An empty cell is no answer. Further columns may be there: query (0, 1,
…), kind, letter, position, comment, failed, generated, as in the dictionary of `user_study.answers`.

What does not fit is told by file, line and column, all at once; nothing is guessed and nothing left out.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from fclip.errors import UserError, nearest
from fclip.files import read_json
from user_study.answers import TABLES, Answers, PictureRow, SystemRow
from user_study.checking import TRUE, Found, Line, contradictions, rows_of

FORMS = ("csv", "json", "parquet")
MOST_TOLD = 20
BY_HAND = {"query": "0", "kind": "own", "letter": "", "position": "", "rank": "", "rating": "", "comment": ""}
BY_HAND |= {"failed": "0", "generated": "0"}
"""Columns of a hand-made table that may be missing, and what they then hold."""


def read_answers(path: str | Path) -> Answers:
    """Reads an export's folder or a hand-made CSV.

    Raises:
        UserError: a file is missing or cannot be read, or rows do not fit; a line for each problem.
    """
    path = Path(path)
    if path.is_dir():
        found = _from_export(path)
    elif path.suffix.lower() == ".csv":
        found = _by_hand(path)
    else:
        raise UserError(f"expected an export's folder or a .csv file, got {path}")
    wrong = found.wrong or list(contradictions(found))
    if wrong:
        more = [f"… and {len(wrong) - MOST_TOLD} more"] if len(wrong) > MOST_TOLD else []
        raise UserError("\n".join([*wrong[:MOST_TOLD], *more]))
    if not found.systems:
        raise UserError(f"no answers in {path}")
    return Answers(
        tuple(row for _, row in found.pictures),
        tuple(row for _, row in found.systems),
        tuple(row for _, row in found.queries),
    )


def _from_export(folder: Path) -> Found:
    found = Found()
    for name, row in TABLES.items():
        files = [file for form in FORMS if (file := folder / f"{name}.{form}").is_file()]
        if not files and name != "queries":
            raise UserError(f"expected {name}.csv, .json or .parquet in {folder}, found none")
        if len(files) > 1:
            raise UserError(f"expected one form of {name} in {folder}, got {', '.join(f.name for f in files)}")
        columns = [field.name for field in dataclasses.fields(row)]
        lines = [line for file in files for line in _lines(file, columns, columns)]
        rows: Any = rows_of(lines, row, found.wrong)  # type: ignore[type-var]
        getattr(found, name).extend(rows)
    return found


def _by_hand(file: Path) -> Found:
    """A wide table: the verdicts are columns."""
    found = Found()
    lines = list(_lines(file, ["participant", "system"], ["participant", "system", *BY_HAND], verdicts=True))
    lines = [Line(line.where, BY_HAND | dict(line.cells)) for line in lines]
    found.systems.extend(rows_of(lines, SystemRow, found.wrong))
    for line in lines:
        failed = line.cells["failed"] in TRUE
        for name in filter(_is_verdict, line.cells):
            place, cell = name.rpartition("_")[2], line.cells[name]
            if not (failed and not cell):
                cells = {**line.cells, "place": place, "item": "", name: cell}
                found.pictures.extend(rows_of([Line(line.where, cells)], PictureRow, found.wrong, {"relevant": name}))
    found.wrong[:] = dict.fromkeys(found.wrong)  # what all pictures of a row share is told once
    return found


def _lines(file: Path, needed: Sequence[str], known: Sequence[str], verdicts: bool = False) -> Iterator[Line]:
    """The rows of a file, every cell as text; columns checked.

    Args:
        verdicts: also columns relevant_1, relevant_2, … are known, and one is needed.
    """
    read = {".csv": _csv_lines, ".json": _json_lines, ".parquet": _parquet_lines}[file.suffix.lower()]
    names, lines = read(file)
    for name in needed:
        if name not in names:
            raise UserError(f"{file}: column {name!r} is missing; it has {', '.join(map(repr, names)) or 'none'}")
    twice = [name for name, times in Counter(names).items() if times > 1]
    if twice:
        raise UserError(f"{file}: column {twice[0]!r} comes twice")
    for name in names:
        if name not in known and not (verdicts and _is_verdict(name)):
            raise UserError(f"{file}: unknown column {name!r}; {nearest(name, [*known, *['relevant_1'] * verdicts])}")
    places = sorted(int(name.rpartition("_")[2]) for name in names if _is_verdict(name))
    if (verdicts and places != list(range(1, len(places) + 1))) or (verdicts and not places):
        raise UserError(f"{file}: expected columns relevant_1, relevant_2, … without gaps, got {places or 'none'}")
    return lines


def _csv_lines(file: Path) -> tuple[list[str], Iterator[Line]]:
    try:
        text = file.read_bytes().decode("utf-8-sig")  # as it is: line ends inside of cells are the participant's
    except UnicodeDecodeError as error:
        line = file.read_bytes()[: error.start].count(b"\n") + 1
        raise UserError(f"{file}, line {line}: not UTF-8; save the table as UTF-8") from None
    except OSError as error:
        raise UserError(f"expected answers, cannot read {file}: {error.strerror}") from None
    first = text.partition("\n")[0]
    table = csv.reader(io.StringIO(text, newline=""), delimiter=";" if first.count(";") > first.count(",") else ",")
    names = [name.strip() for name in next(table, [])]

    def lines() -> Iterator[Line]:
        start = table.line_num + 1
        for cells in table:
            where, start = f"{file}, line {start}", table.line_num + 1
            if not any(cell.strip() for cell in cells):
                continue  # spreadsheets leave empty lines
            if len(cells) != len(names):
                raise UserError(f"{where}: expected {len(names)} cells, got {len(cells)}")
            yield Line(where, {name: cell.strip() for name, cell in zip(names, cells, strict=True)})

    return names, lines()


def _json_lines(file: Path) -> tuple[list[str], Iterator[Line]]:
    rows = read_json(file, "a list of answers")
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise UserError(f"expected a list of objects in {file}")
    names = list(dict.fromkeys(name for row in rows for name in row)) or _no_rows(file)
    for number, row in enumerate(rows, 1):
        if absent := [name for name in names if name not in row]:
            raise UserError(f"{file}, row {number}: {absent[0]!r} is missing")
    return names, _native(file, rows)


def _parquet_lines(file: Path) -> tuple[list[str], Iterator[Line]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.ParquetFile(file).read()
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{file} is no Parquet file: {str(error).splitlines()[0]}") from None
    return table.column_names, _native(file, table.to_pylist())


def _native(file: Path, rows: Iterable[Mapping[str, Any]]) -> Iterator[Line]:
    for number, row in enumerate(rows, 1):
        yield Line(f"{file}, row {number}", {name: _text(value) for name, value in row.items()})


def _text(value: Any) -> str:
    """A value of JSON or Parquet as a CSV would have it."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(int(value))
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return json.dumps(value) if isinstance(value, dict) else str(value)


def _no_rows(file: Path) -> list[str]:
    """The columns of a JSON table without rows, which cannot say them itself."""
    return [field.name for field in dataclasses.fields(TABLES[file.stem])]


def _is_verdict(name: str) -> bool:
    return re.fullmatch(r"relevant_[1-9]\d*", name) is not None
