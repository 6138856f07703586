"""What may go wrong with a question, as a status, one line in words, and headers: for programs and for the page."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.exceptions import HTTPException

from fclip.errors import StoreUnavailableError, UserError
from fclip.serving.batching import BusyError

logger = logging.getLogger("fclip.serving")
EXPECTED: tuple[type[Exception], ...] = (
    *(UserError, ValidationError, RequestValidationError),
    *(HTTPException, BusyError, StoreUnavailableError),
)
NO_PLACES = ("query", "path", "body", "value", "values", "range")
"""What pydantic puts into an error's place that its reader did not write."""


def explained(error: Exception, index: Any) -> tuple[int, str, dict[str, str]]:
    """Status, line and headers of one of the EXPECTED errors.

    Args:
        error: as it was raised.
        index: that was asked; where it lies is left out of the line.
    """
    if isinstance(error, UserError):  # before ValueErrors of others, which it also is
        return 422, without_places(places_of(index), str(error)), {}
    if isinstance(error, ValidationError | RequestValidationError):
        return 422, _first_problem(error.errors()), {}
    if isinstance(error, HTTPException):
        return error.status_code, str(error.detail), dict(error.headers or {})
    if isinstance(error, BusyError):
        return 503, "too many questions are waiting; ask again", {"Retry-After": "1"}
    if isinstance(error, StoreUnavailableError):
        logger.error("store unavailable", extra={"fields": {"why": str(error)[:300]}})
        return 503, "the index cannot be reached; ask again", {"Retry-After": "5"}
    raise error


def _first_problem(problems: Any) -> str:
    """One line; never the value, which may be somebody's words."""
    first, more = problems[0], len(problems) - 1
    place = ".".join(str(part) for part in first["loc"] if part not in NO_PLACES)
    text = first["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
    return f"{place + ': ' if place else ''}{text}{f'; and {more} more' if more else ''}".replace("\n", " ")


def places_of(index: Any) -> set[str]:
    """Where an index lies."""
    return {str(getattr(index, name, "") or "") for name in ("folder", "uri")} - {""}


def without_places(places: Iterable[str], message: str) -> str:
    """A message without the folder of the index, which is nobody's business outside."""
    for place in sorted(places, key=len, reverse=True):
        message = message.replace(f"the index {place}", "this index").replace(place, "the index")
    return message.replace("\n", " ")
