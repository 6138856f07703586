"""Training on shards where they are: the same batches as from a copy, each picture once, resumed inside an epoch."""

from __future__ import annotations

from collections import Counter

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from fclip import batches
from fclip.batches import TrainingPictures, training_batches
from fclip.catalogue import open_catalogue
from fclip.catalogue.schema import select_split
from fclip.catalogue.table import Columns
from fclip.catalogue.writing import write_shards
from fclip.config import DataConfig
from fclip.order import BatchOrder
from fclip.training import train


@pytest.fixture(params=["webdataset", "parquet"])
def shards(request, tmp_path, monkeypatch, catalogue):
    """A folder of the drawn garments, five pictures in a shard."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    write_shards(catalogue, request.param, tmp_path / "shards", shard_size=5)
    return tmp_path / "shards"


def taken(pictures, tokenizer, rank=0, world=1, workers=0, start=0, batch=2, epochs=2):
    order = BatchOrder(len(pictures), batch, epochs, 3, rank, world, start, window=16)
    return list(training_batches(pictures, tokenizer, order, workers))


def keys(found):
    """What tells one picture from another, whatever happens to it in training: nothing does here."""
    return [picture.numpy().tobytes() for batch in found for picture in batch["pixels"]]


@pytest.mark.parametrize(("world", "workers"), [(1, 0), (2, 1), (3, 2)])
def test_every_picture_comes_once_in_an_epoch(shards, captions, model, world, workers):
    read = open_catalogue(shards, stream=True)
    plain = DataConfig(crop=1, aspect=1, flip=0, brightness=0, contrast=0)
    pictures = TrainingPictures(read, captions, model.preprocess, plain, seed=3, epochs=2)
    all_ = Counter(keys([{"pixels": torch.stack([pictures[i]["pixels"] for i in range(24)])}]))
    parts = [taken(pictures, model.tokenizer, rank, world, workers, batch=4) for rank in range(world)]
    steps = 24 // (4 * world)
    for epoch in range(2):
        seen = Counter(key for part in parts for key in keys(part[epoch * steps : (epoch + 1) * steps]))
        assert seen == all_


def test_numbers_and_lists_are_read_from_shards_where_they_are(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    columns = {"jpeg": [b"x", b"y"], "price": ["1.299,90", "n/a"], "hue": ["red|blue", None]}
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    asked = Columns(numbers=("price",), lists=("hue",))
    for _ in range(2):  # then from the index of the shards
        rows = open_catalogue(tmp_path / "a.parquet", columns=asked, stream=True)["attributes"][:]
        assert rows == [{"hue": ["red", "blue"], "price": "1299.9"}, {"hue": None, "price": None}]
    rows = open_catalogue(tmp_path / "a.parquet", stream=True)["attributes"][:]
    assert rows[0] == {"price": "1.299,90", "hue": "red|blue"}


def test_a_run_resumed_inside_an_epoch_goes_on_without_decoding_what_it_had(shards, captions, model, monkeypatch):
    read = select_split(open_catalogue(shards, stream=True), "train")
    pictures = TrainingPictures(read, captions, model.preprocess, DataConfig(), seed=3, epochs=2)
    whole = taken(pictures, model.tokenizer)
    decoded, decode = [], batches.decode_pixels
    monkeypatch.setattr(batches, "decode_pixels", lambda *words: decoded.append(1) or decode(*words))
    rest = taken(pictures, model.tokenizer, start=len(whole) - 3)
    assert keys(rest) == keys(whole[-3:])
    assert len(decoded) == 6


def test_a_streamed_run_that_fits_a_window_is_the_run_from_a_copy(shards, captions, build, preset):
    weights = []
    for stream in (False, True):
        read = select_split(open_catalogue(shards, stream=stream), "train")
        settled = preset(out=str(shards / str(stream)), epochs=1, batch_size=4, data={"stream": stream})
        model = build()
        pictures = TrainingPictures(read, captions, model.preprocess, settled.data, settled.seed)
        train(settled, model, pictures)
        weights.append(model.clip.state_dict())
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_pictures_that_a_shard_lost_since_it_was_indexed_are_replaced_and_named(shards, captions, model):
    read = select_split(open_catalogue(shards, stream=True), "train")
    pictures = TrainingPictures(read, captions, model.preprocess, DataConfig(), seed=3)
    gone = sorted(shards.glob("train-*"))[0]
    gone.write_bytes(gone.read_bytes()[:600])
    found = [pictures[i] for i in range(len(pictures))]
    lost = {line.split(":")[0] for sample in found for line in sample["skipped"]}
    assert lost == set(read["id"][:5])
    assert all(gone.name in line for sample in found for line in sample["skipped"])
