"""The losses, against open_clip's and against loops."""

from __future__ import annotations

import itertools
import math

import numpy as np
import open_clip
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from fclip.losses import (
    caption_overlap,
    compatible_captions,
    contrastive_loss,
    equal_captions,
    sigmoid_loss,
    surfacing_loss,
)

SCALE = torch.tensor(math.log(1 / 0.07))


def unit(rows: int, seed: int, dim: int = 6) -> torch.Tensor:
    return F.normalize(torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed)), dim=-1)


def naive(image: torch.Tensor, text: torch.Tensor, scale: torch.Tensor, positives: torch.Tensor) -> torch.Tensor:
    """The definition, a row and a column at a time, in the precision of its inputs."""

    def one_way(queries: torch.Tensor, keys: torch.Tensor, is_positive: torch.Tensor) -> torch.Tensor:
        rows = []
        for query, mask in zip(queries, is_positive, strict=True):
            if not mask.any():
                continue
            logits = [scale.exp() * (query * key).sum() for key in keys]
            partition = sum(torch.exp(logit) for logit in logits)
            own = [-(logit - partition.log()) * share for logit, share in zip(logits, mask, strict=True)]
            rows.append(sum(own) / mask.sum())
        return sum(rows) / len(rows) if rows else 0 * scale

    return (one_way(image, text, positives) + one_way(text, image, positives.T)) / 2


def with_gradients(loss, image, text, *rest):
    """(loss, gradients of image, text and scale), everything as numpy."""
    leaves = [t.clone().requires_grad_() for t in (image, text, SCALE.to(image.dtype))]
    value = loss(*leaves, *rest)
    value.backward()
    return [value.detach().numpy(), *(leaf.grad.numpy() for leaf in leaves)]


def test_without_positives_it_is_the_loss_of_open_clip():
    ours = with_gradients(contrastive_loss, unit(7, 0), unit(7, 1))
    theirs = with_gradients(lambda i, t, s: open_clip.ClipLoss()(i, t, s.exp()), unit(7, 0), unit(7, 1))
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)


def test_the_sigmoid_loss_is_that_of_open_clip():
    bias = torch.tensor(-10.0)
    ours = with_gradients(lambda i, t, s: sigmoid_loss(i, t, s, bias), unit(7, 0), unit(7, 1))
    theirs = with_gradients(lambda i, t, s: open_clip.loss.SigLipLoss()(i, t, s.exp(), bias), unit(7, 0), unit(7, 1))
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_the_sigmoid_loss_asks_every_pair_by_itself():
    """A pair that is half a positive costs half of either answer."""
    image, text, positives = unit(3, 0), unit(4, 1), torch.tensor([[1, 0, 0.5, 0], [0, 1, 0, 0], [0.25, 0, 0, 1]])
    bias, total = torch.tensor(-1.0), 0.0
    for i, t in itertools.product(range(3), range(4)):
        chance = 1 / (1 + torch.exp(-(SCALE.exp() * image[i] @ text[t] + bias)))
        total -= positives[i, t] * chance.log() + (1 - positives[i, t]) * (1 - chance).log()
    torch.testing.assert_close(sigmoid_loss(image, text, SCALE, bias, positives), total / 3, rtol=1e-4, atol=1e-6)


def test_unique_captions_make_every_kind_of_positives_the_same_loss():
    ids = torch.arange(7)
    codes = ids[:, None]
    plain = contrastive_loss(unit(7, 0), unit(7, 1), SCALE)
    assert plain == contrastive_loss(unit(7, 0), unit(7, 1), SCALE, equal_captions(ids))
    assert plain == contrastive_loss(unit(7, 0), unit(7, 1), SCALE, compatible_captions(codes, codes))


def test_equal_captions_are_positives_of_each_other():
    assert equal_captions(torch.tensor([5, 3, 5])).int().tolist() == [[1, 0, 1], [0, 1, 0], [1, 0, 1]]


def test_compatible_captions_say_nothing_that_the_picture_contradicts():
    red_long, red_unknown, blue_long = [0, 0], [0, -1], [1, 0]
    says_red, says_long, says_red_long = [0, -1], [-1, 0], [0, 0]
    found = compatible_captions(
        torch.tensor([red_long, red_unknown, blue_long]), torch.tensor([says_red, says_long, says_red_long])
    )
    # A caption that states a group unknown for the picture is no positive: row 2, columns 2 and 3.
    assert found.int().tolist() == [[1, 1, 1], [1, 0, 0], [0, 1, 0]]


def test_overlap_is_the_share_of_what_the_caption_states_that_the_picture_has():
    rng = np.random.default_rng(0)
    attributes, stated = rng.integers(-1, 3, (8, 4)), rng.integers(-1, 3, (9, 4))
    stated[3] = -1
    found = caption_overlap(torch.tensor(attributes), torch.tensor(stated)).numpy()
    for picture, row in zip(attributes, found, strict=True):
        for caption, share in zip(stated, row, strict=True):
            has = [a == s for a, s in zip(picture, caption, strict=True) if s >= 0]
            assert share == pytest.approx(sum(has) / max(1, len(has)))
    assert set(found.ravel()) > {0, 1}


def test_overlap_is_one_exactly_where_captions_are_compatible():
    rng = np.random.default_rng(1)
    attributes, stated = (torch.tensor(rng.integers(-1, 2, (n, 3))) for n in (20, 30))
    says = (stated >= 0).any(dim=1)
    one = caption_overlap(attributes, stated) == 1
    assert torch.equal(one[:, says], compatible_captions(attributes, stated)[:, says])
    assert one.any()


