"""The routes: questions, items, facets, and what machines ask.

curl localhost:8000/search -H 'Content-Type: application/json' -d '{"texts": ["red dress"], "k": 4}'
curl localhost:8000/search -F question='{"texts": ["in blue"]}' -F images=@photo.jpg
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from fastapi import APIRouter, HTTPException, Request, Response
from pydantic import BaseModel, TypeAdapter
from starlette.responses import PlainTextResponse

from fclip.serving.answering import Answering
from fclip.serving.requests import read_question, while_connected
from fclip.serving.schemas import (
    Answers,
    Choice,
    Counted,
    Facets,
    Feedback,
    Filters,
    Found,
    Health,
    Item,
    Problem,
    Question,
    Ready,
    Relaxation,
)

if TYPE_CHECKING:
    from fclip.index import Answer

PROBLEMS: dict[int | str, dict[str, Any]] = {
    401: {"model": Problem, "description": "No or another API key."},
    422: {"model": Problem, "description": "A question that makes no sense; says what to do."},
    429: {"model": Problem, "description": "Too many questions; Retry-After says when."},
    503: {"model": Problem, "description": "The index cannot be reached or too many wait; Retry-After says when."},
}
UPLOADING: dict[int | str, dict[str, Any]] = {
    400: {"model": Problem, "description": "No JSON and no form."},
    408: {"model": Problem, "description": "The request took too long to arrive."},
    413: {"model": Problem, "description": "Too many bytes."},
    415: {"model": Problem, "description": "Neither JSON nor a form."},
}
ABSENT: dict[int | str, dict[str, Any]] = {404: {"model": Problem, "description": "No such id."}}
THUMBNAIL = "/thumbnail"
KEEP_S = 86_400  # thumbnails, in browsers

router = APIRouter(responses=PROBLEMS)


def body_of(model: type) -> dict[str, Any]:
    """What OpenAPI says of a body that is JSON, or a form with photographs."""
    schema = {"$ref": f"#/components/schemas/{model.__name__}"}
    images = {"type": "array", "items": {"type": "string", "format": "binary"}, "description": "JPEG, PNG or WEBP."}
    question = {"type": "string", "contentMediaType": "application/json", "description": f"A {model.__name__} as JSON."}
    form = {"type": "object", "properties": {"question": question, "images": images}, "additionalProperties": False}
    example = {"texts": ["red summer dress"], "where": {"gender": "Women"}, "k": 4}
    content = {
        "application/json": {"schema": schema, "example": example | ({"liked": ["1163"]} if model is Feedback else {})},
        "multipart/form-data": {"schema": form},
    }
    return {"requestBody": {"required": True, "content": content}}


@router.post("/search", response_model=Answers, responses=UPLOADING, openapi_extra=body_of(Question))
async def search(request: Request) -> Any:
    """The best products for words, photographs and items of the index together."""
    return await _answered(request, Question)


@router.post("/feedback", response_model=Answers, responses=UPLOADING, openapi_extra=body_of(Feedback))
async def feedback(request: Request) -> Any:
    """The same question, moved by what was liked and disliked; leaving an id out undoes it. Nothing is remembered."""
    return await _answered(request, Feedback)


def query_of(model: type[BaseModel]) -> dict[str, Any]:
    """What OpenAPI says of an address's parameters, which are read by hand: so an unknown one is refused by name."""
    described = model.model_json_schema()["properties"]
    return {"parameters": [{"name": name, "in": "query", "schema": about} for name, about in described.items()]}


@router.get("/similar/{id:path}", response_model=Answers, responses=ABSENT, openapi_extra=query_of(Choice))
async def similar(request: Request, id: str) -> Any:  # noqa: A002
    """Other products like a picture of the index."""
    answering: Answering = request.app.state.answering
    choice = Choice.model_validate(dict(request.query_params))
    await _item(answering, id)
    question = Question.model_validate({"items": [id], **choice.model_dump()})
    return await while_connected(request, _ask(answering, question, []))


