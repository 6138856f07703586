"""What is refused before a page is reached, or fails in it, as a page of the study: what happened, and what to do next.

The layers before the pages (`fclip.serving.limits`: origin, rate, size) refuse with a line of JSON, which here a person
would read. Every such answer becomes a page; status and headers stay.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fclip.serving.limits import is_refusal, page_start

LOST = "Nothing that you sent before is lost."


@dataclass(frozen=True)
class Words:
    """A page for somebody who came to a dead end."""

    heading: str
    says: tuple[str, ...]  # paragraphs
    onward: str = "Go on with the study"  # a button to the first page, which leads to where the participant stands


NOT_WHOLE = Words(
    "That did not arrive whole", ("The page you sent could not be read.", f"Go back, and send it once more. {LOST}")
)
OUT_OF_DATE = Words(
    "This page is out of date",
    ("It is of another visit, or was open for too long.", f"Go on where you left off, or by your link. {LOST}"),
)
NO_PAGE = Words(
    "There is no such page",
    ("The address may not be whole: if it came in a message, copy all of it.", "Or go on where you left off."),
)
EXPIRED = Words(
    "This link does not work",
    ("It has expired, or was not copied whole.", f"{LOST} Write to those who invited you, whom the first page names."),
    "To the first page",
)
ENDED = Words("The study has ended", ("No more answers are taken. Thank you.",), "")
TOO_LARGE = Words(
    "That was too large",
    (
        "Your photographs are too large to be sent together, and none was kept.",
        "Go back, and choose fewer or smaller ones; most telephones can share a picture in a medium size.",
    ),
)
TOO_MANY = Words(
    "One moment, please", ("Very many pages were asked for from your network just now.", f"{LOST} Wait {{wait}}.")
)
MISTAKE = Words(
    "That was our mistake",
    (
        "The server could not make this page.",
        f"{LOST} Wait a minute, then go on. If it happens again, tell who invited you this number: {{request}}",
    ),
)
BY_STATUS = {
    400: NOT_WHOLE,
    403: OUT_OF_DATE,
    404: NO_PAGE,
    405: NO_PAGE,
    410: EXPIRED,
    413: TOO_LARGE,
    422: NOT_WHOLE,
    429: TOO_MANY,
}


def words_for(status: int, headers: Headers) -> Words:
    """What a person is told."""
    words, seconds = BY_STATUS.get(status, MISTAKE), headers.get("retry-after", "")
    wait = f"{seconds} seconds, then go on" if seconds.isdigit() and seconds != "1" else "a second, then go on"
    request = headers.get("x-request-id", "–")
    told = tuple(one.replace("{wait}", wait).replace("{request}", request) for one in words.says)
    return Words(words.heading, told, words.onward)


class RefusalPages:
    """The outermost layer."""

    def __init__(self, app: ASGIApp, page: Callable[[Words], str], drain_bytes: int) -> None:
        """As a layer.

        Args:
            page: words → HTML.
            drain_bytes: of a body that is refused, so much is still read: a browser that cannot send on shows an error
                of its own instead of the page.
        """
        self.app, self._page, self._drain = app, page, drain_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        held: Message | None = None
        whole = False

        async def read() -> Message:
            nonlocal whole
            message = await receive()
            whole = not message.get("more_body", False)
            return message

        async def paged(message: Message) -> None:
            nonlocal held
            if message["type"] == "http.response.start" and is_refusal(message):
                held = message
            elif held is None:
                await send(message)
            elif not message.get("more_body", False):
                seen = 0
                while held["status"] == 413 and not whole and seen < self._drain:
                    seen += len((await read()).get("body", b""))
                page = self._page(words_for(held["status"], Headers(raw=held["headers"]))).encode()
                await send(page_start(held, page))
                await send({"type": "http.response.body", "body": page})

        return await self.app(scope, read, paged)
