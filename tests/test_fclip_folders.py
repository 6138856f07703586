"""Folders from elsewhere: what they say is carried or refused in one line, never ignored."""

from __future__ import annotations

import json
import struct

import open_clip
import pytest
import torch
import torch.nn.functional as F
from conftest import shake
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

from fclip.checkpoint import load_checkpoint, save_checkpoint
from fclip.config import ModelConfig, StnConfig
from fclip.errors import UserError
from fclip.model import Preprocess
from fclip.pretrained import build_model
from fclip.weights import load_state, read_weights

TEXTS = ["a red dress", "x"]
VIT = {"image_size": 48, "layers": 2, "width": 32, "head_width": 16, "patch_size": 12}
TEXT = {"context_length": 20, "vocab_size": 49408, "width": 24, "heads": 3, "layers": 2}
SIZED = {
    "vit": {"embed_dim": 16, "vision_cfg": VIT, "text_cfg": TEXT},
    "timm vit": {
        "embed_dim": 64,
        "custom_text": True,
        "vision_cfg": {"image_size": 160, "timm_model_name": "test_vit", "timm_pool": "map", "timm_proj": "none"},
        "text_cfg": TEXT,
    },
    "convolutions": {
        "embed_dim": 16,
        "custom_text": True,
        "vision_cfg": {"image_size": 64, "timm_model_name": "test_resnet", "timm_pool": "", "timm_proj": "linear"},
        "text_cfg": TEXT,
    },
}


def pictures(*size: int) -> torch.Tensor:
    return torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(5))


def images(model, pixels: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return F.normalize(model.eval().encode_image(pixels), dim=-1)


# transformers


@pytest.fixture(scope="module")
def theirs() -> CLIPModel:
    text = {"vocab_size": 49408, "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2}
    text |= {"num_attention_heads": 3, "max_position_embeddings": 20, "eos_token_id": 49407}
    vision = {"hidden_size": 32, "intermediate_size": 56, "num_hidden_layers": 2, "num_attention_heads": 2}
    vision |= {"image_size": 48, "patch_size": 12}
    return shake(CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)))


@pytest.fixture
def folder(theirs, tmp_path):
    theirs.save_pretrained(tmp_path / "theirs")
    return tmp_path / "theirs"


def of_transformers(theirs: CLIPModel, pixels: torch.Tensor) -> torch.Tensor:
    """transformers 5 returns outputs whose pooled part is already projected; 4 returned the projection."""
    with torch.no_grad():
        found = theirs.get_image_features(pixel_values=pixels)
    return F.normalize(getattr(found, "pooler_output", found), dim=-1)


def change(file, **values) -> None:
    """Sets keys of a JSON file; of its parts by part__key."""
    saved = json.loads(file.read_text()) if file.is_file() else {}
    for key, value in values.items():
        part, _, inner = key.rpartition("__")
        (saved[part] if part else saved)[inner] = value
    file.write_text(json.dumps(saved))


@pytest.mark.parametrize("form", ["shards", "bin", "bin shards"])
def test_weights_in_shards_or_without_safetensors_are_the_same(folder, theirs, captions, form):
    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    if form == "shards":
        theirs.save_pretrained(folder, max_shard_size="1MB")
        assert len(list(folder.glob("model-*.safetensors"))) > 1
    elif form == "bin":
        torch.save(state, folder / "pytorch_model.bin")
    else:
        for number in range(2):
            torch.save(dict(list(state.items())[number::2]), folder / f"part{number}.bin")
        places = {name: f"part{i % 2}.bin" for i, name in enumerate(state)}
        (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": places}))
    ours = build_model(ModelConfig(name=str(folder)), captions)
    assert (images(ours, pictures(48, 48)) - of_transformers(theirs, pictures(48, 48))).abs().max() < 1e-5


def test_shards_are_files_beside_their_index(folder, captions):
    (folder / "model.safetensors").rename(folder / "moved.safetensors")
    index = folder / "model.safetensors.index.json"
    for shard, told in (
        ("../theirs/moved.safetensors", "the name of a file beside"),
        ("gone", "no weights file .*gone"),
    ):
        index.write_text(json.dumps({"weight_map": {"a": shard}}))
        with pytest.raises(UserError, match=told):
            build_model(ModelConfig(name=str(folder)), captions)
    index.write_text("{}")
    with pytest.raises(UserError, match="expected a weight_map in"):
        build_model(ModelConfig(name=str(folder)), captions)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"resample": 2, "image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.2, 0.1]},
        {"size": {"height": 48, "width": 48}, "do_center_crop": False, "resample": 2},
        {"size": {"height": 48, "width": 48}},
        {"do_normalize": False},
    ],
    ids=["CLIP's", "other statistics", "squashed", "squashed, and a crop that changes nothing", "not normalised"],
)
def test_pictures_enter_as_the_folders_processor_says(folder, captions, options):
    processor = CLIPImageProcessor(**{"size": {"shortest_edge": 48}, "crop_size": 48, **options})
    processor.save_pretrained(folder)
    ours = build_model(ModelConfig(name=str(folder)), captions).preprocess
    picture = Image.effect_noise((96, 144), 80).convert("RGB").resize((64, 96), Image.Resampling.BICUBIC)
    expected = torch.as_tensor(processor(picture, return_tensors="pt")["pixel_values"][0])
    found = ours.normalise(ours(picture)[None])[0]
    assert found.shape == expected.shape
    assert (found - expected).abs().mean() < 0.02 * expected.std()  # rounding to bytes, here or there
    assert (found - expected.flip(-1)).abs().mean() > 0.1 * expected.std()


