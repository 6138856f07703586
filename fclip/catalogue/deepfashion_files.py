"""What the text files of DeepFashion's benchmarks share: a count, a header, rows of fields; boxes and landmarks.

Source: Liu et al., "DeepFashion", CVPR 2016, http://mmlab.ie.cuhk.edu.hk/projects/DeepFashion.html (README of each)

    >>> [line.fields(3) for line in listing(Path("Eval/list_eval_partition.txt"))]

Line 1 is the number of rows, line 2 the names of the columns (not in `list_item_*.txt`), then one row a line, padded
with spaces; numbers may be padded with zeros. A file that breaks this was cut off or edited: it is refused by name and
line, because a reader that goes on would shift or lose annotations silently.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from fclip.errors import UserError

PARTS = ("collar", "sleeve", "waistline", "hem")
FULL = tuple(f"{side} {part}" for part in PARTS for side in ("left", "right"))
LANDMARKS = {  # by clothes type: 1 upper body, 2 lower body, 3 full body
    1: tuple(name for name in FULL if "waistline" not in name),
    2: tuple(name for name in FULL if "waistline" in name or "hem" in name),
    3: FULL,
}
CLOTHES = {"1": "upper body", "2": "lower body", "3": "full body"}


class Line(NamedTuple):
    """One row of a file."""

    where: str  # "FILE, line N", for messages
    text: str

    def fields(self, *counts: int) -> list[str]:
        """The fields between spaces.

        Args:
            counts: how many there may be; none: any number.

        Raises:
            UserError: the row was cut off.
        """
        fields = self.text.split()
        if counts and len(fields) not in counts:
            raise self.fault(f"{' or '.join(map(str, counts))} fields", len(fields))
        return fields

    def one_of(self, value: str, known: Collection[str]) -> str:
        """The value, which must be one of `known`.

        Raises:
            UserError: it is not.
        """
        if value not in known:
            raise self.fault(f"one of {', '.join(known)}", repr(value))
        return value

    def fault(self, expected: object, got: object) -> UserError:
        """What is wrong with this row, as an error to raise."""
        return UserError(f"{self.where}: expected {expected}, got {got}; unpack it again")


def listing(path: Path, header: bool = True) -> list[Line]:
    """The rows of a file that starts with their count.

    Args:
        path: the file.
        header: whether line 2 names the columns.

    Raises:
        UserError: the file is missing, or has another number of rows than it says.
    """
    lines = plain(path)
    count = lines[0].text.strip() if lines else ""
    rows = [line for line in lines[1 + header :] if line.text.strip()]
    if not count.isdigit() or int(count) != len(rows):
        raise UserError(f"{path}, line 1: says {count or 'nothing'}, but {len(rows)} rows follow; unpack it again")
    return rows


def plain(path: Path) -> list[Line]:
    """The lines of a file without count and header, blank ones too.

    Raises:
        UserError: the file is missing or no text.
    """
    return [Line(f"{path}, line {number}", text) for number, text in enumerate(read(path).split("\n"), 1)]


def read(path: Path) -> str:
    """The text of a file.

    Raises:
        UserError: the file is missing or no text.
    """
    if not path.is_file():
        raise UserError(f"no such file: {path}; unpack the data set's archives into one folder")
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is no UTF-8 text ({error.reason} at byte {error.start}); unpack it again") from None


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        UserError: the file is missing or cut off.
    """
    try:
        return json.loads(read(path))
    except json.JSONDecodeError as error:
        raise UserError(f"{path}, line {error.lineno}: no JSON ({error.msg}); unpack it again") from None


def there(path: Path, lost: str) -> bool:
    """Whether a file exists that the benchmark can do without; a warning says what is lost where it does not."""
    if not path.is_file():
        logging.getLogger(__name__).warning("no such file: %s; the catalogue has no %s", path, lost)
    return path.is_file()


def boxes(path: Path, kinds: int = 0) -> tuple[dict[str, list[float]], dict[str, list[str]]]:
    """Reads a list of boxes.

    Args:
        path: rows of a picture's name, `kinds` types (clothes type, then pose or source), and x1 y1 x2 y2.
        kinds: the number of types.

    Returns:
        name → box in pixels, name → types.
    """
    found, types = {}, {}
    for line in listing(path):
        name, *rest = line.fields(5 + kinds)
        found[name] = [float(n) for n in numbers(rest[kinds:], line)]
        types[name] = rest[:kinds]
    return found, types


