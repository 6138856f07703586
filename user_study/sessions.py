"""Whose browser it is: one secret in a cookie, which is also what the participant's link holds.

The secret is made when the first page is seen, and belongs to a participant once they consent: consent that is sent
twice is the same participant. Forms carry a word derived from it, which a page of another origin cannot know.

Sources: OWASP Cheat Sheets, Session Management and Cross-Site Request Forgery Prevention.
"""

from __future__ import annotations

import hashlib
import hmac
import re

from fastapi import Request
from starlette.responses import Response

TOKEN = re.compile(r"[A-Za-z0-9_-]{43}")


class ForgedError(Exception):
    """A form that was not made for this browser."""


def cookie_name(request: Request) -> str:
    """`__Host-`: only ever sent by and to this very host over TLS; browsers refuse such a name over plain http."""
    return "__Host-study" if request.url.scheme == "https" else "study"


def token_of(request: Request) -> str | None:
    """The secret that the browser sent."""
    token = request.cookies.get(cookie_name(request), "")
    return token if TOKEN.fullmatch(token) else None


def remember(response: Response, request: Request, token: str, days: float) -> None:
    """Leaves the secret with the browser."""
    secure = request.url.scheme == "https"
    response.set_cookie(
        cookie_name(request), token, int(days * 86400), path="/", secure=secure, httponly=True, samesite="lax"
    )


def form_word(token: str) -> str:
    """What this browser's forms carry."""
    return hmac.new(token.encode(), b"form", hashlib.sha256).hexdigest()[:32]


def check_form(token: str | None, word: object) -> str:
    """The secret of a form that was made for this browser.

    Raises:
        ForgedError: it was not.
    """
    if token is None or not isinstance(word, str) or not hmac.compare_digest(form_word(token).encode(), word.encode()):
        raise ForgedError
    return token
