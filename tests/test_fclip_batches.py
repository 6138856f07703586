"""Which samples a step sees: the same for any number of workers and processes, and after a resume."""

from __future__ import annotations

import io
from dataclasses import replace
from itertools import chain, combinations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms.v2 import functional as T

from fclip.batches import (
    BatchOrder,
    Collate,
    TrainingPictures,
    attribute_codes,
    augment,
    caption_id,
    is_posed,
    pose,
    relight,
    shuffled,
    training_batches,
    training_sizes,
)
from fclip.captions import Captions
from fclip.config import DataConfig
from fclip.errors import UserError
from fclip.images import UnreadableImageError
from fclip.losses import compatible_captions
from fclip.model import Preprocess

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


# The order


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 40),
    batch=st.integers(1, 5),
    world=st.integers(1, 4),
    epochs=st.integers(1, 3),
    seed=st.integers(0, 99),
    window=st.integers(0, 40),
)
def test_processes_together_see_what_one_process_with_their_whole_batch_sees(rows, batch, world, epochs, seed, window):
    alone = list(BatchOrder(rows, batch * world, epochs, seed, window=window))
    parts = [list(BatchOrder(rows, batch, epochs, seed, rank, world, window=window)) for rank in range(world)]
    assert [[*chain(*step)] for step in zip(*parts, strict=True)] == alone


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 90),
    batch=st.integers(1, 6),
    epochs=st.integers(1, 3),
    seed=st.integers(0, 99),
    window=st.integers(0, 90),
)
def test_every_epoch_is_a_permutation_with_the_odd_rows_dropped(rows, batch, epochs, seed, window):
    order = BatchOrder(rows, batch, epochs, seed, window=window)
    batches = list(order)
    assert len(batches) == len(order) == epochs * (rows // batch)
    for epoch in range(epochs):
        seen = [*chain(*batches[epoch * order.steps_per_epoch : (epoch + 1) * order.steps_per_epoch])]
        assert len(set(seen)) == len(seen) == rows // batch * batch
        assert all(index // rows == epoch for index in seen)


@pytest.mark.parametrize(("epochs", "steps"), [(0.01, 1), (0.4, 2), (1.4, 7), (2, 10)])
def test_a_part_of_an_epoch_is_its_first_batches(epochs, steps):
    assert list(BatchOrder(10, 2, epochs, seed=0)) == list(BatchOrder(10, 2, 2, seed=0))[:steps]


def test_epochs_and_seeds_differ():
    first, second = (step for step in BatchOrder(30, 30, 2, seed=0))
    (other,) = BatchOrder(30, 30, 1, seed=1)
    assert first != [i - 30 for i in second]
    assert first != other


@settings(max_examples=60, deadline=None)
@given(rows=st.integers(6, 30), batch=st.integers(1, 6), epochs=st.integers(1, 3), data=st.data())
def test_a_resumed_order_continues_exactly_where_it_stopped(rows, batch, epochs, data):
    window = data.draw(st.integers(0, rows))
    whole = list(BatchOrder(rows, batch, epochs, seed=5, window=window))
    start = data.draw(st.integers(0, len(whole)))
    rest = BatchOrder(rows, batch, epochs, seed=5, start=start, window=window)
    assert list(rest) == whole[start:]
    assert len(rest) == len(whole) - start


def test_a_windowed_order_reads_few_runs_at_a_time_and_mixes_them():
    order = shuffled(10_000, np.random.default_rng(0), window=800)
    parts = order[: 12 * 800].reshape(12, 800)
    assert all(len(np.unique(part // 50)) == 16 for part in parts)  # sixteen runs of fifty neighbours
    first = np.concatenate(parts[:, :100])
    assert len(np.unique(first // 50)) > 150  # already the first hundred of a window come from nearly all of its runs
    assert np.corrcoef(np.arange(10_000), order)[0, 1] < 0.3
    assert (shuffled(50, np.random.default_rng(0), window=50) == np.random.default_rng(0).permutation(50)).all()


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


# Augmentation


@pytest.fixture(scope="module")
def photo(catalogue) -> Image.Image:
    """A garment stretched to 150 x 90, smooth enough for any resampling."""
    return Image.open(io.BytesIO(catalogue[0]["image"]["bytes"])).resize((150, 90), Image.Resampling.BICUBIC)


def tensor(picture: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)


@pytest.mark.parametrize("mode", ["squash", "shortest"])
def test_augment_keeps_the_towers_size_and_depends_on_its_generator_alone(photo, mode):
    preprocess, data = Preprocess(size=(48, 40), resize_mode=mode), DataConfig(erase=0.5)
    first, again, other = (augment(tensor(photo), preprocess, data, np.random.default_rng(s)) for s in (1, 1, 2))
    assert first.shape == (3, 48, 40)
    assert first.dtype == torch.uint8
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize(("mode", "size"), [("squash", (48, 40)), ("shortest", (40, 40))])
def test_without_augmentation_training_pictures_are_nearly_those_of_evaluation(photo, mode, size):
    """Bilinear instead of bicubic; "shortest" takes a random crop where evaluation takes the middle."""
    preprocess = Preprocess(size=size, resize_mode=mode)
    picture = photo if mode == "squash" else photo.crop((30, 0, 120, 90))
    trained = augment(tensor(picture), preprocess, PLAIN, np.random.default_rng(0))
    difference = (trained.float() - preprocess(picture).float()).abs()
    assert difference.mean() < 2
    assert difference.max() < 32


def test_mirroring_mirrors(photo):
    preprocess = Preprocess(size=(48, 40), resize_mode="squash")
    mirrored, plain = (
        augment(tensor(photo), preprocess, replace(PLAIN, flip=chance), np.random.default_rng(0)) for chance in (1, 0)
    )
    assert torch.equal(mirrored, plain.flip(-1))


@settings(max_examples=60, deadline=None)
@given(
    width=st.integers(1, 60), height=st.integers(1, 60), crop=st.floats(0.05, 1), aspect=st.floats(1, 3),
    seed=st.integers(0, 999), mode=st.sampled_from(["squash", "shortest", "longest"]),
)  # fmt: skip
def test_any_picture_and_any_crop_fit(width, height, crop, aspect, seed, mode):
    pixels = torch.full((3, height, width), 100, dtype=torch.uint8)
    data = replace(PLAIN, crop=crop, aspect=aspect)
    result = augment(pixels, Preprocess(size=(16, 12), resize_mode=mode), data, np.random.default_rng(seed))
    assert result.shape == (3, 16, 12)
    assert (result == 100).all()


def test_pictures_grow_from_epoch_to_epoch_to_the_towers_size():
    assert training_sizes((96, 64), first=0.5, epochs=3) == [(48, 32), (72, 48), (96, 64)]
    assert training_sizes((96, 64), first=1.0, epochs=2) == [(96, 64)] * 2
    assert training_sizes((97, 65), first=0.5, epochs=1) == [(97, 65)]
    assert training_sizes((32, 32), first=0.01, epochs=2) == [(8, 8), (32, 32)]
    with pytest.raises(UserError, match=r"data\.first_size should be above 0 and at most 1, got 0"):
        training_sizes((96, 96), first=0, epochs=3)


# Poses


BLACK = torch.zeros(3, 24, 16, dtype=torch.uint8)


def frame(pixels: torch.Tensor) -> tuple[int, int, int, int]:
    """Top, bottom, left, right of what is not white."""
    rows, columns = (pixels < 128).all(0).nonzero().T
    return rows.min().item(), rows.max().item(), columns.min().item(), columns.max().item()


def test_a_pose_depends_on_its_generator_alone(photo):
    data = replace(PLAIN, shift=1, scale=(0.5, 1), turn_deg=30)
    first, again, other = (pose(tensor(photo), data, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert first.shape == (3, 90, 150)
    assert first.dtype == torch.uint8
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@settings(max_examples=60, deadline=None)
@given(shift=st.floats(0, 1), smallest=st.floats(0.1, 1), seed=st.integers(0, 999))
def test_a_picture_that_is_made_smaller_and_moved_is_all_there(shift, smallest, seed):
    posed = pose(BLACK, replace(PLAIN, shift=shift, scale=(smallest, 1)), np.random.default_rng(seed))
    size = np.random.default_rng(seed).uniform(smallest, 1)
    top, bottom, left, right = frame(posed)
    assert (bottom - top + 1, right - left + 1) == (max(1, round(24 * size)), max(1, round(16 * size)))
    assert sorted(posed.unique().tolist()) in ([0], [0, 255])  # whole pixels: nothing is blended with what is beside it


def test_over_many_seeds_it_comes_to_every_side_of_its_frame():
    data = replace(PLAIN, shift=1, scale=(0.5, 1))
    frames = [frame(pose(BLACK, data, np.random.default_rng(seed))) for seed in range(200)]
    tops, bottoms, lefts, rights = zip(*frames, strict=True)
    assert (min(tops), max(bottoms), min(lefts), max(rights)) == (0, 23, 0, 15)
    assert max(tops) > 9
    assert max(lefts) > 5
    sizes = [bottom - top + 1 for top, bottom, _, _ in frames]
    assert (min(sizes), max(sizes)) == (12, 24)


def test_without_shift_it_stays_in_the_middle():
    for seed in range(20):
        top, bottom, left, right = frame(pose(BLACK, replace(PLAIN, scale=(0.3, 1)), np.random.default_rng(seed)))
        assert abs(top - (23 - bottom)) <= 1
        assert abs(left - (15 - right)) <= 1


@pytest.mark.parametrize("fill", [255, 0, 90])
def test_what_is_beside_the_picture_is_of_the_paddings_colour(fill):
    grey = torch.full((3, 24, 16), 200, dtype=torch.uint8)
    data = replace(PLAIN, shift=1, scale=(0.4, 1), turn_deg=45)
    posed = pose(grey, data, np.random.default_rng(3), fill)
    assert posed[:, 0, 0].tolist() == [fill] * 3
    assert (posed == 200).all(0).any()
    low, high = min(fill, 200), max(fill, 200)
    assert ((posed >= low) & (posed <= high)).all()


def test_turns_are_up_to_their_bound_either_way():
    """The direction of a bar, from its moments."""
    bar = torch.full((3, 65, 65), 255, dtype=torch.uint8)
    bar[:, 30:35, 10:55] = 0
    angles = []
    for seed in range(100):
        ink = 255 - pose(bar, replace(PLAIN, turn_deg=20), np.random.default_rng(seed))[0].double()
        y, x = (torch.arange(65.0).double() - 32,) * 2
        mixed, wide, high = (ink * y[:, None] * x).sum(), (ink * x**2).sum(), (ink * y[:, None] ** 2).sum()
        angles.append(0.5 * torch.rad2deg(torch.atan2(2 * mixed, wide - high)).item())
    assert -20.5 < min(angles) < -15
    assert 15 < max(angles) < 20.5


def test_no_pose_is_the_picture_itself(photo):
    assert not is_posed(PLAIN)
    assert torch.equal(pose(tensor(photo), PLAIN, np.random.default_rng(0)), tensor(photo))
    assert is_posed(replace(PLAIN, scale=(0.9, 1)))
    assert is_posed(replace(PLAIN, turn_deg=5))


def test_training_pictures_are_posed_first_and_at_their_own_resolution(photo):
    preprocess = Preprocess(size=(48, 40), resize_mode="squash", fill_color=7)
    data = replace(PLAIN, shift=1, scale=(0.5, 1))
    posed = augment(tensor(photo), preprocess, data, np.random.default_rng(0))
    rng = np.random.default_rng(0)
    assert torch.equal(posed, augment(pose(tensor(photo), data, rng, fill=7), preprocess, PLAIN, rng))
    assert (posed == 7).all(0).any()


@pytest.mark.parametrize(("brightness", "contrast"), [(1.3, 1), (0.7, 1), (1, 1.4), (1, 0.6), (1.2, 0.8), (1, 1)])
def test_relighting_is_torchvisions_but_for_rounding(brightness, contrast):
    pixels = torch.randint(256, (3, 20, 30), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    theirs = T.adjust_contrast(T.adjust_brightness(pixels / 255, brightness), contrast) * 255
    assert (relight(pixels, brightness, contrast) - theirs).abs().max() <= 0.51
