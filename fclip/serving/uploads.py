"""Photographs from strangers → clean RGB pictures. Needs Pillow only.

Source: OWASP ASVS 5.0, chapter "File Handling".

    picture = open_upload(await upload.read())      # upright RGB, a fresh canvas: no EXIF, comment or profile
    stored = as_jpeg(picture)                       # what may be kept or shown again

What a file says of itself (name, content type) is not asked. Its first bytes choose the one decoder that sees it; its
size in pixels is looked at before any is decoded: 10 kB of PNG can hold 80 megapixels. Of an animation the first
frame is taken. HEIC, as phones send it, needs `pip install 'fclip[heic]'`.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fclip.errors import UserError
from fclip.images import upright_rgb

if TYPE_CHECKING:
    from PIL.Image import Image

ACCEPTED = "JPEG, PNG or WEBP"
HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")  # ISO/IEC 23008-12
AVIF_BRANDS = (b"avif", b"avis")
REFUSED = {
    b"GIF8": "a GIF",
    b"BM": "a BMP",
    b"II*\0": "a TIFF",
    b"MM\0*": "a TIFF",
    b"%PDF": "a PDF",
    b"<": "SVG or HTML",
}


class RefusedUploadError(UserError):
    """A file that is no photograph, or one that is too large or damaged."""


@dataclass(frozen=True)
class UploadLimits:
    """What one photograph may be.

    Attributes:
        max_bytes: of the file.
        max_pixels: of the picture; telephones send 12 to 50 million.
        min_side_px: of the shorter side.
        max_aspect: longer side by shorter side. A model that resizes the shorter side makes gigabytes of a long strip.
    """

    max_bytes: int = 20 * 2**20
    max_pixels: int = 64_000_000
    min_side_px: int = 8
    max_aspect: float = 20.0


DEFAULT_LIMITS = UploadLimits()


def open_upload(data: bytes, limits: UploadLimits = DEFAULT_LIMITS, size_px: int | None = None) -> Image:
    """Decodes a photograph to upright RGB on a canvas of its own.

    Args:
        data: the file.
        limits: what it may be.
        size_px: the shorter side that will be needed: a JPEG is then decoded at reduced scale, never below it.

    Raises:
        RefusedUploadError: in words that its sender understands.
    """
    kind = _kind(data)
    if len(data) > limits.max_bytes:
        raise RefusedUploadError(
            f"the picture has {_mega(len(data))} megabytes, at most {_mega(limits.max_bytes)} are taken; "
            "send a smaller one"
        )
    try:
        file = _opened(data, kind)
        _check_size(file.size, limits)
        if size_px is not None and kind == "JPEG":
            file.draft("RGB", (size_px, size_px))
        file.load()  # not verify(), which a cut off JPEG passes
        return _on_fresh_canvas(upright_rgb(file))
    except RefusedUploadError:
        raise
    except Exception as error:  # a damaged file makes Pillow raise nearly anything
        if type(error).__name__.startswith("DecompressionBomb"):
            raise RefusedUploadError(_too_many("more pixels than can be decoded safely", limits)) from None
        raise RefusedUploadError(f"the {kind} picture is damaged or cut off; save it again or send another") from None


def as_jpeg(picture: Image, quality: int = 90) -> bytes:
    """A picture as a file that holds nothing but its pixels."""
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=quality)
    return stream.getvalue()


def heic_is_read() -> bool:
    """Whether the optional library for HEIC is installed."""
    from importlib.util import find_spec

    return find_spec("pillow_heif") is not None


def _kind(data: bytes) -> str:
    """JPEG, PNG, WEBP or HEIC by the first bytes."""
    brand = data[8:12] if data[4:8] == b"ftyp" else b""
    if data.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "WEBP"
    if brand in HEIC_BRANDS and heic_is_read():
        return "HEIC"
    raise RefusedUploadError(f"expected a {ACCEPTED} picture, got {_in_words(data, brand)}")


def _in_words(data: bytes, brand: bytes) -> str:
    if not data:
        return "an empty file"
    if brand in HEIC_BRANDS:
        return "HEIC, which this server cannot read; set the telephone's camera to 'most compatible', or share as JPEG"
    if brand in AVIF_BRANDS:
        return "AVIF; save it as JPEG"
    found = next((name for start, name in REFUSED.items() if data.lstrip().startswith(start)), "a file of another kind")
    return f"{found}; save it as JPEG"


def _opened(data: bytes, kind: str) -> Image:
    from PIL import Image

    stream = io.BytesIO(data)
    if kind == "HEIC":
        from pillow_heif import HeifImageFile

        return HeifImageFile(stream)  # not registered with Pillow: nothing else is to read HEIC by the way
    return Image.open(stream, formats=(kind,))


def _check_size(size: tuple[int, int], limits: UploadLimits) -> None:
    short, long = sorted(size)
    if short * long > limits.max_pixels:
        raise RefusedUploadError(_too_many(f"{_mega(short * long)} megapixels", limits))
    if short < limits.min_side_px:
        raise RefusedUploadError(
            f"the picture is {size[0]} x {size[1]} pixels; send one of {limits.min_side_px} or more"
        )
    if long > limits.max_aspect * short:
        raise RefusedUploadError(
            f"the picture is {size[0]} x {size[1]} pixels, a strip; crop it to at most {limits.max_aspect:g} times as "
            "long as wide"
        )


def _too_many(found: str, limits: UploadLimits) -> str:
    return f"the picture has {found}, at most {_mega(limits.max_pixels)} megapixels are taken; send a smaller one"


def _mega(number: int) -> str:
    return f"{number / 1e6:.3g}"


def _on_fresh_canvas(picture: Image) -> Image:
    from PIL import Image

    canvas = Image.new("RGB", picture.size)
    canvas.paste(picture)
    return canvas
