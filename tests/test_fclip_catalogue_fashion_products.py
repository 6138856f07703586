"""Fashion Product Images: as published with its spilled names, and the real tables where they are at hand."""

import os
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fclip.catalogue.fashion_products import ATTRIBUTES, open_fashion_products
from fclip.catalogue.readers import open_catalogue
from fclip.catalogue.table import Columns
from fclip.errors import UserError

DATA = Path(os.environ.get("FCLIP_DATA", "../shared/data"))
HEADER = "id,gender,masterCategory,subCategory,articleType,baseColour,season,year,usage,productDisplayName\n"
PUBLISHED = (
    HEADER
    + "0123,Men,Apparel,Topwear,Shirts,Navy Blue,Fall,2011,Casual,Turtle Check Men Navy Blue Shirt\n"
    + "59263,Women,Accessories,Watches,Watches,NA,Winter,2016,,Titan, Women, Silver Watch\n"
    + "7,Men,Apparel,Topwear,Tshirts,Grey,Summer,2012,Casual,NA\n"
)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def test_the_published_table_loses_no_row(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "styles.csv").write_text(PUBLISHED)
    catalogue = open_catalogue(tmp_path)
    assert catalogue["id"][:] == catalogue["item"][:] == ["0123", "59263", "7"]
    assert catalogue["title"][:] == ["Turtle Check Men Navy Blue Shirt", "Titan, Women, Silver Watch", "NA"]
    assert catalogue[1]["attributes"] | {} == {
        "gender": "Women",
        "masterCategory": "Accessories",
        "subCategory": "Watches",
        "articleType": "Watches",
        "baseColour": None,
        "season": "Winter",
        "year": "2016",
        "usage": None,
    }
    assert catalogue[0]["image"]["path"] == f"{tmp_path}/images/0123.jpg"
    assert catalogue[0]["category"] == "Shirts"


def test_further_columns_and_fewer_attributes(tmp_path):
    rows = [
        line + extra
        for line, extra in zip(PUBLISHED.split("\n"), (",image,split,group", ",x/1.jpg,test,g1"), strict=False)
    ]
    (tmp_path / "styles.csv").write_text("\n".join(rows) + "\n")
    catalogue = open_fashion_products(tmp_path, Columns(attributes=("baseColour",)))
    assert catalogue[0] == {
        "id": "0123",
        "item": "g1",
        "image": {"bytes": None, "path": f"{tmp_path}/x/1.jpg"},
        "split": "test",
        "attributes": {"baseColour": "Navy Blue"},
        "category": "Shirts",
        "title": "Turtle Check Men Navy Blue Shirt",
    }


def test_numbers_and_lists_are_read(tmp_path):
    published = PUBLISHED.replace(",2011,", ",2011.0,").replace("Navy Blue,Fall", "Navy Blue|White,Fall")
    (tmp_path / "styles.csv").write_text(published)
    catalogue = open_fashion_products(tmp_path, Columns(numbers=("year",), lists=("baseColour",)))
    assert list(catalogue[0]["attributes"]) == list(ATTRIBUTES)
    assert [row["year"] for row in catalogue["attributes"]] == ["2011", "2016", "2012"]
    assert [row["baseColour"] for row in catalogue["attributes"]] == [["Navy Blue", "White"], None, ["Grey"]]


def test_parquet_with_the_pictures_inside_is_recognised(tmp_path):
    table = pa.table(
        {"id": [12]} | {n: ["NA"] for n in ATTRIBUTES} | {"productDisplayName": ["Shirt"], "jpeg": [b"data"]}
    )
    pq.write_table(table, tmp_path / "thumbs-00.parquet")
    catalogue = open_catalogue(f"{tmp_path}/thumbs-*.parquet")
    assert catalogue[0]["image"]["bytes"] == b"data"
    assert set(catalogue[0]["attributes"].values()) == {None}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (HEADER, "no rows"),
        (HEADER + "1,Men,Apparel\n", "line 2: expected 10 fields, got 3"),
        ("id,image\n1,1.jpg\n", "lacks gender"),
    ],
)
def test_bad_tables(tmp_path, text, message):
    (tmp_path / "styles.csv").write_text(text)
    with pytest.raises(UserError, match=message):
        open_fashion_products(tmp_path)


@pytest.mark.skipif(not (DATA / "catalogue").is_dir(), reason="no real catalogue at $FCLIP_DATA or ../shared/data")
def test_the_real_catalogue():
    both = open_catalogue([DATA / "catalogue", DATA / "catalogue" / "thumbs.parquet"])
    large = open_catalogue(DATA / "catalogue")
    assert len(large) == 8037
    assert large["split"][:].count("train") == 7134
    assert large["split"][:].count("val") == 903
    assert Path(large[0]["image"]["path"]).is_file()
    assert len(set(both["id"][:])) == len(both) > 20_000
    splits = {}
    for item, split in zip(both["item"][:], both["split"][:], strict=True):
        assert splits.setdefault(item, split) == split
