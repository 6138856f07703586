"""H&M's articles, on small trees in the layout of its release."""

from __future__ import annotations

import logging

import pytest
from releases import write_hm

from fclip.catalogue.readers import detect, open_catalogue
from fclip.catalogue.table import Columns


@pytest.fixture
def hm(tmp_path):
    return write_hm(tmp_path)


def test_hm_articles_keep_their_zero(hm, caplog):
    with caplog.at_level(logging.WARNING):
        catalogue = open_catalogue(hm)
    assert detect(str(hm)) == detect(str(hm / "articles.csv")) == "hm"
    assert catalogue["id"][:] == ["0108775015", "0108775044"]
    assert set(catalogue["item"][:]) == {"0108775"}  # the colours of a product stay together
    assert catalogue["image"][0]["path"] == f"{hm}/images/010/0108775015.jpg"
    assert catalogue[0]["attributes"]["graphical_appearance_name"] == "Solid"
    assert catalogue[1]["attributes"]["graphical_appearance_name"] is None
    assert (catalogue[0]["category"], catalogue[0]["title"]) == ("Vest top", "Strap top")
    assert "1 of 2 pictures are listed but not below" in caplog.text


def test_hm_columns_can_be_chosen(hm):
    columns = Columns(title="detail_desc", attributes=("colour_group_name",))
    first = open_catalogue(hm, columns=columns)[0]
    assert first["attributes"] == {"colour_group_name": "Black"}
    assert first["title"] == "Jersey top, with\nnarrow straps."


def test_hm_columns_may_be_numbers_and_lists(hm):
    columns = Columns(attributes=("section_name",), numbers=("product_code",), lists=("colour_group_name",))
    attributes = open_catalogue(hm, columns=columns)[0]["attributes"]
    assert attributes | {"section_name": None} == {
        "section_name": None,
        "product_code": "108775",
        "colour_group_name": ["Black"],
    }
