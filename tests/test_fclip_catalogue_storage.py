"""Saving and opening again: equal, portable, never half-written."""

import shutil
import string

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from fclip.catalogue import open_catalogue, save_catalogue, storage
from fclip.catalogue.assemble import assemble
from fclip.catalogue.schema import features
from fclip.errors import UserError
from fclip.images import UnreadableImageError, decode

WORDS = st.none() | st.text(string.ascii_letters + "é日, ", min_size=1)
ROWS = st.lists(
    st.tuples(WORDS, st.none() | st.lists(st.text(max_size=5)), st.none() | st.binary(max_size=9)), min_size=1
)


def shop(folder):
    folder.mkdir()
    for name, colour in (("1.png", "red"), ("2.png", "blue")):
        Image.new("RGB", (4, 6), colour).save(folder / name)
    (folder / "shop.csv").write_text("id,image,colour\n1,1.png,red\n2,2.png,blue\n3,missing.png,\n")
    return open_catalogue(folder / "shop.csv")


def test_a_saved_catalogue_needs_its_source_no_more(tmp_path):
    catalogue = shop(tmp_path / "shop")
    save_catalogue(catalogue, tmp_path / "deep" / "saved")
    shutil.rmtree(tmp_path / "shop")
    saved = open_catalogue(tmp_path / "deep" / "saved")
    assert saved.features == catalogue.features
    assert saved.remove_columns("image")[:] == catalogue.remove_columns("image")[:]
    assert decode(saved[1]["image"]).getpixel((0, 0)) == (0, 0, 255)
    assert saved[1]["image"]["path"] == "2.png"
    with pytest.raises(UnreadableImageError, match=r"missing.png"):  # kept as a row, and still named
        decode(saved[2]["image"])
    save_catalogue(saved, tmp_path / "again")
    assert open_catalogue(tmp_path / "again")[:] == saved[:]


def test_without_embedding_it_is_equal_paths_and_all(tmp_path):
    catalogue = shop(tmp_path / "shop")
    saved = open_catalogue(save_catalogue(catalogue, tmp_path / "saved", embed_images=False))
    assert saved[:] == catalogue[:]


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(ROWS)
def test_any_catalogue_comes_back_equal(tmp_path, rows):
    text, lists, data = (list(column) for column in zip(*rows, strict=True))
    columns = {"id": [str(n) for n in range(len(rows))], "image": [{"bytes": d or b"", "path": None} for d in data]}
    catalogue = assemble(
        columns | {"title": text, "bbox": [[1, 2, 3, 4.5]] * len(rows)}, {"a": text, "b": lists or [[]]}
    )
    saved = open_catalogue(save_catalogue(catalogue, tmp_path / "saved", overwrite=True))
    assert saved.features == catalogue.features
    assert saved[:] == catalogue[:]


def test_a_selection_is_saved_alone(tmp_path):
    catalogue = shop(tmp_path / "shop").select([1])
    assert open_catalogue(save_catalogue(catalogue, tmp_path / "saved"))["id"][:] == ["2"]


def test_what_exists_is_not_replaced_by_accident(tmp_path):
    catalogue = shop(tmp_path / "shop")
    save_catalogue(catalogue, tmp_path / "saved")
    with pytest.raises(UserError, match="exists"):
        save_catalogue(catalogue, tmp_path / "saved")
    save_catalogue(open_catalogue(tmp_path / "saved"), tmp_path / "saved", overwrite=True)
    assert len(open_catalogue(tmp_path / "saved")) == 3
    with pytest.raises(UserError, match="not a saved catalogue"):
        save_catalogue(catalogue, tmp_path / "shop", overwrite=True)
    assert (tmp_path / "shop" / "1.png").exists()


def test_an_interrupted_save_leaves_nothing(tmp_path, monkeypatch):
    catalogue = shop(tmp_path / "shop")

    def interrupted(cell):
        raise KeyboardInterrupt

    monkeypatch.setattr(storage, "_embedded", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save_catalogue(catalogue, tmp_path / "saved")
    assert [path.name for path in tmp_path.iterdir()] == ["shop"]


def test_damaged_folders_and_other_data_sets(tmp_path):
    from datasets import Dataset

    save_catalogue(shop(tmp_path / "shop"), tmp_path / "saved")
    next((tmp_path / "saved").glob("*.arrow")).write_bytes(b"no arrow")
    with pytest.raises(UserError, match="cannot open"):
        open_catalogue(tmp_path / "saved")
    Dataset.from_dict({"a": [1]}).save_to_disk(tmp_path / "other")
    with pytest.raises(UserError, match="no catalogue: its columns are a"):
        open_catalogue(tmp_path / "other")


def test_features_of_nothing_but_pictures(tmp_path):
    catalogue = assemble({"id": ["1"], "image": ["1.jpg"]}, {})
    assert catalogue.features == features([])
    assert open_catalogue(save_catalogue(catalogue, tmp_path / "saved", embed_images=False))[:] == catalogue[:]
