"""The page at `/`: words, photographs, filters and likes, for people.

    GET  /?q=red+dress&f.gender=Women&liked=1163        an address that can be shared
    POST /                                              the same form with photographs, which no address can hold

The server renders everything, so that it works without JavaScript; `static/page.js` fetches the same page and replaces
its parts. Nothing is kept on the server: what is asked is in the address or in the form.
"""

from __future__ import annotations

import asyncio
import gzip
import hashlib
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Request, Response
from starlette.exceptions import HTTPException
from starlette.responses import RedirectResponse

from fclip.errors import UserError
from fclip.serving.answering import Answering
from fclip.serving.api import KEEP_S
from fclip.serving.asked import MOST_SHOWN, SHOWN, Asked
from fclip.serving.assets import assets, render
from fclip.serving.cards import are_square, card_of, name_of
from fclip.serving.page_errors import sentence
from fclip.serving.panel import Facet, facets_of, label
from fclip.serving.photographs import FILES, Photographs, copies, decoded, read_form
from fclip.serving.problems import EXPECTED, explained
from fclip.serving.requests import while_connected
from fclip.serving.schemas import MAX_TEXT, Question
from fclip.serving.sessions import COOKIES, LASTS_S, SIGN_IN, is_key, new_session

if TYPE_CHECKING:
    from fclip.index import Answer

router = APIRouter(include_in_schema=False)
AROUND = 200  # pictures that a look around chooses from
AROUND_DIVERSITY = 0.7
YEAR_S = 365 * KEEP_S
SWAP = "x-page"
"""Header of the script, which replaces parts of its page: it has the photographs, and follows no redirection."""
UNSENT = "Your photo was not sent. Choose it again and press “Search with photos”."
NOT_SHARED = "Photos are not part of the address: a shared link has everything else."
GONE = "Some pictures of this address are no longer there and were left out."
ONLY_AVOID = "What to avoid counts once you look for something: add words, a photo or a like."


@router.get("/")
async def page(request: Request) -> Response:
    """What an address asks for."""
    pairs = request.query_params.multi_items()
    asked = Asked.read(pairs)
    unsent = any(name == FILES and value for name, value in pairs)
    if SWAP not in request.headers and not unsent and sorted(pairs) != sorted(asked.pairs()):
        return RedirectResponse(asked.address(), 303)
    photographs = Photographs([], [UNSENT] * unsent, [])
    return await while_connected(request, _page(request, asked, photographs))


@router.post("/")
async def page_with_photographs(request: Request) -> Response:
    """What a form asks for; without a photograph, its address."""
    sent = await read_form(request, request.app.state.settings)
    asked, swap = Asked.read(sent.pairs), SWAP in request.headers
    if not sent.files and not swap:
        return RedirectResponse(asked.address(), 303)
    photographs = await decoded(request.app.state.answering, sent.files)
    return await while_connected(request, _page(request, asked, photographs))


@router.get("/static/{name}")
async def static(request: Request, name: str) -> Response:
    """Stylesheet, script, icon."""
    if (asset := assets().get(name)) is None:
        raise HTTPException(404, "no such file")
    kept = f"public, max-age={YEAR_S}, immutable" if request.query_params.get("v") == asset.version else "no-cache"
    headers = {"Cache-Control": kept, "ETag": f'"{asset.version}"'}
    return _compressed(request, asset.data, asset.kind, headers, compressed=asset.compressed)


@router.get(SIGN_IN)
async def sign_in_form(request: Request) -> Response:
    """Where the key is asked for."""
    if not request.app.state.settings.api_key:
        return RedirectResponse("/", 303)
    return Response(render("sign_in.html", back="/", problem=None), media_type="text/html")


@router.post(SIGN_IN)
async def sign_in(request: Request) -> Response:
    """Gives a browser a cookie in exchange for the key."""
    key = request.app.state.settings.api_key
    form = await request.form(max_files=0, max_fields=10)
    back = str(form.get("back", "/"))
    back = back if back == "/" or back.startswith("/?") else "/"
    if key and not is_key(str(form.get("key", "")).strip().encode(), key):
        page = render("sign_in.html", back=back, problem="That is not the key of this server.")
        return Response(page, 401, media_type="text/html")
    answer = RedirectResponse(back, 303)
    if key:
        secure = request.url.scheme == "https"
        name = COOKIES[0] if secure else COOKIES[1]
        answer.set_cookie(name, new_session(key), LASTS_S, secure=secure, httponly=True, samesite="lax")
    return answer


async def _page(request: Request, asked: Asked, photographs: Photographs) -> Response:
    """The page; what goes wrong is said on it, and what was typed is still there."""
    answering: Answering = request.app.state.answering
    problems, status = list(photographs.problems), 422 if photographs.problems else 200
    headers: dict[str, str] = {}
    shown: dict[str, Any] = {"asked": asked, "tokens": [], "cards": [], "square": False, "notes": [], "relax": []}
    panel, found = await asyncio.gather(
        _panel(answering, asked), _found(answering, asked, photographs), return_exceptions=True
    )
    if isinstance(found, EXPECTED):
        status, line, headers = explained(found, answering.recommender.index)
        problems.append(sentence(line))
    elif isinstance(found, BaseException):
        raise found
    else:
        shown |= found
        status = 200 if shown["cards"] else status
    if isinstance(panel, BaseException) and not isinstance(panel, EXPECTED):
        raise panel
    swap = SWAP in request.headers
    carried = [] if swap or not photographs.pictures else await copies(answering, photographs)
    shown |= _fixed(request) | {
        "facets": [] if isinstance(panel, BaseException) else panel,
        "problems": problems,
        "photos": carried,
        "with_photos": len(photographs.pictures),
        "not_shared": NOT_SHARED,
    }
    headers |= {"Cache-Control": "no-store" if request.method == "POST" else "private, no-cache", "Vary": SWAP}
    return _compressed(request, render("page.html", **shown), "text/html; charset=utf-8", headers, status)


