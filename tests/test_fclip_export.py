"""What leaves fclip gives the same embeddings where it arrives, or does not leave: `transformers`, open_clip, ONNX."""

from __future__ import annotations

import json

import numpy as np
import open_clip
import pytest
import torch
import torch.nn.functional as F
from conftest import CLIP_VIT as VIT
from conftest import HARD_TEXTS as TEXTS
from conftest import shake
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.swin_transformer import SwinTransformer
from transformers import AutoImageProcessor, AutoTokenizer, CLIPConfig, CLIPModel, CLIPProcessor

from fclip.checkpoint import save_checkpoint
from fclip.config import ModelConfig, StnConfig
from fclip.errors import UserError
from fclip.export import ABOUT_FILE, FORMS, export
from fclip.export_tokenizer import write_tokenizer
from fclip.model import Model, instantiate
from fclip.pretrained import build_model
from fclip.tokenizer import END, START, HuggingFaceTokenizer
from fclip.transformers_clip import (
    architecture_from_transformers,
    architecture_to_transformers,
    state_from_transformers,
    state_to_transformers,
)
from fclip.variants import with_stn

RESNET = {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "head_width": 16, "patch_size": None}
TIMM = {"timm_pool": "", "timm_proj": "linear", "timm_drop_path": None}
SWIN = TIMM | {"image_size": [32, 32], "timm_model_name": "swin_of_a_test"}

default_cfgs = generate_default_cfgs({"swin_of_a_test.none": {"input_size": (3, 32, 32), "first_conv": "patch_embed"}})


@register_model
def swin_of_a_test(pretrained: bool = False, **options) -> SwinTransformer:
    """As timm's own, but small."""
    own = {"img_size": 32, "patch_size": 4, "window_size": 4, "embed_dim": 16, "depths": (2, 2), "num_heads": (2, 4)}
    return build_model_with_cfg(SwinTransformer, "swin_of_a_test", pretrained, **{**own, **options})


