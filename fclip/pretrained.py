"""Building a model: by published name, open_clip architecture, timm tower, or folder; weights in without loss.

fashionclip, siglip …         a published model (`fclip models`); `weights` may be its file or folder on this machine
ViT-B-32-quickgelu            an open_clip architecture; `weights` is one of its tags or a file
hf-hub:owner/name             an open_clip or `transformers` CLIP folder on the hub
timm:mobilenetv2_100          a timm image tower beside a small text tower from scratch; NAME.TAG: timm's weights
image:resnet50+max            an image tower alone, to be measured and asked with pictures (`fclip.image_only`)
some/folder                   fclip checkpoint, `transformers` CLIP folder, or open_clip hub folder (`fclip.folders`)
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from fclip.captions import Captions, captions_for
from fclip.config import ModelConfig
from fclip.errors import UserError, nearest
from fclip.files import expand
from fclip.folders import download, folder_model, is_model_folder
from fclip.model import Model, ModelCard, Preprocess, instantiate
from fclip.open_clip_models import open_clip_model
from fclip.published import PUBLISHED
from fclip.timm_tower import timm_preprocess, timm_vision_cfg, timm_weights
from fclip.tokenizer import ClipTokenizer, Tokenizer, TrainedTokenizer
from fclip.variants import with_image_tower, with_stn
from fclip.weights import load_image_state, load_image_weights, load_state, read_weights

__all__ = ["build_model", "is_model", "load_state", "open_model", "read_weights"]
HUB = "hf-hub:"
IMAGE = "image:"


def build_model(config: ModelConfig, captions: Captions, texts: Iterable[str] = ()) -> Model:
    """Builds the model that a preset asks for.

    Args:
        config: which towers and weights.
        captions: travel with the model.
        texts: the training captions, for a trained tokenizer.

    Raises:
        UserError: an unknown name, unreachable weights, or weights of another architecture.
    """
    model = _named_model(replace(config, image_size=None) if config.image_tower else config, captions, texts)
    if config.image_tower:
        model = with_image_tower(model, config)
    _load_image_weights(model, config)
    return model if config.stn.transform == "none" else with_stn(model, config.stn)


def _named_model(config: ModelConfig, captions: Captions, texts: Iterable[str]) -> Model:
    """What `name` and `weights` say."""
    if config.name.startswith("timm:"):
        return _timm_model(config, captions, texts)
    if config.name in PUBLISHED:
        return _published_model(config, captions)
    if config.name.startswith(IMAGE):
        raise UserError(f"{config.name} has no text tower to train; timm:NAME puts one beside a timm tower")
    if config.name.startswith(HUB):
        return folder_model(download(config.name.removeprefix(HUB)), config, captions)
    if Path(expand(config.name)).is_dir():
        if config.weights:
            raise UserError(f"the folder {config.name} brings its weights; leave model.weights={config.weights} out")
        return folder_model(config.name, config, captions)
    return open_clip_model(config, captions, texts)


def _load_image_weights(model: Model, config: ModelConfig) -> None:
    """Weights of the image tower alone: from a file, or from timm where the tower's name has a tag."""
    tower = config.image_tower or (config.name.removeprefix("timm:") if config.name.startswith("timm:") else "")
    if config.image_weights:
        load_image_weights(model.clip.visual, expand(config.image_weights))
    elif "." in tower:
        load_image_state(model.clip.visual, timm_weights(tower, model.preprocess.size), tower)


def open_model(source: str | Path, groups: Sequence[str]) -> Model:
    """The model that a `--checkpoint` names, in evaluation mode, on the CPU, with its fingerprint.

    Args:
        source: an fclip checkpoint, another model's folder, a published name, NAME:FILE for a published model whose
            weights lie in a file, hf-hub:owner/name, or a tower without text, image:NAME.
        groups: the catalogue's attribute groups of words, which models that are not our own are asked about.

    Raises:
        UserError: none of these, or as `build_model`.
    """
    from fclip.checkpoint import is_checkpoint, load_checkpoint

    if not is_model(source):
        _refuse_unknown(str(source))
    if is_checkpoint(expand(source)) or not is_model(source):
        return load_checkpoint(source)  # or its own error
    if str(source).startswith(IMAGE):
        from fclip.image_only import image_model

        model = image_model(str(source), groups)
        model.fingerprint = _fingerprint(model)
        return model
    name, _, file = str(source).partition(":")
    config = ModelConfig(name=name, weights=file) if name in PUBLISHED and file else ModelConfig(name=str(source))
    captions = captions_for(groups or ["category"])  # a catalogue without attributes can be searched all the same
    model = build_model(config, captions).eval()
    model.fingerprint = _fingerprint(model)
    return model


def is_model(source: str | Path) -> bool:
    """Whether `open_model` knows what this names: a published model, one on the hub, a tower, or a model's folder."""
    text = str(source)
    return text.partition(":")[0] in PUBLISHED or text.startswith((HUB, IMAGE)) or is_model_folder(expand(source))


def _refuse_unknown(source: str) -> None:
    """Raises UserError for what looks like a name; paths get the error of `load_checkpoint`."""
    if "/" not in source and not Path(expand(source)).exists():
        raise UserError(
            f"no checkpoint folder {source}, and no published model of that name; {nearest(source, PUBLISHED)}; "
            "training writes OUT/best and OUT/last"
        )


def _fingerprint(model: Model) -> str:
    """As `save_checkpoint` would give it: of the weights in the form of safetensors."""
    from safetensors.torch import save

    state = {k: v.detach().cpu().contiguous() for k, v in model.clip.state_dict().items()}
    return hashlib.sha256(save(state, model.weights_header())).hexdigest()[:16]


def _published_model(config: ModelConfig, captions: Captions) -> Model:
    entry = PUBLISHED[config.name]
    if config.weights:
        given = Path(expand(config.weights))
        if given.is_dir():
            return folder_model(given, config, captions)
        if not given.is_file():
            raise UserError(f"expected a file or folder for {config.name} in model.weights, found no {given}")
        model = open_clip_model(replace(config, name=entry.architecture), captions, ())
    elif entry.form == "file":
        raise UserError(
            f"{config.name} is a file to download: {entry.source}; then set model.weights=FILE, "
            f"or {config.name}:FILE where a checkpoint is asked for"
        )
    elif entry.form == "open_clip tag":
        model = open_clip_model(replace(config, name=entry.architecture, weights=entry.source), captions, ())
    else:
        return folder_model(download(entry.source), config, captions)
    model.card = replace(model.card, name=config.name)
    return model


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