def points(path: Path) -> tuple[dict[str, list[dict[str, Any]]], dict[str, tuple[str, str]]]:
    """Reads a list of landmarks.

    Returns:
        name → landmarks, name → clothes type and variation type ("" in releases without).

    Raises:
        UserError: a row was cut off, or some rows have a variation type and some have none.
    """
    rows = [(line, *_named(line)) for line in listing(path)]
    found = {name: landmarks(tokens, line) for line, name, tokens in rows}
    varied = Counter(_varied(tokens) for _, _, tokens in rows)
    usual = bool(varied) and varied.most_common(1)[0][0]
    for line, _, tokens in rows:
        if _varied(tokens) != usual:
            raise line.fault("as many types as the other rows have", f"{len(tokens)} numbers")
    return found, {name: (tokens[0], tokens[1] if usual else "") for _, name, tokens in rows}


def _named(line: Line) -> tuple[str, list[str]]:
    """The picture of a row and its numbers."""
    name, *tokens = line.fields()
    return name, tokens


def _varied(tokens: Sequence[str]) -> bool:
    """Whether a row has a variation type after the clothes type."""
    return len(tokens) % 3 == 2


def landmarks(tokens: Sequence[str], line: Line | None = None) -> list[dict[str, Any]]:
    """Parses one row of landmarks; which columns there are follows from the number of tokens.

    Args:
        tokens: 8 pairs x y of the fine files, where 0 0 is not visible; or clothes type, in some releases variation
            type, then visibility x y of 6, 4 or 8 landmarks.
        line: where they stand, for messages.

    Raises:
        UserError: no layout has that many tokens, or one is no number.
    """
    line = line or Line("a row of landmarks", " ".join(tokens))
    values = numbers(tokens, line)
    if len(values) == 2 * len(FULL):
        pairs = zip(values[::2], values[1::2], strict=True)
        return [_landmark(name, x, y, (x, y) != (0, 0)) for name, (x, y) in zip(FULL, pairs, strict=True)]
    names = LANDMARKS.get(values[0] if values else 0, ())
    start = len(values) - 3 * len(names)
    if not names or start not in (1, 2):
        raise line.fault("a clothes type and 3 numbers for each of its landmarks", f"{len(values)} numbers")
    triples = [values[i : i + 3] for i in range(start, len(values), 3)]
    if not {flag for flag, _, _ in triples} <= {0, 1, 2}:  # as after a number that was lost
        raise line.fault("visibilities 0, 1 or 2", sorted({flag for flag, _, _ in triples}))
    return [_landmark(name, x, y, flag == 0) for name, (flag, x, y) in zip(names, triples, strict=True)]


def _landmark(name: str, x: float, y: float, visible: bool) -> dict[str, Any]:
    return {"name": name, "x": x, "y": y, "visible": visible}


def numbers(tokens: Sequence[str], line: Line) -> list[int]:
    """Whole numbers that may be padded with zeros, such as 072.

    Raises:
        UserError: one is no number.
    """
    try:
        return [int(float(token)) for token in tokens]
    except (ValueError, OverflowError):  # inf
        raise line.fault("numbers", repr(" ".join(tokens)[:40])) from None


def item_labels(anno: Path) -> dict[str, dict[str, list[str] | None]]:
    """Reads the attributes of products, which not every release has: attribute type → item → what is labelled 1.

    `list_attr_cloth.txt` names the attributes, one a row (in-shop) or Chinese name, English name, type
    (consumer-to-shop, where `list_attr_type.txt` names the types); `list_attr_items.txt` labels the items: 1 present,
    -1 absent, 0 unknown. Items without any label but 0 are None. Without types the one group is `attributes`.
    """
    places = (anno, anno / "attributes")
    folder = next((p for p in places if (p / "list_attr_items.txt").is_file()), None)
    if folder is None:
        return {}
    typed = (folder / "list_attr_type.txt").is_file()
    types = [line.text.split(None, 1)[-1].strip() for line in listing(folder / "list_attr_type.txt")] if typed else []
    kinds = [_kind(line, types) for line in listing(folder / "list_attr_cloth.txt")]
    groups: dict[str, dict[str, list[str] | None]] = {group: {} for _, group in kinds}
    for line in listing(folder / "list_attr_items.txt"):
        item, *flags = line.fields(len(kinds) + 1)
        for group, of in groups.items():
            part = [(name, flag) for (name, own), flag in zip(kinds, flags, strict=True) if own == group]
            of[item] = [n for n, flag in part if flag == "1"] if any(flag != "0" for _, flag in part) else None
    return groups


def _kind(line: Line, types: Sequence[str]) -> tuple[str, str]:
    """An attribute's name and group; names hold spaces."""
    if not types:
        return line.text.strip(), "attributes"
    fields = line.fields()
    if len(fields) < 3 or not fields[-1].isdigit() or not 1 <= int(fields[-1]) <= len(types):
        raise line.fault(f"a Chinese and an English name and a type of 1..{len(types)}", repr(line.text.strip()))
    return " ".join(fields[1:-1]), types[int(fields[-1]) - 1]
