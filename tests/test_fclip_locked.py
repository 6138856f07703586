"""Where an image tower is cut: below what learns, and only where it gives a picture the same features again."""

from __future__ import annotations

import pytest
import torch
from open_clip.transformer import PatchDropout
from torch import nn

from fclip.config import StnConfig
from fclip.locked import cut_image_tower, text_is_locked, why_features_vary
from fclip.optimisation import freeze
from fclip.variants import with_stn

TRUNK = ("visual.trunk.*",)
ALL_BUT_PROJ = ("visual.[!p]*", "visual.positional_embedding")


@pytest.fixture
def looking(build):
    return with_stn(build(), StnConfig(transform="similarity", look_at=32)).eval()


@pytest.fixture
def pixels():
    return torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def test_body_and_head_together_are_the_tower(model, vit, looking, pixels):
    for of, frozen, above in (
        (model, TRUNK, "head."),
        (model, ("visual.*",), ""),
        (looking, ("visual.stn.*", "visual.tower.trunk.*"), "tower.head."),
        (vit, ALL_BUT_PROJ, "proj"),
        (vit, ("visual.*",), ""),
    ):
        freeze(of, frozen)
        cut = cut_image_tower(of.clip.visual)
        assert cut is not None
        assert cut.above == above
        features = cut.body(pixels)
        torch.testing.assert_close(cut.head(features), of.clip.encode_image(pixels))
        assert not features.requires_grad
        assert cut.head(features).requires_grad is bool(above)


def test_a_tower_of_which_more_than_the_projection_learns_is_not_cut(build, vit, looking):
    for of, frozen in (
        (build(), ("visual.head.*",)),
        (build(), ("visual.trunk.conv1.*",)),
        (vit, ("visual.transformer.*",)),
        (looking, ("visual.tower.*",)),
    ):
        freeze(of, frozen)
        assert cut_image_tower(of.clip.visual) is None


def test_in_a_first_stage_the_old_part_counts_as_frozen(model, vit, looking):
    assert cut_image_tower(model.clip.visual, only_new=True).above == "head."
    assert cut_image_tower(vit.clip.visual, only_new=True).above == ""
    assert cut_image_tower(looking.clip.visual, only_new=True) is None  # the transformer in front learns
    assert text_is_locked(model.clip, only_new=True)
    assert text_is_locked(vit.clip, only_new=True)


def test_what_learns_statistics_or_drops_gives_other_features_each_time(model, build):
    freeze(model, TRUNK)
    visual = model.clip.visual
    cut = cut_image_tower(visual)
    assert why_features_vary(visual.eval(), cut) is None
    assert "batch norms learn (trunk." in why_features_vary(visual.train(), cut)
    visual.eval()
    visual.head.add_module("dropout", nn.Dropout(0.5))
    assert why_features_vary(visual, cut) is None  # that is above the cut
    visual.trunk.add_module("dropout", nn.Dropout(0.5))
    assert why_features_vary(visual, cut) == "it drops at random (trunk.dropout)"
    dropping = build(name="timm:test_vit", drop_path=0.5).clip.visual
    assert "it drops at random (trunk." in why_features_vary(dropping, cut)


def test_dropped_patches_are_seen(vit):
    freeze(vit, ("visual.*",))
    visual = vit.clip.visual
    assert why_features_vary(visual, cut_image_tower(visual)) is None
    visual.patch_dropout = PatchDropout(0.5)
    assert why_features_vary(visual, cut_image_tower(visual)) == "it drops at random (patch_dropout)"
