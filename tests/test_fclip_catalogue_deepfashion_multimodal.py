"""DeepFashion-MultiModal, on small trees in the layout of its release."""

from __future__ import annotations

import json

import pytest
from releases import BACK, FRONT, write, write_inshop, write_multimodal

from fclip.catalogue.readers import concatenate, detect, open_catalogue


@pytest.fixture
def inshop(tmp_path):
    return write_inshop(tmp_path)


@pytest.fixture
def multimodal(tmp_path):
    return write_multimodal(tmp_path)


def test_multimodal(multimodal):
    catalogue = open_catalogue(multimodal)
    man, woman, odd = catalogue
    assert detect(str(multimodal)) == "deepfashion-multimodal"
    assert man["item"] == "inshop/id_00000080"
    assert (man["category"], man["view"], man["title"]) == ("Denim", "additional", "The man wears jeans.")
    assert man["image"]["path"] == f"{multimodal}/image/{man['id']}"
    assert {g: v for g, v in man["attributes"].items() if v is not None} == {
        "gender": "men",
        "sleeve": "long sleeve",
        "lower length": "long",
        "socks": "no",
        "hat": "yes",
        "glasses": "sunglasses",
        "neckwear": "no",
        "wrist wear": "yes",
        "ring": "no",
        "waist accessory": "belt",
        "neckline": "lapel",
        "cardigan": "no",
        "navel covered": "yes",
        "upper fabric": "cotton",
        "lower fabric": "denim",
        "upper pattern": "pure color",
        "lower pattern": "striped",
    }
    assert {g for g, v in woman["attributes"].items() if v is not None} == {"gender"}  # the rest is not visible
    assert woman["category"] == "Tees Tanks"
    assert (odd["item"], odd["category"], odd["attributes"]["upper pattern"]) == ("odd.jpg", None, "floral")


def test_necklines_are_read_in_the_numbering_of_the_file(multimodal):
    path = multimodal / "labels" / "labels" / "shape" / "shape_anno_all.txt"
    path.write_text(path.read_text().replace(" 6 2 2", " 7 2 2"))
    assert [row["neckline"] for row in open_catalogue(multimodal)["attributes"][:]] == ["standing", None, None]


def test_multimodal_keeps_out_of_the_query_and_gallery_it_shares_products_with(inshop, multimodal):
    name = "WOMEN-Jackets_Coats-id_00000001-02_4_full.jpg"
    write(multimodal / "captions.json", json.dumps({name: "A coat."}))
    parts = [open_catalogue(inshop, format="deepfashion-inshop")]
    parts.append(open_catalogue(multimodal, format="deepfashion-multimodal"))
    together = concatenate(parts)
    splits = dict(zip(together["id"][:], together["split"][:], strict=True))
    assert (splits[BACK], splits[FRONT], splits[name]) == ("query", "gallery", "test")
