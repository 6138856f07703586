"""WebDataset shards: tar files of neighbouring .jpg and .json."""

import io
import json
import tarfile

import datasets
import pytest

from fclip.catalogue.readers import open_catalogue
from fclip.catalogue.shards import _expand_braces
from fclip.catalogue.table import Columns
from fclip.errors import UserError


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def shard(path, samples):
    """Writes (name, bytes or fields) as a tar file."""
    with tarfile.open(path, "w") as tar:
        for name, content in samples:
            data = content if isinstance(content, bytes) else json.dumps(content).encode()
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


@pytest.fixture
def shards(tmp_path):
    first = [("000.jpg", b"a"), ("000.json", {"sku": "01", "colour": "red", "year": 2011}), ("001.png", b"b")]
    second = [("x/002.json", {"sku": "01", "colours": ["red", "blue"], "split": "dev"}), ("x/002.jpg", b"c")]
    return shard(tmp_path / "s-08.tar", first).parent, shard(tmp_path / "s-09.tar", second)


@pytest.mark.parametrize("pattern", ["", "s-*.tar", "s-{08..09}.tar"])
def test_samples_become_rows(shards, pattern):
    catalogue = open_catalogue(f"{shards[0]}/{pattern}")
    assert catalogue["id"][:] == ["000", "001", "x/002"]
    assert catalogue["item"][:] == ["01", "001", "01"]
    assert [cell["bytes"] for cell in catalogue["image"]] == [b"a", b"b", b"c"]
    assert [cell["path"] for cell in catalogue["image"]] == [
        "s-08.tar/000.jpg",
        "s-08.tar/001.png",
        "s-09.tar/x/002.jpg",
    ]
    assert catalogue["split"][0] == catalogue["split"][2] == "val"
    assert catalogue["attributes"][:] == [
        {"colour": "red", "colours": None},
        {"colour": None, "colours": None},
        {"colour": None, "colours": ["red", "blue"]},
    ]


def test_fields_are_mapped_and_an_object_of_attributes_is_taken_as_it_is(tmp_path):
    fields = {"label": "Coat", "attributes": {"year": 2011, "colour": None}, "bbox": [1, 2, 3, 4]}
    path = shard(tmp_path / "a.tar", [("1.jpg", b"a"), ("1.json", fields)])
    row = open_catalogue(path)[0]
    assert row["attributes"] == {"year": "2011", "colour": None}
    assert row["bbox"] == [1, 2, 3, 4]
    assert open_catalogue(path, columns=Columns(attributes=("label",)))[0]["attributes"] == {"label": "Coat"}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("inside", [False, True])
def test_numbers_and_lists_are_read_as_a_table_s_are(tmp_path, stream, inside):
    prices = [9.125, 12, "1 299.5", None]  # the point of a JSON number parts no thousands
    samples = []
    for number, price in enumerate(prices):
        fields = {"price": price, "hue": "red|blue", "fit": "loose"}
        fields = {"attributes": fields} if inside else fields
        samples += [(f"{number}.jpg", b"a"), (f"{number}.json", fields)]
    path = shard(tmp_path / "a.tar", samples)
    rows = open_catalogue(path, columns=Columns(numbers=("price",), lists=("hue",)), stream=stream)["attributes"][:]
    assert [row["price"] for row in rows] == ["9.125", "12", "1299.5", None]
    assert rows[0] == {"price": "9.125", "hue": ["red", "blue"], "fit": "loose"}
    with pytest.raises(UserError, match="no column 'prices' in "):
        open_catalogue(path, columns=Columns(numbers=("prices",)), stream=stream)


def test_a_rewritten_shard_is_read_anew(tmp_path):
    assert len(open_catalogue(shard(tmp_path / "a.tar", [("1.jpg", b"a")]))) == 1
    assert len(open_catalogue(shard(tmp_path / "a.tar", [("1.jpg", b"a"), ("2.jpg", b"b")]))) == 2


def test_bad_shards(tmp_path):
    (tmp_path / "bad.tar").write_bytes(b"no tar file " * 100)
    with pytest.raises(UserError, match=r"cannot read shard .*bad.tar"):
        open_catalogue(tmp_path / "bad.tar")
    with pytest.raises(UserError, match="no samples in"):
        open_catalogue(shard(tmp_path / "empty.tar", []))
    with pytest.raises(UserError, match=r"no object of fields: '\[1\]'"):
        open_catalogue(shard(tmp_path / "list.tar", [("1.jpg", b"a"), ("1.json", [1])]))
    with pytest.raises(UserError, match=r"no such shard: .*s-00.tar"):
        open_catalogue(f"{tmp_path}/s-{{00..01}}.tar")


def test_braces():
    assert _expand_braces("a{08..10}{1..2}") == ["a081", "a082", "a091", "a092", "a101", "a102"]
