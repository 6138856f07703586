"""Reading a question from a request, and noticing that its client has gone."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from pydantic import BaseModel
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request

from fclip.errors import UserError, nearest
from fclip.serving.settings import Settings

M = TypeVar("M", bound=BaseModel)
R = TypeVar("R")
MAX_JSON = 256 * 1024  # bytes of a question without its photographs
IMAGES, QUESTION = "images", "question"
AS_A_FORM = f"photographs come as a form: files in the field {IMAGES}, the rest as JSON in the field {QUESTION}"


async def read_question(request: Request, model: type[M], settings: Settings) -> tuple[M, list[bytes]]:
    """A question and its photographs, from JSON or from a form with `question` and `images`.

    Raises:
        HTTPException: another kind of body, or one that does not arrive in time.
        ValidationError: a question of another form.
        UserError: another field, or too many photographs.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    try:
        async with asyncio.timeout(settings.upload_seconds or None):
            if kind == "application/json":
                return model.model_validate_json(_short(await request.body())), []
            if kind == "multipart/form-data":
                return await _from_form(request, model, settings)
    except TimeoutError:
        raise HTTPException(408, f"the request did not arrive within {settings.upload_seconds:g} s") from None
    instead = f"; {AS_A_FORM}" if kind.startswith("image/") else ""
    got = kind[:50] or "no content type"
    raise HTTPException(415, f"expected application/json or multipart/form-data, got {got}{instead}")


async def _from_form(request: Request, model: type[M], settings: Settings) -> tuple[M, list[bytes]]:
    # One more of each than is allowed: its sender then reads our words.
    async with request.form(max_files=settings.max_images + 1, max_fields=2, max_part_size=MAX_JSON) as form:
        question, uploads = "{}", []
        for name, value in form.multi_items():
            if name == QUESTION and isinstance(value, str):
                question = value
            elif name == IMAGES and isinstance(value, UploadFile):
                uploads.append(value)
            else:
                raise UserError(_another_field(name))
        if len(uploads) > settings.max_images:
            raise UserError(f"expected at most {settings.max_images} pictures, got more; send the best ones")
        return model.model_validate_json(_short(question.encode())), [await upload.read() for upload in uploads]


def _another_field(name: str) -> str:
    """What to say of a field that there is not, or whose value is of the other kind."""
    if name == IMAGES:
        return f"expected files in the field {IMAGES}, got text; with curl: -F {IMAGES}=@photo.jpg"
    if name == QUESTION:
        return f"expected text in the field {QUESTION}, got a file; with curl: -F '{QUESTION}=<question.json'"
    return f"unknown field {name[:50]!r}; {nearest(name[:50], (IMAGES, QUESTION))}; {AS_A_FORM}"


def _short(body: bytes) -> bytes:
    if len(body) > MAX_JSON:
        raise UserError(f"a question may have {MAX_JSON // 1024} kilobytes, got {len(body) // 1024}; {AS_A_FORM}")
    return body


async def while_connected(request: Request, work: Coroutine[Any, Any, R]) -> R:
    """The result of some work, which is given up when the client goes away.

    Raises:
        ClientDisconnect: it has.
    """
    doing, gone = asyncio.ensure_future(work), asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait((doing, gone), return_when=asyncio.FIRST_COMPLETED)
        if doing.done():
            return doing.result()
        raise ClientDisconnect
    finally:
        for task in (doing, gone):
            task.cancel()


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
