"""Embeddings of catalogues and texts: what cannot be read is listed, and batching changes nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fclip.embedding import embed_batches, embed_catalogue, embed_pictures, embed_texts
from fclip.errors import UserError
from fclip.images import UnreadableImageError, decode


def test_every_picture_gets_the_unit_vector_of_the_model(model, catalogue):
    found = embed_catalogue(model, catalogue)
    pixels = torch.stack([model.preprocess(decode(cell)) for cell in catalogue["image"]])
    with torch.no_grad():
        expected = model.encode_image(model.preprocess.normalise(pixels)).numpy()
    np.testing.assert_allclose(found.vectors, expected, atol=1e-6)
    assert found.vectors.dtype == np.float32
    assert found.rows.tolist() == list(range(24))
    assert found.skipped == []


@pytest.mark.parametrize(("batch_size", "workers"), [(1, 0), (7, 0), (100, 0), (5, 1)])
def test_the_batch_size_and_the_workers_do_not_matter(model, catalogue, texts, batch_size, workers):
    expected = embed_catalogue(model, catalogue)
    found = embed_catalogue(model, catalogue, batch_size=batch_size, workers=workers)
    np.testing.assert_allclose(found.vectors, expected.vectors, atol=1e-6)
    np.testing.assert_allclose(embed_texts(model, texts, batch_size), embed_texts(model, texts), atol=1e-6)


def test_a_model_in_training_mode_is_measured_in_evaluation_mode(build, catalogue):
    expected = embed_catalogue(build(), catalogue).vectors
    np.testing.assert_array_equal(embed_catalogue(build().train(), catalogue).vectors, expected)


def test_unreadable_pictures_are_left_out_and_listed(model, catalogue, broken):
    damaged = broken(catalogue, [0, 1, 2, 3, 9])  # the first batch of four has none that can be read
    found = embed_catalogue(model, damaged, batch_size=4)
    rest = [row for row in range(24) if row not in (0, 1, 2, 3, 9)]
    assert found.rows.tolist() == rest
    np.testing.assert_allclose(found.vectors, embed_catalogue(model, catalogue).vectors[rest], atol=1e-6)
    assert [name for name, _ in found.skipped] == [catalogue["id"][row] for row in (0, 1, 2, 3, 9)]
    assert all("picture in the table" in reason for _, reason in found.skipped)


def test_batches_come_one_by_one_with_their_own_rows(model, catalogue, broken):
    parts = list(embed_batches(model, broken(catalogue, [9]), batch_size=10))
    assert [part.rows.tolist() for part in parts] == [[*range(9)], [*range(10, 20)], [*range(20, 24)]]
    assert [len(part.skipped) for part in parts] == [1, 0, 0]


def test_not_one_readable_picture_is_an_error(model, catalogue, broken):
    with pytest.raises(UserError, match=r"none of the 24 pictures can be read; the first: .*picture in the table"):
        embed_catalogue(model, broken(catalogue, [*range(24)]))
    with pytest.raises(UserError, match="none of the 0 pictures can be read; the first: the catalogue is empty"):
        embed_catalogue(model, catalogue.select([]))


@pytest.mark.parametrize("text", ["", "  \n"])
def test_an_empty_text_is_an_error(model, text):
    with pytest.raises(UserError, match="expected words, got an empty text"):
        embed_texts(model, ["red dress", text])


def test_no_texts_give_no_vectors(model):
    assert embed_texts(model, []).shape[0] == 0


def test_pictures_by_path_or_cell(model, catalogue, tmp_path):
    cell = catalogue["image"][3]
    (tmp_path / "it.jpg").write_bytes(cell["bytes"])
    found = embed_pictures(model, [cell, tmp_path / "it.jpg"])
    np.testing.assert_allclose(found, embed_catalogue(model, catalogue).vectors[[3, 3]], atol=1e-6)
    with pytest.raises(UnreadableImageError, match="no such picture"):
        embed_pictures(model, [tmp_path / "none.jpg"])
