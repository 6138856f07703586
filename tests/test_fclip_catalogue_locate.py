"""Pictures are found however their folders are spelled."""

from __future__ import annotations

import pytest
from releases import write

from fclip.catalogue.locate import locate


@pytest.mark.parametrize("folder", ["IMG/img", "Img/IMG", "img", "Img"])
def test_the_folder_of_pictures_may_be_spelled_in_any_way(tmp_path, folder):
    write(tmp_path / folder / "MEN" / "1.jpg")
    assert locate(tmp_path, ["img/MEN/1.jpg"]) == [f"{tmp_path}/{folder}/MEN/1.jpg"]


def test_of_two_spellings_the_listed_one_is_taken(tmp_path):
    for name in ("a.jpg", "A.jpg"):
        write(tmp_path / "img" / name)
    assert locate(tmp_path, ["img/A.jpg", "img/a.jpg"]) == [f"{tmp_path}/img/A.jpg", f"{tmp_path}/img/a.jpg"]
