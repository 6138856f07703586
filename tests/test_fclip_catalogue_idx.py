"""Files of pictures and labels as MNIST's: read as they were written, refused when damaged."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest

from fclip.catalogue.idx import read_idx, read_labels
from fclip.errors import UserError


def write_idx(file: Path, pictures: np.ndarray, packed: bool = False) -> Path:
    data = struct.pack(">BBBB", 0, 0, 8, pictures.ndim) + struct.pack(f">{pictures.ndim}I", *pictures.shape)
    data += pictures.astype(np.uint8).tobytes()
    file.write_bytes(gzip.compress(data) if packed else data)
    return file


@pytest.mark.parametrize("packed", [False, True])
def test_idx_files_are_read_packed_or_not(tmp_path, packed):
    pictures = np.random.default_rng(0).integers(0, 256, (5, 28, 28))
    assert np.array_equal(read_idx(write_idx(tmp_path / "images", pictures, packed)), pictures)


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda data: data[:-1], r"is damaged: expected 5×28×28 values, found 3919"),
        (lambda data: data + b"x", r"is damaged: .* found 3921"),
        (lambda data: data[:9], r"is damaged"),
        (lambda data: gzip.compress(data)[:-20], r"is damaged \("),
        (lambda data: gzip.compress(data)[:50] + b"xx" + gzip.compress(data)[52:], r"is damaged \("),
        (lambda data: b"\x89PNG" + data, "found another format"),
        (lambda data: b"", "found another format"),
        (lambda data: b"\0\0\x08\x01" + data[4:8] + bytes(5), "has labels, not pictures"),
    ],
)
def test_a_damaged_idx_file_is_refused(tmp_path, damage, told):
    file = write_idx(tmp_path / "images", np.random.default_rng(0).integers(0, 256, (5, 28, 28)))
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(UserError, match=told):
        read_idx(file)


def test_an_absent_idx_file_is_named():
    with pytest.raises(UserError, match=r"cannot read none/here: No such file"):
        read_idx("none/here")


def test_labels_are_read_and_told_from_pictures(tmp_path):
    labels = np.array([3, 0, 9])
    assert read_labels(write_idx(tmp_path / "labels", labels)).tolist() == [3, 0, 9]
    with pytest.raises(UserError, match="has pictures, not labels"):
        read_labels(write_idx(tmp_path / "images", np.zeros((3, 28, 28))))
