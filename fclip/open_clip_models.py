"""open_clip's architectures by name: random weights, those of a file, or those of one of its tags.

model = open_clip_model(ModelConfig(name="ViT-B-32-quickgelu", weights="openai"), captions)

open_clip only warns where weights were trained with another activation than the architecture has; here that is refused.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from fclip.captions import Captions
from fclip.config import ModelConfig
from fclip.errors import UserError, nearest
from fclip.files import expand
from fclip.folders import HOW_OFFLINE, load_clip, with_overrides
from fclip.model import Model, ModelCard, Preprocess, instantiate
from fclip.published import PUBLISHED
from fclip.timm_tower import near
from fclip.tokenizer import ClipTokenizer, HuggingFaceTokenizer, Tokenizer, TrainedTokenizer
from fclip.weights import read_weights

PREPROCESSING = ("mean", "std", "interpolation", "resize_mode")  # what open_clip knows of a tag's pictures


def open_clip_model(config: ModelConfig, captions: Captions, texts: Iterable[str] = ()) -> Model:
    """The architecture `config.name` with the weights that `config.weights` names.

    Args:
        config: name, weights, image_size, tokenizer and preprocessing.
        captions: travel with the model.
        texts: the training captions, for a trained tokenizer.

    Raises:
        UserError: an unknown name, unreachable weights, or weights of another architecture.
    """
    import open_clip

    if config.name not in open_clip.list_models():
        names = [*open_clip.list_models(), *PUBLISHED]
        raise UserError(
            f"no model {config.name!r}; {near(config.name, names)}; or a folder, timm:NAME, hf-hub:owner/name"
        )
    if config.weights is None:
        return _from_scratch(config, captions, texts)
    file = Path(expand(config.weights))
    make = _from_file if file.is_file() else _from_tag
    return make(config, captions)


def _from_file(config: ModelConfig, captions: Captions) -> Model:
    """A file of weights; its tokenizer may lie beside it, as in a hub's folder."""
    import open_clip

    file = Path(expand(config.weights or ""))
    clip, architecture = load_clip(open_clip.get_model_config(config.name), read_weights(file), str(file), config)
    tokenizer = _published_tokenizer(config.name, architecture["text_cfg"], file.parent)
    own = Preprocess.from_open_clip(
        tags_preprocessing(config.name) | {"size": architecture["vision_cfg"]["image_size"]}
    )
    return Model(clip, ModelCard(config.name, architecture, with_overrides(config, own), captions), tokenizer)


def tags_preprocessing(name: str) -> dict[str, Any]:
    """How open_clip's own weights of an architecture want their pictures; CLIP's way where they differ or are none."""
    from open_clip import get_pretrained_cfg
    from open_clip.pretrained import list_pretrained_tags_by_model

    known = [get_pretrained_cfg(name, tag) for tag in list_pretrained_tags_by_model(name)]
    found = [{key: cfg[key] for key in PREPROCESSING} for cfg in known]
    return found[0] if found and all(cfg == found[0] for cfg in found) else {}


def _from_tag(config: ModelConfig, captions: Captions) -> Model:
    """Weights that open_clip knows by name."""
    import open_clip

    _check_tag(config.name, config.weights or "")
    size = {"force_image_size": config.image_size} if config.image_size else {}
    architecture = open_clip.get_model_config(config.name)
    logging.disable(logging.ERROR)  # open_clip would log beside what is raised
    try:
        clip = open_clip.create_model(config.name, pretrained=config.weights, require_pretrained=True, **size)
        tokenizer = _published_tokenizer(config.name, architecture["text_cfg"])
    except UserError:
        raise
    except Exception as error:  # the hub's, torch's and open_clip's own errors have no common base
        reason = " ".join(str(error).split())[:300]  # torch lists missing and unexpected keys on further lines
        raise UserError(f"cannot load {config.name} {config.weights}: {reason}; {HOW_OFFLINE}") from None
    finally:
        logging.disable(logging.NOTSET)
    if config.image_size:
        architecture["vision_cfg"]["image_size"] = list(config.image_size)
    own = Preprocess.from_open_clip(clip.visual.preprocess_cfg)
    return Model(clip, ModelCard(config.name, architecture, with_overrides(config, own), captions), tokenizer)


def _check_tag(name: str, tag: str) -> None:
    """Raises UserError for an unknown tag, or one trained with another activation: open_clip only warns of that."""
    import open_clip
    from open_clip.pretrained import list_pretrained_tags_by_model

    tags, plain = list_pretrained_tags_by_model(name), name.removesuffix("-quickgelu")
    other = f"{name}-quickgelu" if name == plain else plain
    quick = bool(open_clip.get_model_config(name).get("quick_gelu", False))
    known = open_clip.get_pretrained_cfg(name, tag) or open_clip.get_pretrained_cfg(other, tag)
    if known and known.get("quick_gelu", False) != quick and other in open_clip.list_models():
        needs = "plain GELU" if quick else "QuickGELU"
        raise UserError(f"{name} with tag {tag} needs {needs}: name it {other}")
    if not open_clip.get_pretrained_cfg(name, tag):
        raise UserError(f"no file {tag}, and no tag of {name} by that name; {nearest(tag, tags)}")


def _from_scratch(config: ModelConfig, captions: Captions, texts: Iterable[str]) -> Model:
    import open_clip

    architecture = open_clip.get_model_config(config.name)
    if config.image_size:
        architecture["vision_cfg"]["image_size"] = list(config.image_size)
    text = architecture["text_cfg"]
    if config.tokenizer == "trained":
        tokenizer: Tokenizer = TrainedTokenizer.train(texts, config.vocab_size, config.context_length)
        text.pop("hf_tokenizer_name", None)
        text |= {"vocab_size": tokenizer.vocab_size, "context_length": tokenizer.context_length}
    else:
        tokenizer = _published_tokenizer(config.name, text)
    size = architecture["vision_cfg"]["image_size"]
    own = Preprocess(size=tuple(size) if isinstance(size, (list, tuple)) else (size, size))
    card = ModelCard(config.name, architecture, with_overrides(config, own), captions)
    return Model(instantiate(architecture), card, tokenizer)


def _published_tokenizer(name: str, text_cfg: dict[str, Any], beside: Path | None = None) -> Tokenizer:
    """An architecture's tokenizer, from the folder `beside` the weights where its files are, else from the hub."""
    length = text_cfg.get("context_length", 77)
    source = text_cfg.get("hf_tokenizer_name")
    if not source:
        return ClipTokenizer(length)
    local = beside is not None and (beside / "tokenizer.json").is_file()
    return HuggingFaceTokenizer(beside if local and beside else source, length, **text_cfg.get("tokenizer_kwargs", {}))
