"""The paper's variants: nothing changes at the start, all of it is in the checkpoint, and each of them learns."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import yaml
from datasets import Dataset
from transformers import CLIPConfig, CLIPModel

from experiments.train import run_preset
from fclip.batches import TrainingPictures
from fclip.checkpoint import load_checkpoint, save_checkpoint
from fclip.config import ModelConfig, StnConfig, load_preset
from fclip.embedding import embed_catalogue, embed_texts
from fclip.errors import UserError
from fclip.model import LookingTower, Model, ModelCard, Preprocess, instantiate
from fclip.optimisation import no_weight_decay, parameter_groups
from fclip.pretrained import build_model
from fclip.tokenizer import ClipTokenizer
from fclip.training import train
from fclip.variants import with_image_tower, with_stn

PRESETS = Path(__file__).parent.parent / "experiments" / "presets"
TEXT = {"context_length": 20, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
TIMM = {"timm_pool": "", "timm_proj": "linear"}
SWIN = "swin_pico_patch4_window7_112"
TOWERS = {
    "ViT": ({"image_size": 48, "layers": 2, "width": 32, "head_width": 16, "patch_size": 12}, {}),
    "ModifiedResNet": ({"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "patch_size": None}, {}),
    "timm ResNet": ({"image_size": [48, 40], "timm_model_name": "test_resnet", **TIMM}, {}),
    "Swin": ({"image_size": [64, 64], "timm_model_name": SWIN, **TIMM}, {}),
    "SigLIP": (
        {"image_size": 48, "timm_model_name": "test_vit", "timm_pool": "map", "timm_proj": "none"},
        {"embed_dim": 64, "custom_text": True, "init_logit_bias": -10},
    ),
}
"""open_clip's `vision_cfg`, and what else such a `model_cfg` has."""
STN = StnConfig(transform="affine", look_at=32)


def tiny(kind: str, captions) -> Model:
    """A small model with this image tower, in evaluation mode."""
    torch.manual_seed(0)
    vision, more = TOWERS[kind]
    text = TEXT | ({"no_causal_mask": True, "pool_type": "last", "proj_bias": True} if kind == "SigLIP" else {})
    architecture = {"embed_dim": 16, "vision_cfg": vision, "text_cfg": text, **more}
    size = vision["image_size"]
    preprocess = Preprocess(size=tuple(size) if isinstance(size, list) else (size, size))
    card = ModelCard(kind, architecture, preprocess, captions)
    clip = instantiate(copy.deepcopy(architecture))
    for parameter in clip.visual.parameters():  # some start at zero, and would not show what the tower sees
        parameter.data += 0.1 * torch.randn(parameter.shape)
    return Model(clip, card, ClipTokenizer(20)).eval()


def looking_elsewhere(model: Model) -> Model:
    """As if its transformer had learned."""
    for parameter in model.clip.visual.stn.localisation.regress[-1].parameters():
        parameter.data.normal_(0, 0.3, generator=torch.Generator().manual_seed(0))
    return model


def pictures(model: Model, number: int = 3) -> torch.Tensor:
    return torch.randn(number, 3, *model.preprocess.size, generator=torch.Generator().manual_seed(5))


# A spatial transformer


@pytest.mark.parametrize("transform", ["affine", "similarity", "scale_translation", "tps"])
@pytest.mark.parametrize("kind", TOWERS)
def test_at_the_start_a_model_behind_a_transformer_is_the_plain_one(captions, kind, transform):
    plain = tiny(kind, captions)
    seen = pictures(plain)
    with torch.no_grad():
        expected = plain.encode_image(seen)
        behind = with_stn(plain, replace(STN, transform=transform)).eval()
        assert isinstance(behind.clip.visual, LookingTower)
        assert (behind.encode_image(seen) - expected).abs().max() < 1e-5
        assert (looking_elsewhere(behind).encode_image(seen) - expected).abs().max() > 1e-3
    assert expected.std(dim=0).max() > 1e-3  # else any pictures would do


@pytest.mark.parametrize("kind", TOWERS)
def test_looking_at_a_larger_picture_feeds_the_tower_its_own_size(captions, kind):
    plain = tiny(kind, captions)
    own = plain.preprocess.size
    behind = with_stn(plain, replace(STN, look_size=(128, 96))).eval()
    assert behind.preprocess.size == (128, 96)
    assert behind.clip.visual.stn.out_size == own
    sizes = []
    behind.clip.visual.tower.register_forward_pre_hook(lambda tower, given: sizes.append(given[0].shape))
    with torch.no_grad():
        behind.encode_image(pictures(behind))
    assert sizes == [(3, 3, *own)]


def test_pictures_are_squashed_not_cropped(captions):
    model = with_stn(tiny("ViT", captions), STN)
    assert model.preprocess == Preprocess(size=(48, 48), resize_mode="squash")


