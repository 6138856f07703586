"""Photographs from strangers: every form that phones and programs send is read or refused in words, nothing else."""

from __future__ import annotations

import io
import random
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps

from fclip.serving import uploads
from fclip.serving.uploads import RefusedUploadError, UploadLimits, as_jpeg, open_upload


def gradient(width: int = 48, height: int = 64, mode: str = "RGB") -> Image.Image:
    """A picture that no turn, crop or channel order maps onto itself."""
    y, x = np.mgrid[0:height, 0:width]
    channels = [x * 255 / (width - 1), y * 255 / (height - 1), np.full((height, width), 40.0)]
    return Image.fromarray(np.stack(channels, -1).astype(np.uint8)).convert(mode)


def encode(picture: Image.Image, form: str, **options) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, form, **options)
    return stream.getvalue()


def off(a: Image.Image, b: Image.Image) -> float:
    """The mean difference of two pictures' values, 0..255."""
    assert (a.mode, a.size) == (b.mode, b.size)
    return float(np.abs(np.asarray(a, float) - np.asarray(b, float)).mean())


BLACK = Image.new("RGB", (48, 64))
GOOD = {
    "jpeg": lambda: encode(gradient(), "JPEG", quality=95),
    "progressive jpeg": lambda: encode(gradient(), "JPEG", quality=95, progressive=True),
    "png": lambda: encode(gradient(), "PNG"),
    "webp": lambda: encode(gradient(), "WEBP", lossless=True),
    "cmyk jpeg": lambda: encode(gradient(mode="CMYK"), "JPEG", quality=95),
    "mpo": lambda: encode(gradient(), "MPO", quality=95, save_all=True, append_images=[gradient(mode="L")]),
    "animated webp": lambda: encode(
        gradient(), "WEBP", lossless=True, save_all=True, append_images=[Image.new("RGB", (48, 64))]
    ),
    "animated png": lambda: encode(gradient(), "PNG", save_all=True, append_images=[Image.new("RGB", (48, 64))]),
    "transparent png": lambda: encode(gradient(mode="RGBA"), "PNG"),
}


@pytest.mark.parametrize("name", GOOD)
def test_what_phones_and_programs_send_is_read(name) -> None:
    assert off(open_upload(GOOD[name]()), gradient()) < 3


