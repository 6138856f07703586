"""Published models by name: the table is true, and files and folders of their form give open_clip's embeddings."""

from __future__ import annotations

import json
import re
from pathlib import Path

import open_clip
import pytest
import torch
import torch.nn.functional as F
from conftest import shake
from open_clip.push_to_hf_hub import save_for_hf
from safetensors.torch import save_file

from fclip.checkpoint import load_checkpoint, save_checkpoint
from fclip.config import ModelConfig
from fclip.errors import UserError
from fclip.model import Preprocess, instantiate
from fclip.pretrained import build_model, open_model
from fclip.published import PUBLISHED, Published

TEXTS = ["a red dress", "blue shirt with long sleeve, checked pattern and many more words than there is room", "x"]
CLIP_FORM = {  # of CLIP ViT-B/32, FashionCLIP, Marqo-FashionCLIP, OpenFashionCLIP
    "embed_dim": 16,
    "vision_cfg": {"image_size": 48, "layers": 2, "width": 32, "head_width": 16, "patch_size": 12},
    "text_cfg": {"context_length": 20, "vocab_size": 49408, "width": 24, "heads": 3, "layers": 2},
}
RN50_FORM = CLIP_FORM | {
    "quick_gelu": True,
    "vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "patch_size": None},
}
SIGLIP_FORM = {  # of SigLIP 2 and Marqo-FashionSigLIP
    "embed_dim": 64,
    "init_logit_bias": -10,
    "custom_text": True,
    "vision_cfg": {"image_size": 160, "timm_model_name": "test_vit", "timm_pool": "map", "timm_proj": "none"},
    "text_cfg": {
        "context_length": 16,
        "vocab_size": 300,
        "hf_tokenizer_name": "owner/name",
        "tokenizer_kwargs": {"clean": "canonicalize"},
        "width": 64,
        "heads": 2,
        "layers": 2,
        "no_causal_mask": True,
        "proj_bias": True,
        "pool_type": "last",
        "norm_kwargs": {"eps": 1e-6},
        "act_kwargs": {"approximate": "tanh"},
    },
}
MOBILECLIP_FORM = {
    "embed_dim": 32,
    "custom_text": True,
    "vision_cfg": {"image_size": 64, "timm_model_name": "fastvit_t8", "timm_pool": "avg", "timm_proj": None},
    "text_cfg": CLIP_FORM["text_cfg"] | {"no_causal_mask": True},
}
FORMS = {"clip": CLIP_FORM, "rn50": RN50_FORM, "siglip": SIGLIP_FORM, "mobileclip": MOBILECLIP_FORM}


@pytest.fixture(scope="module")
def sentencepieces(tmp_path_factory):
    """A transformers tokenizer like SigLIP's: a sentence ends with </s>, which also fills up."""
    from tokenizers import Tokenizer, models, processors, trainers
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.BPE(unk_token="<unk>"))
    inner.train_from_iterator(TEXTS, trainers.BpeTrainer(vocab_size=300, special_tokens=["</s>", "<unk>"]))
    inner.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 0)])
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="</s>", pad_token="</s>", unk_token="<unk>")


@pytest.fixture(scope="module")
def theirs(tmp_path_factory, sentencepieces):
    """theirs(form) → a small open_clip model of it, the folder that open_clip saves, and the architecture's name."""
    made: dict[str, tuple] = {}

    def make(form: str) -> tuple:
        if form not in made:
            folder = tmp_path_factory.mktemp(form)
            (folder / f"form-{form}.json").write_text(json.dumps(FORMS[form]))
            open_clip.add_model_config(folder / f"form-{form}.json")
            clip = shake(open_clip.create_model(f"form-{form}"))
            save_for_hf(clip, sentencepieces, FORMS[form], str(folder), safe_serialization=True)
            made[form] = clip, folder, f"form-{form}"
        return made[form]

    return make


def assert_open_clips(ours, clip, folder: Path, size: int) -> None:
    """The embeddings are those of open_clip's model with open_clip's tokenizer."""
    pixels = torch.randn(3, 3, size, size, generator=torch.Generator().manual_seed(5))
    tokens = open_clip.get_tokenizer(f"local-dir:{folder}")(TEXTS)
    with torch.no_grad():
        image, text = clip.encode_image(pixels), clip.encode_text(tokens)
        found = ours.eval().encode_image(pixels), ours.encode_text(ours.tokenizer(TEXTS))
    assert (found[0] - F.normalize(image, dim=-1)).abs().max() < 1e-5
    assert (found[1] - F.normalize(text, dim=-1)).abs().max() < 1e-5
    assert (text[0] - text[1]).abs().max() > 1e-3
    assert ours.clip.logit_scale.item() == clip.logit_scale.item()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("weights", ["safetensors", "bin"])
