"""Which samples a step sees: the same for any number of workers."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
import torch

from fclip.batches import Collate, TrainingPictures, attribute_codes, caption_id, training_batches
from fclip.captions import Captions
from fclip.config import DataConfig
from fclip.images import UnreadableImageError
from fclip.losses import compatible_captions
from fclip.order import BatchOrder

PLAIN = DataConfig(crop=1, aspect=1, flip=0, brightness=0, contrast=0)


@pytest.fixture
def pictures(catalogue, captions, model):
    return TrainingPictures(catalogue, captions, model.preprocess, DataConfig(), seed=3, epochs=4)


def equal(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(
        torch.equal(a[k], b[k]) if isinstance(a[k], torch.Tensor) else a[k] == b[k] for k in a
    )


# Attributes as numbers


def test_attribute_codes_are_equal_where_values_are_and_minus_one_where_unknown():
    rows = [{"colour": "red"}, {"colour": None}, {"colour": "blue"}, {"colour": "red"}, {}, {"colour": ""}]
    assert attribute_codes(rows, ["colour"])[:, 0].tolist() == [1, -1, 0, 1, -1, -1]


def test_a_list_of_values_counts_as_one_value_whatever_its_order():
    rows = [{"c": ["red", "blue"]}, {"c": ["blue", "red"]}, {"c": ["red"]}, {"c": []}]
    codes = attribute_codes(rows, ["c"])[:, 0].tolist()
    assert codes[0] == codes[1] != codes[2]
    assert codes[3] == -1


def every_sentence(captions: Captions, attributes: dict) -> set[str]:
    """All that training may say of a picture: each template, each subset of the known attributes left in."""
    known = {g: v for g, v in attributes.items() if v}
    templates = [Captions(t) for t in (captions.template, *captions.paraphrases)]
    subsets = [dict(s) for n in range(1, len(known) + 1) for s in combinations(known.items(), n)]
    return {template.render(subset) for template in templates for subset in subsets}


def test_compatible_positives_are_the_pictures_of_which_the_caption_could_be_said(catalogue, captions, model):
    short = replace(captions, drop=0.8, whole=0.0)
    pictures = TrainingPictures(catalogue, short, model.preprocess, PLAIN, seed=3, epochs=4)
    indices = range(3 * len(pictures), 4 * len(pictures), 2)  # a view of each product, with the captions of epoch 3
    samples = [pictures[i] for i in indices]
    batch = Collate(lambda texts: torch.zeros(len(texts), 1))(samples)
    found = compatible_captions(batch["attributes"], batch["stated"])
    sayable = [every_sentence(short, a) for a in catalogue["attributes"][::2]]
    assert found.tolist() == [[s["caption"] in sentences for s in samples] for sentences in sayable]
    assert found.sum() > len(samples)  # some are more than the picture's own


# Samples and batches


def test_a_picture_looks_different_in_every_epoch_and_under_every_seed(catalogue, captions, model, pictures):
    other = TrainingPictures(catalogue, captions, model.preprocess, DataConfig(), seed=4, epochs=4)
    first, again, next_epoch, other_seed = pictures[3], pictures[3], pictures[3 + 24], other[3]
    assert torch.equal(first["pixels"], again["pixels"])
    assert not torch.equal(first["pixels"], next_epoch["pixels"])
    assert not torch.equal(first["pixels"], other_seed["pixels"])
    assert len({pictures[3 + 24 * epoch]["caption"] for epoch in range(4)}) > 1


def test_batches_are_the_same_for_any_number_of_workers(pictures, model):
    orders = [BatchOrder(len(pictures), 8, 2, seed=0) for _ in range(2)]
    none, one = (list(training_batches(pictures, model.tokenizer, o, w)) for o, w in zip(orders, (0, 1), strict=True))
    assert len(none) == 6
    assert all(equal(a, b) for a, b in zip(none, one, strict=True))


def test_reading_batches_leaves_the_global_random_numbers_alone(pictures, model):
    """Dropout draws from them: a resumed run starts a loader in the middle, an uninterrupted one does not."""
    before = torch.get_rng_state()
    next(iter(training_batches(pictures, model.tokenizer, BatchOrder(len(pictures), 8, 1, seed=0), 0)))
    assert torch.equal(before, torch.get_rng_state())


def test_a_batch_holds_each_distinct_captions_tokens_once_and_an_id_that_is_equal_where_the_caption_is(pictures, model):
    samples = [pictures[i] for i in (0, 1, 0, 6)]
    batch = Collate(model.tokenizer)(samples)
    captions = [s["caption"] for s in samples]
    assert torch.equal(batch["tokens"][batch["caption_index"]], model.tokenizer(captions))
    assert len(batch["tokens"]) == len(set(captions)) < 4
    ids = batch["caption_ids"].tolist()
    assert [[a == b for a in ids] for b in ids] == [[a == b for a in captions] for b in captions]
    assert batch["pixels"].shape == (4, 3, 32, 32)
    assert batch["pixels"].dtype == torch.uint8


def test_each_caption_is_tokenised_once(pictures, model):
    asked: list[str] = []

    def tokenizer(texts: list[str]) -> torch.Tensor:
        asked.extend(texts)
        return model.tokenizer(texts)

    samples = [pictures[i] for i in range(24)]
    for most, times in ((99, 1), (3, 2)):
        collate = Collate(tokenizer, most)
        for _ in range(2):
            batch = collate(samples)
            wanted = model.tokenizer(list(dict.fromkeys(s["caption"] for s in samples)))
            assert torch.equal(batch["tokens"], wanted)
        assert len(asked) == times * len(wanted)
        asked.clear()


def test_caption_ids_are_the_same_in_every_process():
    assert caption_id("red dress") == 0x6E97F565F2929F5


def test_the_bank_is_every_distinct_caption_and_how_often_it_comes(pictures, texts):
    assert sorted(pictures.bank) == sorted(set(texts))
    assert [pictures.bank[pictures[i]["bank_index"]] for i in range(len(texts))] == texts
    shares = [texts.count(caption) / len(texts) for caption in pictures.bank]
    np.testing.assert_allclose(pictures.frequency, shares, rtol=1e-6)


def test_a_picture_without_attributes_is_left_out_and_counted(catalogue, captions, model):
    columns = catalogue.to_dict()
    columns["attributes"][4] = dict.fromkeys(columns["attributes"][4])
    bare = type(catalogue).from_dict(columns, features=catalogue.features)
    pictures = TrainingPictures(bare, captions, model.preprocess, PLAIN, seed=0)
    assert len(pictures) == 23
    assert pictures.without_caption == 1
    assert 4 not in pictures.rows


def test_an_unreadable_picture_is_replaced_by_the_next_and_named(catalogue, captions, model, broken):
    damaged = broken(catalogue, [5, 6])
    pictures = TrainingPictures(damaged, captions, model.preprocess, PLAIN, seed=0)
    sound = TrainingPictures(catalogue, captions, model.preprocess, PLAIN, seed=0)
    assert torch.equal(pictures[5]["pixels"], sound[7]["pixels"])
    assert pictures[5]["caption"] == sound[7]["caption"]
    assert [line.split(":")[0] for line in pictures[5]["skipped"]] == catalogue["id"][5:7]
    order = BatchOrder(len(pictures), 24, 1, seed=0)
    (batch,) = training_batches(pictures, model.tokenizer, order, 0)
    assert {line.split(":")[0] for line in batch["skipped"]} == set(catalogue["id"][5:7])


def test_the_last_picture_is_replaced_by_the_first(catalogue, captions, model, broken):
    pictures = TrainingPictures(broken(catalogue, [23]), captions, model.preprocess, PLAIN, seed=0)
    assert torch.equal(pictures[23]["pixels"], pictures[0]["pixels"])


def test_no_readable_picture_at_all_is_an_error(catalogue, captions, model, broken):
    pictures = TrainingPictures(broken(catalogue, [*range(24)]), captions, model.preprocess, PLAIN, seed=0)
    with pytest.raises(UnreadableImageError, match="no readable picture among 24 in a row; the first: drawn-000000"):
        pictures[0]
