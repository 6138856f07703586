"""A checkpoint folder gives back exactly the model, or one clear line."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch

from fclip.checkpoint import FORMAT, is_checkpoint, load_checkpoint, save_checkpoint
from fclip.embedding import embed_catalogue, embed_texts
from fclip.errors import UserError
from fclip.tokenizer import HuggingFaceTokenizer


@pytest.fixture(scope="module")
def saved(build, tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint") / "tiny"
    save_checkpoint(build(), folder)
    return folder


@pytest.fixture
def copy(saved, tmp_path):
    """A copy that a test may damage."""
    return shutil.copytree(saved, tmp_path / "copy")


def edit(folder, **keys) -> None:
    card = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps(card | keys))


@pytest.mark.parametrize("options", [{}, {"image_size": (32, 24), "drop_path": 0.1}, {"tokenizer": "own"}], ids=str)
def test_a_loaded_model_gives_exactly_the_same_embeddings(build, tmp_path, catalogue, texts, options):
    model = build(**options)
    save_checkpoint(model, tmp_path / "it")
    loaded = load_checkpoint(tmp_path / "it")
    for embed, source in ((lambda m, c: embed_catalogue(m, c).vectors, catalogue), (embed_texts, texts)):
        np.testing.assert_array_equal(embed(model, source), embed(loaded, source))
    assert loaded.card == model.card
    assert loaded.fingerprint == model.fingerprint != "unsaved"
    assert not loaded.training


def test_an_open_clip_architecture_comes_back_with_its_activation(captions, tmp_path):
    """QuickGELU is no weight: only the card tells it."""
    from fclip.model import Model, ModelCard, Preprocess, instantiate
    from fclip.tokenizer import ClipTokenizer

    vision = {"image_size": 32, "layers": 1, "width": 16, "head_width": 8, "patch_size": 16}
    text = {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
    found = []
    for quick in (True, False):
        torch.manual_seed(0)
        architecture = {"embed_dim": 8, "quick_gelu": quick, "vision_cfg": vision, "text_cfg": text}
        card = ModelCard("small", architecture, Preprocess(size=(32, 32)), captions)
        model = Model(instantiate(architecture), card, ClipTokenizer()).eval()
        save_checkpoint(model, tmp_path / str(quick))
        pixels = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            found.append(load_checkpoint(tmp_path / str(quick)).encode_image(pixels))
            assert torch.equal(found[-1], model.encode_image(pixels))
    assert not torch.equal(*found)


def test_a_hugging_face_tokenizer_comes_back_with_its_cleaning(build, tmp_path, model):
    """SigLIP's texts are canonicalised (punctuation away) before its tokenizer sees them."""
    folder = tmp_path / "tokenizer"
    words(folder)
    model = build()
    model.tokenizer = HuggingFaceTokenizer(folder, 8, clean="canonicalize")
    save_checkpoint(model, tmp_path / "it")
    loaded = load_checkpoint(tmp_path / "it").tokenizer
    assert torch.equal(loaded(["Red, dress!"]), model.tokenizer(["red dress"]))
    assert torch.equal(loaded(["Red, dress!"]), model.tokenizer(["Red, dress!"]))


def words(folder) -> None:
    """A transformers tokenizer of three words."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: i for i, word in enumerate(["[PAD]", "[UNK]", "red", "dress", ",", "!"])}
    encoder = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    encoder.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    PreTrainedTokenizerFast(tokenizer_object=encoder, pad_token="[PAD]", unk_token="[UNK]").save_pretrained(folder)


def test_the_fingerprint_is_of_the_weights(build, tmp_path):
    first, again, other = build(), build(), build()
    other.clip.logit_scale.data += 1
    for name, model in {"first": first, "again": again, "other": other}.items():
        save_checkpoint(model, tmp_path / name)
    assert first.fingerprint == again.fingerprint != other.fingerprint


def test_nothing_in_the_folder_is_a_pickle(saved):
    assert {f.suffix for f in saved.iterdir()} <= {".json", ".safetensors"}


def test_an_existing_folder_is_overwritten_only_when_asked(saved, model):
    with pytest.raises(UserError, match="exists already"):
        save_checkpoint(model, saved)
    save_checkpoint(model, saved, overwrite=True)
    assert is_checkpoint(saved)


# What can be wrong with a folder


def test_weights_that_were_changed_are_noticed(copy, build):
    from safetensors.torch import save_file

    state = build().clip.state_dict()
    state["logit_scale"] = state["logit_scale"] + 1
    save_file(state, str(copy / "model.safetensors"))
    with pytest.raises(UserError, match=r"model.safetensors is not what model.json says it is; copy the checkpoint ag"):
        load_checkpoint(copy)


def test_weights_that_were_cut_are_noticed(copy):
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(UserError, match=r"model.safetensors is damaged or no weights file \(.*\); copy it again"):
        load_checkpoint(copy)


def test_weights_that_are_missing_are_noticed(copy):
    (copy / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"no weights file .*model.safetensors; check the path"):
        load_checkpoint(copy)


def test_a_missing_tokenizer_is_noticed(copy):
    (copy / "tokenizer.json").unlink()
    with pytest.raises(UserError, match=r"has no tokenizer.json; the checkpoint is incomplete, copy it again"):
        load_checkpoint(copy)


def test_a_newer_format_is_refused(copy):
    edit(copy, format=FORMAT + 1)
    with pytest.raises(UserError, match=f"expected checkpoint format {FORMAT}, got {FORMAT + 1} in .*; update fclip"):
        load_checkpoint(copy)


def test_weights_of_another_architecture_are_refused_and_named(copy):
    architecture = json.loads((copy / "model.json").read_text())["architecture"]
    edit(copy, architecture=architecture | {"embed_dim": 8})
    with pytest.raises(UserError, match=r"are of another architecture: 2 of another shape \(text.text_projection, vis"):
        load_checkpoint(copy)
    edit(copy, architecture=architecture | {"text_cfg": architecture["text_cfg"] | {"layers": 2}})
    with pytest.raises(UserError, match=r"another architecture: 12 missing \(text.transformer.resblocks.1.attn.in_pro"):
        load_checkpoint(copy)


def test_a_card_that_is_no_json_is_refused(copy):
    (copy / "model.json").write_text("{")
    with pytest.raises(UserError, match=r"expected a checkpoint's card in .*model.json"):
        load_checkpoint(copy)


def test_a_card_without_a_key_is_refused(copy):
    card = json.loads((copy / "model.json").read_text())
    del card["preprocess"]
    (copy / "model.json").write_text(json.dumps(card))
    with pytest.raises(UserError, match=r"model.json in .* lacks 'preprocess'; copy the checkpoint again"):
        load_checkpoint(copy)


def test_a_folder_that_is_none_gets_a_hint(saved, tmp_path):
    with pytest.raises(UserError, match=r"no checkpoint folder .*; training writes OUT/best and OUT/last"):
        load_checkpoint(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"expected model.json in the checkpoint folder .*; did you mean .*tiny\?"):
        load_checkpoint(saved.parent)
    with pytest.raises(UserError, match=r"expected model.json in .*; training writes OUT/best and OUT/last"):
        load_checkpoint(tmp_path)
