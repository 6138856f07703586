"""The cache of decoded pictures: what it gives back, what a killed writer leaves, what a full disk does."""

from __future__ import annotations

import copy
import errno
import io
import os

import numpy as np
import pytest
import torch
from PIL import Image

from fclip.batches import TrainingPictures, training_batches
from fclip.catalogue.assemble import assemble
from fclip.config import DataConfig
from fclip.errors import UserError
from fclip.images import decode
from fclip.picture_cache import PictureCache, fingerprint


def noise(width: int, height: int) -> np.ndarray:
    return np.random.default_rng(width).integers(0, 256, (height, width, 3), dtype=np.uint8)


def shop(pictures: list[np.ndarray]):
    data = []
    for picture in pictures:
        stream = io.BytesIO()
        Image.fromarray(picture).save(stream, "png")
        data.append(stream.getvalue())
    return assemble({"id": [str(i) for i in range(len(data))], "image": data}, {"colour": ["red"] * len(data)})


def test_a_picture_comes_back_as_it_was_put_and_others_are_not_there(tmp_path):
    pictures = [noise(16, 16), noise(64, 48), noise(9, 400), noise(1, 1), noise(12, 16), noise(17, 17)]
    cache = PictureCache(tmp_path, shop(pictures), side_px=16)
    for row, picture in enumerate(pictures):
        assert cache.get(row) is None
        assert torch.equal(cache.put(row, picture), cache.get(row))
    assert torch.equal(
        cache.get(0), torch.from_numpy(pictures[0]).permute(2, 0, 1)
    )  # what is small enough is left alone
    assert torch.equal(cache.get(5), torch.from_numpy(pictures[5]).permute(2, 0, 1))  # or nearly
    assert torch.equal(cache.get(4), torch.from_numpy(pictures[4]).permute(2, 0, 1))
    assert [tuple(cache.get(row).shape[1:]) for row in (1, 3)] == [(16, 21), (1, 1)]
    assert tuple(cache.get(2).shape[1:]) == (130, 2)  # too long for its slot: smaller, in its own shape
    expected = np.asarray(Image.fromarray(pictures[1]).resize((21, 16), Image.Resampling.BICUBIC), int)
    assert np.abs(np.asarray(cache.get(1)).transpose(1, 2, 0) - expected).max() <= 1


def test_it_outlives_the_process_and_travels_without_its_pixels(tmp_path):
    catalogue = shop([noise(300, 300)])
    cache = PictureCache(tmp_path, catalogue, side_px=300)
    kept = cache.put(0, noise(300, 300))
    again, elsewhere = (
        PictureCache(tmp_path, catalogue, side_px=300),
        copy.deepcopy(cache),
    )  # as a loader's worker gets it
    assert torch.equal(again.get(0), kept)
    assert torch.equal(elsewhere.get(0), kept)
    assert cache.__getstate__()["_open"] is None


def test_a_slot_half_written_by_a_killed_process_is_not_believed(tmp_path):
    catalogue = shop([noise(16, 16), noise(20, 20)])
    cache = PictureCache(tmp_path, catalogue, side_px=16)
    kept = cache.put(0, noise(16, 16))
    pixels, marks = cache._maps()
    pixels[0, 5] ^= 1
    assert cache.get(0) is None
    cache.put(0, noise(16, 16))
    assert torch.equal(cache.get(0), kept)
    marks[0] = (60000, 60000, 1)
    assert cache.get(0) is None


def test_another_catalogue_or_size_has_another_place(tmp_path):
    catalogue = shop([noise(16, 16), noise(20, 20)])
    places = {PictureCache(tmp_path, catalogue, 16).folder, PictureCache(tmp_path, catalogue, 24).folder}
    places.add(PictureCache(tmp_path, catalogue.select([1, 0]), 16).folder)
    places.add(PictureCache(tmp_path, shop([noise(16, 16), noise(21, 20)]), 16).folder)
    assert len(places) == 4
    assert fingerprint(catalogue) == fingerprint(shop([noise(16, 16), noise(20, 20)]))


def test_a_disk_that_is_too_small_is_known_at_once(tmp_path, monkeypatch):
    catalogue = shop([noise(16, 16)])
    with pytest.raises(UserError, match=r"data.cache needs \d+\.\d GiB in .* for 1 pictures, .* GiB are free"):
        PictureCache(tmp_path, catalogue, side_px=10**7)

    def full(*_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(UserError, match="the disk is full; free some space; nothing was written"):
        PictureCache(tmp_path, catalogue, side_px=16)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("workers", [0, 2])
def test_training_sees_the_same_from_an_empty_and_from_a_full_cache(
    tmp_path, catalogue, captions, model, monkeypatch, workers
):
    data = DataConfig(cache=str(tmp_path), crop=0.5)
    order = [[*range(0, 12)], [*range(12, 24)]]

    def batches(number: int) -> list[dict]:
        pictures = TrainingPictures(catalogue, captions, model.preprocess, data, seed=3)
        return list(training_batches(pictures, model.tokenizer, order, number))

    cold = batches(workers)
    monkeypatch.setattr("fclip.batches.decode_pixels", lambda *_: pytest.fail("decoded again"))
    warm = batches(0)
    for a, b in zip(cold, warm, strict=True):
        assert torch.equal(a["pixels"], b["pixels"])
        assert torch.equal(a["tokens"], b["tokens"])


def test_pictures_small_enough_are_trained_on_as_without_it(tmp_path, catalogue, captions, model):
    with_cache = TrainingPictures(catalogue, captions, model.preprocess, DataConfig(cache=str(tmp_path)), seed=3)
    without = TrainingPictures(catalogue, captions, model.preprocess, DataConfig(), seed=3)
    assert decode(catalogue[0]["image"]).size == (32, 32)
    assert all(torch.equal(with_cache[i]["pixels"], without[i]["pixels"]) for i in range(len(without)))


def test_an_unreadable_picture_is_not_kept(tmp_path, catalogue, captions, model, broken):
    data = DataConfig(cache=str(tmp_path))
    pictures = TrainingPictures(broken(catalogue, [5]), captions, model.preprocess, data, seed=3)
    for _ in range(2):
        (line,) = pictures[5]["skipped"]
        assert line.startswith(catalogue[5]["id"])


def test_poses_need_the_original_pictures(tmp_path, catalogue, captions, model):
    with pytest.raises(UserError, match=r"data.cache keeps pictures at training size"):
        TrainingPictures(catalogue, captions, model.preprocess, DataConfig(cache=str(tmp_path), turn_deg=9), seed=3)
