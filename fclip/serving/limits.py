"""Who may ask, how often and how much, before anything of a request is read: small ASGI layers.

Order, from the outside: security headers, API key, rate, size. What they refuse is {"error": …} like everything else.
The rate is counted in each process: N workers let N times as much through. Before several servers the proxy counts.
"""

from __future__ import annotations

import ipaddress
import math
import time
from collections import OrderedDict
from collections.abc import Callable

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fclip.serving.sessions import COOKIES, SIGN_IN, is_key, is_session

OPEN = ("/healthz", "/readyz")
"""Asked by machines that know no key, often."""
FREE = (*OPEN, "/metrics", "/static/", "/items/")
"""Not counted: a page of answers asks for dozens of thumbnails."""
KEYLESS = (*OPEN, "/static/", SIGN_IN)
"""Asked without a key."""
CLIENTS_KEPT = 10_000

CSP = (
    "default-src 'self'; img-src 'self' data: blob:; object-src 'none'; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'none'"
)
SECURITY_HEADERS = {
    "Content-Security-Policy": CSP,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",  # addresses may hold somebody's words
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "geolocation=(), microphone=(), camera=(self)",
}


class TooLargeError(HTTPException):
    """A body is longer than allowed, however it was announced. FastAPI lets no other kind through while it reads."""

    def __init__(self, max_bytes: int) -> None:
        message = f"the request has more than {max_bytes / 1e6:g} megabytes; send fewer or smaller pictures"
        super().__init__(413, message, {"Connection": "close"})


def refusal(status: int, message: str, **headers: str) -> JSONResponse:
    """One line of JSON."""
    return JSONResponse({"error": message}, status, {name.replace("_", "-"): value for name, value in headers.items()})


def is_refusal(start: Message) -> bool:
    """Whether an answer's first message begins an error told as JSON, which a person would rather read on a page."""
    kind = Headers(raw=start["headers"]).get("content-type", "")
    return bool(start["status"] >= 400 and kind.startswith("application/json"))


def page_start(refused: Message, page: bytes) -> Message:
    """The first message of a page in place of a refusal: its status and headers, and those that pages have."""
    started = {**refused, "headers": list(refused["headers"])}
    headers = MutableHeaders(scope=started)
    for name, value in SECURITY_HEADERS.items():  # the layer that refused may be outside theirs
        headers.setdefault(name, value)
    headers["Content-Type"] = "text/html; charset=utf-8"
    headers["Content-Length"] = str(len(page))
    headers["Cache-Control"] = "no-store"
    return started


class SecurityHeaders:
    """Headers for every answer, and no state changes or work for pages of other origins."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in SECURITY_HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        site = Headers(scope=scope).get("sec-fetch-site", "none")
        if scope["method"] not in ("GET", "HEAD") and site in ("cross-site", "same-site"):
            return await refusal(403, "asked from a page of another origin")(scope, receive, guarded)
        return await self.app(scope, receive, guarded)


class ApiKey:
    """Lets through who sends `Authorization: Bearer KEY` or `X-API-Key: KEY`, or has signed in to the page."""

    def __init__(self, app: ASGIApp, key: str) -> None:
        self.app, self._key = app, key

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"].startswith(KEYLESS) or self._knows(HTTPConnection(scope)):
            return await self.app(scope, receive, send)
        message = "expected the API key as 'Authorization: Bearer KEY' or 'X-API-Key: KEY'"
        return await refusal(401, message, WWW_Authenticate="Bearer")(scope, receive, send)

    def _knows(self, request: HTTPConnection) -> bool:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        sent = token.strip() if scheme.lower() == "bearer" else request.headers.get("x-api-key", "")
        if sent:
            return is_key(sent.encode("latin-1"), self._key)  # the bytes that were sent
        return any(is_session(request.cookies.get(name, ""), self._key) for name in COOKIES)


class RateLimit:
    """A token bucket for each client's network: `burst` questions at once, then `per_minute`."""

    def __init__(
        self, app: ASGIApp, per_minute: float, burst: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.app, self._per_second, self._burst, self._clock = app, per_minute / 60, max(1, burst), clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # client → tokens, when

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not scope["path"].startswith(FREE):
            wait_s = self._take(_network(scope))
            if wait_s > 0:
                message = f"too many questions; ask again in {math.ceil(wait_s)} s"
                return await refusal(429, message, Retry_After=str(math.ceil(wait_s)))(scope, receive, send)
        return await self.app(scope, receive, send)

    def _take(self, client: str) -> float:
        """Takes a token, or says in how many seconds there will be one."""
        now = self._clock()
        tokens, when = self._buckets.pop(client, (float(self._burst), now))
        tokens = min(self._burst, tokens + (now - when) * self._per_second)
        allowed = tokens >= 1
        self._buckets[client] = (tokens - allowed, now)
        if len(self._buckets) > CLIENTS_KEPT:
            self._buckets.popitem(last=False)
        return 0.0 if allowed else (1 - tokens) / self._per_second


def _network(scope: Scope) -> str:
    """The client's address; of IPv6 its /64, which one household owns whole."""
    host = (scope.get("client") or ("unknown",))[0]
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return str(host)
    return str(ipaddress.ip_network((address, 64), strict=False)) if address.version == 6 else host


class BodyLimit:
    """Refuses bodies that are announced too long, and stops reading the others where they become so."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self.app, self._max_bytes = app, max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        announced = Headers(scope=scope).get("content-length", "")
        if announced.isascii() and announced.isdigit() and int(announced) > self._max_bytes:
            error = TooLargeError(self._max_bytes)
            return await refusal(413, error.detail, **(error.headers or {}))(scope, receive, send)
        seen = 0

        async def counted() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > self._max_bytes:
                raise TooLargeError(self._max_bytes)
            return message

        await self.app(scope, counted, send)