@pytest.mark.parametrize(
    ("file", "values", "told"),
    [
        ("preprocessor_config.json", {"size": {"shortest_edge": 64}, "crop_size": 64}, "the model takes 48x48"),
        ("preprocessor_config.json", {"size": {"shortest_edge": 64}, "crop_size": 48}, "the model takes 48x48"),
        ("preprocessor_config.json", {"size": {"shortest_edge": 48}, "do_center_crop": False}, "do_center_crop"),
        ("preprocessor_config.json", {"resample": 1}, "expected resample 2 or 3 in .*, got 1"),
        ("preprocessor_config.json", {"do_resize": False}, "has do_resize false"),
        ("tokenizer_config.json", {"model_max_length": 77}, "cuts texts at 77 tokens, config.json has 20 positions"),
        ("config.json", {"text_config__vocab_size": 49410}, "expected CLIP's vocabulary of 49408 .*, got 49410: added"),
        ("config.json", {"text_config__eos_token_id": 7}, "expected eos_token_id 49407 .* got 7"),
    ],
)
def test_what_does_not_fit_together_is_one_line(folder, captions, file, values, told):
    change(folder / file, **values)
    with pytest.raises(UserError, match=told) as caught:
        build_model(ModelConfig(name=str(folder)), captions)
    assert "\n" not in str(caught.value)


def test_what_fits_together_is_carried(folder, captions):
    change(folder / "tokenizer_config.json", model_max_length=20)
    change(folder / "preprocessor_config.json", size=48, crop_size={"height": 48, "width": 48})
    ours = build_model(ModelConfig(name=str(folder)), captions)
    assert ours.tokenizer.context_length == 20
    assert ours.preprocess == Preprocess(size=(48, 48))
    change(folder / "tokenizer_config.json", model_max_length=int(1e30))  # saved without a limit
    assert build_model(ModelConfig(name=str(folder)), captions).tokenizer.context_length == 20


# Another image size


@pytest.mark.parametrize("form", SIZED)
def test_another_image_size_is_open_clips(captions, tmp_path, form):
    """Also of what is an fclip checkpoint by then, and back again."""
    config = SIZED[form]
    (tmp_path / f"sized-{form}.json").write_text(json.dumps(config))
    open_clip.add_model_config(tmp_path / f"sized-{form}.json")
    clip = shake(open_clip.create_model(f"sized-{form}"))
    own, side = config["vision_cfg"]["image_size"], 96
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config}))
    save_file(clip.state_dict(), folder / "open_clip_model.safetensors")
    torch.save(clip.state_dict(), tmp_path / "it.pt")
    if form == "timm vit":  # open_clip resizes timm's towers only before it loads: do what it would
        expected = clip
        expected.visual.set_input_size((side, side))
    else:
        expected = open_clip.create_model(f"sized-{form}", str(tmp_path / "it.pt"), force_image_size=side).eval()
    wanted = images(expected, pictures(side, side))

    def check(source) -> None:
        ours = build_model(ModelConfig(name=str(source), image_size=(side, side)), captions)
        assert ours.preprocess.size == (side, side)
        assert (images(ours, pictures(side, side)) - wanted).abs().max() < 1e-5
        save_checkpoint(ours, tmp_path / "resized", overwrite=True)
        assert (images(load_checkpoint(tmp_path / "resized"), pictures(side, side)) - wanted).abs().max() < 1e-5

    check(folder)
    save_checkpoint(build_model(ModelConfig(name=str(folder)), captions), tmp_path / "ours")
    assert load_checkpoint(tmp_path / "ours").preprocess.size == (own, own)
    check(tmp_path / "ours")
    check(tmp_path / "resized")  # already that size


