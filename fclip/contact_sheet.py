"""A contact sheet: the question above, the answers below, as one picture that a person can judge at a glance."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, ImageOps

from fclip.images import Source, decode
from fclip.index import Answer

CELL_W, CELL_H, GAP, LINE = 200, 250, 14, 17
INK, PALE, PAPER = (25, 25, 28), (110, 110, 118), (255, 255, 255)


def contact_sheet(
    answers: Sequence[Answer],
    texts: Sequence[str] = (),
    images: Sequence[Source] = (),
    where: str = "",
    columns: int = 4,
) -> Image.Image:
    """Draws question and answers.

    Args:
        answers: best first.
        texts, images: the question.
        where: the filters, in words.
        columns: answers per row.
    """
    rows = max(1, -(-len(answers) // columns))
    cells = max(columns, len(images), 2)
    head = GAP + 3 * LINE + (CELL_H + GAP if images else 0)
    foot = 4 * LINE
    size = (GAP + cells * (CELL_W + GAP), head + rows * (CELL_H + foot + GAP) + GAP)
    sheet = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(sheet)
    question = " + ".join([*(f"“{t}”" for t in texts), *([f"{len(images)} photo(s)"] if images else [])])
    _write(draw, (GAP, GAP), question, 18, INK, size[0] - 2 * GAP)
    _write(draw, (GAP, GAP + 1.5 * LINE), where or "no filters", 13, PALE, size[0] - 2 * GAP)
    for column, source in enumerate(images):
        _paste(sheet, decode(source, CELL_W), (GAP + column * (CELL_W + GAP), GAP + 3 * LINE))
    for place, answer in enumerate(answers):
        x = GAP + (place % columns) * (CELL_W + GAP)
        y = head + (place // columns) * (CELL_H + foot + GAP)
        _paste(sheet, Image.open(io.BytesIO(answer.thumbnail)), (x, y))
        _write(draw, (x, y + CELL_H + 3), f"{place + 1}.  {answer.score:.3f}   {answer.id}", 13, INK, CELL_W)
        about = [answer.title or "", ", ".join(_words(v) for v in answer.attributes.values())]
        for line, text in enumerate(t for t in about if t):
            _write(draw, (x, y + CELL_H + 3 + (line + 1) * LINE), text, 12, PALE, CELL_W)
    return sheet


def save_contact_sheet(file: str | Path, sheet: Image.Image) -> None:
    """Writes a PNG, whole or not at all.

    Raises:
        UserError: the folder does not exist or cannot be written.
    """
    from fclip.files import write_bytes

    stream = io.BytesIO()
    sheet.save(stream, "PNG")
    write_bytes(file, stream.getvalue())


def _words(value: object) -> str:
    return " and ".join(value) if isinstance(value, list) else str(value)


def _paste(sheet: Image.Image, picture: Image.Image, corner: tuple[int, int]) -> None:
    """The whole picture, centred in its cell."""
    fitted = ImageOps.contain(picture.convert("RGB"), (CELL_W, CELL_H))
    x, y = corner[0] + (CELL_W - fitted.width) // 2, corner[1] + (CELL_H - fitted.height) // 2
    sheet.paste(fitted, (x, y))


def _write(draw: ImageDraw.ImageDraw, at: tuple[float, float], text: str, px: int, ink: object, width: int) -> None:
    """One line, shortened with an ellipsis where it would run over."""
    font = ImageFont.load_default(px)
    if draw.textlength(text, font=font) > width:
        while text and draw.textlength(text + "…", font=font) > width:
            text = text[:-1]
        text += "…"
    draw.text(at, text, fill=ink, font=font)
