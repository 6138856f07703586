"""What learns, how fast and when: rates by tower and layer against timm's own, stages, freezing."""

from __future__ import annotations

import math

import pytest
from open_clip.modified_resnet import ModifiedResNet
from timm.models.resnet import BasicBlock, ResNet
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import VisionTransformer
from timm.optim import param_groups_layer_decay
from torch import nn

from fclip.errors import UserError
from fclip.optimisation import (
    check_first_stage,
    first_stage,
    freeze,
    keep_statistics,
    layer_factors,
    lr_factor,
    no_weight_decay,
    parameter_groups,
    within_stage,
)

TRUNKS = {
    "ViT": lambda: VisionTransformer(img_size=32, patch_size=16, embed_dim=8, depth=4, num_heads=2, num_classes=0),
    "Swin": lambda: SwinTransformer(
        img_size=32, patch_size=4, window_size=4, embed_dim=8, depths=(2, 1), num_heads=(1, 2), num_classes=0
    ),
    "ResNet": lambda: ResNet(BasicBlock, (1, 2, 1, 1), num_classes=0),
}


class Behind(nn.Module):
    """An image tower behind a spatial transformer, as variants build it."""

    def __init__(self, tower: nn.Module) -> None:
        super().__init__()
        self.stn = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3))
        self.tower = tower


def peaks(model, preset) -> dict[str, float]:
    """Parameter name → its rate at the end of the warm-up."""
    names = {id(p): name for name, p in model.clip.named_parameters()}
    return {names[id(p)]: group["peak"] for group in parameter_groups(model, preset) for p in group["params"]}


# Rates


def test_learning_rate_by_hand():
    """Ten steps up, then half a cosine over ninety."""
    assert [lr_factor(step, 100, 0.1) for step in (0, 4, 9, 10)] == [0.1, 0.5, 1.0, 1.0]
    assert lr_factor(55, 100, 0.1) == pytest.approx(0.5)
    assert lr_factor(40, 100, 0.1) == pytest.approx(0.75)
    assert lr_factor(99, 100, 0.1) == pytest.approx(0.5 * (1 + math.cos(math.pi * 89 / 90)))
    assert [lr_factor(step, 4, 0.0) for step in range(4)] == pytest.approx([1, 1, 0.75, 0.25])
    assert lr_factor(0, 1, 0.05) == 1


@pytest.mark.parametrize("steps", [1, 2, 3, 7])
@pytest.mark.parametrize("warmup", [0.0, 0.05, 0.3, 0.5, 1.0])
def test_the_tiniest_run_has_sensible_rates(steps, warmup):
    """No step is wasted at a rate of zero, none is above the peak, and the peak is reached."""
    rates = [lr_factor(step, steps, warmup) for step in range(steps)]
    assert all(0 < rate <= 1 for rate in rates)
    assert max(rates) == 1


def test_weights_decay_but_vectors_norms_and_exempt_tables_do_not(preset, model):
    """Swin's relative_position_bias_table is two-dimensional; only its tower's own list exempts it."""
    from timm.models.swin_transformer import SwinTransformer

    model.clip.visual.trunk = SwinTransformer(
        img_size=32, patch_size=4, window_size=4, embed_dim=8, depths=(1, 1), num_heads=(1, 2), num_classes=0
    )
    tables = {n for n, _ in model.clip.named_parameters() if n.endswith("relative_position_bias_table")}
    assert len(tables) == 2
    assert tables <= no_weight_decay(model.clip)
    groups = parameter_groups(model, preset())
    names = {id(p): name for name, p in model.clip.named_parameters()}
    decay = {names[id(p)]: g["weight_decay"] for g in groups for p in g["params"]}
    exempt = {n for n in decay if n.endswith(("bias", "bias_table", "positional_embedding", "logit_scale"))}
    exempt |= {n for n in decay if "norm" in n or ".ln_" in n}
    assert {n for n, value in decay.items() if value == 0} == exempt
    assert {value for n, value in decay.items() if n not in exempt} == {0.05}
    assert "visual.trunk.layers.0.blocks.0.attn.qkv.weight" not in exempt


def test_a_freeze_pattern_that_matches_nothing_is_refused(model):
    with pytest.raises(
        UserError, match=r"freeze pattern 'visual\.blocks\.\*' matches no parameter; names look like lo"
    ):
        freeze(model, ("visual.blocks.*",))


def test_each_tower_has_its_rate_also_behind_a_spatial_transformer(model, preset):
    model.clip.visual = Behind(model.clip.visual)
    rates = {"lr": 0.01, "image_lr": 0.1, "head_lr": 2, "text_lr": 0.5, "stn_lr": 3}
    found = peaks(model, preset(optim=rates))
    some = ("tower.trunk.conv1.0.weight", "tower.head.proj.weight", "stn.0.weight", "stn.1.bias")
    assert [found[f"visual.{name}"] for name in some] == pytest.approx([0.001, 0.02, 0.03, 0.03])
    assert found["text.ln_final.bias"] == pytest.approx(0.005)
    assert found["logit_scale"] == 0.01
    assert found.keys() == {name for name, _ in model.clip.named_parameters()}


