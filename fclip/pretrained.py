"""Building a model: by open_clip architecture, published name, timm tower, or local folder; weights in without loss.

ViT-B-32-quickgelu            an open_clip architecture; `weights` is one of its tags or a file
fashionclip                   FashionCLIP 2.0 (patrickjohncyh/fashion-clip, MIT): ViT-B/32 with QuickGELU
hf-hub:owner/name             an open_clip model on the hub
timm:mobilenetv2_100          a timm image tower beside a small text tower from scratch; NAME.TAG: timm's weights
some/folder                   fclip checkpoint, `transformers` CLIP folder, or open_clip hub folder
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from fclip.captions import Captions
from fclip.config import ModelConfig
from fclip.errors import UserError
from fclip.files import expand, read_json
from fclip.model import Model, ModelCard, Preprocess, instantiate
from fclip.timm_tower import near, timm_preprocess, timm_vision_cfg, timm_weights
from fclip.tokenizer import ClipTokenizer, HuggingFaceTokenizer, Tokenizer, TrainedTokenizer
from fclip.transformers_clip import architecture_from_transformers, state_from_transformers
from fclip.variants import with_image_tower, with_stn
from fclip.weights import load_image_state, load_image_weights, load_state, read_weights

HUB_NAMES = {"fashionclip": "patrickjohncyh/fashion-clip"}  # published in the form of `transformers`
HOW_OFFLINE = "is the hub reachable? A local copy of the folder can be given in its place"


def build_model(config: ModelConfig, captions: Captions, texts: Iterable[str] = ()) -> Model:
    """Builds the model that a preset asks for.

    Args:
        config: which towers and weights.
        captions: travel with the model.
        texts: the training captions, for a trained tokenizer.

    Raises:
        UserError: an unknown name, unreachable weights, or weights of another architecture.
    """
    if config.name.startswith("timm:"):
        model = _timm_model(config, captions, texts)
    elif config.name in HUB_NAMES or Path(expand(config.name)).is_dir():
        model = _folder_model(config, captions)
    else:
        model = _open_clip_model(config, captions, texts)
    if config.image_tower:
        model = with_image_tower(model, config)
    _load_image_weights(model, config)
    return model if config.stn.transform == "none" else with_stn(model, config.stn)


def _load_image_weights(model: Model, config: ModelConfig) -> None:
    """Weights of the image tower alone: from a file, or from timm where the tower's name has a tag."""
    tower = config.image_tower or (config.name.removeprefix("timm:") if config.name.startswith("timm:") else "")
    if config.image_weights:
        load_image_weights(model.clip.visual, expand(config.image_weights))
    elif "." in tower:
        load_image_state(model.clip.visual, timm_weights(tower, model.preprocess.size), tower)


def _preprocess(config: ModelConfig, own: Preprocess) -> Preprocess:
    """The weights' own preprocessing with what the preset overrides."""
    wanted: dict[str, Any] = {
        "size": config.image_size,
        "resize_mode": config.resize_mode,
        "mean": config.mean,
        "std": config.std,
    }
    return replace(own, **{k: v for k, v in wanted.items() if v is not None})


def _timm_model(config: ModelConfig, captions: Captions, texts: Iterable[str]) -> Model:
    name = config.name.removeprefix("timm:")
    vision = timm_vision_cfg(name, config)
    tokenizer = _tokenizer(config, texts)
    text = _text_cfg(config, tokenizer)
    architecture = {"embed_dim": config.embed_dim, "vision_cfg": vision, "text_cfg": text, "custom_text": True}
    preprocess = timm_preprocess(name, config, Preprocess(resize_mode=config.resize_mode or "squash"))
    return Model(instantiate(architecture), ModelCard(config.name, architecture, preprocess, captions), tokenizer)


def _text_cfg(config: ModelConfig, tokenizer: Tokenizer) -> dict[str, Any]:
    return {
        "context_length": tokenizer.context_length,
        "vocab_size": tokenizer.vocab_size,
        "width": config.text_width,
        "heads": config.text_heads,
        "layers": config.text_layers,
    }


def _tokenizer(config: ModelConfig, texts: Iterable[str]) -> Tokenizer:
    if config.tokenizer == "own":
        return ClipTokenizer(config.context_length)
    return TrainedTokenizer.train(texts, config.vocab_size, config.context_length)


def _open_clip_model(config: ModelConfig, captions: Captions, texts: Iterable[str]) -> Model:
    import open_clip

    hub = config.name.startswith("hf-hub:")
    if not hub and config.name not in open_clip.list_models():
        names = [*open_clip.list_models(), *HUB_NAMES]
        raise UserError(
            f"no model {config.name!r}; {near(config.name, names)}; or a folder, timm:NAME, hf-hub:owner/name"
        )
    if config.weights is None and not hub:
        return _from_scratch(config, captions, texts)
    size = {"force_image_size": config.image_size} if config.image_size else {}
    weights = expand(config.weights) if config.weights else None
    try:
        clip = open_clip.create_model(config.name, pretrained=weights, require_pretrained=True, **size)
        architecture = open_clip.get_model_config(config.name)
        tokenizer = _published_tokenizer(config.name, architecture["text_cfg"])
    except UserError:
        raise
    except Exception as error:  # the hub's, torch's and open_clip's own errors have no common base
        reason = " ".join(str(error).split())[:300]  # torch lists missing and unexpected keys on further lines
        hint = "is it a file of this architecture?" if weights and Path(weights).is_file() else HOW_OFFLINE
        raise UserError(f"cannot load {config.name} {config.weights or ''}: {reason}; {hint}") from None
    if config.image_size:
        architecture["vision_cfg"]["image_size"] = list(config.image_size)
    own = Preprocess.from_open_clip(clip.visual.preprocess_cfg)
    return Model(clip, ModelCard(config.name, architecture, _preprocess(config, own), captions), tokenizer)