def test_palettes_and_sixteen_bits_keep_their_tones() -> None:
    assert off(open_upload(encode(gradient().quantize(256), "PNG")), gradient()) < 12
    grey = np.linspace(0, 65535, 64, dtype=np.uint16).reshape(8, 8)
    read = np.asarray(open_upload(encode(Image.fromarray(grey), "PNG")))[..., 0]
    assert np.abs(read.astype(int) - grey // 256).max() <= 1


def test_transparency_is_white() -> None:
    clear = encode(Image.new("RGBA", (9, 9), (255, 0, 0, 0)), "PNG")
    assert open_upload(clear).getpixel((4, 4)) == (255, 255, 255)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photograph_stands_as_it_was_taken(orientation) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    data = encode(gradient(), "JPEG", quality=95, exif=exif)
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    assert off(open_upload(data), expected) == 0


def test_what_is_kept_holds_nothing_but_pixels() -> None:
    exif = Image.Exif()
    exif[0x9286] = "at my home"
    data = encode(gradient(), "JPEG", quality=95, exif=exif, comment=b"secret", icc_profile=b"profile" * 30)
    picture = open_upload(data)
    assert picture.info == {}
    stored = as_jpeg(picture)
    assert not any(word in stored for word in (b"home", b"secret", b"profile", b"Exif"))
    assert off(open_upload(stored), gradient()) < 3


def test_a_large_jpeg_is_decoded_at_reduced_scale_but_never_below_what_is_needed() -> None:
    data = encode(gradient(1600, 1200), "JPEG")
    assert open_upload(data).size == (1600, 1200)
    width, height = open_upload(data, size_px=224).size
    assert 224 <= height < 600
    assert width / height == pytest.approx(4 / 3, abs=0.02)


def test_heic_is_read_where_its_library_is_and_explained_where_it_is_not(monkeypatch) -> None:
    pillow_heif = pytest.importorskip("pillow_heif")
    stream = io.BytesIO()
    pillow_heif.from_pillow(gradient(64, 96)).save(stream, quality=95)
    before = set(Image.registered_extensions())
    assert off(open_upload(stream.getvalue()), gradient(64, 96)) < 4
    assert set(Image.registered_extensions()) == before
    monkeypatch.setattr(uploads, "heic_is_read", lambda: False)
    with pytest.raises(RefusedUploadError, match=r"HEIC, which this server cannot read; .* share as JPEG"):
        open_upload(stream.getvalue())
    monkeypatch.setattr(uploads, "heic_is_read", lambda: True)
    with pytest.raises(RefusedUploadError, match="damaged"):
        open_upload(stream.getvalue()[:300])


def bomb(width: int, height: int) -> bytes:
    """A PNG that claims a size; a few bytes."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + name + data + zlib.crc32(name + data).to_bytes(4, "big")

    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + b"\x08\x02\0\0\0"
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 999)) + chunk(b"IEND", b"")
    )


REFUSED = {
    "an empty file": (b"", "got an empty file"),
    "text": (b"hello", "expected a JPEG, PNG or WEBP picture, got a file of another kind"),
    "gif": (encode(gradient(), "GIF"), "got a GIF; save it as JPEG"),
    "tiff": (encode(gradient(), "TIFF"), "got a TIFF"),
    "bmp": (encode(gradient(), "BMP"), "got a BMP"),
    "avif": (b"\0\0\0 ftypavif" + bytes(20), "got AVIF"),
    "svg": (b"  <svg xmlns='http://www.w3.org/2000/svg'/>", "got SVG or HTML"),
    "pdf": (b"%PDF-1.7", "got a PDF"),
    "cut off jpeg": (encode(gradient(200, 200), "JPEG")[:-400], "JPEG picture is damaged or cut off"),
    "cut off png": (encode(gradient(200, 200), "PNG")[:-400], "PNG picture is damaged or cut off"),
    "cut off webp": (encode(gradient(200, 200), "WEBP")[:-400], "WEBP picture is damaged or cut off"),
    "only a header": (b"\xff\xd8\xff", "JPEG picture is damaged"),
    "a bomb": (bomb(9000, 9000), "at most 64 megapixels"),
    "a larger bomb": (bomb(40_000, 40_000), "at most 64 megapixels"),
    "a strip": (encode(Image.new("RGB", (2000, 10)), "PNG"), "2000 x 10 pixels, a strip"),
    "a speck": (encode(Image.new("RGB", (1, 1)), "PNG"), "1 x 1 pixels; send one of 8 or more"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_photograph_is_refused_in_words(name) -> None:
    data, message = REFUSED[name]
    with pytest.raises(RefusedUploadError, match=message) as error:
        open_upload(data)
    assert "\n" not in str(error.value)


def test_the_pixels_are_counted_before_they_are_decoded(monkeypatch) -> None:
    data = encode(Image.new("RGB", (300, 300)), "PNG")
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda self: pytest.fail("decoded"))
    with pytest.raises(RefusedUploadError, match=r"0\.09 megapixels, at most 0\.08"):
        open_upload(data, UploadLimits(max_pixels=80_000))
    with pytest.raises(RefusedUploadError, match="megabytes, at most"):
        open_upload(data, UploadLimits(max_bytes=len(data) - 1))


def damaged(number: int, seed: int) -> list[bytes]:
    """Real pictures of every form with bytes changed, left out, doubled or cut off."""
    rng = random.Random(seed)
    wholes = [make() for make in GOOD.values()]
    found = []
    for _ in range(number):
        data = bytearray(rng.choice(wholes))
        for _ in range(rng.randint(1, 12)):
            at, kind = rng.randrange(len(data)), rng.randrange(4)
            if kind == 0:
                data[at] = rng.randrange(256)
            elif kind == 1:
                del data[max(at, 3) : at + rng.randint(1, 20)]
            elif kind == 2:
                data[at:at] = data[at : at + rng.randint(1, 40)]
            elif len(data) > 60:
                del data[max(at, 40) :]
        found.append(bytes(data))
    return found


@pytest.mark.parametrize("number", [60, pytest.param(3000, marks=pytest.mark.slow)])
def test_a_damaged_file_is_read_or_refused_and_nothing_else(number) -> None:
    said = []
    for data in damaged(number, seed=number):
        try:
            assert open_upload(data, size_px=32).mode == "RGB"
        except RefusedUploadError as error:
            said.append(str(error))
    assert 0 < len(said) < number
    assert not any("\n" in line for line in said)


def test_it_needs_no_web_framework() -> None:
    """The user study reads uploads with it too."""
    import subprocess
    import sys

    code = "import sys, fclip.serving.uploads; print(sorted({'fastapi', 'starlette', 'torch'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