# Before the item itself: its pattern would take this address for an id.
@router.get("/items/{id:path}/thumbnail", responses={**ABSENT, 200: {"content": {"image/jpeg": {}}}})
async def thumbnail(request: Request, id: str) -> Response:  # noqa: A002
    """A small JPEG of the picture."""
    answering: Answering = request.app.state.answering
    found = (await answering.search(answering.recommender.index.read, [id]))[:1]
    if not found and (longer := await answering.search(answering.recommender.index.read, [id + THUMBNAIL])):
        return Response(Item(**_about(longer[0])).model_dump_json(), media_type="application/json")
    if not found:
        raise _no_such(id)
    data = found[0].thumbnail
    headers = {"ETag": f'"{hashlib.sha256(data).hexdigest()[:32]}"', "Cache-Control": f"private, max-age={KEEP_S}"}
    if request.headers.get("if-none-match") == headers["ETag"]:
        return Response(status_code=304, headers=headers)
    return Response(data, media_type="image/jpeg", headers=headers)


@router.get("/items/{id:path}", response_model=Item, responses=ABSENT)
async def item(request: Request, id: str) -> Any:  # noqa: A002
    """What the index knows of a picture. Ids may hold anything; write `/` as it is and quote the rest."""
    return _about(await _item(request.app.state.answering, id))


@router.get("/facets", response_model=Facets, openapi_extra=query_of(Counted))
async def facets(request: Request) -> Any:
    """The groups that can be filtered on, their values, and how many pictures have each."""
    answering: Answering = request.app.state.answering
    where = Counted.model_validate(dict(request.query_params)).where
    return await while_connected(request, _counted(answering, {} if where is None else _filters(where)))


@router.get("/healthz", response_model=Health)
async def healthz() -> Any:
    """The process lives."""
    return {"status": "ok"}


@router.get("/readyz", response_model=Ready, response_model_exclude_none=True)
async def readyz(request: Request) -> Any:
    """The index answers, so that questions may come."""
    answering: Answering = request.app.state.answering
    await answering.search(answering.recommender.index.count)
    return {"status": "ok", "refused": request.app.state.follower.refused}


@router.get("/metrics", response_class=PlainTextResponse)
async def metrics(request: Request) -> Any:
    """For Prometheus."""
    return PlainTextResponse(request.app.state.metrics.render(), media_type="text/plain; version=0.0.4")


async def _answered(request: Request, model: type[Question]) -> dict[str, Any]:
    answering: Answering = request.app.state.answering
    question, uploads = await read_question(request, model, request.app.state.settings)
    return await while_connected(request, _ask(answering, question, uploads))


async def _ask(answering: Answering, question: Question, uploads: list[bytes]) -> dict[str, Any]:
    asked = question.model_dump(by_alias=True, exclude_none=True)
    where = asked.get("where") or {}
    answers = await answering.ask(await answering.decode(uploads), **asked)
    relax = await answering.relaxations(where) if not answers else {}
    unknown = await answering.unknown_values(where)
    return {
        "answers": [_found(answer) for answer in answers],
        "notes": [*answering.notes([*question.texts, *question.avoid]), *unknown],
        "relax": [Relaxation(group=group, pictures=pictures) for group, pictures in relax.items()],
    }


async def _counted(answering: Answering, where: Mapping[str, Any]) -> dict[str, Any]:
    return {**await answering.facets(where), "notes": await answering.unknown_values(where)}


async def _item(answering: Answering, identity: str) -> Answer:
    found = await answering.search(answering.recommender.index.read, [identity])
    if not found:
        raise _no_such(identity)
    return found[0]


def _no_such(identity: str) -> HTTPException:
    return HTTPException(404, f"no picture {identity[:100]!r} in the index; ids are those of /search")


def _about(answer: Answer) -> dict[str, Any]:
    known = {name: getattr(answer, name) for name in ("id", "item", "title", "attributes")}
    return {**known, "thumbnail": thumbnail_address(answer.id)}


def thumbnail_address(identity: str) -> str:
    """Where the small picture of an id is."""
    return f"/items/{quote(identity, safe='/')}{THUMBNAIL}"


def _found(answer: Answer) -> Found:
    """For JSON; `why` in parts for programs and as a sentence for people."""
    from dataclasses import asdict

    why = None if answer.why is None else {**asdict(answer.why), "words": str(answer.why)}
    return Found(**_about(answer), score=answer.score, why=why)


def _filters(text: str) -> Mapping[str, Any]:
    known = TypeAdapter(Filters)
    return known.dump_python(known.validate_json(text), by_alias=True, exclude_none=True)