@pytest.mark.parametrize("kind", TOWERS)
def test_a_model_behind_a_transformer_comes_back_bit_for_bit(captions, kind, tmp_path):
    config = StnConfig(transform="tps", localisation="residual", look_size=(96, 80), look_at=48, max_bend=0.2, points=3)
    model = looking_elsewhere(with_stn(tiny(kind, captions), config)).eval()
    save_checkpoint(model, tmp_path / "it")
    again = load_checkpoint(tmp_path / "it")
    with torch.no_grad():
        assert torch.equal(model.encode_image(pictures(model)), again.encode_image(pictures(model)))
    assert again.card == model.card
    saved = json.loads((tmp_path / "it" / "model.json").read_text())["architecture"]["stn"]
    assert saved["transform"] == "tps"
    assert saved["in_size"] == [96, 80]
    assert (saved["bend"], saved["points"], saved["localisation"]) == (0.2, 3, "residual")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            {"look_at": 64},
            r"look_size of at least look_at \(64 px\) a side, got 48x48; enlarge it, or set .*look_at low",
        ),
        ({"look_at": 16}, "model.stn: expected look_at of at least 18 pixels, got 16"),
        ({"localisation": "residual", "look_at": 40}, "model.stn: expected look_at to be a multiple of 16, got 40"),
        ({"transform": "tps", "max_bend": 0.4}, r"model.stn: expected a bend from 0 to 0.3 \(.*fold\), got 0.4"),
    ],
    ids=str,
)
def test_a_transformer_that_does_not_fit_is_one_line(captions, config, message):
    with pytest.raises(UserError, match=message) as caught:
        with_stn(tiny("ViT", captions), replace(STN, **config))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.stn.max_shift=1.5", "model.stn.max_shift: expected at most 1, got 1.5"),
        ("model.stn.max_zoom=0.5", "model.stn.max_zoom: expected at least 1, got 0.5"),
        ("model.stn.max_bend=0.5", "model.stn.max_bend: expected less than 0.5, got 0.5"),
        ("model.stn.points=1", "model.stn.points: expected at least 2, got 1"),
        ("model.stn.look_size=[0, 64]", "model.stn.look_size.0: expected more than 0, got 0"),
        ("model.stn.transform=afine", "model.stn.transform: expected 'none', 'affine', .* got 'afine'"),
    ],
)
def test_bounds_that_let_the_view_leave_the_picture_are_one_line(override, message):
    with pytest.raises(UserError, match=message) as caught:
        load_preset(PRESETS / "stn.yaml", [override])
    assert "\n" not in str(caught.value)


def test_pictures_smaller_than_the_transformer_looks_at_are_one_line(captions):
    model = with_stn(tiny("ViT", captions), STN)
    with pytest.raises(
        UserError, match=r"^the spatial transformer cannot look at .* at least 32 pixels a side .* got 24x24"
    ):
        model.encode_image(torch.zeros(1, 3, 24, 24))


def test_a_transform_that_is_not_finite_is_one_line(captions):
    model = with_stn(tiny("ViT", captions), STN).eval()
    model.clip.visual.stn.localisation.regress[-1].bias.data.fill_(torch.nan)
    with pytest.raises(UserError, match=r"^the spatial transformer cannot look .*: expected a finite grid, got NaN"):
        model.encode_image(pictures(model))


def test_a_second_transformer_is_refused_and_the_first_goes_on(captions, tmp_path):
    save_checkpoint(with_stn(tiny("ViT", captions), STN), tmp_path / "it")
    with pytest.raises(UserError, match=r"has a spatial transformer already; set model.stn.transform=none to go on"):
        build_model(ModelConfig(name=str(tmp_path / "it"), stn=STN), captions)
    again = build_model(ModelConfig(name=str(tmp_path / "it")), captions)
    assert isinstance(again.clip.visual, LookingTower)


# Another image tower


@pytest.mark.parametrize("kind", TOWERS)
@pytest.mark.parametrize("tower", ["test_resnet", SWIN])
def test_another_image_tower_leaves_the_text_tower_bit_for_bit(captions, kind, tower):
    model = tiny(kind, captions)
    model.clip.logit_scale.data.fill_(1.5)
    tokens = model.tokenizer(["a red dress", "blue shirt"])
    other = with_image_tower(model, ModelConfig(image_tower=tower, image_size=(64, 64))).eval()
    before = {k: v for k, v in model.clip.state_dict().items() if not k.startswith("visual.")}
    after = {k: v for k, v in other.clip.state_dict().items() if not k.startswith("visual.")}
    assert before.keys() == after.keys()
    assert [k for k in before if not torch.equal(before[k], after[k])] == []
    with torch.no_grad():
        assert torch.equal(model.encode_text(tokens), other.encode_text(tokens))
        assert other.encode_image(pictures(other)).shape == (3, model.card.architecture["embed_dim"])
    assert other.preprocess.mean == timm.get_pretrained_cfg(tower).mean != model.preprocess.mean
    assert other.preprocess.size == (64, 64)


