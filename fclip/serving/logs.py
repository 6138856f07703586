"""One line of JSON for each request, and each in the metrics: which route, how it went, how long it took.

{"time": "2026-01-31T12:00:00.123Z", "level": "info", "event": "request", "request": "5f0c…", "method": "POST",
 "route": "/search", "status": 200, "ms": 14.2}

No words, pictures, ids, addresses or query strings: nothing in here is about a person. A request whose client went away
has status 499. An error of ours is logged by its type and the lines it passed, without its message, which may quote.
"""

from __future__ import annotations

import json
import logging
import re
import time
import traceback
import uuid
from datetime import UTC, datetime
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fclip.serving.limits import refusal
from fclip.serving.metrics import Metrics

logger = logging.getLogger("fclip.serving")
CLIENT_GONE = 499  # nginx's number
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")  # others would each be a metric of their own
GIVEN_ID = re.compile(r"[A-Za-z0-9_-]{8,64}")


class JsonLines(logging.Formatter):
    """A record as one line of JSON; `extra={"fields": …}` are its further keys."""

    def format(self, record: logging.LogRecord) -> str:
        when = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        line = {"time": when, "level": record.levelname.lower(), "event": record.getMessage()}
        line |= getattr(record, "fields", {})
        if record.exc_info and record.exc_info[1] is not None:
            line |= _where(record.exc_info[1])
        return json.dumps(line, ensure_ascii=False)


def _where(error: BaseException) -> dict[str, Any]:
    frames = traceback.extract_tb(error.__traceback__)
    return {"error": type(error).__name__, "at": [f"{frame.name}:{frame.lineno}" for frame in frames[-8:]]}


LOG_CONFIG: dict[str, Any] = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"json": {"()": "fclip.serving.logs.JsonLines"}},
    "handlers": {"stdout": {"class": "logging.StreamHandler", "formatter": "json", "stream": "ext://sys.stdout"}},
    "loggers": {
        "fclip.serving": {"handlers": ["stdout"], "level": "INFO", "propagate": False},
        "python_multipart": {"level": "ERROR"},  # each malformed form of a stranger would be a warning
        "uvicorn": {"handlers": ["stdout"], "level": "INFO", "propagate": False},
    },
}
"""For uvicorn, whose own access log holds addresses and query strings and is switched off."""


class RequestLog:
    """The outermost layer: what leaves it has an id, a line in the log, and is JSON even when the program failed."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        given = Headers(scope=scope).get("x-request-id", "")
        identity = given if GIVEN_ID.fullmatch(given) else uuid.uuid4().hex
        began, status = time.perf_counter(), 0

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["X-Request-ID"] = identity
            await send(message)

        try:
            with self._metrics.in_flight.track_inprogress():
                await self.app(scope, receive, noted)
        except ClientDisconnect:
            status = CLIENT_GONE
        except Exception:
            logger.exception("failed", extra={"fields": {"request": identity}})
            if status == 0:
                message = f"this server made a mistake; its log knows more under request {identity}"
                await refusal(500, message)(scope, receive, noted)
        finally:
            self._note(scope, status or CLIENT_GONE, identity, time.perf_counter() - began)

    def _note(self, scope: Scope, status: int, identity: str, seconds: float) -> None:
        route, method = route_of(scope), scope["method"] if scope["method"] in METHODS else "other"
        self._metrics.requests.labels(route, method, status).inc()
        self._metrics.request_seconds.labels(route).observe(seconds)
        fields = {"request": identity, "method": method, "route": route, "status": status}
        logger.info("request", extra={"fields": {**fields, "ms": round(seconds * 1000, 1)}})


def route_of(scope: Scope) -> str:
    """The route's pattern, never the path, which holds ids."""
    return getattr(scope.get("route"), "path", None) or "none"
