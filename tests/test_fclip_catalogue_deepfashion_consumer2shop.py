"""DeepFashion's consumer-to-shop benchmark, on small trees in the layout of its release."""

from __future__ import annotations

import logging

import pytest
from releases import OTHER, PARTITION, SHOP, USER, write_consumer2shop

from fclip.catalogue.readers import detect, open_catalogue


@pytest.fixture
def consumer2shop(tmp_path):
    return write_consumer2shop(tmp_path)


def test_consumer2shop_has_one_row_a_picture(consumer2shop, caplog):
    with caplog.at_level(logging.WARNING):
        catalogue = open_catalogue(consumer2shop)
    assert detect(str(consumer2shop)) == "deepfashion-consumer2shop"
    assert catalogue["id"][:] == [USER, SHOP, OTHER]
    assert catalogue["view"][:] == ["consumer", "shop", "shop"]
    assert set(catalogue["split"][:]) == {"test"}
    assert set(catalogue["item"][:]) == {"consumer2shop/id_00000001"}
    assert catalogue["bbox"][:] == [[0, 0, 300, 200], [1, 2, 300, 225], None]
    assert catalogue[0]["attributes"] == {"clothes type": "upper body", "colour": ["bright red"], "collar shape": []}
    assert catalogue[0]["category"] == "T Shirt"
    assert f"1 pictures of {consumer2shop}/{PARTITION} are listed with two" in caplog.text
    assert "list_landmarks_consumer2shop.txt; the catalogue has no landmarks" in caplog.text