def test_another_image_size_of_a_transformers_folder_is_that_of_transformers(folder, theirs, captions):
    ours = build_model(ModelConfig(name=str(folder), image_size=(72, 72)), captions)
    with torch.no_grad():
        found = theirs.get_image_features(pixel_values=pictures(72, 72), interpolate_pos_encoding=True)
    expected = F.normalize(getattr(found, "pooler_output", found), dim=-1)
    assert (images(ours, pictures(72, 72)) - expected).abs().max() < 0.02  # theirs interpolates without antialiasing
    assert ours.card.architecture["vision_cfg"]["image_size"] == [72, 72]


def test_a_tower_tied_to_its_size_is_refused(captions, tmp_path):
    vision = {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "patch_size": None}
    config = {"embed_dim": 16, "vision_cfg": vision, "text_cfg": TEXT}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))  # DFN's form: the architecture alone
    save_file(open_clip.CLIP(**config).state_dict(), tmp_path / "open_clip_model.safetensors")
    told = "the image tower of .* cannot take pictures of 96x96; leave model.image_size out"
    with pytest.raises(UserError, match=told):
        build_model(ModelConfig(name=str(tmp_path), image_size=(96, 96)), captions)
    assert build_model(ModelConfig(name=str(tmp_path), image_size=(64, 64)), captions).preprocess.size == (64, 64)


def test_a_grid_that_is_not_square_is_not_taken_for_one(folder, captions, tmp_path):
    save_checkpoint(build_model(ModelConfig(name=str(folder), image_size=(48, 108)), captions), tmp_path / "ours")
    with pytest.raises(UserError, match="cannot take pictures of 48x48"):  # 4 x 9 positions are also 6 x 6
        build_model(ModelConfig(name=str(tmp_path / "ours"), image_size=(48, 48)), captions)


def test_the_size_of_what_a_spatial_transformer_looks_at_is_kept(folder, captions, tmp_path):
    config = ModelConfig(name=str(folder), stn=StnConfig(transform="affine", look_size=(64, 64)))
    save_checkpoint(build_model(config, captions), tmp_path / "ours")
    assert build_model(ModelConfig(name=str(tmp_path / "ours")), captions).preprocess.size == (64, 64)
    with pytest.raises(UserError, match="has a spatial transformer made for its image size"):
        build_model(ModelConfig(name=str(tmp_path / "ours"), image_size=(48, 48)), captions)


def test_overrides_reach_checkpoints_too(build, captions, tmp_path):
    save_checkpoint(build(), tmp_path / "ours")
    config = ModelConfig(name=str(tmp_path / "ours"), mean=(0.1, 0.2, 0.3), resize_mode="longest")
    assert build_model(config, captions).preprocess.mean == (0.1, 0.2, 0.3)
    assert build_model(config, captions).preprocess.resize_mode == "longest"
    with pytest.raises(UserError, match=r"brings its weights; leave model.weights=it.pt out"):
        build_model(ModelConfig(name=str(tmp_path / "ours"), weights="it.pt"), captions)


# open_clip's tags


@pytest.mark.parametrize(
    ("name", "tag", "told"),
    [
        ("ViT-B-32", "openai", "^ViT-B-32 with tag openai needs QuickGELU: name it ViT-B-32-quickgelu$"),
        ("RN50", "cc12m", "^RN50 with tag cc12m needs QuickGELU: name it RN50-quickgelu$"),
        ("ViT-B-32-quickgelu", "laion2b_s34b_b79k", "^ViT-B-32-quickgelu .* needs plain GELU: name it ViT-B-32$"),
        ("ViT-B-32", "opanai.pt", "^no file opanai.pt, and no tag of ViT-B-32 by that name; did you mean 'openai'"),
    ],
)
def test_weights_of_another_activation_and_unknown_tags_are_refused(captions, name, tag, told):
    with pytest.raises(UserError, match=told):
        build_model(ModelConfig(name=name, weights=tag), captions)


@pytest.mark.parametrize(("name", "tag"), [("ViT-B-32-quickgelu", "openai"), ("ViT-B-32", "laion2b_s34b_b79k")])
def test_the_right_activation_goes_on_to_the_hub(captions, name, tag):
    with pytest.raises(UserError, match=r"cannot load .*; is the hub reachable"):
        build_model(ModelConfig(name=name, weights=tag), captions)


