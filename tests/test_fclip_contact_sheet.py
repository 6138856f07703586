"""What a contact sheet shows, read back from its pixels."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from fclip.contact_sheet import CELL_H, CELL_W, GAP, contact_sheet, in_words, save_contact_sheet
from fclip.errors import UserError
from fclip.index import Answer

RED, BLUE = (200, 30, 30), (30, 30, 200)


def picture(width: int, height: int, colour: tuple[int, int, int]) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (width, height), colour).save(stream, "PNG")
    return stream.getvalue()


def answer(size: tuple[int, int] = (192, 256), title: str | None = "Dress", colour=RED, **changes) -> Answer:
    fields = {"id": "1-front", "item": "1", "score": 0.5, "attributes": {"colour": "red"}, **changes}
    return Answer(title=title, thumbnail=picture(*size, colour), **fields)


def cell(size: tuple[int, int] = (600, 800)) -> dict:
    return {"bytes": picture(*size, BLUE), "path": None}


def extent(sheet: Image.Image, colour: tuple[int, int, int]) -> tuple[int, int, int, int] | None:
    """The box (left, top, right, bottom) around all pixels of a colour."""
    mask = Image.fromarray((np.asarray(sheet) == colour).all(axis=2))
    return mask.getbbox()


@pytest.mark.parametrize("count", [1, 2, 4, 5, 9])
def test_answers_fill_rows_of_four_at_the_most(count) -> None:
    sheet = contact_sheet([answer() for _ in range(count)], ["red dress"])
    across = min(4, max(2, count))
    assert sheet.width == GAP + across * (CELL_W + GAP)
    rows = -(-count // 4)
    assert rows * CELL_H < sheet.height < rows * (CELL_H + 150) + 150


@pytest.mark.parametrize("size", [(256, 80), (80, 256), (256, 256), (1, 256), (20, 20)])
def test_a_picture_is_shown_whole_and_within_its_cell(size) -> None:
    left, top, right, bottom = extent(contact_sheet([answer(size)]), RED)
    assert left >= GAP
    assert right - left <= CELL_W
    assert bottom - top <= CELL_H
    if min(size) > 1:
        assert (right - left) / (bottom - top) == pytest.approx(size[0] / size[1], rel=0.05)
    assert (left + right) / 2 == pytest.approx(GAP + CELL_W / 2, abs=1)


def test_the_question_stands_above_the_answers() -> None:
    sheet = contact_sheet([answer()], ["red dress"], [cell()], "gender=Women")
    assert extent(sheet, BLUE)[3] < extent(sheet, RED)[1]


def test_many_photographs_make_rows_and_not_a_wider_sheet() -> None:
    sheet = contact_sheet([answer()] * 4, [], [cell()] * 10)
    assert sheet.width == GAP + 4 * (CELL_W + GAP)
    assert extent(sheet, BLUE)[3] > 3 * CELL_H


def test_a_row_is_no_higher_than_its_pictures() -> None:
    assert contact_sheet([answer((256, 64))] * 4).height < contact_sheet([answer((64, 256))] * 4).height


@pytest.mark.parametrize(
    "title",
    [None, "", "two\nlines", "long " * 200, "x" * 5000, "Robe d'été, платье, φόρεμα", "[bold]not markup[/bold]"],
)
def test_any_title_fits_into_its_cell(title) -> None:
    def beside(sheet: Image.Image) -> Image.Image:
        return sheet.crop((GAP + CELL_W, 150, GAP + CELL_W + GAP, sheet.height))

    sheet = contact_sheet([answer(title=title, id="folder/" * 50, attributes={"a": "b " * 300, "c": ["d"] * 99})])
    assert beside(sheet).getcolors() == [(GAP * (sheet.height - 150), (255, 255, 255))]


def test_a_long_question_is_shortened() -> None:
    assert contact_sheet([answer()], ["red dress " * 500], where="a=b, " * 500).height < 700


def test_no_answer_is_said() -> None:
    nothing, something = contact_sheet([], ["purple"]), contact_sheet([answer()], ["purple"])
    assert nothing.height < something.height
    said = nothing.crop((0, nothing.height - 2 * GAP, nothing.width, nothing.height))
    assert len(said.getcolors(1000)) > 1


def test_values_in_words() -> None:
    assert in_words({"category": "dress", "trim": ["belt", "buttons"]}) == "dress, belt and buttons"


def test_a_sheet_is_saved_whole_or_not_at_all(tmp_path) -> None:
    sheet = contact_sheet([answer()])
    save_contact_sheet(tmp_path / "sheet.png", sheet)
    with Image.open(tmp_path / "sheet.png") as saved:
        assert saved.size == sheet.size
    with pytest.raises(UserError, match="cannot write"):
        save_contact_sheet(tmp_path / "nowhere" / "sheet.png", sheet)
    assert [path.name for path in tmp_path.iterdir()] == ["sheet.png"]
