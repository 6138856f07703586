"""Leaks that were put there are found, each by its gravest kind, and nothing else."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
from datasets import Dataset
from PIL import Image

from eval.leaks import is_found, run_leaks
from fclip.catalogue.drawn import draw_catalogue
from fclip.catalogue.schema import features
from fclip.catalogue.storage import save_catalogue
from fclip.embedding import ImageEmbeddings
from fclip.errors import UserError


def stored(picture: Image.Image, kind: str, **options) -> dict:
    stream = io.BytesIO()
    picture.save(stream, kind, **options)
    return {"bytes": stream.getvalue(), "path": None}


@pytest.fixture(scope="module")
def drawn() -> list[Image.Image]:
    rows = draw_catalogue(items=8, views=1, size_px=96, seed=3)
    return [Image.open(io.BytesIO(row["image"]["bytes"])).convert("RGB") for row in rows]


def catalogue(rows) -> Dataset:
    return Dataset.from_list(
        [{"id": i, "item": item, "image": image, "split": split, "attributes": {"colour": colour}}
         for i, item, image, split, colour in rows], features=features(["colour"])
    )  # fmt: skip


@pytest.fixture
def leaking(drawn, tmp_path):
    """A train and a test split with one pair of every kind, and plain white pictures in both."""
    white = Image.new("RGB", (96, 96), "white")
    png = [stored(picture, "png") for picture in drawn]
    rows = [
        ("a", "1", png[0], "train", "red"), ("b", "2", png[1], "train", "red"), ("c", "3", png[2], "train", None),
        ("d", "4", png[3], "train", "blue"), ("w", "5", stored(white, "png"), "train", "white"),
        ("A", "6", png[0], "test", "red"), ("B", "7", stored(drawn[1], "bmp"), "test", "green"),
        ("C", "8", stored(drawn[2], "jpeg", quality=90), "test", "blue"), ("D", "4", png[4], "test", "blue"),
        ("W", "9", stored(white.resize((50, 50)), "png"), "test", "white"),
        ("x", "10", {"bytes": b"no picture", "path": None}, "test", None), ("v", "4", png[5], "val", "red"),
    ]  # fmt: skip
    save_catalogue(catalogue(rows), tmp_path / "leaking")
    return tmp_path / "leaking"


def test_every_kind_of_leak_is_found_once(leaking, tmp_path):
    files = {"out": tmp_path / "leaks.json", "sheet": tmp_path / "leaks.png"}
    result = run_leaks(leaking, **files)
    nothing = {"products": 1, "bytes": 0, "pixels": 0, "near": 0, "similar": 0, "conflicts": 0}
    assert result["found"] == {
        "train–val": nothing,
        "train–test": {"products": 1, "bytes": 1, "pixels": 1, "near": 1, "similar": 0, "conflicts": 1},
        "val–test": nothing,
    }
    assert [(pair["kind"], pair["ids"]) for pair in result["pairs"]] == [
        ("bytes", ["a", "A"]), ("pixels", ["b", "B"]), ("near", ["c", "C"])
    ]  # fmt: skip
    assert result["pairs"][1]["conflicts"] == {"colour": ["red", "green"]}
    assert result["products"]["train–test"] == ["4"]
    assert result["counts"]["unreadable"] == 1
    assert result["counts"]["plain"] == 2
    assert is_found(result)
    assert json.loads(files["out"].read_text()) == result
    with Image.open(files["sheet"]) as sheet:
        assert sheet.width > 900


def test_similar_embeddings_are_found_where_a_model_is_given(leaking, model, monkeypatch):
    vectors = np.eye(11, dtype=np.float32)
    vectors[8] = 0.9 * vectors[3] + 0.1 * vectors[8]  # d and D
    vectors[5] = vectors[0]

    def embed(model, pictures, **_):
        return ImageEmbeddings(vectors, np.array([n for n in range(12) if n != 10]), [("x", "cannot be read")])

    monkeypatch.setattr("eval.leaks.embed_images", embed)
    monkeypatch.setattr("fclip.pretrained.open_model", lambda source, groups: model)
    result = run_leaks(leaking, checkpoint="tiny", cosine=0.95)
    assert result["found"]["train–test"]["similar"] == 1
    assert result["pairs"][-1]["ids"] == ["d", "D"]
    assert result["pairs"][-1]["cosine"] == pytest.approx(0.9 / np.hypot(0.9, 0.1), abs=1e-5)
    assert (result["pairs"][0]["kind"], result["pairs"][0]["cosine"]) == ("bytes", 1)


def test_queries_and_gallery_share_products_on_purpose(drawn, tmp_path):
    png = [stored(picture, "png") for picture in drawn[:3]]
    splits = ("query", "gallery", "train")
    rows = [(split, "1", cell, split, None) for cell, split in zip(png, splits, strict=True)]
    save_catalogue(catalogue(rows), tmp_path / "shop")
    found = run_leaks(tmp_path / "shop")["found"]
    assert found["query–gallery"]["products"] == 0
    assert found["train–query"]["products"] == found["train–gallery"]["products"] == 1


def test_two_catalogues_keep_their_splits(drawn, tmp_path):
    for split, picture in (("train", drawn[0]), ("test", drawn[1])):
        rows = [(split, "same product", stored(picture, "png"), split, None)]
        save_catalogue(catalogue(rows), tmp_path / split)
    result = run_leaks([tmp_path / "train", tmp_path / "test"])
    assert result["products"] == {"train–test": ["same product"]}
    with pytest.raises(UserError, match="expected at least two splits, got only train"):
        run_leaks(tmp_path / "train")


def test_a_sound_catalogue_is_clean(drawn, tmp_path):
    png = [stored(picture, "png") for picture in drawn]
    rows = [(f"{n}", f"{n}", cell, "test" if n % 2 else "train", "red") for n, cell in enumerate(png)]
    save_catalogue(catalogue(rows), tmp_path / "sound")
    assert not is_found(run_leaks(tmp_path / "sound"))


def test_numbers_out_of_range_are_refused(leaking):
    with pytest.raises(UserError, match=r"expected bits in 0 … 15 and a cosine in 0 … 1, got 16 and 0.98"):
        run_leaks(leaking, bits=16)
