"""What is refused before the page is reached (key, rate, size) or fails in it, as a sentence on a page.

The layers refuse with JSON; where a browser asked for the page that would be read by a person.
"""

from __future__ import annotations

import json
from urllib.parse import quote

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fclip.serving.assets import render
from fclip.serving.limits import is_refusal, page_start
from fclip.serving.sessions import SIGN_IN

PAGES = ("/", SIGN_IN)


class PageErrors:
    """The outermost layer: a refusal of a page is itself a page; without the key, the one to sign in."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] not in PAGES:
            return await self.app(scope, receive, send)
        held: Message | None = None
        body = b""

        async def paged(message: Message) -> None:
            nonlocal held, body
            if message["type"] == "http.response.start" and is_refusal(message):
                held = message
            elif held is None:
                await send(message)
            else:
                body += message.get("body", b"")
                if not message.get("more_body", False):
                    page = _page(scope, held["status"], body)
                    await send(page_start(held, page))
                    await send({"type": "http.response.body", "body": page})

        await self.app(scope, receive, paged)


def _page(scope: Scope, status: int, body: bytes) -> bytes:
    query = scope.get("query_string", b"").decode("latin-1")
    back = f"/?{quote(query, safe='%=&+.-_~!$()*,;:@/?')}" if query and scope["path"] == "/" else "/"
    if status == 401:
        return render("sign_in.html", back=back, problem=None)
    return render("problem.html", problem=sentence(json.loads(body)["error"]), back=back)


def sentence(line: str) -> str:
    """A line of an error as a sentence."""
    text = line.strip()
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?", "…")) else ".")
