"""Shards: what is written is read back, kept in place or copied; damage is named and costs only what it must."""

import hashlib
import io
import json
import shutil
import tarfile

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from fclip.catalogue import open_catalogue, save_catalogue
from fclip.catalogue.assemble import assemble
from fclip.catalogue.report import describe
from fclip.catalogue.writing import damaged_shards, write_shards
from fclip.errors import UserError
from fclip.images import decode, encoded

FORMS = ("webdataset", "parquet")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()


def picture(colour: str, kind: str) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (9, 7), colour).save(stream, kind)
    return stream.getvalue()


@pytest.fixture
def garments():
    """All columns a catalogue may have, values missing and lists empty, seven pictures in three splits."""
    count = 7
    kinds = ["jpeg", "png", "webp", "bmp", "jpeg", "jpeg", "jpeg"]
    columns = {
        "id": [f"0{n}" for n in range(count)],
        "item": ["a", "a", "b", "c", "d", "e", "e"],
        "image": [picture(f"rgb({30 * n},90,{200 - 20 * n})", kind) for n, kind in enumerate(kinds)],
        "split": ["val", "val", "train", "train", "train", "test", "test"],
        "category": ["Coat", None, "Dress", "Jeans, blue", "é日", "x", "y"],
        "title": ["A", "B", None, "D", "E", "F", "G"],
        "bbox": [[1, 2, 3.5, 4], None, [0, 0, 1, 1], None, None, None, None],
        "landmarks": [[{"name": "hem", "x": 1.5, "y": 2, "visible": True}], None, [], None, None, None, None],
        "view": [None, "side", "front", "front", "front", "front", "front"],
    }
    groups = {
        "name": ["n", None, "m", "n", "n", "n", "n"],  # named like a column that readers guess
        "category": ["c0", "c1", None, "c3", "c4", "c5", "c6"],  # named like another column
        "colours": [["red", "blue"], None, ["red"], [], None, None, ["x"]],
    }
    return assemble(columns, groups)


def by_id(catalogue):
    return {row["id"]: row for row in catalogue.remove_columns("image")}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_shards_hold_the_same_catalogue(tmp_path, garments, form, stream):
    index = write_shards(garments, form, tmp_path / "shards", shard_size=2)
    read = open_catalogue(tmp_path / "shards", stream=stream)
    assert read.features == garments.features
    assert by_id(read) == by_id(garments)
    before = {row["id"]: encoded(row["image"]) for row in garments}
    for row in read:
        kept = encoded(row["image"]) == before[row["id"]]
        assert kept == (row["id"] != "03")  # a BMP, which becomes a PNG
        assert decode(row["image"]).tobytes() == decode({"bytes": before[row["id"]], "path": None}).tobytes()
    assert [a["pictures"] for a in index["shards"]] == [2, 1, 2, 2]
    assert index["splits"] == {"train": 3, "val": 2, "test": 2}


@pytest.mark.parametrize("form", FORMS)
def test_the_index_counts_and_checks_every_shard(tmp_path, garments, form):
    folder = tmp_path / "shards"
    index = write_shards(garments, form, folder, shard_size=2)
    assert json.loads((folder / "index.json").read_text()) == index
    for about in index["shards"]:
        data = (folder / about["file"]).read_bytes()
        assert (about["bytes"], about["sha256"]) == (len(data), hashlib.sha256(data).hexdigest())
    assert damaged_shards(folder) == []
    file = folder / index["shards"][1]["file"]
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    (folder / index["shards"][0]["file"]).unlink()
    missing, damaged = damaged_shards(folder)
    assert "is missing (2 pictures)" in missing
    assert f"{file.name} is damaged" in damaged


