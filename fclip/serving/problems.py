"""What may go wrong with a question, as a status, one line in words, and headers: for programs and for the page."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException

from fclip.errors import StoreUnavailableError, UserError, nearest
from fclip.serving.batching import BusyError
from fclip.serving.requests import AS_A_FORM
from fclip.serving.schemas import Choice, Counted, Feedback, Not, Question, Range
from fclip.validation import UNKNOWN_KEY, in_words

logger = logging.getLogger("fclip.serving")
EXPECTED: tuple[type[Exception], ...] = (
    *(UserError, ValidationError, RequestValidationError),
    *(HTTPException, BusyError, StoreUnavailableError),
)
NO_PLACES = ("[words]", "[number]", "[value]", "[values]", "[range]", "[not]", "[key]")
"""What pydantic puts into an error's place that its reader did not write: tags of forms, and that a key is meant."""
FORMS: dict[str, type[BaseModel]] = {
    **{form.__name__: form for form in (Question, Feedback, Choice, Counted)},
    **{"[range]": Range, "[not]": Not},
}
"""Title of a question, or tag of a form of filter → its keys."""
PHOTOGRAPHS = ("image", "images", "photo", "photos", "photograph", "photographs", "picture", "pictures")
"""Keys by which photographs are looked for in JSON."""
KINDS: dict[type, str] = {str: "a string", list: "a list", dict: "keys and values"}
SHOWN = ("_parsing", "_equal", "literal_error", "finite_number")
"""How problems end whose text may be shown: it should have been a number or one of a few words."""
MAX_SHOWN = 60  # characters


def explained(error: Exception, index: Any) -> tuple[int, str, dict[str, str]]:
    """Status, line and headers of one of the EXPECTED errors.

    Args:
        error: as it was raised.
        index: that was asked; where it lies is left out of the line.
    """
    if isinstance(error, UserError):  # before ValueErrors of others, which it also is
        return 422, without_places(places_of(index), str(error)), {}
    if isinstance(error, ValidationError | RequestValidationError):
        return 422, _first_problem(error), {}
    if isinstance(error, HTTPException):
        return error.status_code, str(error.detail), dict(error.headers or {})
    if isinstance(error, BusyError):
        return 503, "too many questions are waiting; ask again", {"Retry-After": "1"}
    if isinstance(error, StoreUnavailableError):
        logger.error("store unavailable", extra={"fields": {"why": str(error)[:300]}})
        return 503, "the index cannot be reached; ask again", {"Retry-After": "5"}
    raise error


def _places(location: Iterable[Any]) -> list[str]:
    return [str(part)[:MAX_SHOWN] for part in location if part not in NO_PLACES]


def _first_problem(error: Any) -> str:
    """One line; never a text that was asked, which is somebody's words."""
    problems = error.errors()
    first, more = problems[0], len(problems) - 1
    written = first["loc"][isinstance(error, RequestValidationError) :]  # theirs begins with "query" or "body"
    whole = len(written) - (first["type"] in UNKNOWN_KEY)  # the last part of those was written, whatever it is called
    parts = [*_places(written[:whole]), *(str(part)[:MAX_SHOWN] for part in written[whole:])]
    known = _keys(getattr(error, "title", ""), first["loc"])
    line = in_words(".".join(parts), first, known, _got(first))
    if first["type"] in UNKNOWN_KEY and "texts" in known and first["loc"][-1] in PHOTOGRAPHS:
        line = f"unknown key {first['loc'][-1]!r}; {AS_A_FORM}"
    return f"{line}{f'; and {more} more' if more else ''}".replace("\n", " ")


def _keys(title: str, location: Sequence[Any]) -> list[str]:
    """The keys beside the one at a location of the model with this title."""
    form = FORMS.get(location[-2] if len(location) > 1 else title)
    return [] if form is None else [field.alias or name for name, field in form.model_fields.items()]


def _got(problem: Mapping[str, Any]) -> str:
    """What came: numbers and words of a closed list as they are, of the rest its kind or its length."""
    kind, came = problem["type"], problem["input"]
    if "actual_length" in problem.get("ctx", {}):
        return f"{problem['ctx']['actual_length']}"
    if kind in ("string_too_short", "string_too_long"):
        return f"{len(came.strip())}"
    if isinstance(came, str) and kind.endswith(SHOWN):
        return came[:MAX_SHOWN] if kind.endswith("_equal") else repr(came[:MAX_SHOWN])
    if came is None or isinstance(came, bool):
        return json.dumps(came)
    if isinstance(came, int | float):
        return str(came)[:MAX_SHOWN]
    return next((name for form, name in KINDS.items() if isinstance(came, form)), "something else")


def no_such_route(path: str, paths: Iterable[str]) -> str:
    """For an address that is none."""
    return f"no address {path[:MAX_SHOWN]!r}; {nearest(path[:MAX_SHOWN], paths)}"


def no_such_method(path: str, method: str, methods: Iterable[str]) -> str:
    """For an address that is asked in another way."""
    return f"expected {' or '.join(sorted(methods))} for {path[:MAX_SHOWN]!r}, got {method[:MAX_SHOWN]}"


def places_of(index: Any) -> set[str]:
    """Where an index lies."""
    return {str(getattr(index, name, "") or "") for name in ("folder", "uri")} - {""}


def without_places(places: Iterable[str], message: str) -> str:
    """A message without the folder of the index, which is nobody's business outside."""
    for place in sorted(places, key=len, reverse=True):
        message = message.replace(f"the index {place}", "this index").replace(place, "the index")
    return message.replace("\n", " ")
