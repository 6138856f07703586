"""The server's program: routes, layers and errors put together.

    app = create_app(Recommender.open("garments-index"))                 # for any ASGI server
    uvicorn --factory fclip.serving.app:from_environment --workers 4     # with FCLIP_INDEX=garments-index

Everything that fails is one line of JSON, {"error": "expected …, got …; do …"}; on the page, a sentence.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Request
from fastapi.routing import APIRoute
from starlette.responses import JSONResponse

import fclip
from fclip.errors import StoreUnavailableError, UserError
from fclip.serving import api, page, settings
from fclip.serving.answering import Answering
from fclip.serving.following import Follower, located
from fclip.serving.limits import ApiKey, BodyLimit, RateLimit, SecurityHeaders, refusal
from fclip.serving.logs import RequestLog
from fclip.serving.metrics import Metrics
from fclip.serving.page_errors import PageErrors
from fclip.serving.problems import EXPECTED, explained, no_such_method, no_such_route
from fclip.serving.schemas import Feedback, Question
from fclip.serving.settings import Settings

if TYPE_CHECKING:
    from fclip.index import Index
    from fclip.recommend import Recommender

OPENAPI = "/openapi.json"


def create_app(recommender: Recommender, chosen: Settings | None = None) -> FastAPI:
    """A server of one index.

    Args:
        recommender: its `encoder` is from `fclip.serving.encoders`, or any other.
        chosen: limits and the like; the defaults when None.
    """
    chosen, metrics = chosen or Settings(), Metrics()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.answering = Answering(recommender, chosen, metrics)
        with suppress(UserError, StoreUnavailableError):  # which is said where questions are answered
            await asyncio.to_thread(_ask_once, recommender.index)
        app.state.follower = Follower(chosen.index, chosen.follow_seconds, recommender, metrics)
        async with app.state.follower.following(app):
            yield
        await app.state.answering.close()

    # No /docs: it loads scripts of another origin. Any viewer opens /openapi.json.
    app = FastAPI(
        title="fclip", version=fclip.__version__, openapi_url=OPENAPI, docs_url=None, redoc_url=None, lifespan=lifespan
    )
    app.state.settings, app.state.metrics = chosen, metrics
    app.include_router(api.router)
    app.include_router(page.router)
    _answer_errors(app)
    _describe(app, bool(chosen.api_key))
    # The last is the outermost.
    app.add_middleware(BodyLimit, max_bytes=int(chosen.max_body_mb * 1e6))
    if chosen.rate_per_minute:
        app.add_middleware(RateLimit, per_minute=chosen.rate_per_minute, burst=chosen.rate_burst)
    if chosen.api_key:
        app.add_middleware(ApiKey, key=chosen.api_key)
    app.add_middleware(SecurityHeaders)
    app.add_middleware(RequestLog, metrics=metrics)
    app.add_middleware(PageErrors)
    return app


def _ask_once(index: Index) -> None:
    """What an index reads for its first question is there before it comes."""
    if len(index.sample):  # else an update has left nothing
        index.search(index.sample[0], 1)


def from_environment() -> FastAPI:
    """The server that FCLIP_INDEX and the other variables of `Settings` describe; for each of several processes."""
    chosen = settings.from_environment()
    return create_app(open_recommender(chosen), chosen)


def open_recommender(chosen: Settings) -> Recommender:
    """Index and encoder.

    Raises:
        UserError: no index, no model, or another than the index was built with.
    """
    from fclip.machine import tune_cpu
    from fclip.processes import on_device
    from fclip.recommend import ModelEncoder, Recommender
    from fclip.serving.encoders import choose_encoder

    if not chosen.index:
        raise UserError("expected an index to serve, got none; set FCLIP_INDEX or use: fclip serve INDEX")
    tune_cpu()
    opened = Recommender.open(located(chosen.index), chosen.checkpoint or None)
    if isinstance(opened.encoder, ModelEncoder):
        model = on_device(opened.encoder.model)
        return Recommender(opened.index, choose_encoder(model, chosen, opened.index))
    return opened


def _answer_errors(app: FastAPI) -> None:
    async def answer(request: Request, error: Exception) -> JSONResponse:
        status, message, headers = explained(error, app.state.answering.recommender.index)
        if message == HTTPStatus(status).phrase:  # the framework's word, where no route of ours was reached
            message = _unreached(request, status, headers.get("Allow", "")) or message
        return refusal(status, message, **headers)

    for kind in EXPECTED:
        app.add_exception_handler(kind, answer)


def _unreached(request: Request, status: int, allowed: str) -> str | None:
    """What to say of an address or method that no route has; `allowed` is of the first route of several."""
    routes = [route for part in (api.router, page.router) for route in part.routes if isinstance(route, APIRoute)]
    path = request.url.path
    if status == 404:
        return no_such_route(path, {OPENAPI, *(route.path_format for route in routes)})
    if status == 405:
        fitting = {method for route in routes if route.path_regex.match(path) for method in route.methods or ()}
        return no_such_method(path, request.method, fitting or allowed.split(", "))
    return None


def _describe(app: FastAPI, key_needed: bool) -> None:
    """OpenAPI, with the bodies that are read by hand and the key."""
    generate = app.openapi

    def described() -> dict[str, Any]:
        if app.openapi_schema is None:
            found = generate()
            parts = found.setdefault("components", {})
            for model in (Question, Feedback):
                schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
                parts.setdefault("schemas", {}).update(schema.pop("$defs", {}))
                parts["schemas"][model.__name__] = schema
            if key_needed:
                parts["securitySchemes"] = {
                    "bearer": {"type": "http", "scheme": "bearer"},
                    "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
                }
                found["security"] = [{"bearer": []}, {"key": []}]
        return app.openapi_schema or found

    app.openapi = described  # type: ignore[method-assign]