def test_the_swapped_model_is_not_the_first_ones_card(captions):
    model = tiny("ViT", captions)
    before = copy.deepcopy(model.card)
    other = with_image_tower(model, ModelConfig(image_tower="test_resnet"))
    assert model.card == before
    assert other.card.architecture["vision_cfg"]["timm_model_name"] == "test_resnet"
    assert other.card.architecture["text_cfg"] == before.architecture["text_cfg"]


def test_the_presets_preprocessing_is_set_over_the_towers_own(captions):
    config = ModelConfig(image_tower=SWIN, mean=(0.5,) * 3, std=(0.25,) * 3, resize_mode="squash")
    found = with_image_tower(tiny("ViT", captions), config).preprocess
    assert found == Preprocess(size=(112, 112), mean=(0.5,) * 3, std=(0.25,) * 3, resize_mode="squash")


def test_a_tower_behind_a_transformer_is_swapped_with_it(captions):
    behind = with_stn(tiny("ViT", captions), STN)
    other = with_image_tower(behind, ModelConfig(image_tower="test_resnet", image_size=(32, 32)))
    assert "stn" not in other.card.architecture
    assert not isinstance(other.clip.visual, LookingTower)


@pytest.mark.parametrize("size", [(112, 112), (64, 48), (96, 96)])
@pytest.mark.parametrize("stn", [None, STN], ids=["", "behind a transformer"])
def test_a_swin_of_another_size_comes_back_bit_for_bit(build, tmp_path, size, stn):
    model = build(name=f"timm:{SWIN}", image_size=size, drop_path=0.1)
    if stn:
        model = looking_elsewhere(with_stn(model, replace(stn, look_size=(128, 128)))).eval()
    save_checkpoint(model, tmp_path / "it")
    again = load_checkpoint(tmp_path / "it")
    with torch.no_grad():
        assert torch.equal(model.encode_image(pictures(model)), again.encode_image(pictures(model)))
    assert again.card == model.card


@pytest.mark.parametrize("behind", [False, True])
def test_swins_bias_table_is_not_decayed(build, preset, behind):
    model = build(name=f"timm:{SWIN}", image_size=(64, 64))
    if behind:
        model = with_stn(model, STN)
    start = "visual.tower.trunk." if behind else "visual.trunk."
    tables = {n for n, _ in model.clip.named_parameters() if n.endswith("relative_position_bias_table")}
    assert len(tables) == 6
    assert all(name.startswith(start) for name in tables)
    assert tables <= no_weight_decay(model.clip)
    names = {id(p): name for name, p in model.clip.named_parameters()}
    decay = {names[id(p)]: g["weight_decay"] for g in parameter_groups(model, preset()) for p in g["params"]}
    assert {decay[name] for name in tables} == {0.0}
    assert decay[f"{start}layers.0.blocks.0.attn.qkv.weight"] == 0.05
    assert decay.keys() == set(names.values())


# timm's names and weights


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("swin_tiny_patch4_window7_225", "timm has no model .*_225'; did you mean swin_tiny_patch4_window7_224"),
        (
            "swin_tiny_patch4_window7_224.ms_in2k",
            "timm has no weights 'ms_in2k' for swin_tiny.*; did you mean 'ms_in22k'",
        ),
        (f"{SWIN}.ms_in1k", rf"timm has no weights 'ms_in1k' for {SWIN}; known: \(none\)"),
        ("resnet18.a1_in1k", r"cannot fetch timm's weights resnet18.a1_in1k: .*; is the hub reachable\? .*resnet18$"),
    ],
)
@pytest.mark.parametrize("beside", [False, True], ids=["timm:", "image_tower"])
def test_names_and_weights_that_timm_does_not_have_are_one_line(captions, texts, tmp_path, name, message, beside):
    save_checkpoint(tiny("ViT", captions), tmp_path / "it")
    config = {"name": str(tmp_path / "it"), "image_tower": name} if beside else {"name": f"timm:{name}"}
    with pytest.raises(UserError, match=message) as caught:
        build_model(ModelConfig(**config, tokenizer="trained"), captions, texts)
    assert "\n" not in str(caught.value)


