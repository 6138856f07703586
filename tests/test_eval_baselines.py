"""The baselines against loops."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from eval.baselines import answered_with, chance, most_frequent, nearest_pixels, thumbnails
from eval.labels import Labels, candidates, label
from fclip.captions import Captions

CODE = st.integers(-1, 2)


def labels(texts, codes):
    names = [str(i) for i in range(len(texts))]
    codes = np.array(codes, int).reshape(len(texts), -1)
    return Labels(tuple("ab"[: codes.shape[1]]), np.arange(len(texts)), names, names, list(texts), codes, 0)


@given(st.lists(st.tuples(CODE, CODE), min_size=1, max_size=6), st.lists(st.tuples(CODE, CODE), min_size=1, max_size=5))
def test_chance_is_the_mean_over_all_candidates(pictures, captions):
    found = chance(np.array(pictures), np.array(captions))
    assert found.correct == pytest.approx(1 / len(captions))
    for i, picture in enumerate(pictures):
        for group in range(2):
            agree = [caption[group] == picture[group] != -1 for caption in captions]
            assert found.hits[i, group] == pytest.approx(sum(agree) / len(captions))


def test_chance_is_what_random_picks_score_on_average():
    rng = np.random.default_rng(0)
    codes, stated = rng.integers(-1, 3, (30, 2)), rng.integers(-1, 3, (7, 2))
    picks = rng.integers(7, size=(4000, 30))
    hits = ((stated[picks] == codes) & (codes != -1)).mean(0)
    np.testing.assert_allclose(chance(codes, stated).hits, hits, atol=0.04)


def test_the_most_frequent_caption_answers_everything():
    train = labels(["x", "y", "x", "z", "y", "x"], [[0], [1], [0], [2], [1], [0]])
    assert most_frequent(train) == 0
    found = answered_with(labels(["y", "x", "w"], [[1], [0], [0]]), train, np.full(3, most_frequent(train)))
    assert found.correct.tolist() == [0, 1, 0]
    assert found.hits[:, 0].tolist() == [0, 1, 1]


def test_equally_frequent_captions_the_first_met():
    assert most_frequent(labels(["b", "a", "a", "b"], [[0]] * 4)) == 0


def test_an_unknown_attribute_is_never_a_hit():
    found = answered_with(labels(["x", "y"], [[-1], [1]]), labels(["x"], [[-1]]), np.array([0, 0]))
    assert found.hits.sum() == 0


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 10_000), st.sampled_from([1, 2, 3, 100]))
def test_nearest_pixels_agree_with_a_loop_ties_and_blocks_included(seed, step):
    rng = np.random.default_rng(seed)
    levels = np.array([0, 128, 255], np.uint8)  # few values: exact ties
    queries, gallery = levels[rng.integers(3, size=(5, 4))], levels[rng.integers(3, size=(7, 4))]
    for query, found in zip(queries, nearest_pixels(queries, gallery, step), strict=True):
        squares = [int(((query.astype(int) - picture) ** 2).sum()) for picture in gallery]
        assert found == squares.index(min(squares))


def test_nearest_pixels_are_exact_at_full_size():
    rng = np.random.default_rng(1)
    gallery = rng.integers(256, size=(50, 768), dtype=np.uint8)
    gallery[20] = gallery[10]
    gallery[20, 0] ^= 1  # one level in one of 768 values apart
    assert nearest_pixels(gallery, gallery, step=16).tolist() == list(range(50))


def catalogue(rows):
    from datasets import Dataset

    from fclip.catalogue.schema import features

    return Dataset.from_list(rows, features=features(["colour", "use"], multi=["use"]))


def row(name, picture=None, split="train", **attributes):
    data = io.BytesIO()
    (picture or Image.new("RGB", (20, 30))).save(data, "png")
    image = {"bytes": data.getvalue(), "path": None}
    known = {"colour": None, "use": None} | attributes
    return {"id": name, "item": name, "image": image, "split": split, "attributes": known}


def test_thumbnails_are_block_means_and_leave_out_what_cannot_be_read():
    broken = row("b") | {"image": {"bytes": b"no picture", "path": None}}
    stripes = Image.fromarray(np.tile(np.array([[[0] * 3], [[200] * 3]], np.uint8), (16, 32, 1)))  # 32x32, rows 0, 200
    pixels, read = thumbnails(catalogue([row("a"), broken, row("c", stripes)]), np.array([0, 1, 2]))
    assert read.tolist() == [0, 2]
    assert pixels.shape == (2, 768)
    assert (pixels[1] == 100).all()


def test_labels_share_codes_and_leave_out_pictures_without_caption():
    captions, book = Captions("[{colour} ]garment[ for {use}]"), {}
    first = label(captions, catalogue([row("a", colour="red", use=["work", "sport"]), row("b")]), book)
    second = label(captions, catalogue([row("c", colour="blue"), row("d", colour="red", use=["sport", "work"])]), book)
    assert first.ids == ["a"]
    assert first.without == 1
    assert second.codes[1].tolist() == first.codes[0].tolist()  # the order of several values does not matter
    assert second.codes[0, 1] == -1
    assert second.codes[0, 0] != second.codes[1, 0]
    assert second.take(np.array([1])).ids == ["d"]


def test_labels_of_no_pictures():
    empty = label(Captions("[{colour}]"), catalogue([row("a")]).select([]))
    assert empty.codes.shape == (0, 1)
    assert candidates(empty.texts)[0] == []


def test_candidates_are_unique_in_order_of_appearance():
    captions, own = candidates(["b", "a", "b"])
    assert captions == ["b", "a"]
    assert own.tolist() == [0, 1, 0]