def ours(model: Model, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Embeddings of uint8 pixels, and of TEXTS."""
    with torch.no_grad():
        return model.encode_image(model.preprocess.normalise(pixels)), model.encode_text(model.tokenizer(TEXTS))


def noise(model: Model, number: int = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(number)
    return torch.randint(256, (number, 3, *model.preprocess.size), dtype=torch.uint8, generator=generator)


def assert_same(expected, *found, atol: float = 1e-5) -> None:
    for one, other in zip(expected, found, strict=True):
        torch.testing.assert_close(F.normalize(other.detach(), dim=-1), one, rtol=0, atol=atol)


def assert_same_weights(model: Model, again: Model) -> None:
    state = again.clip.state_dict()
    assert model.clip.state_dict().keys() == state.keys()
    for name, value in model.clip.state_dict().items():
        assert torch.equal(value, state[name]), name


# transformers


def pooled(output):
    """transformers 5 returns outputs whose pooled part is already projected; 4 returned the projection."""
    return getattr(output, "pooler_output", output)


def in_transformers(folder, model: Model, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    clip, tokenizer = CLIPModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    tokens = tokenizer(TEXTS, padding=True, truncation=True, return_tensors="pt")
    image = clip.get_image_features(pixel_values=model.preprocess.normalise(pixels))
    return pooled(image), pooled(clip.get_text_features(**tokens))


@pytest.mark.parametrize("quick_gelu", [True, False])
@pytest.mark.parametrize("kind", ["clip", "trained", "huggingface"])
def test_transformers_gives_the_same_embeddings(made, exported, kind, quick_gelu):
    model = made(kind=kind, architecture={"quick_gelu": quick_gelu})
    folder = exported(model, "transformers")
    assert_same(ours(model, noise(model)), *in_transformers(folder, model, noise(model)))
    config = CLIPConfig.from_pretrained(folder)
    assert config.text_config.hidden_act == config.vision_config.hidden_act == ("quick_gelu" if quick_gelu else "gelu")
    assert config.text_config.eos_token_id == model.tokenizer.vocab_size - 1 != 2
    assert CLIPModel.from_pretrained(folder).logit_scale.item() == model.clip.logit_scale.item()


@pytest.mark.parametrize(
    ("kind", "custom_text"), [("clip", False), ("clip", True), ("trained", False), ("huggingface", True)]
)
def test_a_transformers_folder_comes_back_bit_by_bit(made, exported, captions, kind, custom_text):
    model = made(kind=kind, architecture={"quick_gelu": True, "custom_text": custom_text})
    again = build_model(ModelConfig(name=str(exported(model, "transformers"))), captions)
    state = {name.removeprefix("text."): value for name, value in model.clip.state_dict().items()}
    assert state.keys() == again.clip.state_dict().keys()
    assert all(torch.equal(value, again.clip.state_dict()[name]) for name, value in state.items())
    assert again.preprocess == model.preprocess
    assert torch.equal(again.tokenizer(TEXTS), model.tokenizer(TEXTS))
    assert_same(ours(model, noise(model)), *ours(again.eval(), noise(model)))


def test_a_folder_of_another_library_is_exported_as_a_checkpoint_is(made, exported, tmp_path):
    model = made(kind="clip")
    differences = export(exported(model, "transformers"), "open_clip", tmp_path / "other")
    assert max(differences.values()) < 1e-5
    again = build_model(ModelConfig(name=str(tmp_path / "other")), model.captions)
    assert_same(ours(model, noise(model)), *ours(again.eval(), noise(model)))


@given(
    heads=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    layers=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    inner=st.tuples(st.integers(9, 50), st.integers(9, 50)),
    patch=st.sampled_from([7, 8, 16]),
    quick_gelu=st.booleans(),
)
@settings(max_examples=12, deadline=None)
def test_any_clip_vit_is_one_in_transformers(tokenizers, heads, layers, inner, patch, quick_gelu):
    """Weights bit by bit there and back, architecture too; embeddings as transformers' own model computes them."""
    names = ("vision_cfg", "text_cfg")
    cfg = {
        name: {"layers": n, "width": 8 * h, "mlp_ratio": i / (8 * h) + 1e-9}
        for name, h, n, i in zip(names, heads, layers, inner, strict=True)
    }
    cfg["vision_cfg"] |= {"head_width": 8, "image_size": 32, "patch_size": patch}
    cfg["text_cfg"] |= {"heads": heads[1], "context_length": 20, "vocab_size": 300}
    clip = shake(instantiate({"embed_dim": 12, "quick_gelu": quick_gelu, **cfg}))
    tokenizer = tokenizers["huggingface"]._encoder.tokenizer
    saved = architecture_to_transformers({"embed_dim": 12, "quick_gelu": quick_gelu, **cfg}, tokenizer)
    theirs = CLIPModel(CLIPConfig.from_dict(saved)).eval()
    theirs.load_state_dict(state_to_transformers(clip.state_dict(), theirs.state_dict()))

    back = state_from_transformers(theirs.state_dict())
    assert back.keys() == clip.state_dict().keys()
    assert all(torch.equal(value, back[name]) for name, value in clip.state_dict().items())
    assert instantiate(architecture_from_transformers(saved)).load_state_dict(back)
    pixels, tokens = torch.randn(2, 3, 32, 32), tokenizer(TEXTS, padding="max_length", max_length=20, truncation=True)
    ids = torch.tensor(tokens.input_ids)
    with torch.no_grad():
        expected = F.normalize(clip.encode_image(pixels), dim=-1), F.normalize(clip.encode_text(ids), dim=-1)
        found = theirs.get_image_features(pixel_values=pixels), theirs.get_text_features(input_ids=ids)
    assert_same(expected, *map(pooled, found))


@pytest.mark.parametrize("pool", ["argmax", "eos"])
def test_transformers_pools_where_open_clip_does(made, exported, pool):
    """Also when the end of a text is not the highest id, or is spelled in the text."""
    end = made().tokenizer.vocab_size - 1
    model = made(kind="huggingface", text={"pool_type": pool, "eos_id": end, "vocab_size": end + 3})
    texts = [f"red {END} dress {START} {START}", "dress"]
    folder = exported(model, "transformers")
    clip, tokenizer = CLIPModel.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    ids = tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt").input_ids
    assert torch.equal(ids, made().tokenizer(texts))
    with torch.no_grad():
        found = pooled(clip.get_text_features(input_ids=ids))
        torch.testing.assert_close(found, model.clip.encode_text(ids), rtol=0, atol=1e-5)


def test_a_tokenizer_whose_end_is_not_the_highest_id_is_pooled_by_the_highest(made, exported, tokenizers, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(write_tokenizer(tokenizers["trained"], tmp_path).name_or_path)
    tokenizer.add_tokens(["v-shaped"])
    tokenizer.save_pretrained(tmp_path / "more")
    model = made(text={"vocab_size": len(tokenizer)})
    model.tokenizer = HuggingFaceTokenizer(tmp_path / "more", 20)
    folder = exported(model, "transformers")
    assert CLIPConfig.from_pretrained(folder).text_config.eos_token_id == 2
    assert_same(ours(model, noise(model)), *in_transformers(folder, model, noise(model)))


@pytest.mark.parametrize("mode", ["shortest", "squash"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_transformers_prepares_pictures_the_same(made, exported, picture, mode, interpolation):
    model = made(resize_mode=mode, interpolation=interpolation)
    folder = exported(model, "transformers")
    expected = model.preprocess.normalise(model.preprocess(picture)[None])
    pillow = AutoImageProcessor.from_pretrained(folder, backend="pil")(picture, return_tensors="pt").pixel_values
    torch.testing.assert_close(pillow, expected, rtol=0, atol=1e-5)

    inputs = CLIPProcessor.from_pretrained(folder)(text=TEXTS, images=picture, padding=True, truncation=True)
    pixels = torch.from_numpy(np.stack(inputs["pixel_values"]))
    assert (pixels - expected).abs().max() < 2.1 / 255 / 0.2  # torchvision rounds otherwise: by two of 255 levels
    clip = CLIPModel.from_pretrained(folder).eval()
    assert_same(ours(model, model.preprocess(picture)[None])[:1], pooled(clip.get_image_features(pixels)), atol=1e-3)


UNLIKE = {
    "a timm image tower (test_resnet)": {"vision": TIMM | {"image_size": 32, "timm_model_name": "test_resnet"}},
    "a ResNet image tower": {"vision": RESNET},
    "pictures or patches that are not square": {"vision": VIT | {"image_size": [48, 36]}},
    "init_logit_bias=-10": {"architecture": {"init_logit_bias": -10}},
    "vision_cfg.no_ln_pre=True, vision_cfg.pool_type=avg": {"vision": VIT | {"no_ln_pre": True, "pool_type": "avg"}},
    "text_cfg.act_kwargs={'approximate': 'tanh'}": {"text": {"act_kwargs": {"approximate": "tanh"}}},
    "text_cfg.pool_type=last": {"text": {"pool_type": "last"}},
    "pooling at token 2": {"text": {"pool_type": "eos", "eos_id": 2}},
    "padded pictures": {"resize_mode": "longest"},
}


@pytest.mark.parametrize("what", UNLIKE)
def test_what_transformers_clip_is_not_is_refused_and_named(made, exported, tmp_path, what):
    with pytest.raises(UserError) as caught:
        exported(made(**UNLIKE[what]), "transformers")
    assert f"this model has {what}" in str(caught.value)
    assert str(caught.value).endswith("; use --to open_clip")
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]


def test_a_tokenizer_that_cleans_texts_is_refused_for_transformers(made, exported, tokenizers, tmp_path):
    model = made()
    write_tokenizer(tokenizers["trained"], tmp_path)
    model.tokenizer = HuggingFaceTokenizer(tmp_path, 20, clean="canonicalize")
    with pytest.raises(UserError, match=r"a tokenizer with options \({'clean': 'canonicalize'}\); use --to open_clip"):
        exported(model, "transformers")


# open_clip

TOWERS = {
    "vit": VIT,
    "vit, not square": VIT | {"image_size": [60, 36]},
    "resnet": RESNET,
    "timm, at another size": TIMM | {"image_size": [40, 56], "timm_model_name": "test_resnet"},
    "timm's swin": SWIN,
}


@pytest.mark.parametrize("kind", ["clip", "trained", "huggingface"])
@pytest.mark.parametrize("tower", TOWERS)
def test_open_clip_gives_the_same_embeddings_and_comes_back(made, exported, captions, picture, tower, kind):
    model = made(TOWERS[tower], kind, resize_mode="squash" if kind == "clip" else "longest")
    folder = exported(model, "open_clip")
    clip, _, prepare = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
    assert torch.equal(tokenizer(TEXTS), model.tokenizer(TEXTS))
    pixels = prepare(picture)[None]
    torch.testing.assert_close(pixels, model.preprocess.normalise(model.preprocess(picture)[None]), rtol=0, atol=1e-6)
    with torch.no_grad():
        found = clip.eval().encode_image(pixels), clip.encode_text(tokenizer(TEXTS))
    assert_same(ours(model, model.preprocess(picture)[None]), *found)
    assert clip.logit_scale.item() == model.clip.logit_scale.item()

    again = build_model(ModelConfig(name=str(folder)), captions)
    assert_same_weights(model, again)
    assert again.preprocess == model.preprocess
    assert torch.equal(again.tokenizer(TEXTS), model.tokenizer(TEXTS))


def test_open_clip_keeps_how_texts_are_cleaned(made, exported, tokenizers, tmp_path):
    model = made()
    write_tokenizer(tokenizers["trained"], tmp_path)
    model.tokenizer = HuggingFaceTokenizer(tmp_path, 20, clean="canonicalize")
    folder = exported(model, "open_clip")
    found = open_clip.get_tokenizer(f"local-dir:{folder}")(["Red, dress!"])
    assert torch.equal(found, model.tokenizer(["red dress"]))
    assert json.loads((folder / ABOUT_FILE).read_text())["tokenizer"]["clean"] == "canonicalize"


def test_timm_towers_that_open_clip_cannot_make_are_refused(made, exported):
    with pytest.raises(
        UserError, match="makes swin_of_a_test for 32x32 pixels only, this one has 64x64; use --to onnx"
    ):
        exported(made(SWIN | {"image_size": [64, 64]}), "open_clip")
    pico = SWIN | {"image_size": [112, 112], "timm_model_name": "swin_pico_patch4_window7_112"}
    with pytest.raises(UserError, match="has no image tower swin_pico_patch4_window7_112, which is fclip's own; use -"):
        exported(made(pico), "open_clip")


@pytest.mark.parametrize("to", ["transformers", "open_clip"])
def test_a_spatial_transformer_leaves_only_as_onnx(made, exported, to):
    model = with_stn(made(), StnConfig(transform="affine", look_at=32))
    with pytest.raises(UserError, match=f"^{to} has no place for a spatial transformer .*; use --to onnx$"):
        exported(model, to)


# All forms


@pytest.mark.parametrize("to", ["transformers", "open_clip"])
def test_an_export_says_where_it_comes_from_and_nothing_else(made, exported, to, capfd):
    model = made()
    folder = exported(model, to)
    about = json.loads((folder / ABOUT_FILE).read_text())
    assert (about["to"], about["fingerprint"]) == (to, model.fingerprint)
    assert max(about["differences"].values()) < 1e-5
    assert {path.suffix for path in folder.iterdir()} <= {".json", ".safetensors", ".txt"}
    assert capfd.readouterr() == ("", "")


def test_an_export_that_is_not_the_model_is_not_left(made, tmp_path, monkeypatch):
    """A wrong activation, which moves embeddings by little."""
    save_checkpoint(made(architecture={"quick_gelu": True}), tmp_path / "checkpoint")
    wrong = replace_activation(architecture_to_transformers)
    monkeypatch.setattr("fclip.export_folders.architecture_to_transformers", wrong)
    with pytest.raises(
        UserError, match=r"expected transformers to give fclip's embeddings within 0.0001, got image 0\.0"
    ):
        export(tmp_path / "checkpoint", "transformers", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]


def replace_activation(made):
    def wrong(architecture, tokenizer):
        return made({**architecture, "quick_gelu": False}, tokenizer)

    return wrong


def test_weights_that_are_no_numbers_are_not_exported(made, tmp_path):
    model = made()
    model.clip.visual.proj.data[0, 0] = torch.nan
    save_checkpoint(model, tmp_path / "checkpoint")
    with pytest.raises(UserError, match="are not finite: 1 hold NaN"):
        export(tmp_path / "checkpoint", "open_clip", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]


def test_only_an_earlier_export_is_overwritten(made, tmp_path):
    save_checkpoint(made(), tmp_path / "checkpoint")
    (tmp_path / "empty").mkdir()
    export(tmp_path / "checkpoint", "transformers", tmp_path / "empty", overwrite=True)
    export(tmp_path / "checkpoint", "open_clip", tmp_path / "empty", overwrite=True)
    assert not (tmp_path / "empty" / "model.safetensors").exists()
    with pytest.raises(UserError, match="empty exists already"):
        export(tmp_path / "checkpoint", "open_clip", tmp_path / "empty")
    with pytest.raises(UserError, match="checkpoint is no export of fclip, so it is not overwritten"):
        export(tmp_path / "checkpoint", "open_clip", tmp_path / "checkpoint", overwrite=True)


def test_an_unknown_form_gets_the_nearest(tmp_path):
    with pytest.raises(UserError, match="got 'transformer'; did you mean 'transformers'"):
        export(tmp_path, "transformer", tmp_path / "out")
    assert sorted(FORMS) == ["onnx", "open_clip", "transformers"]
