"""Adapters: they reach attention, only they learn, and merging them changes nothing else."""

from __future__ import annotations

import copy

import pytest
import torch
from timm.models.swin_transformer import SwinTransformer
from timm.models.swin_transformer_v2 import SwinTransformerV2
from torch import nn

from fclip.config import LoraConfig
from fclip.errors import UserError
from fclip.lora import add_adapters, check_gradients, merged
from fclip.model import instantiate
from fclip.optimisation import freeze

SWIN = {"img_size": 32, "patch_size": 4, "window_size": 4, "embed_dim": 8, "depths": (1, 1), "num_heads": (1, 2)}

BLOCK = "visual.transformer.resblocks.1"
WEIGHTS = {
    f"{BLOCK}.attn.in_proj_weight": f"{BLOCK}.attn",
    f"{BLOCK}.attn.out_proj.weight": f"{BLOCK}.attn.base_layer.out_proj",
    f"{BLOCK}.mlp.c_fc.weight": f"{BLOCK}.mlp.c_fc",
}
"""Plain weight → its adapter, of each kind."""


def with_trunk(model, trunk: nn.Module):
    """A timm tower of 16 features in place of the model's own."""
    model.clip.visual.trunk = trunk
    model.clip.visual.head.proj = nn.Linear(16, 16, bias=False)
    return model.eval()


@pytest.fixture
def swin(model):
    return with_trunk(model, SwinTransformer(**SWIN, num_classes=0))


@pytest.fixture(params=["vit", "swin"])
def tower(request):
    """A model with attention in both towers: open_clip's in both, or timm's in the image tower."""
    return request.getfixturevalue(request.param)


def loss(model) -> torch.Tensor:
    """Of two fixed pictures and texts."""
    pixels = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    image, text = model.encode_image(pixels), model.encode_text(model.tokenizer(["red dress", "blue shirt"]))
    return -(image @ text.T).diagonal().sum() + (image @ text.T).exp().sum()


def learn(model, steps: int) -> None:
    learning = [p for p in model.clip.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(learning, lr=0.5)
    for _ in range(steps):
        optimizer.zero_grad()
        loss(model).backward()
        optimizer.step()


def adapters(clip) -> set[str]:
    """The adapted modules, by their plain names."""
    found = {n.split(".lora_")[0] for n, _ in clip.named_parameters() if ".lora_" in n}
    return {n.replace(".base_layer", "") for n in found}


def test_every_adapter_learns_and_the_rest_stays(tower):
    before = copy.deepcopy(tower.clip.state_dict())
    untouched = loss(tower)
    add_adapters(tower.clip, LoraConfig(rank=2))
    torch.testing.assert_close(loss(tower), untouched)  # an update starts at zero
    learn(tower, 1)
    learn(tower, 1)  # the first step moves only one factor: the other was zero
    gradients = {n: p.grad for n, p in tower.clip.named_parameters() if ".lora_" in n}
    assert len(gradients) > 20
    assert [n for n, g in gradients.items() if g is None or not g.abs().max() > 0] == []
    assert (loss(tower) - untouched).abs() > 1e-3
    after = {n.replace(".base_layer", ""): p for n, p in tower.clip.state_dict().items() if ".lora_" not in n}
    moved = {n for n in before if not torch.equal(before[n], after[n])}
    assert moved == {"visual.head.proj.weight"} & before.keys()  # this loss has no temperature


def test_merged_is_the_same_model_under_its_plain_names(vit):
    add_adapters(vit.clip, LoraConfig(rank=2))
    learn(vit, 3)
    expected = loss(vit)
    plain = merged(vit.clip)
    fresh = instantiate(vit.card.architecture)
    assert plain.state_dict().keys() == fresh.state_dict().keys()
    fresh.load_state_dict(plain.state_dict())
    vit.clip = fresh.eval()
    assert loss(vit).item() == pytest.approx(expected.item(), abs=1e-5)


def test_merged_against_the_formula(vit):
    """W + alpha / rank * B A, for both weights of an attention and for a linear layer."""
    before = copy.deepcopy(vit.clip.state_dict())
    add_adapters(vit.clip, LoraConfig(rank=2, alpha=6))
    learn(vit, 2)
    raw, plain = vit.clip.state_dict(), merged(vit.clip).state_dict()
    for weight, adapter in WEIGHTS.items():
        a, b = (raw[f"{adapter}.lora_{factor}.default.weight"] for factor in "AB")
        torch.testing.assert_close(plain[weight], before[weight] + 3 * b @ a)
        assert not torch.equal(plain[weight], before[weight])


def test_gradients_against_those_of_the_plain_model(vit):
    """W' = W + s B A, so B learns from s G A^T and A from s B^T G, where G is the gradient of W'."""
    add_adapters(vit.clip, LoraConfig(rank=2, alpha=6))
    learn(vit, 2)
    vit.zero_grad()
    loss(vit).backward()
    adapted, vit.clip = vit.clip, merged(vit.clip).requires_grad_()
    vit.zero_grad()
    loss(vit).backward()
    for weight, adapter in WEIGHTS.items():
        gradient = vit.clip.get_parameter(weight).grad
        a, b = (adapted.get_parameter(f"{adapter}.lora_{factor}.default.weight") for factor in "AB")
        torch.testing.assert_close(b.grad, 3 * gradient @ a.T, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(a.grad, 3 * b.T @ gradient, rtol=1e-4, atol=1e-5)


def test_merging_disturbs_neither_the_model_nor_the_random_numbers(tower):
    add_adapters(tower.clip, LoraConfig(rank=2, dropout=0.5))
    learn(tower, 1)
    before, random = copy.deepcopy(tower.clip.state_dict()), torch.get_rng_state()
    learning = {id(p) for p in tower.clip.parameters() if p.requires_grad}
    merged(tower.clip)
    after = tower.clip.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[n], after[n]) for n in before)
    assert torch.equal(random, torch.get_rng_state())
    assert learning == {id(p) for p in tower.clip.parameters() if p.requires_grad}