def test_a_hub_folder_of_each_form_gives_open_clips_embeddings(theirs, captions, tmp_path, monkeypatch, form, weights):
    clip, folder, _ = theirs(form)
    fetched = tmp_path / "fetched"
    fetched.mkdir()
    for file in folder.iterdir():
        if file.suffix != ".safetensors" or weights == "safetensors":
            (fetched / file.name).symlink_to(file)
    if weights == "bin":
        torch.save(clip.state_dict(), fetched / "open_clip_pytorch_model.bin")
    asked = []
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda name, **_: asked.append(name) or str(fetched))
    ours = build_model(ModelConfig(name="marqo-fashionsiglip"), captions)
    assert set(asked) == {"Marqo/marqo-fashionSigLIP"}
    assert_open_clips(ours, clip, folder, FORMS[form]["vision_cfg"]["image_size"])
    assert ours.name == "marqo-fashionsiglip"
    save_checkpoint(ours, tmp_path / "ours")
    assert_open_clips(load_checkpoint(tmp_path / "ours"), clip, folder, FORMS[form]["vision_cfg"]["image_size"])


@pytest.mark.parametrize("form", ["clip", "siglip", "mobileclip"])
@pytest.mark.parametrize("key", ["CLIP", "state_dict", "bare", "safetensors"])
def test_a_file_of_each_form_loads_into_the_named_architecture(theirs, captions, tmp_path, monkeypatch, form, key):
    """OpenFashionCLIP's file has its weights under "CLIP"."""
    clip, folder, architecture = theirs(form)
    monkeypatch.setitem(PUBLISHED, "theirs", Published("", "file", architecture, "https://nowhere", "", 0))
    state = {f"module.{k}": v for k, v in clip.state_dict().items()}
    file = tmp_path / ("it.safetensors" if key == "safetensors" else "it.pt")
    (tmp_path / "tokenizer.json").symlink_to(folder / "tokenizer.json")
    (tmp_path / "tokenizer_config.json").symlink_to(folder / "tokenizer_config.json")
    if key == "safetensors":
        save_file(clip.state_dict(), file)
    else:
        torch.save(state if key == "bare" else {"epoch": 3, key: state}, file)
    ours = build_model(ModelConfig(name="theirs", weights=str(file)), captions)
    assert_open_clips(ours, clip, folder, FORMS[form]["vision_cfg"]["image_size"])
    assert ours.name == "theirs"


def test_a_file_of_a_real_architecture_gets_the_preprocessing_of_its_tags():
    from fclip.open_clip_models import tags_preprocessing

    found = {entry.architecture: tags_preprocessing(entry.architecture) for entry in PUBLISHED.values()}
    of = {name: Preprocess(**values) for name, values in found.items()}
    assert of["ViT-B-32"] == of["RN50-quickgelu"] == of["ViT-B-16"] == Preprocess()
    half = (0.5, 0.5, 0.5)
    assert of["ViT-B-16-SigLIP"] == of["ViT-B-16-SigLIP2"] == Preprocess(mean=half, std=half, resize_mode="squash")
    plain = {"mean": (0, 0, 0), "std": (1, 1, 1), "interpolation": "bilinear"}
    assert of["MobileCLIP2-S0"] == Preprocess(**plain)


def test_a_folder_may_stand_in_for_a_name(theirs, captions):
    clip, folder, _ = theirs("siglip")
    ours = build_model(ModelConfig(name="siglip", weights=str(folder)), captions)
    assert_open_clips(ours, clip, folder, 160)


@pytest.mark.parametrize("name", PUBLISHED)
def test_without_the_hub_every_name_says_how_to_give_it_by_hand(captions, name):
    with pytest.raises(UserError) as caught:
        build_model(ModelConfig(name=name), captions)
    told = str(caught.value)
    assert "\n" not in told
    if name == "openfashionclip":
        assert re.search(r"a file to download: https://\S+/finetuned_clip.pt; then set model.weights=FILE", told)
    else:
        assert re.match(r"cannot (fetch|load) .*; is the hub reachable\? A local copy .*: .*model.weights=", told)
    with pytest.raises(UserError, match=rf"expected a file or folder for {name} in model.weights, found no nowhere.pt"):
        build_model(ModelConfig(name=name, weights="nowhere.pt"), captions)


