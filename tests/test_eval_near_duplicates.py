"""Hashes against the ImageHash library, pairs against comparing everything with everything."""

from __future__ import annotations

import io

import imagehash
import numpy as np
import pytest
from PIL import Image

from eval.near_duplicates import MOST_BITS, cosine_pairs, hash_pairs, perceptual_hash
from fclip.catalogue.drawn import draw_catalogue


@pytest.fixture(scope="module")
def pictures() -> list[Image.Image]:
    drawn = draw_catalogue(items=6, views=1, size_px=120)
    return [Image.open(io.BytesIO(row["image"]["bytes"])).convert("RGB") for row in drawn]


def test_the_hash_is_that_of_the_library(pictures):
    for picture in pictures:
        theirs = np.packbits(imagehash.phash(picture, hash_size=16).hash)
        assert perceptual_hash(picture).tolist() == theirs.tolist()


def test_copies_are_near_and_other_pictures_far(pictures):
    hashes = np.stack([perceptual_hash(p) for p in pictures])
    stream = io.BytesIO()
    pictures[2].save(stream, "jpeg", quality=70)
    copies = [pictures[2].resize((60, 60), Image.Resampling.LANCZOS), Image.open(stream)]
    found, _, bits = hash_pairs(hashes, np.stack([perceptual_hash(p) for p in copies]), MOST_BITS)
    assert found.tolist() == [2, 2]
    assert max(bits) <= 8


@pytest.mark.parametrize("cells", [1, 7, 1 << 20])
def test_banded_search_finds_what_comparing_all_finds(cells):
    rng = np.random.default_rng(0)
    left = rng.integers(0, 256, (40, 32), np.uint8)
    left[20:] = left[19]  # a band with many equal values
    flips = np.zeros((60, 256), np.uint8)
    for row in range(60):
        flips[row, rng.choice(256, row % 20, replace=False)] = 1
    right = left[rng.integers(0, 40, 60)] ^ np.packbits(flips, axis=1)
    far = (np.unpackbits(left[:, None] ^ right[None], axis=2)).sum(2)
    for at_most in (0, 3, MOST_BITS):
        a, b, bits = hash_pairs(left, right, at_most, cells)
        assert set(zip(a.tolist(), b.tolist(), strict=True)) == set(map(tuple, np.argwhere(far <= at_most).tolist()))
        assert bits.tolist() == far[a, b].tolist() == sorted(bits.tolist())
        assert len(a) > 0


def test_more_bits_than_the_bands_can_promise_are_refused():
    with pytest.raises(ValueError, match=r"0 … 15"):
        hash_pairs(np.zeros((1, 32), np.uint8), np.zeros((1, 32), np.uint8), 16)
    assert len(hash_pairs(np.zeros((0, 32), np.uint8), np.zeros((3, 32), np.uint8), 2)[0]) == 0


def test_similar_embeddings_are_those_of_a_naive_loop():
    rng = np.random.default_rng(1)
    left, right = rng.normal(size=(30, 4)), rng.normal(size=(50, 4))
    a, b, cosine = cosine_pairs(left, right, 0.8, cells=100)
    naive = {}
    for i, x in enumerate(left):
        for j, y in enumerate(right):
            value = x @ y / np.linalg.norm(x) / np.linalg.norm(y)
            if value >= 0.8:
                naive[i, j] = value
    assert dict(zip(zip(a.tolist(), b.tolist(), strict=True), cosine, strict=True)) == pytest.approx(naive, abs=1e-6)
    assert (np.diff(cosine) <= 0).all()
    assert len(naive) > 5