@pytest.mark.filterwarnings("ignore")  # of timm's resampling
@pytest.mark.parametrize("size", [(112, 112), (64, 64)])
def test_a_tag_loads_timms_weights_into_the_tower_alone(build, monkeypatch, size):
    """The hub is not there in tests: timm's own loading gives a tower with known weights instead."""
    create, published = timm.create_model, timm.create_model(SWIN, num_classes=0)
    monkeypatch.setattr(timm, "list_pretrained", lambda pattern: [pattern.replace("*", "untrained")])
    monkeypatch.setattr(
        timm, "create_model", lambda *a, **k: copy.deepcopy(published) if k.get("pretrained") else create(*a, **k)
    )
    model = build(name=f"timm:{SWIN}.untrained", image_size=size)
    trunk = model.clip.visual.trunk
    if size != (112, 112):
        published.set_input_size(size)
    expected = published.state_dict()
    assert [k for k, v in trunk.state_dict().items() if not torch.equal(v, expected[k])] == []
    assert (
        build(name=f"timm:{SWIN}", image_size=size).clip.text.state_dict().keys() == model.clip.text.state_dict().keys()
    )


# They learn


VARIANTS = {
    "plain": {},
    **{t: {"stn": StnConfig(transform=t, look_at=18)} for t in ("affine", "similarity", "scale_translation", "tps")},
    "looking at more": {"stn": StnConfig(transform="affine", localisation="residual", look_size=(48, 48), look_at=32)},
    "swin": {"name": f"timm:{SWIN}"},
    "stn_swin": {"name": f"timm:{SWIN}", "stn": StnConfig(transform="affine", look_at=18)},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_overfits_one_batch(variant, build, preset, catalogue, captions):
    products = catalogue.select(range(0, 24, 2))  # one view of each: twelve distinct captions
    model = build(**VARIANTS[variant])
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 0.5  # thirty steps are too few for the usual running mean
    optim = {"lr": 1e-3, "warmup": 0.1} if "swin" in variant else {"lr": 3e-3}
    epochs = 60 if "swin" in variant else 40
    run_of = preset(epochs=epochs, batch_size=12, loss={"positives": "clip"}, optim=optim)
    seen = TrainingPictures(products, captions, model.preprocess, run_of.data, 0, epochs)
    before = copy.deepcopy(model.clip.state_dict())
    run = train(run_of, model, seen)
    texts = [captions.render(a) for a in products["attributes"][:]]
    similarity = embed_catalogue(run.model, products).vectors @ embed_texts(run.model, texts).T
    assert run.history[0]["loss"] > 2
    assert run.history[-1]["loss"] < 0.1
    assert (similarity.argmax(axis=1) == np.arange(12)).all()
    learned = [k for k in before if k.startswith("visual.stn.")]
    assert all(not torch.equal(before[k], run.model.clip.state_dict()[k]) for k in learned)
    assert bool(learned) == ("stn" in VARIANTS[variant])


# The presets


@pytest.fixture(scope="module")
def local_clip(tmp_path_factory) -> Path:
    """FashionCLIP's published form, tiny."""
    torch.manual_seed(0)
    text = {"vocab_size": 49408, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
    text |= {"num_attention_heads": 2, "max_position_embeddings": 20}
    vision = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision |= {"image_size": 32, "patch_size": 8}
    folder = tmp_path_factory.mktemp("clip")
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)).save_pretrained(folder)
    return folder


@pytest.mark.filterwarnings("ignore:The log_with argument:UserWarning")
@pytest.mark.parametrize("name", ["fclip", "stn", "swin", "stn_swin"])
def test_the_papers_presets_train_from_a_local_clip(name, local_clip, catalogue: Dataset, tmp_path):
    catalogue.save_to_disk(str(tmp_path / "garments"))
    words = [f"model.name={local_clip}", f"data.catalogue=[{tmp_path / 'garments'}]", f"out={tmp_path / 'run'}"]
    words += ["epochs=1", "batch_size=4", "data.workers=0", "track=none", "data.val_split=train"]
    as_written = yaml.safe_load((PRESETS / f"{name}.yaml").read_text())
    if "swin" in name:
        words += [f"model.image_tower={SWIN}", "model.image_size=[64, 64]"]
    if "stn" in as_written["model"]:
        words += ["model.stn.look_size=[96, 96]"]
    run = run_preset(load_preset(PRESETS / f"{name}.yaml", words))
    best = load_checkpoint(tmp_path / "run" / "best")
    assert isinstance(best.clip.visual, LookingTower) == ("stn" in name)
    assert ("timm_model_name" in best.card.architecture["vision_cfg"]) == ("swin" in name)
    assert best.preprocess.size == ((96, 96) if "stn" in name else (64, 64) if "swin" in name else (32, 32))
    assert best.preprocess.resize_mode == ("shortest" if name == "fclip" else "squash")
    np.testing.assert_allclose(embed_catalogue(best, catalogue).vectors, embed_catalogue(run.model, catalogue).vectors)
