"""What each participant asked for: words, and up to four photographs.

    participants = read_participants("preferences.csv")

A table (CSV, TSV) or JSON lines with `participant` and `text`, and where wanted `images`: file names beside the table,
in a table with | between them, in JSON lines as a list.

    participant,text,images
    0001,"red summer dress, cotton",0001-a.jpg|0001-b.jpg
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fclip.errors import UserError, nearest
from fclip.files import expand

MOST_PHOTOS = 4
KEYS = ("participant", "text", "images")


@dataclass(frozen=True)
class Participant:
    """Somebody's wishes: their words, and photographs of what they like."""

    name: str
    text: str
    photos: tuple[Path, ...] = ()


def participants_of(file: str | Path | None, texts: Sequence[str], images: Sequence[Path] = ()) -> list[Participant]:
    """Those of a file, or one for each text (0001, 0002 …), all with the same photographs.

    Raises:
        UserError: neither or both, or anything that `read_participants` refuses.
    """
    if (file is None) == (not texts):
        raise UserError("expected a file of preferences or --text WORDS, and not both")
    if file is not None:
        if images:
            raise UserError("--image goes with --text; in a file, photographs belong in the column `images`")
        return read_participants(file)
    found = [Participant(f"{number:04}", text.strip(), tuple(images)) for number, text in enumerate(texts, start=1)]
    _check(found, "--text")
    return found


def read_participants(file: str | Path) -> list[Participant]:
    """Reads a table or JSON lines.

    Raises:
        UserError: no such file, no such columns, somebody without words or named twice, an absent photograph, or more
            than four of them.
    """
    file = Path(expand(file))
    rows = [_participant(row, file, where) for where, row in _rows(file)]
    if not rows:
        raise UserError(f"{file} names no participant; expected the columns participant, text and maybe images")
    _check(rows, str(file))
    return rows


def _rows(file: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(place, row) of every line that says something."""
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"expected a table of preferences, cannot read {file}: {error}") from None
    if file.suffix.lower() in (".jsonl", ".ndjson"):
        for number, line in enumerate(text.splitlines(), start=1):
            if line.strip():
                yield f"{file}:{number}", _json_row(line, f"{file}:{number}")
        return
    table = csv.DictReader(text.splitlines(keepends=True), delimiter="\t" if file.suffix.lower() == ".tsv" else ",")
    absent = set(KEYS[:2]) - set(table.fieldnames or KEYS)
    if absent:
        columns = ", ".join(table.fieldnames or ())
        raise UserError(f"{file}: expected the columns participant, text and maybe images, got {columns}")
    for row in table:
        yield f"{file}:{table.line_num}", {key: value for key, value in row.items() if key is not None}


def _json_row(line: str, where: str) -> Mapping[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise UserError(f"{where} is no JSON: {error}") from None
    if not isinstance(row, dict):
        raise UserError(f'{where}: expected {{"participant": …, "text": …}}, got {line.strip()[:60]}')
    return row


def _participant(row: Mapping[str, Any], file: Path, where: str) -> Participant:
    absent = [key for key in KEYS[:2] if row.get(key) is None]
    if absent:
        raise UserError(f"{where}: no {absent[0]!r}; {nearest(absent[0], row)}")
    images = row.get("images") or []
    names = images.split("|") if isinstance(images, str) else images
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UserError(f"{where}: images should be file names, got {images!r}")
    photos = tuple(file.parent / expand(name.strip()) for name in names if name.strip())
    return Participant(str(row["participant"]).strip(), str(row["text"]).strip(), photos)


def _check(found: Sequence[Participant], where: str) -> None:
    names: set[str] = set()
    for one in found:
        if not one.name:
            raise UserError(f"{where}: a participant without a name; fill in the column participant")
        if one.name in names:
            raise UserError(f"{where}: participant {one.name} is named twice; put their words in one row")
        if not one.text:
            raise UserError(f"{where}: participant {one.name} has no words; a picture needs a prompt")
        if len(one.photos) > MOST_PHOTOS:
            raise UserError(f"{where}: participant {one.name} has {len(one.photos)} photographs, at most {MOST_PHOTOS}")
        absent = [photo for photo in one.photos if not photo.is_file()]
        if absent:
            raise UserError(f"{where}: participant {one.name} has no photograph {absent[0]}; check the path")
        names.add(one.name)
