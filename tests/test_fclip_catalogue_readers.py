"""Opening any source: recognising it, joining several, and saying what is wrong with it."""

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fclip.catalogue.assemble import assemble
from fclip.catalogue.readers import concatenate, detect, open_catalogue
from fclip.catalogue.table import Columns
from fclip.errors import UserError

DATA = Path(os.environ.get("FCLIP_DATA", "../shared/data"))


def make(ids, items, splits, groups, **columns):
    return assemble({"id": ids, "item": items, "image": [f"{i}.jpg" for i in ids], "split": splits} | columns, groups)


def test_groups_are_united_and_lists_win():
    first = make(["1"], ["a"], ["train"], {"colour": ["red"], "sleeve": ["long"]}, title=["Coat"])
    second = make(["2"], ["b"], ["val"], {"colour": [["red", "blue"]], "fit": [None]}, bbox=[[1, 2, 3, 4]])
    both = concatenate([first, second])
    assert both["attributes"][:] == [
        {"colour": ["red"], "sleeve": "long", "fit": None},
        {"colour": ["red", "blue"], "sleeve": None, "fit": None},
    ]
    assert both["title"][:] == ["Coat", None]
    assert both["bbox"][:] == [None, [1, 2, 3, 4]]


def test_known_pictures_are_left_out_and_known_products_keep_their_split(caplog):
    first = make(["1", "2"], ["a", "b"], ["train", "test"], {"colour": ["red", "red"]})
    second = make(["2", "3", "4"], ["b", "b", "c"], ["val", "val", "val"], {"colour": ["blue", "blue", "blue"]})
    with caplog.at_level(logging.WARNING):
        both = concatenate([first, second])
    assert both["id"][:] == ["1", "2", "3", "4"]
    assert both["split"][:] == ["train", "test", "test", "val"]
    assert both["attributes"][1] == {"colour": "red"}  # of the same picture the first is kept
    assert "1 pictures left out" in caplog.text
    assert len(concatenate([first, first])) == 2


def test_several_sources_of_different_formats(tmp_path):
    (tmp_path / "dress").mkdir()
    (tmp_path / "dress" / "1.jpg").touch()
    catalogue = open_catalogue(["drawn:2", tmp_path])
    assert catalogue["id"][:][-1] == "dress/1.jpg"
    assert catalogue[-1]["attributes"]["category"] == "dress"


@pytest.mark.parametrize(("source", "items"), [("drawn:3", 3), ("drawn:2:7", 2)])
def test_drawn(source, items):
    assert len(set(open_catalogue(source)["item"][:])) == items


@pytest.mark.parametrize(
    ("files", "format_"),
    [
        (["state.json", "dataset_info.json"], "saved"),
        (["styles.csv"], "fashion-products"),
        (["Anno_fine/", "Anno_coarse/"], "deepfashion-fine"),
        (["Anno/"], "deepfashion-coarse"),
        (["0.tar"], "shards"),
        (["dress/"], "folder"),
    ],
)
def test_folders_are_recognised(tmp_path, files, format_):
    for name in files:
        (tmp_path / name).mkdir() if name.endswith("/") else (tmp_path / name).touch()
    assert detect(str(tmp_path)) == format_


def test_hub_names_are_told_from_missing_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    assert detect("owner/garments") == "hub"
    for source in ("data/garments", "./owner/garments", "owner/shop.csv", "/nowhere", "shop"):
        with pytest.raises(UserError, match="no such path"):
            detect(source)


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        ("drawn", {"format": "tables"}, "unknown catalogue format 'tables'; did you mean 'table'"),
        ("drawn:many", {}, "drawn:ITEMS"),
        ("drawn", {"columns": Columns(id="x")}, "columns of its own"),
        ([], {}, "no source given"),
        (__file__, {}, "is no catalogue"),
        ("*.csv", {}, "no table in"),
    ],
)
def test_a_bad_source_is_one_clear_line(source, options, message):
    with pytest.raises(UserError, match=message) as caught:
        open_catalogue(source, **options)
    assert "\n" not in str(caught.value)


def test_importing_is_light():
    heavy = "{'pyarrow', 'datasets', 'torch', 'PIL', 'pandas', 'numpy'}"
    code = f"import sys, fclip.catalogue; print(sorted({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.mark.skipif(not (DATA / "clothing").is_dir(), reason="no real photographs at $FCLIP_DATA or ../shared/data")
def test_real_photographs_by_contributor():
    catalogue = open_catalogue(DATA / "clothing", columns=Columns(item="sender_id", attributes=("label",)))
    assert len(catalogue) == 4304
    assert len(set(catalogue["item"][:])) == 277
    assert Path(catalogue[0]["image"]["path"]).is_file()