def _from_scratch(config: ModelConfig, captions: Captions, texts: Iterable[str]) -> Model:
    import open_clip

    architecture = open_clip.get_model_config(config.name)
    if config.image_size:
        architecture["vision_cfg"]["image_size"] = list(config.image_size)
    text = architecture["text_cfg"]
    if config.tokenizer == "trained":
        tokenizer: Tokenizer = _tokenizer(config, texts)
        text.pop("hf_tokenizer_name", None)
        text |= {"vocab_size": tokenizer.vocab_size, "context_length": tokenizer.context_length}
    else:
        tokenizer = _published_tokenizer(config.name, text)
    size = architecture["vision_cfg"]["image_size"]
    own = Preprocess(size=tuple(size) if isinstance(size, (list, tuple)) else (size, size))
    card = ModelCard(config.name, architecture, _preprocess(config, own), captions)
    return Model(instantiate(architecture), card, tokenizer)


def _published_tokenizer(name: str, text_cfg: dict[str, Any]) -> Tokenizer:
    length = text_cfg.get("context_length", 77)
    source = text_cfg.get("hf_tokenizer_name")
    if not source:
        return ClipTokenizer(length)
    return HuggingFaceTokenizer(source, length, **text_cfg.get("tokenizer_kwargs", {}))


def _folder_model(config: ModelConfig, captions: Captions) -> Model:
    """A model from a folder of one of three forms, told apart by their config files."""
    from fclip.checkpoint import is_checkpoint, load_checkpoint

    folder = _download(HUB_NAMES[config.name]) if config.name in HUB_NAMES else Path(expand(config.name))
    if is_checkpoint(folder):
        model = load_checkpoint(folder)
        model.card = replace(model.card, captions=captions)
        return model
    if (folder / "open_clip_config.json").is_file():
        return _open_clip_folder(folder, config, captions)
    if (folder / "config.json").is_file():
        return _transformers_folder(folder, config, captions)
    raise UserError(f"expected model.json, open_clip_config.json or config.json in {folder}; is it a model's folder?")


def _download(hub_name: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(hub_name, allow_patterns=["*.json", "*.safetensors", "*.txt"]))
    except Exception as error:
        raise UserError(f"cannot fetch {hub_name}: {str(error).splitlines()[0]}; {HOW_OFFLINE}") from None


def _open_clip_folder(folder: Path, config: ModelConfig, captions: Captions) -> Model:
    saved = read_json(folder / "open_clip_config.json", "open_clip's config")
    architecture = saved["model_cfg"]
    clip = instantiate(architecture)
    load_state(clip, read_weights(_weights_file(folder, "open_clip_model.safetensors")), str(folder))
    text = architecture["text_cfg"]
    length = text.get("context_length", 77)
    own_files = "hf_tokenizer_name" in text
    options = text.get("tokenizer_kwargs", {})
    tokenizer = HuggingFaceTokenizer(folder, length, **options) if own_files else ClipTokenizer(length)
    size = architecture["vision_cfg"].get("image_size", 224)
    own = Preprocess.from_open_clip({"size": size} | saved.get("preprocess_cfg", {}))
    return Model(clip, ModelCard(str(folder), architecture, _preprocess(config, own), captions), tokenizer)


def _transformers_folder(folder: Path, config: ModelConfig, captions: Captions) -> Model:
    saved = read_json(folder / "config.json", "a transformers config")
    if saved.get("model_type") != "clip":
        raise UserError(f"expected model_type clip in {folder}, got {saved.get('model_type')!r}")
    architecture = architecture_from_transformers(saved)
    clip = instantiate(architecture)
    state = state_from_transformers(read_weights(_weights_file(folder, "model.safetensors")))
    load_state(clip, state, str(folder))
    size = architecture["vision_cfg"]["image_size"]
    preprocess = _preprocess(config, _transformers_preprocess(folder, size))
    tokenizer = ClipTokenizer(architecture["text_cfg"]["context_length"])
    return Model(clip, ModelCard(config.name, architecture, preprocess, captions), tokenizer)


def _transformers_preprocess(folder: Path, size: int) -> Preprocess:
    file = folder / "preprocessor_config.json"
    saved = json.loads(file.read_text()) if file.is_file() else {}
    given = {"mean": saved.get("image_mean"), "std": saved.get("image_std")}
    statistics: dict[str, Any] = {k: tuple(v) for k, v in given.items() if v}
    return Preprocess(size=(size, size), **statistics)


def _weights_file(folder: Path, name: str) -> Path:
    file = folder / name
    if not file.is_file():
        raise UserError(f"expected {name} in {folder}, found {sorted(p.name for p in folder.iterdir())}")
    return file
