"""How training pictures vary: any picture and any crop, poses, light."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms.v2 import functional as T

from fclip.augmentation import augment, is_posed, pose, relight, training_sizes
from fclip.config import DataConfig
from fclip.errors import UserError
from fclip.model import Preprocess

PLAIN = DataConfig(crop=1, aspect=1, flip=0, brightness=0, contrast=0)


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
    ours = pixels.permute(1, 2, 0).contiguous().numpy()
    relight(ours, brightness, contrast)
    assert (torch.from_numpy(ours).permute(2, 0, 1) - theirs).abs().max() <= 0.51


@pytest.mark.parametrize(("side", "mean"), [(20, 0.5), (24, 0), (27, 8), (40, 0)])
def test_crops_are_torchvisions_antialiased_ones_but_where_they_hardly_shrink(side, mean):
    """On noise, where two filters differ most."""
    pixels = torch.randint(256, (3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    ours = augment(pixels, Preprocess(size=(24, 24)), PLAIN, np.random.default_rng(0))
    difference = (ours.int() - T.resize(pixels, [24, 24], antialias=True).int()).abs()
    assert difference.max() <= 5 * mean
    assert difference.float().mean() <= mean
