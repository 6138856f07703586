"""A contact sheet: the question above, the answers below, as one picture that a person can judge at a glance.

    save_contact_sheet("search.png", contact_sheet(recommender.ask(["red dress"]), texts=["red dress"]))

Strips as wide as the sheet (the words, rows of photographs, rows of answers) are drawn one by one and stacked. A row is
as high as its highest picture and its longest caption, so that nothing overlaps and little is empty.
"""

from __future__ import annotations

import io
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, ImageOps

from fclip.images import Source, decode
from fclip.index import Answer

CELL_W, CELL_H, GAP = 240, 300, 20  # pixels; a picture is fitted into a cell
INK, GREY, LINE, GROUND, PAPER = "#19191c", "#5c5c66", "#d9d9de", "#f4f4f6", "#ffffff"
ENLARGED = 2  # the largest enlargement of a small picture
LEADING = 1.35  # line height per font size


@dataclass(frozen=True)
class _Words:
    """A text that takes at most `lines` lines of `size_px`."""

    text: str
    size_px: int = 14
    ink: str = GREY
    bold: bool = False
    lines: int = 1


@dataclass(frozen=True)
class _Cell:
    """A picture with words below."""

    picture: Image.Image
    caption: Sequence[_Words] = ()


def contact_sheet(
    answers: Sequence[Answer],
    texts: Sequence[str] = (),
    images: Sequence[Source] = (),
    where: str = "",
    columns: int = 4,
    avoid: Sequence[str] = (),
) -> Image.Image:
    """Draws question and answers.

    Args:
        answers: best first.
        texts, images: the question.
        where: the filters, in words.
        columns: the most pictures in a row.
        avoid: the phrases that were to be avoided.

    Raises:
        UnreadableImageError: one of the question's pictures.
    """
    columns = min(columns, max(len(answers), len(images), 2))
    width = GAP + columns * (CELL_W + GAP)
    asked = [_Cell(decode(source, CELL_H)) for source in images]
    found = [_Cell(Image.open(io.BytesIO(a.thumbnail)), _caption(n, a)) for n, a in enumerate(answers, start=1)]
    strips = [_text_strip(_question(texts, len(images), where, avoid), width)]
    strips += [_row(asked[start : start + columns], width) for start in range(0, len(asked), columns)]
    strips.append(_rule(width))
    strips += [_row(found[start : start + columns], width) for start in range(0, len(found), columns)]
    if not found:
        strips.append(_text_strip([_Words("No product fits.", 18, INK)], width))
    return _stack(strips)


def pair_sheet(title: str, pairs: Sequence[tuple[Sequence[Source], Sequence[Sequence[str]]]]) -> Image.Image:
    """Draws pairs of pictures side by side, two pairs in a row.

    Args:
        title: above all.
        pairs: two pictures, and the lines of words below each.

    Raises:
        UnreadableImageError: one of the pictures.
    """
    width = GAP + 4 * (CELL_W + GAP)
    cells = [
        _Cell(decode(source, CELL_H), [_Words(line, lines=3) for line in lines if line])
        for sources, words in pairs
        for source, lines in zip(sources, words, strict=True)
    ]
    strips = [_text_strip([_Words(title, 20, INK, True, lines=2)], width)]
    return _stack([*strips, *(_row(cells[start : start + 4], width) for start in range(0, len(cells), 4))])


def save_contact_sheet(file: str | Path, sheet: Image.Image) -> None:
    """Writes a PNG, whole or not at all.

    Raises:
        UserError: the folder does not exist or cannot be written.
    """
    from fclip.files import write_bytes

    stream = io.BytesIO()
    sheet.save(stream, "PNG", optimize=True)
    write_bytes(file, stream.getvalue())


def in_words(attributes: dict[str, str | list[str]]) -> str:
    """The values of an answer's attributes, e.g. "dress, red, belt and buttons"."""
    return ", ".join(" and ".join(v) if isinstance(v, list) else v for v in attributes.values())


def _question(texts: Sequence[str], photos: int, where: str, avoid: Sequence[str]) -> list[_Words]:
    parts = [*(f"“{text}”" for text in texts), *([f"{photos} photo{'s' * (photos > 1)}"] if photos else [])]
    asked = "".join([" + ".join(parts) or "what was liked", *(f" − “{phrase}”" for phrase in avoid)])
    return [_Words(asked, 20, INK, True, lines=3), _Words(where or "no filters", 15, lines=2)]