def _fixed(request: Request) -> dict[str, Any]:
    """What is the same on every page of a server."""
    settings = request.app.state.settings
    return {
        "max_text": MAX_TEXT,
        "max_images": settings.max_images,
        "step": SHOWN,
        "most_shown": MOST_SHOWN,
    }


async def _panel(answering: Answering, asked: Asked) -> list[Facet]:
    """The filters, each counted among what fits the others."""
    index = answering.recommender.index
    try:
        where = {group: wanted for group, wanted in asked.where().items() if group in index.groups}
    except UserError:  # said elsewhere, above all filters
        where = {}
    whole, fitting, *own = await asyncio.gather(
        answering.facets(None),
        answering.facets(where),
        *(_own_counts(answering, group, where) for group in where),
    )
    counts = {group: facet["values"] for group, facet in fitting["groups"].items()} | dict(zip(where, own, strict=True))
    everything = {group: facet["values"] for group, facet in whole["groups"].items()}
    return facets_of(counts, everything, set(index.numbers), asked)


async def _own_counts(answering: Answering, group: str, where: dict[str, Any]) -> dict[str, int]:
    """The values of a group among what fits the filters on others: what else could be chosen."""
    others = {name: wanted for name, wanted in where.items() if name != group}
    if not others:
        return (await answering.facets(None))["groups"][group]["values"]
    return await answering.search(answering.recommender.index.values, group, others)


async def _found(answering: Answering, asked: Asked, photographs: Photographs) -> dict[str, Any]:
    """The answers, and what else the template wants to know of them."""
    index, pictures = answering.recommender.index, photographs.pictures
    ids = [*asked.items, *asked.verdicts]
    known = {answer.id: answer for answer in await answering.search(index.read, ids)} if ids else {}
    here = asked.without_ids(set(ids) - known.keys())
    notes = [GONE] if here != asked else []
    question = Question(**here.question(), explain=True)
    where = question.model_dump(by_alias=True, exclude_none=True).get("where") or {}
    if pictures or here.looks_for_something:
        wanted = question.model_dump(by_alias=True, exclude_none=True)
        answers = await answering.ask(pictures, **wanted)
        notes += [sentence(note) for note in answering.notes([*question.texts, *question.avoid])]
    elif photographs.problems:
        answers = []  # somebody asked with a photograph alone; anything else would look like its answer
    else:
        answers = await answering.search(_around, index, where, here)
        notes += [ONLY_AVOID] if question.avoid else []
    names = {identity: name_of(answer) for identity, answer in known.items()}
    relax = await answering.relaxations(where) if where and not answers else {}
    notes += [sentence(note) for note in await answering.unknown_values(where)]
    cards = [card_of(answer, here, names) for answer in answers]
    return {
        "asked": here,
        "tokens": [card_of(known[identity], here, names) for identity in [*here.items, *here.verdicts]],
        "cards": cards,
        "square": are_square(cards),
        "notes": notes,
        "relax": [(group, label(group), count) for group, count in relax.items()],
    }


def _around(index: Any, where: dict[str, Any], asked: Asked) -> list[Answer]:
    """Products unlike each other, for who has not asked for anything yet."""
    from fclip.queries.diversity import diversify

    near = index.candidates(index.mean, max(AROUND, 2 * asked.k), where or None)
    hidden = {answer.item for answer in index.read(asked.disliked)} if asked.disliked else set()
    first: dict[str, int] = {}
    for place, item in enumerate(near.items):
        if item not in hidden:
            first.setdefault(item, place)
    places = list(first.values())
    if not places:
        return []
    chosen = diversify(near.scores[places], near.vectors[places], asked.k, AROUND_DIVERSITY)
    return index.read([near.ids[places[place]] for place in chosen])


def _compressed(
    request: Request,
    data: bytes,
    kind: str,
    headers: dict[str, str],
    status: int = 200,
    compressed: bytes | None = None,
) -> Response:
    """A response that is small, or none where the browser has it already."""
    if status == 200 and headers.get("Cache-Control") != "no-store":
        headers.setdefault("ETag", f'"{hashlib.sha256(data).hexdigest()[:24]}"')
        if request.headers.get("if-none-match", "").removeprefix("W/") == headers["ETag"]:
            return Response(status_code=304, headers=headers)
    headers["Vary"] = ", ".join(filter(None, (headers.get("Vary"), "Accept-Encoding")))
    if "gzip" in request.headers.get("accept-encoding", ""):
        data = compressed or gzip.compress(data, 5, mtime=0)
        headers["Content-Encoding"] = "gzip"
    return Response(data, status, headers, media_type=kind)
