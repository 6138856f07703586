"""DeepFashion2, on small trees in the layout of its release."""

from __future__ import annotations

import json

import pytest
from releases import garment, write, write_deepfashion2

from fclip.catalogue.deepfashion2 import CATEGORIES, garments
from fclip.catalogue.readers import detect, open_catalogue
from fclip.errors import UserError


@pytest.fixture
def deepfashion2(tmp_path):
    return write_deepfashion2(tmp_path)


def test_deepfashion2_has_one_row_a_garment(deepfashion2):
    catalogue = open_catalogue(deepfashion2)
    assert detect(str(deepfashion2)) == "deepfashion2"
    assert catalogue["id"][:] == [
        "train/000001/item2",
        "train/000001/item10",
        "train/000002/item1",
        "validation/000001/item1",
    ]
    assert catalogue["item"][:] == [
        "deepfashion2/train/1-1",
        "deepfashion2/train/000001/item10",  # style 0 pairs with nothing
        "deepfashion2/train/1-1",
        "deepfashion2/validation/1-1",  # the same numbers in another set are another product
    ]
    assert catalogue["split"][:] == ["train", "train", "train", "val"]
    assert catalogue["view"][:] == ["consumer", "consumer", "shop", "shop"]
    first = catalogue[0]
    assert first["image"]["path"] == f"{deepfashion2}/train/image/000001.jpg"
    assert (first["bbox"], first["category"]) == ([10, 20, 30, 40], "trousers")
    assert [mark["visible"] for mark in first["landmarks"][:4]] == [False, False, True, False]  # 2 is visible
    assert first["landmarks"][2] == {"name": "3", "x": 2, "y": 102, "visible": True}
    assert first["attributes"] == {"scale": "modest", "occlusion": "slight", "zoom_in": "large", "viewpoint": "front"}
    assert catalogue[2]["attributes"]["viewpoint"] is None


def test_deepfashion2_defines_294_landmarks():
    assert sum(count for _, count in CATEGORIES.values()) == 294


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"category_id": 14}, "item1: expected a category_id of 1..13"),
        ({"landmarks": [1, 2, 2]}, "item1: expected 14 landmarks of 3 numbers for a trousers"),
        ({"bounding_box": [1, 2]}, "item1: expected a bounding_box of 4 numbers"),
    ],
)
def test_a_garment_of_another_form_is_named(tmp_path, change, message):
    path = tmp_path / "train" / "annos" / "1.json"
    write(path, json.dumps({"source": "shop", "pair_id": 1, "item1": garment() | change}))
    with pytest.raises(UserError, match=message):
        garments(path)
