"""Image folders: classes, splits, and files that are no pictures."""

import pytest

from fclip.catalogue.folder import open_folder
from fclip.catalogue.schema import split_of
from fclip.errors import UserError


def tree(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"not even a picture: opening decodes nothing")
    return root


def test_a_subfolder_is_a_class(tmp_path):
    catalogue = open_folder(
        tree(tmp_path, "dress/1.jpg", "dress/2.PNG", "shirt/1.webp", "shirt/notes.txt", ".cache/3.jpg")
    )
    assert catalogue["id"][:] == ["dress/1.jpg", "dress/2.PNG", "shirt/1.webp"]
    assert [a["category"] for a in catalogue["attributes"]] == ["dress", "dress", "shirt"]
    assert catalogue["split"][:] == [split_of(id_) for id_ in catalogue["id"]]
    assert catalogue[0]["image"]["path"] == str(tmp_path / "dress" / "1.jpg")


def test_split_folders_with_classes(tmp_path):
    catalogue = open_folder(tree(tmp_path, "train/dress/1.jpg", "valid/dress/1.jpg", "test/shirt/deep/1.jpg"))
    assert dict(zip(catalogue["id"][:], catalogue["split"][:], strict=True)) == {
        "test/shirt/deep/1.jpg": "test",
        "train/dress/1.jpg": "train",
        "valid/dress/1.jpg": "val",
    }
    assert catalogue["category"][:] == ["shirt", "dress", "dress"]


@pytest.mark.parametrize("names", [("1.jpg", "2.jpg"), ("images/1.jpg", "images/2.jpg"), ("train/1.jpg",)])
def test_pictures_without_classes(tmp_path, names):
    assert set(open_folder(tree(tmp_path, *names))["category"][:]) == {None}


def test_an_empty_folder(tmp_path):
    with pytest.raises(UserError, match="no pictures in"):
        open_folder(tmp_path)
