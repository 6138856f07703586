"""The model's own preprocessing and encodings, against open_clip's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from open_clip import image_transform
from PIL import Image

from fclip.model import MAX_LOGIT_SCALE, Preprocess, unique


def photo(width: int, height: int) -> Image.Image:
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((width * 2, height * 2), Image.Resampling.BILINEAR)


@pytest.mark.parametrize("mode", ["shortest", "squash", "longest"])
@pytest.mark.parametrize("size", [(32, 32), (48, 40)], ids=["square", "upright"])
@pytest.mark.parametrize("picture", [photo(57, 31), photo(23, 64), photo(9, 11)], ids=["wide", "tall", "small"])
def test_preprocessing_is_open_clips_evaluation_transform_exactly(mode, size, picture):
    statistics = {"mean": (0.4, 0.5, 0.6), "std": (0.2, 0.25, 0.3)}
    preprocess = Preprocess(size=size, resize_mode=mode, fill_color=255, **statistics)
    square = size[0] if size[0] == size[1] else size
    theirs = image_transform(
        square, is_train=False, resize_mode=mode, interpolation="bicubic", fill_color=255, **statistics
    )(picture)
    pixels = preprocess(picture)
    assert pixels.dtype == torch.uint8
    torch.testing.assert_close(preprocess.normalise(pixels[None])[0], theirs, rtol=0, atol=2e-6)


def test_preprocessing_is_read_from_open_clips_config():
    cfg = {"size": 64, "mode": "RGB", "mean": [0.5] * 3, "std": [0.5] * 3, "resize_mode": "squash"}
    expected = Preprocess(size=(64, 64), mean=(0.5,) * 3, std=(0.5,) * 3, resize_mode="squash")
    assert Preprocess.from_open_clip(cfg) == expected
    assert Preprocess.from_open_clip(cfg | {"size": (64, 48)}).size == (64, 48)


@pytest.mark.parametrize("precision", ["float32", "bfloat16 autocast"])
def test_encodings_are_unit_vectors_in_float32(model, precision):
    pixels = model.preprocess.normalise(torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8))
    tokens = model.tokenizer(["red dress", "blue shirt with long sleeve", "x"])
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision != "float32"):
        for vectors in (model.encode_image(pixels), model.encode_text(tokens)):
            assert vectors.shape == (3, 16)
            assert vectors.dtype == torch.float32
            torch.testing.assert_close(vectors.norm(dim=-1), torch.ones(3), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("start", "end"), [(9.0, MAX_LOGIT_SCALE), (-1.0, 0.0), (2.5, 2.5)])
def test_the_temperature_is_clamped(model, start, end):
    model.clip.logit_scale.data.fill_(start)
    model.clamp_logit_scale()
    assert model.clip.logit_scale.item() == pytest.approx(end)


def test_unique_keeps_the_order_of_appearance():
    assert unique(["b", "a", "b", "c", "a"]) == ["b", "a", "c"]
