"""Weights from elsewhere give the embeddings they give there, or one line that says why not."""

from __future__ import annotations

import json

import open_clip
import pytest
import torch
import torch.nn.functional as F
from conftest import shake
from open_clip.push_to_hf_hub import save_for_hf
from safetensors.torch import load_file, save_file
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

from fclip.checkpoint import load_checkpoint, save_checkpoint
from fclip.config import ModelConfig
from fclip.errors import UserError
from fclip.model import Preprocess, instantiate
from fclip.pretrained import build_model
from fclip.tokenizer import ClipTokenizer
from fclip.weights import load_image_weights, load_state, read_weights

PICTURES = torch.randn(3, 3, 48, 48, generator=torch.Generator().manual_seed(5))
TEXTS = ["a red dress", "blue shirt with long sleeve, checked pattern and many more words than there is room", "x"]
TINY_OPEN_CLIP = {
    "embed_dim": 16,
    "quick_gelu": True,
    "vision_cfg": {"image_size": 48, "layers": 2, "width": 32, "head_width": 16, "patch_size": 12},
    "text_cfg": {"context_length": 20, "vocab_size": 49408, "width": 24, "heads": 3, "layers": 2},
}


def assert_same_embeddings(ours, image: torch.Tensor, text: torch.Tensor) -> None:
    with torch.no_grad():
        found = ours.eval().encode_image(PICTURES), ours.encode_text(ours.tokenizer(TEXTS))
    assert (found[0] - F.normalize(image.detach(), dim=-1)).abs().max() < 1e-5
    assert (found[1] - F.normalize(text.detach(), dim=-1)).abs().max() < 1e-5


# transformers


@pytest.fixture(scope="module")
def clip_tokenizer():
    """transformers' own tokenizer, made from the vocabulary in open_clip's wheel."""
    bpe = open_clip.SimpleTokenizer()
    merges = sorted(bpe.bpe_ranks, key=bpe.bpe_ranks.get)
    names = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}
    vocabulary = {names.get(token, token): i for token, i in bpe.encoder.items()}
    return CLIPTokenizer(vocab=vocabulary, merges=merges)


def transformers_clip(activation: str, eos: int = 49407) -> CLIPModel:
    text = {"vocab_size": 49408, "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2}
    text |= {"num_attention_heads": 3, "max_position_embeddings": 20, "hidden_act": activation, "eos_token_id": eos}
    vision = {"hidden_size": 32, "intermediate_size": 56, "num_hidden_layers": 3, "num_attention_heads": 2}
    vision |= {"image_size": 48, "patch_size": 12, "hidden_act": activation}
    return shake(CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)))


def transformers_embeddings(clip: CLIPModel, tokenizer) -> tuple[torch.Tensor, torch.Tensor]:
    """transformers 5 returns outputs whose pooled part is already projected; 4 returned the projection."""
    tokens = tokenizer(TEXTS, padding="max_length", max_length=20, truncation=True, return_tensors="pt")
    parts = clip.get_image_features(pixel_values=PICTURES), clip.get_text_features(input_ids=tokens.input_ids)
    image, text = (getattr(part, "pooler_output", part) for part in parts)
    return image, text


@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
@pytest.mark.parametrize("eos", [49407, 2], ids=["", "pooled by argmax as old configs say"])
def test_a_transformers_folder_gives_the_embeddings_of_transformers(
    tmp_path, captions, clip_tokenizer, activation, eos
):
    theirs = transformers_clip(activation, eos)
    theirs.save_pretrained(tmp_path)
    ours = build_model(ModelConfig(name=str(tmp_path)), captions)
    assert_same_embeddings(ours, *transformers_embeddings(theirs, clip_tokenizer))
    assert ours.card.architecture["quick_gelu"] == (activation == "quick_gelu")
    assert ours.clip.logit_scale.item() == theirs.logit_scale.item()
    assert ours.preprocess == Preprocess(size=(48, 48))


def test_position_ids_of_older_releases_are_left_out(tmp_path, captions, clip_tokenizer):
    theirs = transformers_clip("quick_gelu")
    theirs.save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    state |= {f"{t}_model.embeddings.position_ids": torch.arange(20)[None] for t in ("text", "vision")}
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    ours = build_model(ModelConfig(name=str(tmp_path)), captions)
    assert_same_embeddings(ours, *transformers_embeddings(theirs, clip_tokenizer))


