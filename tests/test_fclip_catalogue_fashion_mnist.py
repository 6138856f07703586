"""Fashion-MNIST as a catalogue: its pictures, classes and splits."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from test_fclip_catalogue_idx import write_idx

from fclip.catalogue import open_catalogue
from fclip.catalogue.fashion_mnist import CLASSES
from fclip.catalogue.readers import detect
from fclip.catalogue.schema import split_of
from fclip.errors import UserError
from fclip.images import decode

PICTURES = np.random.default_rng(0).integers(0, 256, (30, 28, 28))
LABELS = np.arange(30) % 10


@pytest.fixture
def folder(tmp_path):
    """The four files, two of them packed."""
    for part, packed in (("train", True), ("t10k", False)):
        end = ".gz" * packed
        write_idx(tmp_path / f"{part}-images-idx3-ubyte{end}", PICTURES, packed)
        write_idx(tmp_path / f"{part}-labels-idx1-ubyte{end}", LABELS, packed)
    return tmp_path


def test_pictures_classes_and_splits(folder):
    catalogue = open_catalogue(folder)
    assert len(catalogue) == len(set(catalogue["id"])) == 60
    assert [a["category"] for a in catalogue["attributes"]] == catalogue["category"][:] == [*CLASSES] * 6
    splits = dict(zip(catalogue["id"], catalogue["split"], strict=True))
    assert {split for id_, split in splits.items() if id_.startswith("t10k/")} == {"test"}
    of_train = {id_: split for id_, split in splits.items() if id_.startswith("train/")}
    assert of_train == {id_: "val" if split_of(id_) == "val" else "train" for id_ in of_train}
    assert set(of_train.values()) == {"train", "val"}


def test_no_level_of_a_pixel_is_lost(folder):
    catalogue = open_catalogue(folder / "t10k-images-idx3-ubyte")
    assert len(catalogue) == 30
    for row in (0, 29):
        pixels = np.asarray(decode(catalogue[row]["image"]))
        assert np.array_equal(pixels, np.repeat(PICTURES[row][..., None], 3, axis=-1))


def test_the_folder_and_its_files_are_recognised(folder):
    for source in (folder, *folder.glob("*images*")):
        assert detect(str(source)) == "fashion-mnist"


def test_pictures_without_labels_have_no_category(folder, caplog):
    (folder / "t10k-labels-idx1-ubyte").unlink()
    with caplog.at_level(logging.WARNING):
        catalogue = open_catalogue(folder / "t10k-images-idx3-ubyte")
    assert set(catalogue["category"]) == {None}
    assert "no t10k-labels-idx1-ubyte beside" in caplog.text


@pytest.mark.parametrize(("labels", "told"), [(LABELS[:-1], "found 29 up to 9"), (LABELS + 1, "found 30 up to 10")])
def test_labels_that_do_not_fit_are_refused(folder, labels, told):
    write_idx(folder / "t10k-labels-idx1-ubyte", labels)
    with pytest.raises(UserError, match=f"expected 30 labels from 0 to 9, {told}"):
        open_catalogue(folder)


def test_files_of_labels_alone(folder):
    for file in folder.glob("*images*"):
        file.unlink()
    with pytest.raises(UserError, match=r"no pictures of Fashion-MNIST in .*; expected train-images-idx3-ubyte\.gz"):
        open_catalogue(folder, format="fashion-mnist")
