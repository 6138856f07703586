"""DeepFashion's in-shop benchmark, on small trees in the layout of its release."""

from __future__ import annotations

import logging

import pytest
from releases import BACK, DENIM, FRONT, write_inshop

from fclip.catalogue.readers import detect, open_catalogue
from fclip.catalogue.report import describe


@pytest.fixture
def inshop(tmp_path):
    return write_inshop(tmp_path)


def test_inshop_keeps_query_and_gallery(inshop, caplog):
    with caplog.at_level(logging.WARNING):
        catalogue = open_catalogue(inshop)
    back, front, denim = catalogue
    assert detect(str(inshop)) == "deepfashion-inshop"
    assert catalogue["split"][:] == ["query", "gallery", "train"]
    assert catalogue["item"][:] == ["inshop/id_00000001", "inshop/id_00000001", "inshop/id_00000080"]
    assert (back["id"], back["view"], back["bbox"], back["category"]) == (
        BACK,
        "back",
        [72, 79, 232, 256],
        "Jackets Coats",
    )
    assert [mark["visible"] for mark in back["landmarks"]] == [True, False, False, True, True, True]
    assert back["landmarks"][3] == {"name": "right sleeve", "x": 13, "y": 100, "visible": True}
    assert (front["view"], front["bbox"], front["landmarks"]) == (None, None, None)
    assert back["attributes"] == {  # two colourways: the file does not say which picture shows which
        "gender": "women",
        "clothes type": "upper body",
        "colour": None,
        "attributes": ["ankle length"],
    }
    assert denim["attributes"] | {} == {
        "gender": "men",
        "clothes type": "lower body",
        "colour": "Dark Denim",
        "attributes": None,
    }
    assert catalogue["title"][:] == [None, None, "Faded jeans."]
    assert f"1 of 3 pictures are listed but not below {inshop}: {FRONT}" in caplog.text


def test_paths_that_differ_in_case_are_found_and_absent_ones_listed(inshop):
    catalogue = open_catalogue(inshop)
    paths = [image["path"] for image in catalogue["image"][:]]
    assert paths[0] == f"{inshop}/Img/{BACK.replace('Jackets_Coats', 'jackets_coats')}"
    assert paths[1:] == [f"{inshop}/Img/{FRONT}", f"{inshop}/Img/{DENIM}"]
    unreadable = describe(catalogue, progress=False)["images"]["unreadable"]
    assert [bad["id"] for bad in unreadable if "No such file" in bad["reason"]] == [FRONT]


def test_a_query_and_its_answer_are_no_leak(inshop):
    assert describe(open_catalogue(inshop), check_images=False)["leaking_items"] == {}