def test_our_clip_tokenizer_is_transformers_up_to_the_padding(clip_tokenizer):
    theirs = clip_tokenizer(TEXTS, max_length=20, truncation=True).input_ids
    ours = [[i for i in row if i] for row in ClipTokenizer(20)(TEXTS).tolist()]
    assert ours == theirs


def test_the_statistics_of_a_transformers_folder_are_taken_over(tmp_path, captions):
    transformers_clip("gelu").save_pretrained(tmp_path)
    statistics = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.2, 0.1]}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(statistics))
    ours = build_model(ModelConfig(name=str(tmp_path), resize_mode="squash"), captions)
    expected = Preprocess(size=(48, 48), mean=(0.5, 0.4, 0.3), std=(0.2, 0.2, 0.1), resize_mode="squash")
    assert ours.preprocess == expected


@pytest.mark.parametrize("sizes", [(56, 488), (768, 3072), (48, 100)])
def test_the_inner_width_survives_being_a_ratio(sizes):
    """open_clip multiplies and rounds down: 56 * (488 / 56) is 487.99…"""
    from fclip.transformers_clip import architecture_from_transformers

    hidden, inner = sizes
    text = {"hidden_size": hidden, "intermediate_size": inner, "num_attention_heads": 4}
    config = CLIPConfig(text_config=text, vision_config=text).to_dict()
    for tower in ("vision_cfg", "text_cfg"):
        cfg = architecture_from_transformers(config)[tower]
        assert int(cfg["width"] * cfg["mlp_ratio"]) == inner


def test_transformers_models_that_open_clip_cannot_be_are_refused(tmp_path, captions):
    config = transformers_clip("gelu").config
    config.text_config.hidden_act = "relu"
    config.save_pretrained(tmp_path)
    with pytest.raises(UserError, match="expected quick_gelu or gelu in both towers, got gelu and relu"):
        build_model(ModelConfig(name=str(tmp_path)), captions)
    config.text_config.hidden_act, config.text_config.layer_norm_eps = "gelu", 1e-6
    config.save_pretrained(tmp_path)
    with pytest.raises(UserError, match="expected layer_norm_eps 1e-5, got 1e-05 and 1e-06"):
        build_model(ModelConfig(name=str(tmp_path)), captions)
    (tmp_path / "config.json").write_text('{"model_type": "siglip"}')
    with pytest.raises(UserError, match=r"expected model_type clip in .*, got 'siglip'"):
        build_model(ModelConfig(name=str(tmp_path)), captions)


# open_clip


@pytest.fixture(scope="module")
def tiny_open_clip(tmp_path_factory):
    """A small open_clip model, whose architecture open_clip then knows by name."""
    file = tmp_path_factory.mktemp("configs") / "fclip-tiny.json"
    file.write_text(json.dumps(TINY_OPEN_CLIP))
    open_clip.add_model_config(file)
    return shake(open_clip.create_model("fclip-tiny"))


def open_clip_embeddings(clip) -> tuple[torch.Tensor, torch.Tensor]:
    tokens = open_clip.SimpleTokenizer(context_length=20)(TEXTS)
    return clip.encode_image(PICTURES), clip.encode_text(tokens)


def test_an_open_clip_hub_folder_gives_the_embeddings_of_open_clip(tmp_path, captions, tiny_open_clip, clip_tokenizer):
    save_for_hf(tiny_open_clip, clip_tokenizer, TINY_OPEN_CLIP, str(tmp_path), safe_serialization=True)
    theirs = open_clip.create_model(f"local-dir:{tmp_path}").eval()
    ours = build_model(ModelConfig(name=str(tmp_path)), captions)
    assert_same_embeddings(ours, *open_clip_embeddings(theirs))
    assert ours.preprocess == Preprocess.from_open_clip(theirs.visual.preprocess_cfg | {"fill_color": 255})


