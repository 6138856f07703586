"""Photographs that are asked with on the page, without anything being kept on the server.

A page that shows answers to photographs carries small copies of them in hidden fields, so that its filters and likes
work without sending them again, and without JavaScript.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request

from fclip.errors import UserError
from fclip.serving.answering import Answering
from fclip.serving.settings import Settings
from fclip.serving.uploads import RefusedUploadError, as_jpeg

if TYPE_CHECKING:
    from PIL.Image import Image

FILES, CARRIED, REMOVE = "images", "photo", "remove"
SPARE_FILES = 8  # more than are allowed: their sender then reads our words; empty file fields count, too
SIDE_PX = 256  # shorter side of a copy, where the encoder does not say what it needs


@dataclass(frozen=True)
class Sent:
    """What a form holds.

    Attributes:
        pairs: its text fields.
        files: name and bytes of each photograph; copies that a page carried have no name.
    """

    pairs: list[tuple[str, str]]
    files: list[tuple[str, bytes]]


@dataclass(frozen=True)
class Photographs:
    """What became of them.

    Attributes:
        pictures: decoded.
        problems: a sentence for each that could not be.
        files: of the pictures: name and bytes, as in `Sent`.
    """

    pictures: list[Image]
    problems: list[str]
    files: list[tuple[str, bytes]]


async def read_form(request: Request, settings: Settings) -> Sent:
    """The page's form.

    Raises:
        HTTPException: it does not arrive in time, or is damaged.
        UserError: too many photographs.
    """
    try:
        async with (
            asyncio.timeout(settings.upload_seconds or None),
            request.form(max_files=settings.max_images + SPARE_FILES) as form,
        ):
            fields = form.multi_items()
            uploads = [value for name, value in fields if name == FILES and isinstance(value, UploadFile)]
            new = [(upload.filename or "photo", await upload.read()) for upload in uploads]
    except TimeoutError:
        raise HTTPException(408, f"the photos did not arrive within {settings.upload_seconds:g} s") from None
    texts = [(name, value) for name, value in fields if isinstance(value, str)]
    removed = {value for name, value in texts if name == REMOVE}
    carried = [("", _bytes(value)) for name, value in texts if name == CARRIED]
    files = [file for place, file in enumerate(carried) if str(place) not in removed]
    files += [(name, data) for name, data in new if data or name != "photo"]
    if len(files) > settings.max_images:
        raise UserError(f"expected at most {settings.max_images} photos, got {len(files)}; send the best ones")
    return Sent([(name, value) for name, value in texts if name not in (CARRIED, REMOVE)], files)


def _bytes(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error:
        raise UserError("a photo of the page arrived damaged; choose it again") from None


async def decoded(answering: Answering, files: Sequence[tuple[str, bytes]]) -> Photographs:
    """All that can be read; one that cannot does not take the others with it."""
    found = await asyncio.gather(*(answering.decode([data]) for _, data in files), return_exceptions=True)
    pictures, problems, kept = [], [], []
    for (name, data), result in zip(files, found, strict=True):
        if isinstance(result, RefusedUploadError):
            problems.append(f"{name[:60] or 'A photo'}: {result}.")
        elif isinstance(result, BaseException):
            raise result
        else:
            pictures += result
            kept.append((name, data))
    return Photographs(pictures, problems, kept)


async def copies(answering: Answering, photographs: Photographs) -> list[str]:
    """Small JPEGs for a page to carry, base64; as large as the encoder needs them, and never made of a copy."""
    side_px = max(SIDE_PX, getattr(answering.recommender.encoder, "size_px", None) or 0)
    files = [
        await asyncio.to_thread(_smaller, picture, side_px) if name else data
        for picture, (name, data) in zip(photographs.pictures, photographs.files, strict=True)
    ]
    return [base64.b64encode(file).decode() for file in files]


def _smaller(picture: Image, side_px: int) -> bytes:
    scale = side_px / min(picture.size)
    if scale < 1:
        picture = picture.resize((round(picture.width * scale), round(picture.height * scale)))
    return as_jpeg(picture)
