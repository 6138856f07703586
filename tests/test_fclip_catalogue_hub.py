"""Hub data sets, through the same code on local folders that `datasets.load_dataset` reads."""

import datasets
import huggingface_hub
import pytest
from datasets import ClassLabel, Dataset, Features, Image, Value
from PIL import Image as Picture

from fclip.catalogue.readers import open_catalogue
from fclip.catalogue.schema import split_of
from fclip.catalogue.table import Columns
from fclip.errors import UserError
from fclip.images import decode


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def write(folder, split, skus):
    """A Parquet file as the hub keeps data sets: pictures inside, classes as numbers."""
    folder.mkdir(exist_ok=True)
    shape = Features(
        {"sku": Value("int64"), "photo": Image(), "kind": ClassLabel(names=["dress", "shirt"]), "hue": Value("string")}
    )
    rows = {
        "sku": skus,
        "photo": [Picture.new("RGB", (4, 6), "red") for _ in skus],
        "kind": [n % 2 if n else -1 for n in skus],
        "hue": ["red", "blue"] * (len(skus) // 2),
    }
    Dataset.from_dict(rows, features=shape).to_parquet(folder / f"{split}.parquet")


def test_columns_are_mapped_and_class_numbers_named(tmp_path):
    write(tmp_path / "set", "train", [0, 1])
    write(tmp_path / "set", "validation", [2, 3])
    catalogue = open_catalogue(tmp_path / "set", format="hub")
    assert catalogue["item"][:] == ["0", "1", "2", "3"]
    assert catalogue["split"][:] == ["train", "train", "val", "val"]
    assert [a["kind"] for a in catalogue["attributes"]] == [None, "shirt", "dress", "shirt"]
    assert decode(catalogue[3]["image"]).size == (4, 6)
    mapped = open_catalogue(tmp_path / "set", format="hub", columns=Columns(id="sku", attributes=("hue",)))
    assert mapped[1]["id"] == "1"
    assert mapped[1]["attributes"] == {"hue": "blue"}
    columns = Columns(id="sku", attributes=("kind",), numbers=("sku",), lists=("hue",))
    mapped = open_catalogue(tmp_path / "set", format="hub", columns=columns)
    assert mapped[1]["attributes"] == {"kind": "shirt", "sku": "1", "hue": ["blue"]}


def test_a_single_split_says_nothing(tmp_path):
    write(tmp_path / "set", "train", list(range(40)))
    catalogue = open_catalogue(tmp_path / "set", format="hub")
    assert catalogue["split"][:] == [split_of(item) for item in catalogue["item"]]


def test_without_a_network_the_message_tells_what_to_do(monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=r"cannot load someone/garments from the hub: .*give a local folder"):
        open_catalogue("someone/garments")