@pytest.mark.parametrize("form", ["pt", "safetensors", "training checkpoint"])
def test_an_open_clip_file_gives_the_embeddings_of_open_clip(tmp_path, captions, tiny_open_clip, form):
    state, file = tiny_open_clip.state_dict(), tmp_path / ("it.safetensors" if form == "safetensors" else "it.pt")
    if form == "safetensors":
        save_file(state, file)
    elif form == "pt":
        torch.save(state, file)
    else:
        torch.save({"epoch": 3, "state_dict": {f"module.{k}": v for k, v in state.items()}}, file)
    ours = build_model(ModelConfig(name="fclip-tiny", weights=str(file)), captions)
    assert_same_embeddings(ours, *open_clip_embeddings(tiny_open_clip))
    assert ours.card.architecture["quick_gelu"]
    save_checkpoint(ours, tmp_path / "ours")
    assert_same_embeddings(load_checkpoint(tmp_path / "ours"), *open_clip_embeddings(tiny_open_clip))


def test_another_image_size_travels_with_the_checkpoint(tmp_path, captions, tiny_open_clip):
    torch.save(tiny_open_clip.state_dict(), tmp_path / "it.pt")
    config = ModelConfig(name="fclip-tiny", weights=str(tmp_path / "it.pt"), image_size=(60, 36))
    ours = build_model(config, captions).eval()
    save_checkpoint(ours, tmp_path / "ours")
    again = load_checkpoint(tmp_path / "ours")
    assert ours.preprocess.size == again.preprocess.size == (60, 36)
    pixels = torch.randn(1, 3, 60, 36)
    with torch.no_grad():
        assert torch.equal(ours.encode_image(pixels), again.encode_image(pixels))


def test_from_scratch_with_a_tokenizer_of_the_captions(captions, texts, tiny_open_clip):
    ours = build_model(ModelConfig(name="fclip-tiny", tokenizer="trained", context_length=24), captions, texts)
    assert ours.tokenizer(texts).shape == (len(texts), 24)
    assert ours.encode_text(ours.tokenizer(texts)).shape == (len(texts), 16)
    assert ours.card.architecture["text_cfg"]["vocab_size"] == ours.tokenizer.vocab_size < 1024


def test_weights_of_another_architecture_are_named(tmp_path, captions, tiny_open_clip):
    state = dict(tiny_open_clip.state_dict())
    del state["ln_final.bias"]
    torch.save(state | {"surplus": torch.zeros(1)}, tmp_path / "it.pt")
    with pytest.raises(
        UserError,
        match=r"it.pt are of another architecture: 1 missing \(ln_final.bias…\); 1 unexpected \(surplus…\); model.a",
    ):
        build_model(ModelConfig(name="fclip-tiny", weights=str(tmp_path / "it.pt")), captions)


# Our own folders and others


def test_a_checkpoint_folder_comes_back_with_the_presets_captions(build, captions, catalogue, tmp_path):
    from dataclasses import replace

    model = build()
    save_checkpoint(model, tmp_path / "it")
    other = replace(captions, drop=0.5)
    again = build_model(ModelConfig(name=str(tmp_path / "it")), other)
    assert again.captions == other
    for name, value in model.clip.state_dict().items():
        assert torch.equal(value, again.clip.state_dict()[name])


def test_a_folder_of_no_known_form_is_refused(tmp_path, captions):
    with pytest.raises(UserError, match=r"expected model.json, open_clip_config.json or config.json in"):
        build_model(ModelConfig(name=str(tmp_path)), captions)


def test_a_folder_without_weights_is_refused(tmp_path, captions):
    transformers_clip("gelu").config.save_pretrained(tmp_path)
    with pytest.raises(
        UserError, match=r"expected model.safetensors or pytorch_model.bin in .*, found \['config.json'\]"
    ):
        build_model(ModelConfig(name=str(tmp_path)), captions)


# Names


def test_an_unknown_name_gets_the_nearest_ones(captions, texts):
    with pytest.raises(UserError, match=r"no model 'ViT-B32'; did you mean .*ViT-B-32.*\?; or a folder, timm:NAME, hf"):
        build_model(ModelConfig(name="ViT-B32"), captions)
    with pytest.raises(UserError, match=r"no model 'fashion-clip'; did you mean .*fashionclip"):
        build_model(ModelConfig(name="fashion-clip"), captions)
    with pytest.raises(UserError, match=r"timm has no model 'mobilnetv2_100'; did you mean mobilenetv2_100, "):
        build_model(ModelConfig(name="timm:mobilnetv2_100", tokenizer="trained"), captions, texts)