def test_only_the_proportions_of_a_row_and_of_a_column_count():
    image, text, graded = unit(4, 0), unit(4, 1), torch.rand(4, 4, generator=torch.Generator().manual_seed(3))
    loss = contrastive_loss(image, text, SCALE, graded)
    torch.testing.assert_close(contrastive_loss(image, text, SCALE, 5 * graded), loss)
    same = torch.full((4, 4), 0.3)
    torch.testing.assert_close(
        contrastive_loss(image, text, SCALE, same), contrastive_loss(image, text, SCALE, same > 0)
    )


@pytest.mark.parametrize(
    "positives",
    [
        equal_captions(torch.tensor([0, 1, 0, 2, 1, 0])),
        torch.tensor(np.random.default_rng(0).random((6, 6)) < 0.4) & (torch.arange(6) != 2)[:, None],
        torch.tensor(np.random.default_rng(1).random((6, 9)) < 0.3) & (torch.arange(9) != 4),
        torch.rand(6, 9, generator=torch.Generator().manual_seed(2)) / 9 * (torch.arange(9) != 4),
    ],
    ids=["equal captions", "a row without positives", "more texts than pictures, a column without", "graded"],
)
def test_several_positives_share_the_target_as_in_the_loops(positives):
    image, text = unit(positives.shape[0], 0), unit(positives.shape[1], 1)
    ours = with_gradients(contrastive_loss, image, text, positives)
    theirs = with_gradients(naive, image.double(), text.double(), positives)
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6)


def test_no_positive_at_all_is_zero_with_zero_gradients():
    value, *gradients = with_gradients(contrastive_loss, unit(3, 0), unit(3, 1), torch.zeros(3, 3, dtype=torch.bool))
    assert value == 0
    assert all((g == 0).all() for g in gradients)


@settings(max_examples=25, deadline=None)
@given(ids=st.lists(st.integers(0, 3), min_size=1, max_size=8), seed=st.integers(0, 1000))
def test_the_order_of_the_batch_does_not_matter(ids, seed):
    captions, order = torch.tensor(ids), torch.randperm(len(ids), generator=torch.Generator().manual_seed(seed))
    image, text = unit(len(ids), seed), unit(len(ids), seed + 1)
    before = contrastive_loss(image, text, SCALE, equal_captions(captions))
    after = contrastive_loss(image[order], text[order], SCALE, equal_captions(captions[order]))
    torch.testing.assert_close(before, after, rtol=1e-5, atol=1e-6)


def test_pictures_of_one_caption_are_not_pushed_apart():
    """The reason for all this: CLIP's loss has no optimum at a batch of twins, ours is best where they agree."""
    same = unit(1, 0).expand(4, -1)
    together = contrastive_loss(same, same, SCALE, equal_captions(torch.zeros(4)))
    apart = contrastive_loss(unit(4, 2), same, SCALE, equal_captions(torch.zeros(4)))
    assert together.item() == pytest.approx(math.log(4))  # the least that a uniform target over four allows
    assert apart > together


def test_surfacing_loss_is_the_cross_entropy_over_the_captions_and_leaves_out_minus_one():
    image, bank, target = unit(4, 0), unit(5, 1), torch.tensor([2, -1, 0, 2])
    rows = []
    for picture, own in zip(image.double(), target, strict=True):
        if own < 0:
            continue
        logits = [math.exp(SCALE) * float(picture @ caption) for caption in bank.double()]
        rows.append(math.log(sum(math.exp(x) for x in logits)) - logits[own])
    assert surfacing_loss(image, bank, SCALE, target).item() == pytest.approx(sum(rows) / 3, rel=1e-5)
    assert surfacing_loss(image, bank, SCALE, torch.full((4,), -1)) == 0


def test_a_sampled_bank_estimates_the_whole_banks_partition_sum():
    """Each caption comes in with its own chance; dividing by that makes the sum right in expectation."""
    image, bank, generator = unit(1, 0), unit(40, 1), torch.Generator().manual_seed(2)
    chance = torch.linspace(0.3, 1, 40)
    chance[7] = 1  # the picture's own caption is always there
    whole = surfacing_loss(image, bank, SCALE, torch.tensor([7]))
    own = SCALE.exp() * image @ bank[7]
    sums = []
    for _ in range(4000):
        rows = (torch.rand(40, generator=generator) < chance).nonzero()[:, 0]
        target = (rows == 7).nonzero()[0]
        sampled = surfacing_loss(image, bank[rows], SCALE, target, chance[rows])
        sums.append((sampled + own).exp().item())
    assert np.mean(sums) == pytest.approx((whole + own).exp().item(), rel=0.03)


@pytest.mark.parametrize("loss", ["contrastive", "surfacing"])
def test_similarities_stay_float32_under_autocast(loss):
    """bfloat16 cosines step by .002, which makes false ties."""
    image, text = unit(64, 0), unit(64, 1)

    def value() -> torch.Tensor:
        if loss == "surfacing":
            return surfacing_loss(image, text, SCALE, torch.arange(64))
        return contrastive_loss(image, text, SCALE)

    exact = value()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert value() == exact
        assert value().dtype == torch.float32
    assert contrastive_loss(image.bfloat16(), text.bfloat16(), SCALE.bfloat16()).dtype == torch.float32
