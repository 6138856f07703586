"""A column of numbers as people write them: 1.299,90 €, 1,299.90, CHF 1'299.90, 9,- or plain numbers.

    values, unread = read_numbers(table["price"])       # ["1299.9", None, …], ["on request"]

One value does not tell whether 1.299 is more than a thousand, so a column is read in one way (`decimal_sign`):

| in the column                                                     | the sign                        |
|-------------------------------------------------------------------|---------------------------------|
| a value has both signs: 1.299,90                                  | the last one is the decimal one |
| one sign, twice in a value: 1.299.900                             | parts thousands                 |
| one sign, three digits after it wherever it is, none 0.125: 1.299 | parts thousands                 |
| one sign otherwise: 9,90                                          | is the decimal one              |

Currency signs and words beside the number are dropped. What then is no number, such as "36-38", or "12.5" among values
like 1.299,90, is unknown rather than a guess.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from decimal import Decimal
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from fclip.catalogue.assemble import as_text, empty_to_null

DIGITS = 15  # before the decimal point: more would not survive as a float
DECIMALS = 14  # after it
GAPS = r"\s'’"  # part thousands in any column; \s has the no-break and the narrow spaces too
AROUND = r"(?:[^\W\d_]++\.?|[\s%])*+"  # words and their abbreviations (Rs., kr.)


class Numbers(NamedTuple):
    """A column that was read."""

    values: pa.Array
    """(N,) plain text without an exponent, such as "1299.9"; None where unknown."""

    unread: list[str]
    """What is no number, a text for each row that has one."""


def read_numbers(column: pa.Array | pa.ChunkedArray) -> Numbers:
    """Reads a column (N,) of text or of numbers."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    typed = pa.types.is_integer(column.type) or pa.types.is_floating(column.type) or pa.types.is_decimal(column.type)
    text = empty_to_null(pc.utf8_trim_whitespace(as_text(column)))
    different = [value for value in pc.unique(text).to_pylist() if value is not None]
    read = {value: plain(Decimal(value)) for value in different} if typed else _read(different)
    values = pa.array([None if value is None else read[value] for value in text.to_pylist()], pa.string())
    lost = text.filter(pc.and_(pc.is_valid(text), pc.is_null(values))).to_pylist()
    return Numbers(values, [value for value in lost if not (typed and value == "nan")])  # of floats: unknown


def said_of_numbers(name: str, numbers: Numbers) -> str:
    """How a column was read, as one line, so that a wrong reading is seen."""
    known = sorted(map(Decimal, pc.unique(numbers.values.drop_null()).to_pylist()))
    read = f"{name}: numbers from {known[0]:f} to {known[-1]:f}" if known else f"{name}: no numbers"
    if not numbers.unread:
        return read
    number, lost = len(numbers.values) - numbers.values.null_count, len(numbers.unread)
    return f"{read}; {lost:,} of {number + lost:,} are none, e.g. {numbers.unread[0]!r}"


def plain(number: Decimal) -> str | None:
    """Without an exponent and without zeros at the end; None where it is not finite, or longer than filters hold."""
    if not number.is_finite() or abs(number) >= 10**DIGITS:
        return None
    text = f"{number:.{DECIMALS}f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


def _read(texts: Iterable[str]) -> dict[str, str | None]:
    """Texts → plain numbers, all in the way of `decimal_sign`."""
    bare = {text: _without_currency(text) for text in texts}
    sign = decimal_sign(bare.values())
    return {text: _value(number, sign) for text, number in bare.items()}


def _without_currency(text: str) -> str:
    return "".join(" " if unicodedata.category(letter) == "Sc" else letter for letter in text).strip()


def decimal_sign(texts: Iterable[str]) -> str:
    """A point or a comma, by all values of a column; "" where both part thousands. What is no number has no say."""
    matches = [next(filter(None, (_match(text, sign) for sign in (".", ",", ""))), None) for text in texts]
    numbers = [match["number"] for match in matches if match]
    if both := [number for number in numbers if "." in number and "," in number]:
        return max(".,", key=lambda sign: sum(number.rstrip("0123456789").endswith(sign) for number in both))
    having = {sign: [number for number in numbers if sign in number] for sign in ".,"}
    left = [sign for sign in ".," if not having[sign] or not _parts_thousands(sign, having[sign])]
    return max(left, key=lambda sign: len(having[sign]), default="")


def _parts_thousands(sign: str, numbers: Iterable[str]) -> bool:
    """Whether one sign parts thousands in all of the numbers that have it."""
    numbers = list(numbers)
    twice = any(number.count(sign) > 1 for number in numbers)
    return twice or all(re.fullmatch(rf"[1-9]\d{{0,2}}[{sign}]\d{{3}}", number) for number in numbers)


def _match(text: str, sign: str) -> re.Match[str] | None:
    """A number with this decimal sign, alone or among words; thousands are groups of three (in India also of two)."""
    parts = f"[{GAPS}{'.,'.replace(sign, '') if sign else '.,'}]"
    whole = rf"(?:\d{{1,3}}(?:{parts}\d{{2,3}})*{parts}\d{{3}}|\d+)"
    number = rf"{whole}(?:[{sign}]\d+)?|[{sign}]\d+" if sign else whole
    minus = r"[-+−]"
    around = rf"(?P<minus>{minus}?){AROUND}(?P<after>(?:(?<![^\W\d_]){minus})?)\s*(?P<number>{number})"
    return re.fullmatch(rf"{around}(?:[.,][-–—]+)?{AROUND}", text)


def _value(text: str, sign: str) -> str | None:
    match = _match(text, sign)
    if not match:
        return None
    whole, _, part = match["number"].partition(sign) if sign else (match["number"], "", "")
    minus = "-" if (match["minus"] or match["after"]) in ("-", "−") else ""
    digits = re.sub(r"\D", "", whole)
    return plain(Decimal(f"{minus}{digits or 0}.{part or 0}"))
