"""Batches varied on the device: the same draws and, but for rounding, the same pictures as on the processor."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import torch
from conftest import AUGMENTED
from torchvision.transforms.v2 import functional as T

from fclip.augmentation import augment, draw_view
from fclip.batches import TrainingPictures, training_batches
from fclip.config import DataConfig
from fclip.device_augmentation import as_row, augment_batch, shortened, stacked
from fclip.model import Preprocess
from fclip.training import Run, on_device

PLAIN = DataConfig(crop=1, aspect=1, flip=0, brightness=0, contrast=0)
SIZES = ((30, 50), (64, 40), (33, 33), (20, 26), (90, 45))
POSED = {"scale": (0.3, 1.0), "shift": 1.0}
SMOOTH, SHARP = 0.0, 1.0


def pictures(noise: float) -> list[torch.Tensor]:
    """Of all `SIZES`: smooth waves, and as much noise as is said."""
    rng, found = np.random.default_rng(0), []
    for height, width in SIZES:
        y, x = np.mgrid[:height, :width]
        waves = [127 + 100 * np.sin(x / a + y / b + c) for a, b, c in ((9, 14, 0), (15, 8, 1), (11, 11, 2))]
        grain = noise * rng.uniform(-120, 120, (3, height, width))
        found.append(torch.from_numpy(np.clip(waves + grain, 0, 255).astype(np.uint8)))
    return found


def on_the_device(found: list[torch.Tensor], to: Preprocess, data: DataConfig, seed: int) -> torch.Tensor:
    samples = []
    for number, pixels in enumerate(found):
        view = draw_view(tuple(pixels.shape[1:]), to, data, np.random.default_rng([seed, number]))
        samples.append({"pixels": pixels, "view": as_row(view), "size": to.size})
    return augment_batch(stacked(samples), data, to.fill_color)["pixels"]


def on_the_processor(found: list[torch.Tensor], to: Preprocess, data: DataConfig, seed: int) -> torch.Tensor:
    varied = [augment(pixels, to, data, np.random.default_rng([seed, n])) for n, pixels in enumerate(found)]
    return torch.stack(varied)


@pytest.mark.parametrize("mode", ["squash", "shortest", "longest"])
@pytest.mark.parametrize(
    "change",
    [
        {"crop": 0.3, "aspect": 1.5},
        {"crop": 0.5, "flip": 0.5, "brightness": 0.3, "contrast": 0.4},
        {"brightness": 0.5, "erase": 0.7},
        {"crop": 0.4, "flip": 0.5, "contrast": 0.3, **POSED},
    ],
    ids=["crop", "light", "erase", "pose"],
)
def test_each_picture_is_varied_as_on_the_processor(mode, change):
    """Whatever is drawn, sharp pictures too: the filter is torchvision's, so that only roundings differ."""
    to, data = Preprocess(size=(24, 20), resize_mode=mode, fill_color=200), replace(PLAIN, **change)
    for seed in range(3):
        device, processor = (where(pictures(SHARP), to, data, seed) for where in (on_the_device, on_the_processor))
        assert device.dtype == torch.uint8
        difference = (device.int() - processor.int()).abs()
        assert difference.max() <= 2
        assert difference.float().mean() < 0.4


def test_turned_pictures_are_those_of_the_processor():
    to = Preprocess(size=(24, 20), resize_mode="squash", fill_color=90)
    data = replace(PLAIN, crop=0.6, turn_deg=40, **POSED)
    for seed in range(3):
        device, processor = (where(pictures(SMOOTH), to, data, seed) for where in (on_the_device, on_the_processor))
        assert (device.int() - processor.int()).abs().max() <= 2


def test_what_is_not_varied_stays_bit_for_bit_and_mirroring_mirrors():
    to, one = Preprocess(size=(33, 33), resize_mode="squash"), pictures(SHARP)[2:3]
    assert torch.equal(on_the_device(one, to, PLAIN, 0)[0], one[0])
    assert torch.equal(on_the_device(one, to, replace(PLAIN, flip=1), 0)[0], one[0].flip(-1))


