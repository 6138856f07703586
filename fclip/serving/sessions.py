"""Signing in to the page of a server that wants an API key: a browser cannot send it with every picture.

    token = new_session(key)                # what the cookie holds: until when, and a proof that only the key makes
    is_session(token, key)

Nothing is kept on the server, and any of its processes knows the token. Another key ends all sessions.
"""

from __future__ import annotations

import hashlib
import hmac
import time

SIGN_IN = "/sign-in"
LASTS_S = 7 * 86_400
COOKIES = ("__Host-fclip", "fclip")
"""Over TLS, where browsers bind the first name to this one host; and without."""


def is_key(sent: bytes, key: str) -> bool:
    """Compares in a time that tells nothing."""
    return hmac.compare_digest(hashlib.sha256(sent).digest(), hashlib.sha256(key.encode()).digest())


def new_session(key: str, now: float | None = None) -> str:
    """A token that is good for a week."""
    until = str(int((time.time() if now is None else now) + LASTS_S))
    return f"{until}.{_proof(until, key)}"


def is_session(token: str, key: str, now: float | None = None) -> bool:
    """Whether a token was made with this key and is still good."""
    until, _, proof = token.partition(".")
    if not (until.isascii() and until.isdigit() and len(until) < 15):
        return False
    genuine = hmac.compare_digest(proof.encode(), _proof(until, key).encode())
    return genuine and int(until) > (time.time() if now is None else now)


def _proof(until: str, key: str) -> str:
    return hmac.new(hashlib.sha256(key.encode()).digest(), f"fclip page until {until}".encode(), "sha256").hexdigest()
