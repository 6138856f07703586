"""DeepFashion's landmark benchmark, on small trees in the layout of its release."""

from __future__ import annotations

import pytest
from releases import table, write_landmarks

from fclip.catalogue.readers import detect, open_catalogue


@pytest.fixture
def landmarks(tmp_path):
    return write_landmarks(tmp_path)


def test_landmarks(landmarks):
    catalogue = open_catalogue(landmarks)
    assert detect(str(landmarks)) == "deepfashion-landmarks"
    assert catalogue["split"][:] == ["train", "val", "test"]
    assert catalogue["item"][:] == catalogue["id"][:]
    first = catalogue[0]
    assert [(m["name"], m["y"], m["visible"]) for m in first["landmarks"]] == [
        ("left waistline", 200, False),
        ("right waistline", 201, True),
        ("left hem", 202, True),
        ("right hem", 203, False),
    ]
    assert first["bbox"] == [41, 95, 302, 302]
    assert first["attributes"] == {"clothes type": "lower body", "variation": "medium zoom-in"}
    assert catalogue[1]["landmarks"] is None
    assert len(catalogue[2]["landmarks"]) == 8


def test_landmarks_without_the_column_of_variations(landmarks):
    row = "img/img_00000002.jpg 1 " + " ".join(["0 3 4"] * 6)
    table(landmarks / "Anno" / "list_landmarks.txt", "image_name clothes_type …", row)
    second = open_catalogue(landmarks)[1]
    assert second["attributes"] == {"clothes type": "upper body", "variation": None}
    assert len(second["landmarks"]) == 6
