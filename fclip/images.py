"""Pictures: decoding what a catalogue holds, with one clear error for what cannot be read."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from fclip.errors import UserError
from fclip.references import read_reference

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

Source: TypeAlias = "str | Path | Mapping[str, Any] | Image"
"""A path, a catalogue's cell {"bytes": …, "path": …}, whose path may be a reference into a shard, or a picture."""

ORIENTED = (b"Exif\0\0", b"tiff:Orientation")  # one of these is in a JPEG that is not upright


class UnreadableImageError(UserError):
    """A picture that is missing, truncated or of no known format."""


def is_source(value: object) -> bool:
    """Whether a value is a `Source` by its type; whether a picture is there is told when it is decoded."""
    if isinstance(value, Mapping):
        return bool(value.keys() & {"bytes", "path"})
    if isinstance(value, str | Path):
        return True
    from PIL.Image import Image

    return isinstance(value, Image)


def encoded(cell: Mapping[str, Any]) -> bytes:
    """The bytes of a catalogue's cell, wherever they are.

    Raises:
        OSError: the file, or the shard that it is in, is missing or cut off.
    """
    data, path = cell["bytes"], cell["path"] or ""
    if data is None:
        data = read_reference(path)
    return Path(path).read_bytes() if data is None else data


def decode(source: Source, size_px: int | None = None) -> Image:
    """Decodes a picture to RGB, upright as its EXIF says, transparency on white.

    Args:
        source: a path, a catalogue's image cell, or a picture that is decoded already.
        size_px: the shorter side that will be needed: a JPEG is then decoded at reduced scale, never below it.

    Raises:
        UnreadableImageError: the file is missing, truncated or no picture.
    """
    from PIL import Image, UnidentifiedImageError

    if isinstance(source, Image.Image):
        return upright_rgb(source)
    data, name = _known(source)
    try:
        data = read_reference(name) if data is None else data
        with Image.open(io.BytesIO(data) if data is not None else name) as file:
            if size_px is not None:
                file.draft("RGB", (size_px, size_px))
            return upright_rgb(file)
    except FileNotFoundError:
        raise UnreadableImageError(f"no such picture: {name}; check the path or the table's image column") from None
    except IsADirectoryError:
        raise UnreadableImageError(f"expected a picture, got a folder: {name}") from None
    except UnidentifiedImageError:
        raise UnreadableImageError(
            f"expected a picture, got an empty file or an unknown format: {name}; replace or remove it"
        ) from None
    except Exception as error:  # a damaged file makes Pillow raise nearly anything, and must not end a long run
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise UnreadableImageError(f"cannot read picture {name}: {reason}; replace or remove it") from None


def decode_pixels(source: Source, size_px: int | None = None) -> np.ndarray:
    """The pixels of `decode`, bit for bit: uint8 (H, W, 3); a plain JPEG in two thirds of the time.

    Raises:
        UnreadableImageError: as `decode` does.
    """
    import numpy as np

    data, name = _known(source)
    try:
        data = read_reference(name) if data is None else data
        data = _bytes_of(name) if data is None else data
        pixels = _plain_jpeg(data, size_px)
    except Exception:  # missing or damaged: Pillow knows what to say
        pixels = None
    if pixels is None:
        pixels = np.array(decode(source if data is None else {"path": name, "bytes": data}, size_px))
    return pixels


def _plain_jpeg(data: bytes, size_px: int | None) -> np.ndarray | None:
    """A JPEG by libjpeg-turbo; None for what needs more than decoding, and other formats. Damaged ones raise errors."""
    import simplejpeg
    from PIL import Image

    if not data.startswith(b"\xff\xd8") or (any(mark in data for mark in ORIENTED) and not _is_upright(data)):
        return None
    height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
    if colours not in ("YCbCr", "Gray") or height * width > (Image.MAX_IMAGE_PIXELS or math.inf):
        return None
    room = min(height, width) // size_px if size_px else 1
    scale = next(scale for scale in (8, 4, 2, 1) if room >= scale or scale == 1)  # as `draft` chooses it
    return simplejpeg.decode_jpeg(data, min_height=-(-height // scale), min_width=-(-width // scale))


def _bytes_of(file: str) -> bytes:
    with open(file, "rb") as stream:  # a Path takes longer to make than the file to read
        return stream.read()


def _is_upright(data: bytes) -> bool:
    from PIL import ExifTags, Image

    with Image.open(io.BytesIO(data)) as file:
        return file.getexif().get(ExifTags.Base.Orientation, 1) == 1


def _known(source: Source) -> tuple[bytes | None, str]:
    """The bytes of a picture, if they are at hand, and its path or another name."""
    cell: Mapping[str, Any] = source if isinstance(source, Mapping) else {"path": str(source), "bytes": None}
    return cell.get("bytes"), cell.get("path") or "picture in the table"


def upright_rgb(file: Image) -> Image:
    """A picture as its EXIF says it stands, 16 bits of grey as 8, transparency on white."""
    from PIL import Image, ImageOps

    picture = ImageOps.exif_transpose(file)
    if picture.mode.startswith("I"):  # 16 bits of grey, which convert("RGB") would clip at 255
        return picture.convert("I").point(lambda level: level / 256).convert("RGB")
    if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    return picture.convert("RGB")