def test_a_picture_does_not_depend_on_its_batch():
    """But for the last bit: a larger neighbour makes a larger canvas, and sums of other lengths."""
    to, data = Preprocess(size=(24, 20)), DataConfig(crop=0.5, turn_deg=20, **POSED)
    together, alone = on_the_device(pictures(SHARP), to, data, 0), on_the_device(pictures(SHARP)[:1], to, data, 0)
    difference = (together[:1].int() - alone.int()).abs()
    assert difference.max() <= 1
    assert difference.float().mean() < 0.01


def test_a_banner_is_shortened_and_keeps_its_shape():
    assert shortened(torch.zeros(3, 20, 1000, dtype=torch.uint8), 50).shape == (3, 2, 100)
    assert shortened(torch.zeros(3, 1000, 1, dtype=torch.uint8), 50).shape == (3, 100, 1)
    square = torch.zeros(3, 50, 60, dtype=torch.uint8)
    assert shortened(square, 50) is square


# In training


@pytest.fixture
def batches(catalogue, captions, model, preset):
    """batches(**data, workers=0) → a run's batches of an epoch, on the device."""

    def make(workers: int = 0, epochs: int = 1, epoch: int = 0, **data) -> list[dict]:
        settled = preset(epochs=epochs, data=AUGMENTED | data)
        found = TrainingPictures(catalogue, captions, model.preprocess, settled.data, seed=3, epochs=epochs)
        run = Run(settled, model, found, None)
        rows = islice(run.order(), 3 * epoch, 3 * epoch + 3)
        return list(on_device(run, training_batches(found, model.tokenizer, rows, workers)))

    return make


def test_batches_are_those_of_the_processor_for_any_number_of_workers(batches):
    processor, device, again = batches(), batches(augment_on="device"), batches(augment_on="device", workers=2)
    for a, b, c in zip(processor, device, again, strict=True):
        assert a.keys() == b.keys() == c.keys()
        assert all(torch.equal(b[key], c[key]) for key in b)
        assert all(torch.equal(a[key], b[key]) for key in a if key != "pixels")
        assert (a["pixels"].int() - b["pixels"].int()).abs().max() <= 2


def test_pictures_grow_on_the_device_too(batches):
    first, last = (batches(augment_on="device", first_size=0.5, epochs=2, epoch=epoch)[0] for epoch in (0, 1))
    assert first["pixels"].shape == (8, 3, 16, 16)
    assert last["pixels"].shape == (8, 3, 32, 32)


def test_a_cache_changes_nothing_and_serves_poses(batches, tmp_path):
    posed = {"augment_on": "device", "turn_deg": 10, **POSED}
    without = batches(**posed)
    for _ in ("cold", "warm"):
        found = batches(cache=str(tmp_path / "cache"), **posed)
        assert all(torch.equal(a["pixels"], b["pixels"]) for a, b in zip(without, found, strict=True))


def test_without_augmentation_they_are_the_pictures_that_are_measured(batches):
    plain = {"crop": 1, "aspect": 1, "flip": 0, "brightness": 0, "contrast": 0}
    for a, b in zip(batches(**plain), batches(**plain, augment_on="device"), strict=True):
        assert torch.equal(a["pixels"], b["pixels"])


def test_the_loader_sends_bytes_no_larger_than_the_smallest_crop_needs(catalogue, captions, model, monkeypatch):
    large = np.zeros((400, 300, 3), dtype=np.uint8)
    monkeypatch.setattr("fclip.batches.decode_pixels", lambda *_: large)
    data = DataConfig(crop=0.25, augment_on="device")
    sample = TrainingPictures(catalogue, captions, model.preprocess, data, seed=3)[0]
    assert sample["pixels"].shape == (3, 85, 64)  # the shorter side is 32 / sqrt(0.25)
    assert sample["pixels"].dtype == torch.uint8
    assert T.get_size(sample["pixels"]) == sample["view"][:2].int().tolist()