# Image towers alone


@pytest.fixture(scope="module")
def mobilenet():
    from torchvision.models import mobilenet_v2

    torch.manual_seed(0)
    return shake(mobilenet_v2())


@pytest.mark.parametrize("counted", [True, False], ids=["as saved now", "without num_batches_tracked"])
def test_torchvisions_mobilenet_is_timms_exactly(build, mobilenet, tmp_path, counted):
    state = {k: v for k, v in mobilenet.state_dict().items() if counted or not k.endswith("num_batches_tracked")}
    save_file(state, tmp_path / "it.safetensors")
    ours = build(name="timm:mobilenetv2_100", image_weights=str(tmp_path / "it.safetensors"), image_size=(48, 48))
    with torch.no_grad():
        expected = mobilenet.features(PICTURES).mean(dim=(2, 3))
        torch.testing.assert_close(ours.clip.visual.trunk(PICTURES), expected, rtol=1e-6, atol=1e-6)
    assert expected.std() > 1e-3


def test_a_tower_that_does_not_fit_is_named(build, mobilenet, tmp_path):
    state = mobilenet.state_dict()
    del state["features.18.0.weight"]
    save_file(state, tmp_path / "it.safetensors")
    with pytest.raises(UserError, match=r"are of another architecture: 1 missing \(conv_head.weight…\)"):
        build(name="timm:mobilenetv2_100", image_weights=str(tmp_path / "it.safetensors"))
    trunk = build().clip.visual.trunk.state_dict()
    trunk["surplus"] = trunk.pop("bn1.weight")
    save_file(trunk, tmp_path / "it.safetensors")
    with pytest.raises(UserError, match=r"1 missing \(bn1.weight…\); 1 unexpected \(surplus…\)"):
        build(image_weights=str(tmp_path / "it.safetensors"))


def test_a_timm_file_loads_without_its_classifier(build, tmp_path):
    import timm

    theirs = shake(timm.create_model("test_resnet"))
    save_file(theirs.state_dict(), tmp_path / "it.safetensors")
    visual = build().clip.visual
    projection = visual.head.proj.weight.clone()
    load_image_weights(visual, str(tmp_path / "it.safetensors"))
    with torch.no_grad():
        expected = theirs.forward_head(theirs.forward_features(PICTURES), pre_logits=True)
        torch.testing.assert_close(visual.eval().trunk(PICTURES), expected, rtol=1e-6, atol=1e-6)
    assert torch.equal(projection, visual.head.proj.weight)


# Files


def test_a_file_that_could_run_code_is_refused(tmp_path):
    torch.save({"state_dict": print}, tmp_path / "it.pt")
    with pytest.raises(UserError, match=r"it.pt holds more than tensors: refused for safety; save it as safetensors"):
        read_weights(tmp_path / "it.pt")


@pytest.mark.parametrize("suffix", ["safetensors", "pt", "bin"])
def test_a_file_that_was_cut_is_named(tmp_path, suffix):
    file = tmp_path / f"it.{suffix}"
    state = {"a": torch.zeros(1000)}
    save_file(state, file) if suffix == "safetensors" else torch.save(state, file)
    file.write_bytes(file.read_bytes()[:500])
    with pytest.raises(UserError, match=rf"it.{suffix} (is damaged|holds more)"):
        read_weights(file)
    with pytest.raises(UserError, match=r"no weights file .*nothing.pt; check the path"):
        read_weights(tmp_path / "nothing.pt")


def test_shapes_are_checked_before_anything_is_loaded():
    layer = torch.nn.Linear(2, 3)
    before = layer.weight.clone()
    with pytest.raises(
        UserError, match=r"weights in somewhere are of another architecture: 1 of another shape \(bias…"
    ):
        load_state(layer, {"weight": torch.zeros(3, 2), "bias": torch.zeros(4)}, "somewhere")
    assert torch.equal(layer.weight, before)


def test_instantiating_leaves_the_card_alone():
    before = json.dumps(TINY_OPEN_CLIP)
    instantiate(TINY_OPEN_CLIP | {"custom_text": True})
    assert json.dumps(TINY_OPEN_CLIP) == before