@pytest.mark.parametrize(("name", "entry"), PUBLISHED.items())
def test_an_entry_is_what_open_clip_knows(name, entry):
    architecture = open_clip.get_model_config(entry.architecture)
    if entry.form == "open_clip tag":
        tag = open_clip.get_pretrained_cfg(entry.architecture, entry.source)
        assert tag, f"open_clip has no tag {entry.source} of {entry.architecture}"
        assert tag.get("quick_gelu", False) == architecture.get("quick_gelu", False)
    with torch.device("meta"):
        parameters = sum(p.numel() for p in instantiate(architecture).parameters())
    assert round(parameters / 1e6) == entry.millions


def test_the_readme_has_the_same_table():
    readme = (Path(__file__).parent.parent / "fclip" / "README.md").read_text()
    rows = re.findall(r"^\| `([\w-]+)` \| (.+) \| (.+) \| (.+) \|$", readme, re.MULTILINE)
    where = {
        name: re.sub(r"^https://github.com/([^/]+/[^/]+)/.*", r"github.com/\1", e.where)
        for name, e in PUBLISHED.items()
    }
    assert rows == [(name, e.what, where[name], e.licence) for name, e in PUBLISHED.items()]


def test_the_command_lists_them(capsys, monkeypatch):
    from fclip.cli import main

    monkeypatch.setenv("COLUMNS", "250")
    with pytest.raises(SystemExit) as end:
        main(["models"])
    assert not end.value.code
    shown = capsys.readouterr().out
    for name, entry in PUBLISHED.items():
        assert re.search(
            rf"^ ?{name} .*{re.escape(entry.where)} .*{re.escape(entry.licence)} .*{entry.millions} M", shown, re.M
        )


# Where a checkpoint is asked for


def test_a_checkpoint_opens_as_it_is_and_others_get_the_catalogues_captions(theirs, build, tmp_path):
    save_checkpoint(build(), tmp_path / "ours")
    assert open_model(tmp_path / "ours", ["else"]).captions == load_checkpoint(tmp_path / "ours").captions
    clip, folder, _ = theirs("clip")
    opened = open_model(folder, ["trim"])
    assert opened.captions.groups == ("trim",)
    assert not opened.training
    assert_open_clips(opened, clip, folder, 48)
    save_checkpoint(opened, tmp_path / "same")
    assert load_checkpoint(tmp_path / "same").fingerprint == open_model(folder, []).fingerprint != "unsaved"


def test_a_published_name_may_bring_its_file(theirs, tmp_path, monkeypatch):
    clip, folder, architecture = theirs("clip")
    monkeypatch.setitem(PUBLISHED, "theirs", Published("", "file", architecture, "https://nowhere", "", 0))
    torch.save({"CLIP": clip.state_dict()}, tmp_path / "it.pt")
    assert_open_clips(open_model(f"theirs:{tmp_path / 'it.pt'}", ["trim"]), clip, folder, 48)


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("fashoinclip", r"^no checkpoint folder fashoinclip, and no published model .*did you mean 'fashionclip'\?"),
        ("runs/nothing/best", r"^no checkpoint folder runs/nothing/best; training writes OUT/best and OUT/last$"),
        ("ViT-B-32", r"^no checkpoint folder ViT-B-32, and no published model"),
        ("", r"^expected model.json in the checkpoint folder \.;"),
    ],
)
def test_a_mistyped_checkpoint_is_told(source, told, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=told):
        open_model(source, ["trim"])


def test_an_index_remembers_what_it_was_built_with(theirs, catalogue, tmp_path, monkeypatch):
    """Also from another folder: NAME:FILE is kept with its full path."""
    from fclip.index import build_index
    from fclip.recommend import Recommender

    clip, folder, architecture = theirs("clip")
    monkeypatch.setitem(PUBLISHED, "theirs", Published("", "file", architecture, "https://nowhere", "", 0))
    torch.save({"CLIP": clip.state_dict()}, tmp_path / "it.pt")
    monkeypatch.chdir(tmp_path)
    for number, source in enumerate(["theirs:it.pt", str(folder)]):
        monkeypatch.chdir(tmp_path)
        build_index(tmp_path / f"index{number}", open_model(source, ["trim"]), catalogue.select(range(4)), source)
        monkeypatch.chdir("..")
        assert len(Recommender.open(tmp_path / f"index{number}").ask(texts=["red dress"], k=2)) == 2