# Weights that do not fit


def test_what_fits_is_loaded_when_asked_for(folder, theirs, captions, capsys):
    state = load_file(folder / "model.safetensors")
    del state["text_model.final_layer_norm.bias"]
    state |= {"surplus": torch.zeros(2), "logit_scale": torch.zeros(3)}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    told = (
        r"1 missing \(ln_final.bias…\); 1 unexpected \(surplus…\); 1 of another shape \(logit_scale…\); "
        r"model.allow_mismatched_weights=true loads what fits"
    )
    with pytest.raises(UserError, match=told):
        build_model(ModelConfig(name=str(folder)), captions)
    ours = build_model(ModelConfig(name=str(folder), allow_mismatched_weights=True), captions)
    assert (images(ours, pictures(48, 48)) - of_transformers(theirs, pictures(48, 48))).abs().max() < 1e-5
    assert "left out: 1 missing (ln_final.bias…); 1 unexpected (surplus…)" in capsys.readouterr().err
    save_file({"surplus": torch.zeros(2)}, folder / "model.safetensors")
    with pytest.raises(UserError, match="of another architecture"):
        build_model(ModelConfig(name=str(folder), allow_mismatched_weights=True), captions)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(value):
    layer = torch.nn.Linear(2, 3)
    state = {"weight": torch.full((3, 2), value), "bias": torch.zeros(3)}
    with pytest.raises(UserError, match=r"weights in it are not finite: 1 hold NaN or infinity \(weight…\)"):
        load_state(layer, state, "it")
    assert torch.isfinite(layer.weight).all()


def test_halves_become_floats_and_whole_numbers_are_refused():
    layer = torch.nn.Linear(2, 3)
    load_state(layer, {"weight": torch.full((3, 2), 0.5).half(), "bias": torch.ones(3).bfloat16()}, "it")
    assert layer.weight.dtype == torch.float32
    assert (layer.weight == 0.5).all()
    with pytest.raises(UserError, match=r"1 of another type \(weight…\)"):
        load_state(layer, {"weight": torch.ones(3, 2, dtype=torch.int32), "bias": torch.ones(3)}, "it")


def tampered(file, edit) -> None:
    """Rewrites the JSON header of a safetensors file."""
    data = file.read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    header = edit(data[8 : 8 + length])
    file.write_bytes(struct.pack("<Q", len(header)) + header + data[8 + length :])


def test_a_tampered_header_is_one_line(tmp_path):
    layer, file = torch.nn.Linear(8, 8), tmp_path / "it.safetensors"
    for edit in (lambda h: h.replace(b"[8,8]", b"[9,9]"), lambda h: h[:40], lambda h: h.replace(b"F32", b"X99")):
        save_file(layer.state_dict(), file)
        tampered(file, edit)
        with pytest.raises(UserError, match=r"it.safetensors is damaged or no weights file .*; copy it again"):
            read_weights(file)
    save_file(layer.state_dict(), file)
    tampered(file, lambda h: h.replace(b"F32", b"I32"))
    with pytest.raises(UserError, match="2 of another type"):
        load_state(layer, read_weights(file), str(file))


def test_files_that_hold_something_else_are_told(tmp_path):
    torch.save({"epoch": 3, "CLIP": "not here"}, tmp_path / "it.pt")
    with pytest.raises(
        UserError, match=r"expected named tensors in .*, or below state_dict or CLIP, got the keys epoch"
    ):
        read_weights(tmp_path / "it.pt")
    torch.save([torch.zeros(1)], tmp_path / "it.pt")
    with pytest.raises(UserError, match="got a list"):
        read_weights(tmp_path / "it.pt")


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_a_torchscript_archive_is_told(tmp_path):
    """OpenAI's own files are of this form."""
    torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2)), str(tmp_path / "RN50.pt"))
    with pytest.raises(UserError, match=r"RN50.pt is a TorchScript archive, which holds code; save its state_dict"):
        read_weights(tmp_path / "RN50.pt")


@pytest.mark.parametrize("config", [{"model_cfg": {"embed_dim": 3}}, {"model_cfg": {**SIZED["vit"], "unheard_of": 1}}])
def test_an_open_clip_config_that_cannot_be_built_is_one_line(tmp_path, captions, config):
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    save_file({"a": torch.zeros(1)}, tmp_path / "open_clip_model.safetensors")
    with pytest.raises(UserError, match=r"expected model_cfg with embed_dim|open_clip cannot build .*unheard_of"):
        build_model(ModelConfig(name=str(tmp_path)), captions)