def test_a_stream_copies_no_picture_and_can_be_copied_later(tmp_path, garments):
    write_shards(garments, "webdataset", tmp_path / "shards")
    read = open_catalogue(tmp_path / "shards", stream=True)
    assert all(cell["bytes"] is None for cell in read["image"])
    assert read.cache_files  # memory-mapped
    assert len(describe(read, progress=False)["images"]["unreadable"]) == 0
    save_catalogue(read, tmp_path / "saved")
    shutil.rmtree(tmp_path / "shards")
    assert encoded(open_catalogue(tmp_path / "saved")[0]["image"])
    assert len(describe(read, progress=False)["images"]["unreadable"]) == 7


def test_an_unreadable_picture_is_left_out_and_listed(tmp_path, garments, broken):
    index = write_shards(broken(garments, [2]), "webdataset", tmp_path / "shards")
    assert index["pictures"] == 6
    assert [bad["id"] for bad in index["skipped"]] == ["02"]
    assert "02" not in open_catalogue(tmp_path / "shards")["id"][:]


@pytest.mark.parametrize("kind", ["jpeg", "png", "webp", "bmp"])
@pytest.mark.parametrize("form", FORMS)
def test_a_picture_that_is_cut_off_is_left_out_as_the_report_counts_it(tmp_path, form, kind):
    stream = io.BytesIO()
    Image.effect_noise((90, 70), 50).convert("RGB").save(stream, kind)
    whole = stream.getvalue()
    cells = [{"bytes": data, "path": None} for data in (whole, whole[:-200], whole[: len(whole) // 2], b"", whole)]
    cells.append({"bytes": None, "path": str(tmp_path / "gone.jpg")})
    catalogue = assemble({"id": list("abcdef"), "image": cells, "split": ["train"] * 6}, {"colour": ["red"] * 6})
    index = write_shards(catalogue, form, tmp_path / "shards")
    unreadable = [bad["id"] for bad in describe(catalogue, progress=False)["images"]["unreadable"]]
    assert [bad["id"] for bad in index["skipped"]] == unreadable == list("bcdf")
    assert open_catalogue(tmp_path / "shards")["id"][:] == ["a", "e"]


def test_a_large_jpeg_that_is_cut_off_is_found_at_reduced_scale(tmp_path):
    for progressive in (False, True):
        stream = io.BytesIO()
        Image.effect_noise((1200, 900), 50).convert("RGB").save(stream, "jpeg", progressive=progressive)
        whole = stream.getvalue()
        cells = [{"bytes": whole[: len(whole) - cut], "path": None} for cut in (0, 2, 100, 10_000)]
        catalogue = assemble({"id": list("abcd"), "image": cells, "split": ["train"] * 4}, {})
        index = write_shards(catalogue, "webdataset", tmp_path / f"shards-{progressive}")
        assert [bad["id"] for bad in index["skipped"]] == list("bcd")


@pytest.mark.parametrize("stream", [False, True])
def test_a_cut_shard_loses_what_is_behind_the_cut_and_says_so(tmp_path, garments, stream, caplog):
    index = write_shards(garments, "webdataset", tmp_path / "shards", shard_size=10)
    whole = open_catalogue(tmp_path / "shards", stream=stream)["id"][:]
    assert whole == ["05", "06", "02", "03", "04", "00", "01"]  # test, train, val
    file = tmp_path / "shards" / index["shards"][0]["file"]
    with tarfile.open(file) as shard:
        members = shard.getmembers()
    data = file.read_bytes()
    kept = {}  # cut at every block → ids of the training split
    for end in range(512, members[-1].offset_data + 1024, 512):
        file.write_bytes(data[: end - 7])
        caplog.clear()
        left = [i for i in open_catalogue(tmp_path / "shards", stream=stream)["id"][:] if i in ("02", "03", "04")]
        complete = [n for n in (0, 1, 2) if members[2 * n + 1].offset_data + members[2 * n + 1].size <= end - 7]
        assert left == ["02", "03", "04"][: len(complete)], end
        if len(complete) < 3:
            assert file.name in caplog.text
            assert "damaged" in caplog.text
        kept[end] = len(left)
    assert set(kept.values()) == {0, 1, 2, 3}


def test_the_cut_sample_is_named_by_shard_and_key_at_every_opening(tmp_path, garments, caplog):
    index = write_shards(garments, "webdataset", tmp_path / "shards", shard_size=10)
    file = tmp_path / "shards" / index["shards"][0]["file"]
    with tarfile.open(file) as shard:
        file.write_bytes(file.read_bytes()[: shard.getmember("00000001.json").offset_data + 9])
    for stream in (True, True, False, False):
        caplog.clear()
        assert len(open_catalogue(tmp_path / "shards", stream=stream)) == 5
        assert f"{file}: 00000001: the shard is cut off here" in caplog.text


@pytest.mark.parametrize("stream", [False, True])
def test_a_sample_of_bad_json_is_skipped_and_named(tmp_path, stream, caplog):
    with tarfile.open(tmp_path / "a.tar", "w") as shard:
        for name, data in (("1.jpg", picture("red", "jpeg")), ("1.json", b"[1"), ("2.jpg", picture("red", "jpeg"))):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            shard.addfile(info, io.BytesIO(data))
    assert open_catalogue(tmp_path / "a.tar", stream=stream)["id"][:] == ["2"]
    assert "a.tar: 1: a shard's JSON is no object of fields: '[1'" in caplog.text


def test_a_parquet_shard_that_cannot_be_read_is_skipped_and_named(tmp_path, garments, caplog):
    index = write_shards(garments, "parquet", tmp_path / "shards", shard_size=2)
    file = tmp_path / "shards" / index["shards"][0]["file"]
    file.write_bytes(file.read_bytes()[:-9])
    for _ in range(2):
        caplog.clear()
        assert sorted(open_catalogue(tmp_path / "shards", stream=True)["id"][:]) == ["00", "01", "04", "05", "06"]
        assert file.name in caplog.text


def test_a_foreign_parquet_streams_from_compressed_row_groups(tmp_path):
    pictures = [picture(c, "jpeg") for c in ("red", "green", "blue")]
    table = pa.table({"sku": ["1", "2", "3"], "picture": pictures, "colour": ["r", "g", "r"]})
    pq.write_table(table, tmp_path / "foreign.parquet", row_group_size=2, compression="snappy")
    read = open_catalogue(tmp_path / "foreign.parquet", stream=True)
    assert [encoded(cell) for cell in read["image"]] == pictures
    assert read["attributes"][:] == [{"colour": "r"}, {"colour": "g"}, {"colour": "r"}]


def test_what_cannot_be_streamed_is_refused(tmp_path, garments):
    (tmp_path / "t.csv").write_text("id,image\n1,1.jpg\n")
    pq.write_table(pa.table({"id": ["1"], "image": ["1.jpg"]}), tmp_path / "paths.parquet")
    with tarfile.open(tmp_path / "z.tar", "w:gz"):
        pass
    with pytest.raises(UserError, match=r"t.csv cannot be streamed: .*--to webdataset"):
        open_catalogue(tmp_path / "t.csv", stream=True)
    with pytest.raises(UserError, match=r"holds string, not pictures"):
        open_catalogue(tmp_path / "paths.parquet", stream=True)
    with pytest.raises(UserError, match=r"cannot read shard .*z.tar: .*a compressed one cannot be streamed"):
        open_catalogue(tmp_path / "z.tar", stream=True)


def test_only_shards_are_replaced(tmp_path, garments):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("x")
    with pytest.raises(UserError, match="not overwritten"):
        write_shards(garments, "parquet", tmp_path / "mine", overwrite=True)
    write_shards(garments, "parquet", tmp_path / "shards")
    write_shards(garments, "webdataset", tmp_path / "shards", overwrite=True)
    assert {p.suffix for p in (tmp_path / "shards").iterdir()} == {".tar", ".json"}
    with pytest.raises(UserError, match="unknown form 'tar'; known: parquet, webdataset"):
        write_shards(garments, "tar", tmp_path / "other")
