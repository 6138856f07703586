"""Pictures: whatever a shop has becomes upright RGB, or one clear line."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fclip.errors import UserError
from fclip.images import UnreadableImageError, decode, decode_pixels

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)
ORIENTATION = 0x0112
QUARTERS = np.array([[RED, GREEN], [BLUE, WHITE]], np.uint8).repeat(24, 0).repeat(32, 1)
"""64 × 48 pixels: red, green above blue, white."""


def encoded(picture: Image.Image | np.ndarray, format_: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    (Image.fromarray(picture) if isinstance(picture, np.ndarray) else picture).save(buffer, format_, **options)
    return buffer.getvalue()


def read(data: bytes, size_px: int | None = None) -> np.ndarray:
    picture = decode({"bytes": data, "path": None}, size_px)
    assert picture.mode == "RGB"
    assert np.array_equal(decode_pixels({"bytes": data, "path": None}, size_px), picture)
    return np.asarray(picture)


def refused(source: object) -> str:
    with pytest.raises(UnreadableImageError) as caught:
        decode(source)
    assert isinstance(caught.value, UserError)
    assert "\n" not in str(caught.value)
    with pytest.raises(UnreadableImageError) as quickly:
        decode_pixels(source)
    assert str(quickly.value) == str(caught.value)
    return str(caught.value)


def test_a_path_a_cell_of_bytes_and_a_cell_of_a_path_are_the_same(tmp_path):
    file = tmp_path / "a.png"
    file.write_bytes(encoded(QUARTERS))
    cell = {"bytes": file.read_bytes(), "path": "elsewhere.png"}  # bytes win: the path is only a name
    for source in (file, str(file), cell, {"bytes": None, "path": str(file)}):
        assert np.array_equal(np.asarray(decode(source)), QUARTERS)
        assert np.array_equal(decode_pixels(source), QUARTERS)


@pytest.mark.parametrize(
    ("tag", "stored"),
    [
        (1, QUARTERS),
        (2, QUARTERS[:, ::-1]),
        (3, QUARTERS[::-1, ::-1]),
        (4, QUARTERS[::-1]),
        (5, QUARTERS.transpose(1, 0, 2)),
        (6, np.rot90(QUARTERS)),  # stored turned left, so the tag says: turn right
        (7, QUARTERS[::-1, ::-1].transpose(1, 0, 2)),
        (8, np.rot90(QUARTERS, -1)),
    ],
)
@pytest.mark.parametrize("format_", ["JPEG", "PNG"])
def test_pictures_stand_as_their_exif_says(tag, stored, format_):
    exif = Image.Exif()
    exif[ORIENTATION] = tag
    options = {"quality": 95, "subsampling": 0} if format_ == "JPEG" else {}
    upright = read(encoded(np.ascontiguousarray(stored), format_, exif=exif, **options))
    assert upright.shape == QUARTERS.shape
    assert np.abs(upright.astype(int) - QUARTERS).max() < 8


@pytest.mark.parametrize("tag", [None, 1, 6])
@pytest.mark.parametrize("options", [{"subsampling": 0}, {"subsampling": 2}, {"progressive": True}, {"mode": "L"}])
def test_jpegs_are_decoded_quickly_to_the_same_bits(options, tag, monkeypatch):
    """By libjpeg-turbo itself where nothing is to be turned."""
    photo = Image.fromarray(QUARTERS).resize((330, 250), Image.Resampling.BICUBIC).convert(options.get("mode", "RGB"))
    exif = Image.Exif()
    if tag is not None:
        exif[ORIENTATION] = tag
    data = encoded(photo, "JPEG", exif=exif, **{k: v for k, v in options.items() if k != "mode"})
    for size_px in (None, 30, 62, 63, 125, 126, 251):
        read(data, size_px)
    monkeypatch.setattr("fclip.images.decode", lambda *_: np.zeros(3))
    assert (decode_pixels({"bytes": data, "path": None}).shape == (3,)) == (tag == 6)


def test_transparency_is_white():
    levels = np.arange(256, dtype=np.uint8)[None]
    over_white = np.rint(255 - levels / 255.0 * 255).astype(int)  # black of this opacity
    shown = read(encoded(Image.merge("RGBA", [Image.new("L", (256, 1))] * 3 + [Image.fromarray(levels)])))
    assert np.abs(shown - over_white[..., None]).max() <= 1
    shown = read(encoded(Image.merge("LA", [Image.new("L", (256, 1)), Image.fromarray(levels)])))
    assert np.abs(shown - over_white[..., None]).max() <= 1


def test_palettes_keep_their_colours_and_their_hole():
    palette = Image.fromarray(QUARTERS).quantize(4)
    assert np.array_equal(read(encoded(palette)), QUARTERS)
    assert np.array_equal(read(encoded(palette, "GIF")), QUARTERS)
    hole = palette.getpixel((0, 0))
    shown = read(encoded(palette, "PNG", transparency=hole))
    assert (shown[:24, :32] == 255).all()
    assert np.array_equal(shown[24:], QUARTERS[24:])
    grey = encoded(Image.fromarray(QUARTERS[..., 0]), transparency=0)  # of a grey picture, one level is the hole
    assert (read(grey) == 255).all()


def test_print_colours_and_bitmaps():
    cmyk = Image.fromarray(QUARTERS).convert("CMYK")
    assert np.abs(read(encoded(cmyk, "JPEG", quality=95)).astype(int) - QUARTERS).max() < 12
    assert np.array_equal(read(encoded(Image.fromarray(QUARTERS[..., 0]).convert("1"))), QUARTERS[..., :1].repeat(3, 2))


@pytest.mark.parametrize("format_", ["PNG", "TIFF"])
def test_sixteen_bits_of_grey_keep_their_shades(format_):
    levels = np.arange(0, 65536, 64, dtype=np.uint16).reshape(32, 32)
    assert np.abs(read(encoded(levels, format_))[..., 0] - levels / 257).max() <= 1


def test_an_animation_is_its_first_picture():
    frames = [Image.new("RGB", (8, 8), colour) for colour in (RED, BLUE)]
    assert (read(encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])) == RED).all()


@given(
    size=st.tuples(st.integers(1, 700), st.integers(1, 700)),
    size_px=st.integers(1, 800),
    mode=st.sampled_from(["RGB", "L", "CMYK"]),
)
@settings(max_examples=40, deadline=None)
def test_reduced_decoding_never_goes_below_the_asked_size(size, size_px, mode):
    shape = read(encoded(Image.new(mode, size), "JPEG"), size_px).shape
    width, height = size
    assert min(shape[:2]) >= min(size_px, *size)
    assert shape[:2] in {(-(-height // scale), -(-width // scale)) for scale in (1, 2, 4, 8)}


def test_reduced_decoding_is_the_same_picture_and_smaller():
    large = Image.fromarray(QUARTERS).resize((640, 480), Image.Resampling.NEAREST)
    small = read(encoded(large, "JPEG", quality=95, subsampling=0), 100)
    assert small.shape == (120, 160, 3)
    assert [small[y, x].tolist() for y, x in ((30, 40), (30, 120), (90, 40), (90, 120))] == [
        pytest.approx(colour, abs=4) for colour in (RED, GREEN, BLUE, WHITE)
    ]
    assert np.array_equal(read(encoded(QUARTERS), 10), QUARTERS), "only JPEG can"


def test_what_is_not_there_is_named(tmp_path):
    assert refused(tmp_path / "none.jpg").startswith(f"no such picture: {tmp_path / 'none.jpg'}")
    assert refused({"bytes": None, "path": "none.jpg"}).startswith("no such picture: none.jpg")
    assert refused({"bytes": None, "path": None}).startswith("no such picture: picture in the table")
    assert refused(tmp_path) == f"expected a picture, got a folder: {tmp_path}"
    (tmp_path / "a.jpg").write_text("<html>404</html>")
    for source in (tmp_path / "a.jpg", {"bytes": b"", "path": "a.jpg"}):
        assert "expected a picture, got an empty file or an unknown format" in refused(source)


@pytest.mark.parametrize("format_", ["JPEG", "PNG", "GIF", "WEBP", "BMP"])
def test_a_truncated_picture_is_refused(format_):
    data = encoded(np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8), format_)
    assert "picture in the table" in refused({"bytes": data[: len(data) // 2], "path": None})


def test_a_decompression_bomb_is_refused():
    """A PNG of a few bytes that says it has 10 billion pixels."""
    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + header
    data = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", len(header)) + chunk + struct.pack(">I", zlib.crc32(chunk))
    assert "exceeds limit" in refused({"bytes": data + encoded(QUARTERS)[33:], "path": "bomb.png"})


EXIF = Image.Exif()
EXIF[ORIENTATION], EXIF[0x010E] = 6, "a shirt"
WHOLE = [
    encoded(QUARTERS, "JPEG", exif=EXIF),
    encoded(QUARTERS, "TIFF", exif=EXIF),
    *(encoded(QUARTERS, f) for f in ("PNG", "WEBP", "BMP", "GIF")),
]


@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_a_damaged_file_is_a_picture_or_one_line(data):
    """Pillow raises nearly anything on damaged files; a run over a million pictures must not end on one."""
    damaged = bytearray(data.draw(st.sampled_from(WHOLE)))
    for place in data.draw(st.lists(st.integers(0, 300), max_size=4)):
        damaged[place % len(damaged)] = data.draw(st.integers(0, 255))
    damaged = damaged[: data.draw(st.just(len(damaged)) | st.integers(0, len(damaged)))]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Image, "MAX_IMAGE_PIXELS", 100_000)  # a damaged size should not cost a second
        try:
            assert decode({"bytes": bytes(damaged), "path": None}).mode == "RGB"
        except UnreadableImageError as error:
            told = str(error)
            assert "\n" not in told