def test_frozen_attention_does_not_drift_with_the_number_of_calls(vit):
    """peft's own adds the update before each call and subtracts it afterwards: the rounding would stay."""
    add_adapters(vit.clip, LoraConfig(rank=4))
    learn(vit, 2)
    frozen = {n: p.clone() for n, p in vit.clip.named_parameters() if not p.requires_grad}
    for _ in range(10):
        loss(vit)
    assert [n for n, p in vit.clip.named_parameters() if n in frozen and not torch.equal(p, frozen[n])] == []


def test_a_model_without_adapters_is_not_copied(model):
    assert merged(model.clip) is model.clip


# Which modules


def test_a_pattern_of_the_text_tower_leaves_the_image_tower_alone(vit):
    """In open_clip's CLIP the names of the text tower are endings of the image tower's."""
    add_adapters(
        vit.clip, LoraConfig(rank=2, targets=("transformer.resblocks.0.attn", "transformer.resblocks.1.*.c_fc"))
    )
    found = {
        "transformer.resblocks.0.attn",
        "transformer.resblocks.0.attn.out_proj",
        "transformer.resblocks.1.mlp.c_fc",
    }
    assert adapters(vit.clip) == found


def test_a_module_stands_for_the_layers_in_it(swin):
    add_adapters(swin.clip, LoraConfig(rank=2, targets=("visual.*.attn", "visual.trunk.layers.1.blocks.0.mlp")))
    attention = {f"visual.trunk.layers.{n}.blocks.0.attn.{of}" for n in (0, 1) for of in ("qkv", "proj")}
    assert adapters(swin.clip) == attention | {f"visual.trunk.layers.1.blocks.0.mlp.fc{n}" for n in (1, 2)}


def test_only_adapters_what_is_new_and_what_is_asked_for_learn(model):
    add_adapters(model.clip, LoraConfig(rank=2, targets=("*",), also=("logit_scale", "text.ln_final.*")))
    learning = {n for n, p in model.clip.named_parameters() if p.requires_grad and ".lora_" not in n}
    assert learning == {"visual.head.proj.weight", "logit_scale", "text.ln_final.weight", "text.ln_final.bias"}
    assert not any(name.startswith("visual.head") for name in adapters(model.clip))  # it learns whole


def test_what_is_frozen_stays_frozen_and_gets_no_adapter(model):
    freeze(model, ("text.transformer.resblocks.0.attn.*", "visual.head.*", "logit_scale"))
    add_adapters(model.clip, LoraConfig(rank=2))
    assert {n for n, p in model.clip.named_parameters() if p.requires_grad and ".lora_" not in n} == set()
    assert adapters(model.clip) == {f"text.transformer.resblocks.0.mlp.{of}" for of in ("c_fc", "c_proj")}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"targets": ("*.mlp", "*.atn")},
            r"lora.targets pattern '\*.atn' matches no module that takes .*such are .*attn",
        ),
        ({"targets": ("*.out_proj",)}, r"lora.targets pattern '\*.out_proj' matches no module that takes an adapter"),
        ({"also": ("logit_scal",)}, r"lora.also pattern 'logit_scal' matches no parameter; names look like"),
        ({"also": ("*.in_proj_weight",)}, r"lora.also names transformer.*in_proj_weight, which has an adapter; take"),
    ],
)
def test_a_pattern_that_does_not_fit_is_refused(vit, options, message):
    with pytest.raises(UserError, match=message):
        add_adapters(vit.clip, LoraConfig(rank=2, **options))


def test_adapters_on_frozen_modules_only_are_refused(vit):
    freeze(vit, ("*",))
    with pytest.raises(UserError, match=r"every module of lora.targets is frozen"):
        add_adapters(vit.clip, LoraConfig(rank=2))


def test_a_tower_that_goes_round_its_adapters_is_refused(model):
    """Swin V2 reads the weight of `qkv` and never calls it."""
    with_trunk(model, SwinTransformerV2(**SWIN, num_classes=0))
    add_adapters(model.clip, LoraConfig(rank=2))
    loss(model).backward()
    with pytest.raises(UserError, match=r"the adapter of visual.*attn.qkv does not learn: .*change lora.targets"):
        check_gradients(model.clip)


def test_attention_in_evaluation_mode_uses_its_adapters(vit):
    """There torch may take a faster way through the layer."""
    add_adapters(vit.clip, LoraConfig(rank=2, targets=("*.attn",)))
    learn(vit, 2)
    expected = loss(vit.train())
    with torch.no_grad():
        assert loss(vit.eval()).item() == pytest.approx(expected.item(), abs=1e-5)
    assert any(isinstance(module, nn.MultiheadAttention) for module in vit.clip.modules())
