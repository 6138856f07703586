"""A problem that pydantic found, in our words: where, expected, got; the nearest key for an unknown one.

in_words("epochs", {"type": "greater_than", "ctx": {"gt": 0}, …}, got="0")    # epochs: expected more than 0, got 0

For presets and other settings (`fclip.config`) and for questions over HTTP (`fclip.serving.problems`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from fclip.errors import nearest

UNKNOWN_KEY = ("unexpected_keyword_argument", "extra_forbidden")
WANTED = {
    "greater_than": "more than {gt}",
    "greater_than_equal": "at least {ge}",
    "less_than": "less than {lt}",
    "less_than_equal": "at most {le}",
    "string_too_short": "at least {min_length} characters",
    "string_too_long": "at most {max_length} characters",
    "too_short": "at least {min_length} values",
    "too_long": "at most {max_length} values",
    "literal_error": "{expected}",
    "finite_number": "a finite number",
    "string_type": "a string",
    "list_type": 'a list, e.g. ["a", "b"]',
    "tuple_type": "a list, e.g. [a, b]",
    "dict_type": "keys and values",
    "model_type": "keys and values",
    "dataclass_type": "keys below it",
    **dict.fromkeys(("int_type", "int_parsing", "int_from_float"), "a whole number"),
    **dict.fromkeys(("float_type", "float_parsing"), "a number"),
    **dict.fromkeys(("bool_type", "bool_parsing"), "true or false"),
}
"""pydantic's name of a problem → what was expected; all others keep pydantic's words."""


def in_words(place: str, problem: Mapping[str, Any], known: Iterable[str] = (), got: str = "") -> str:
    """One line.

    Args:
        place: the key that is meant, with those above it; empty: all that came.
        problem: one of `ValidationError.errors()`.
        known: the keys there are beside it.
        got: what came, as it may be shown.
    """
    if problem["type"] in UNKNOWN_KEY:
        return f"unknown key {place!r}; {nearest(place.rpartition('.')[2], known)}"
    said = f"{place}: {_wanted(problem)}" if place else _wanted(problem)
    return said if ", got " in said or not got else f"{said}, got {got}"


def _wanted(problem: Mapping[str, Any]) -> str:
    kind, about = problem["type"], problem.get("ctx", {})
    if kind == "json_invalid":
        why, at, where = about["error"].rpartition(" at ")
        return f"expected JSON, got a mistake{at}{where} ({why}); mind quotes, commas and brackets"
    if kind in WANTED:
        limits = {name: f"{limit:g}" if isinstance(limit, float) else limit for name, limit in about.items()}
        return "expected " + re.sub(r"\b1 (character|value)s", r"1 \1", WANTED[kind].format(**limits))
    words: str = problem["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
    return words[:1].lower() + words[1:]