def _caption(place: int, answer: Answer) -> list[_Words]:
    return [
        _Words(f"{place}.  {answer.score:.3f}", 17, INK, True),
        _Words(answer.title or answer.item, 15, INK, lines=2),
        _Words(in_words(answer.attributes), 14, lines=4),
        *([_Words(str(answer.why), 12, INK, lines=4)] if answer.why is not None else []),
        _Words(answer.id, 12),
    ]


def _row(cells: Sequence[_Cell], width: int) -> Image.Image:
    """Pictures on a pale ground of common height, captions below."""
    pictures = [_fitted(cell.picture) for cell in cells]
    captions = [list(_lines(cell.caption, CELL_W)) for cell in cells]
    height = max(picture.height for picture in pictures)
    below = max(sum(_line_height(words) for words in caption) for caption in captions)
    strip = Image.new("RGB", (width, height + below + GAP), PAPER)
    draw = ImageDraw.Draw(strip)
    for place, (picture, caption) in enumerate(zip(pictures, captions, strict=True)):
        x = GAP + place * (CELL_W + GAP)
        draw.rectangle((x, 0, x + CELL_W - 1, height - 1), GROUND)
        strip.paste(picture, (x + (CELL_W - picture.width) // 2, (height - picture.height) // 2))
        _write(draw, caption, x, height + 6)
    return strip


def _fitted(picture: Image.Image) -> Image.Image:
    """The whole picture, within a cell; small ones are enlarged a little."""
    box = (min(CELL_W, round(ENLARGED * picture.width)), min(CELL_H, round(ENLARGED * picture.height)))
    return ImageOps.contain(picture.convert("RGB"), box, Image.Resampling.LANCZOS)


def _text_strip(words: Sequence[_Words], width: int) -> Image.Image:
    lines = list(_lines(words, width - 2 * GAP))
    strip = Image.new("RGB", (width, sum(map(_line_height, lines)) + GAP), PAPER)
    _write(ImageDraw.Draw(strip), lines, GAP, 0)
    return strip


def _rule(width: int) -> Image.Image:
    strip = Image.new("RGB", (width, GAP), PAPER)
    ImageDraw.Draw(strip).line((GAP, 0, width - GAP - 1, 0), LINE)
    return strip


def _stack(strips: Sequence[Image.Image]) -> Image.Image:
    sheet = Image.new("RGB", (strips[0].width, GAP + sum(strip.height for strip in strips)), PAPER)
    y = GAP
    for strip in strips:
        sheet.paste(strip, (0, y))
        y += strip.height
    return sheet


def _write(draw: ImageDraw.ImageDraw, lines: Sequence[_Words], x: int, y: int) -> None:
    for words in lines:
        draw.text((x, y), words.text, fill=words.ink, font=_font(words.size_px, words.bold))
        y += _line_height(words)


def _line_height(words: _Words) -> int:
    return round(LEADING * words.size_px)


def _lines(texts: Sequence[_Words], width: int) -> Iterator[_Words]:
    """Texts broken into lines that fit; what does not fit into its lines ends in an ellipsis."""
    for words in texts:
        font, rest = _font(words.size_px, words.bold), " ".join(words.text.split())
        for line in range(words.lines):
            if not rest:
                break
            shown = _head(rest, font, width, last=line == words.lines - 1)
            rest = rest[len(shown) :].lstrip()
            yield _Words(shown + "…" * bool(rest and line == words.lines - 1), words.size_px, words.ink, words.bold)


def _head(text: str, font: ImageFont.FreeTypeFont, width: int, last: bool) -> str:
    """The beginning of a text that fits into a line: whole words where possible, room for an ellipsis on the last."""
    if font.getlength(text) <= width:
        return text
    room = width - (font.getlength("…") if last else 0)
    end = max(1, bisect_right(range(len(text)), room, key=lambda n: font.getlength(text[:n])) - 1)
    space = text.rfind(" ", 0, end + 1)
    return text[: space if space > 0 and not last else end].rstrip()


@lru_cache
def _font(size_px: int, bold: bool) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, of matplotlib's wheel: knows accents, Greek and Cyrillic."""
    import matplotlib

    file = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / ("DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf")
    return ImageFont.truetype(str(file), size_px)