@pytest.mark.parametrize("trunk", TRUNKS)
@pytest.mark.parametrize("behind", [False, True], ids=["alone", "behind a transformer"])
def test_the_layers_of_a_timm_tower_learn_as_timm_says(model, preset, trunk, behind):
    model.clip.visual.trunk = TRUNKS[trunk]()
    named = {id(p): name for name, p in model.clip.visual.trunk.named_parameters()}
    groups = param_groups_layer_decay(model.clip.visual.trunk, layer_decay=0.5)
    expected = {named[id(p)]: group["lr_scale"] for group in groups for p in group["params"]}
    assert len(set(expected.values())) > 3
    prefix = "visual."
    if behind:
        model.clip.visual, prefix = Behind(model.clip.visual), "visual.tower."
    found = peaks(model, preset(optim={"lr": 1, "image_lr": 10, "head_lr": 7, "layer_decay": 0.5}))
    assert {name: found[f"{prefix}trunk.{name}"] / 10 for name in expected} == pytest.approx(expected)
    assert found[f"{prefix}head.proj.weight"] == 7


def test_the_layers_of_open_clips_towers_learn_as_those_of_timms_twin(vit):
    """Layer by layer: embeddings, two (three) blocks, the projection; a classifier is timm's projection."""

    def timms(depth: int) -> list[float]:
        twin = VisionTransformer(img_size=32, patch_size=16, embed_dim=8, depth=depth, num_heads=2, num_classes=8)
        groups = param_groups_layer_decay(twin, layer_decay=0.7)
        rate = {id(p): group["lr_scale"] for group in groups for p in group["params"]}
        of = [twin.patch_embed.proj.weight, *(block.mlp.fc1.weight for block in twin.blocks), twin.head.weight]
        return [rate[id(p)] for p in of]

    found = layer_factors(vit.clip, 0.7)
    blocks = [f"transformer.resblocks.{n}.{of}" for n in range(3) for of in ("mlp.c_fc.weight", "attn.in_proj_bias")]
    image = ["conv1.weight", *blocks[:4:2], "proj"]
    assert [found[f"visual.{name}"] for name in image] == pytest.approx(timms(2))
    for text in (["token_embedding.weight", *blocks[::2], "text_projection"], ["positional_embedding", *blocks[1::2]]):
        assert [found[name] for name in text] == pytest.approx(timms(3)[: len(text)])
    same = [("class_embedding", "conv1.weight"), ("ln_pre.bias", "conv1.weight"), ("ln_post.weight", "proj")]
    assert all(found[f"visual.{a}"] == found[f"visual.{b}"] for a, b in same)
    assert found["ln_final.bias"] == 1
    assert found.keys() == {name for name, _ in vit.clip.named_parameters()} - {"logit_scale"}


def test_the_layers_of_clips_resnet_and_of_a_text_tower_of_its_own(model):
    model.clip.visual = ModifiedResNet((1, 1, 2, 1), output_dim=16, heads=2, image_size=32, width=8)
    found = layer_factors(model.clip, 0.5)
    at = {
        "conv2.weight": 5,
        "bn3.bias": 5,
        "layer1.0.conv1.weight": 4,
        "layer3.1.bn2.bias": 2,
        "layer4.0.conv3.weight": 1,
    }
    at |= {"attnpool.positional_embedding": 0, "attnpool.c_proj.weight": 0}
    assert {name: found[f"visual.{name}"] for name in at} == {name: 0.5**depth for name, depth in at.items()}
    text = (
        "token_embedding.weight",
        "positional_embedding",
        "transformer.resblocks.0.attn.in_proj_weight",
        "ln_final.bias",
    )
    assert [found[f"text.{name}"] for name in text] == [0.25, 0.25, 0.5, 1]


def test_without_layer_decay_a_tower_is_one_layer(vit, preset):
    assert set(peaks(vit, preset(optim={"lr": 0.1})).values()) == {0.1}
    assert len(parameter_groups(vit, preset())) == 5  # decayed or not, of each tower; the scale


# Stages


def test_stages_by_hand(preset):
    one_and_a_half = preset(epochs=4, optim={"head_epochs": 1.5})
    assert [first_stage(one_and_a_half, steps) for steps in (4, 40, 44)] == [2, 15, 16]
    assert first_stage(preset(epochs=4, optim={"head_epochs": 9}), 40) == 40
    assert first_stage(preset(), 40) == 0
    assert [within_stage(step, 40, 15) for step in (0, 14, 15, 39)] == [(0, 15), (14, 15), (0, 25), (24, 25)]


def test_a_first_stage_needs_something_new(vit, model):
    check_first_stage(model.clip)
    with pytest.raises(
        UserError, match=r"optim.head_epochs is for a model with .*has neither; set optim.head_epochs=0"
    ):
        check_first_stage(vit.clip)
    freeze(model, ("visual.head.*",))
    with pytest.raises(UserError, match=r"optim.head_epochs is for"):
        check_first_stage(model.clip)
    vit.clip.visual = Behind(vit.clip.visual)
    check_first_stage(vit.clip)


def test_a_spatial_transformer_gathers_statistics_while_the_tower_keeps_its_own(model):
    model.clip.visual = Behind(model.clip.visual)
    model.train()
    keep_statistics(model.clip)
    norms = {n: m.training for n, m in model.clip.named_modules() if isinstance(m, nn.BatchNorm2d)}
    assert {n for n, training in norms.items() if training} == {"visual.stn.1"}
    assert len(norms) > 5
