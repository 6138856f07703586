"""Models from folders of three forms, told apart by their config files: embeddings as there, or one line why not.

    model = folder_model("weights/marqo-fashionSigLIP", ModelConfig(), captions)

model.json              an fclip checkpoint (`fclip.checkpoint`)
open_clip_config.json   an open_clip hub folder: open_clip_model.safetensors or open_clip_pytorch_model.bin
config.json             a `transformers` CLIP folder, FashionCLIP's form: model.safetensors, its shards, or
                        pytorch_model.bin. Tokenizer and pictures are compared with the model's own numbers.
"""

from __future__ import annotations

import copy
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from fclip.captions import Captions
from fclip.config import ModelConfig
from fclip.errors import UserError
from fclip.files import expand, read_json
from fclip.model import Model, ModelCard, Preprocess, instantiate
from fclip.tokenizer import ClipTokenizer, HuggingFaceTokenizer, Tokenizer
from fclip.transformers_clip import architecture_from_transformers, state_from_transformers
from fclip.weights import load_state, read_folder_weights

CONFIGS = ("model.json", "open_clip_config.json", "config.json")
WEIGHTS = {  # by the config's name, best first
    "open_clip_config.json": ("open_clip_model.safetensors", "open_clip_pytorch_model.bin"),
    "config.json": ("model.safetensors", "pytorch_model.bin"),
}
CLIP_VOCABULARY = 49408
CLIP_END = 49407  # of a text; 2 in configs of old releases, which pooled where the id is highest
RESAMPLE = {2: "bilinear", 3: "bicubic"}  # Pillow's numbers
HOW_OFFLINE = (
    "is the hub reachable? A local copy of the folder can be given in its place: "
    "model.name=FOLDER, or beside a published name model.weights=FILE or FOLDER"
)


def is_model_folder(folder: str | Path) -> bool:
    """Whether a folder holds a model of one of the three forms."""
    return any((Path(folder) / name).is_file() for name in CONFIGS)


def folder_model(folder: str | Path, config: ModelConfig, captions: Captions) -> Model:
    """A model from a folder.

    Args:
        folder: of any of the three forms.
        config: what overrides the folder's own: image_size, resize_mode, mean, std, allow_mismatched_weights.
        captions: travel with the model.

    Raises:
        UserError: no such folder, or one whose parts do not fit together.
    """
    folder = Path(expand(folder))
    found = [name for name in CONFIGS if (folder / name).is_file()]
    if not found:
        raise UserError(f"expected {', '.join(CONFIGS[:2])} or {CONFIGS[2]} in {folder}; is it a model's folder?")
    make = {"model.json": _checkpoint, "open_clip_config.json": _open_clip_folder, "config.json": _transformers_folder}
    clip, architecture, own, tokenizer = make[found[0]](folder, config)
    return Model(clip, ModelCard(config.name, architecture, with_overrides(config, own), captions), tokenizer)


def download(hub_name: str) -> Path:
    """A hub folder's local copy: the configs, the tokenizer and one file of weights.

    Raises:
        UserError: not reachable, and not in the cache.
    """
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(hub_name, allow_patterns=["*.json", "*.txt", "*.model"]))
        for name in next((files for config, files in WEIGHTS.items() if (folder / config).is_file()), ()):
            snapshot_download(hub_name, allow_patterns=[name, _shards(name)])
            if (folder / name).is_file() or (folder / f"{name}.index.json").is_file():
                break
    except Exception as error:  # the hub's own errors have no common base
        reason = re.split(r"\.\s", " ".join(str(error).split()))[0].rstrip(".")  # the hub tells several sentences
        raise UserError(f"cannot fetch {hub_name}: {reason}; {HOW_OFFLINE}") from None
    return folder


def _shards(name: str) -> str:
    return name.replace(".", "-*-of-*.")


def with_overrides(config: ModelConfig, own: Preprocess) -> Preprocess:
    """The weights' own preprocessing with what the preset overrides."""
    wanted: dict[str, Any] = {
        "size": config.image_size,
        "resize_mode": config.resize_mode,
        "mean": config.mean,
        "std": config.std,
    }
    return replace(own, **{k: v for k, v in wanted.items() if v is not None})


def load_clip(
    architecture: dict[str, Any], state: dict[str, Tensor], where: str, config: ModelConfig
) -> tuple[nn.Module, dict[str, Any]]:
    """open_clip's model with these weights, at the image size that the preset asks for.

    Returns: the model, and its architecture with that size.

    Raises:
        UserError: weights that do not fit, or a tower that cannot take that size.
    """
    clip = _instantiate(architecture, where)
    load_state_of_any_name(clip, state, where, config.allow_mismatched_weights)
    size = config.image_size
    if size is None or size == _image_size(architecture):
        return clip, architecture
    resized = copy.deepcopy(architecture)
    resized["vision_cfg"]["image_size"] = list(size)
    try:
        other = _instantiate(resized, where)
        load_state(other, _resized_state(clip, other, _image_size(architecture), size), where)
    except (UserError, RuntimeError):  # positions in a grid that is not square, or a pooling tied to its size: RN50
        raise UserError(
            f"the image tower of {where} cannot take pictures of {size[0]}x{size[1]}; leave model.image_size out"
        ) from None
    return other, resized


def _resized_state(clip: Any, other: Any, own: tuple[int, int], size: tuple[int, int]) -> dict[str, Tensor]:
    """The weights of `clip` with positions interpolated as open_clip does, from a grid that it takes for square."""
    from open_clip.model import resize_pos_embed

    if hasattr(clip.visual, "trunk"):
        clip.visual.set_input_size(size)  # timm's own
    elif own[0] != own[1]:
        raise UserError("open_clip takes the grid for square")
    state = clip.state_dict()
    resize_pos_embed(state, other)
    return state


def _image_size(architecture: dict[str, Any]) -> tuple[int, int]:
    size = architecture["vision_cfg"].get("image_size", 224)
    return (size[0], size[1]) if isinstance(size, (list, tuple)) else (size, size)


def load_state_of_any_name(clip: Any, state: dict[str, Tensor], where: str, fit_only: bool = False) -> None:
    """Loads weights under open_clip's names now or in older releases, Apple's, or those of `transformers`."""
    from open_clip.convert import convert_state_dict
    from open_clip.model import convert_to_custom_text_state_dict

    if any(name.startswith("vision_model.") for name in state):
        state = state_from_transformers(state)
    state = convert_state_dict(clip, dict(state))  # Apple's
    if not hasattr(clip, "positional_embedding"):  # a text tower of its own: .text
        state = convert_to_custom_text_state_dict(state)
    if getattr(clip, "logit_bias", None) is not None:  # embeddings do not need it, so open_clip fills it in
        state.setdefault("logit_bias", clip.logit_bias.new_zeros(()))
    for name in ("logit_scale", "logit_bias"):  # a number, or a vector of one
        if name in state and getattr(clip, name, None) is not None and state[name].numel() == 1:
            state[name] = state[name].reshape(getattr(clip, name).shape)
    load_state(clip, state, where, fit_only, hint="; model.allow_mismatched_weights=true loads what fits")


def _instantiate(architecture: dict[str, Any], where: str) -> nn.Module:
    try:
        return instantiate(architecture)
    except UserError:
        raise
    except Exception as error:  # a key that open_clip does not know, a tower that timm does not know
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"open_clip cannot build the architecture of {where}: {reason}; update open_clip?") from None


Parts = tuple[nn.Module, dict[str, Any], Preprocess, Tokenizer]


def _checkpoint(folder: Path, config: ModelConfig) -> Parts:
    from fclip.checkpoint import load_checkpoint

    model = load_checkpoint(folder)
    clip, architecture = model.clip, model.card.architecture
    if config.image_size is not None and config.image_size != model.preprocess.size:
        if "stn" in architecture:
            raise UserError(f"{folder} has a spatial transformer made for its image size; leave model.image_size out")
        clip, architecture = load_clip(architecture, clip.state_dict(), str(folder), config)
    return clip, architecture, model.preprocess, model.tokenizer


def _open_clip_folder(folder: Path, config: ModelConfig) -> Parts:
    saved = read_json(folder / "open_clip_config.json", "open_clip's config")
    architecture = saved.get("model_cfg", saved)  # DFN's folders hold the architecture alone
    if not {"embed_dim", "vision_cfg", "text_cfg"} <= architecture.keys():
        raise UserError(f"expected model_cfg with embed_dim, vision_cfg and text_cfg in {folder}/open_clip_config.json")
    state = read_folder_weights(folder, WEIGHTS["open_clip_config.json"])
    clip, architecture = load_clip(architecture, state, str(folder), config)
    text = architecture["text_cfg"]
    length = text.get("context_length", 77)
    own_files = "hf_tokenizer_name" in text
    options = text.get("tokenizer_kwargs", {})
    tokenizer = HuggingFaceTokenizer(folder, length, **options) if own_files else ClipTokenizer(length)
    own = Preprocess.from_open_clip({"size": _image_size(architecture)} | saved.get("preprocess_cfg", {}))
    return clip, architecture, own, tokenizer


def _transformers_folder(folder: Path, config: ModelConfig) -> Parts:
    saved = read_json(folder / "config.json", "a transformers config")
    if saved.get("model_type") != "clip":
        raise UserError(f"expected model_type clip in {folder}, got {saved.get('model_type')!r}")
    architecture = architecture_from_transformers(saved)
    tokenizer = _transformers_tokenizer(folder, saved, architecture["text_cfg"])
    own = _transformers_preprocess(folder, _image_size(architecture))
    state = state_from_transformers(read_folder_weights(folder, WEIGHTS["config.json"]))
    clip, architecture = load_clip(architecture, state, str(folder), config)
    return clip, architecture, own, tokenizer


def _transformers_tokenizer(folder: Path, saved: dict[str, Any], text: dict[str, Any]) -> Tokenizer:
    """CLIP's own, or the folder's where it says that it has another, whose end token must be the highest."""
    file = folder / "tokenizer_config.json"
    kind = read_json(file, "a tokenizer's config").get("tokenizer_class") if file.is_file() else None
    if kind is None or kind.startswith("CLIPTokenizer"):
        _check_texts(folder, saved, text)
        return ClipTokenizer(text["context_length"])
    tokenizer = HuggingFaceTokenizer(folder, text["context_length"])
    ends = {max(row.tolist()) for row in tokenizer(["a", "a red dress"])}
    if ends != {text["vocab_size"] - 1} or tokenizer.vocab_size != text["vocab_size"]:
        raise UserError(
            f"expected a tokenizer of {text['vocab_size']} tokens whose last one ends a text in {folder}, where the "
            f"text tower pools; got {tokenizer.vocab_size} tokens, the highest of a text {max(ends)}"
        )
    return tokenizer


def _check_texts(folder: Path, saved: dict[str, Any], text: dict[str, Any]) -> None:
    """Raises UserError where CLIP's own tokenizer would not give this text tower what it was trained on."""
    from transformers import CLIPConfig

    if text["vocab_size"] != CLIP_VOCABULARY:
        raise UserError(
            f"expected CLIP's vocabulary of {CLIP_VOCABULARY} tokens in {folder}, got {text['vocab_size']}: added "
            "tokens change where the text tower pools; save the model without them"
        )
    end = CLIPConfig.from_dict(saved).text_config.eos_token_id  # type: ignore[union-attr]
    if end not in (2, CLIP_END):
        raise UserError(f"expected eos_token_id {CLIP_END} (or 2, of old releases) in {folder}, got {end}")
    file = folder / "tokenizer_config.json"
    longest = read_json(file, "a tokenizer's config").get("model_max_length") if file.is_file() else None
    # A tokenizer that was saved without a limit says 1e30.
    if longest is not None and longest < 1e6 and longest != text["context_length"]:
        raise UserError(
            f"{file} cuts texts at {longest} tokens, config.json has {text['context_length']} positions; "
            "make model_max_length equal to max_position_embeddings"
        )


def _transformers_preprocess(folder: Path, size: tuple[int, int]) -> Preprocess:
    """What preprocessor_config.json says, checked against `size`; CLIPImageProcessor's defaults where it is silent."""
    file = folder / "preprocessor_config.json"
    saved = read_json(file, "how pictures are prepared") if file.is_file() else {}
    for step in ("do_resize", "do_rescale"):
        if not saved.get(step, True):
            raise UserError(f"{file} has {step} false, so pictures would enter in another form; set it to true")
    resample = saved.get("resample", 3)
    if resample not in RESAMPLE:
        raise UserError(f"expected resample {' or '.join(map(str, RESAMPLE))} in {file}, got {resample}")
    statistics: dict[str, Any] = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
    if saved.get("do_normalize", True):
        given = {"mean": saved.get("image_mean"), "std": saved.get("image_std")}
        statistics = {k: tuple(v) for k, v in given.items() if v}
    mode = _resize_mode(saved, size, file)
    return Preprocess(size=size, interpolation=RESAMPLE[resample], resize_mode=mode, **statistics)


def _resize_mode(saved: dict[str, Any], size: tuple[int, int], file: Path) -> str:
    """shortest (the shorter side, then a centre crop) or squash (both sides); anything else is refused."""
    given = saved.get("size", size[0])
    given = {"shortest_edge": given} if isinstance(given, int) else given
    crop = saved.get("crop_size", given.get("shortest_edge", size[0]))
    crop = {"height": crop, "width": crop} if isinstance(crop, int) else crop
    cropped = (crop.get("height"), crop.get("width")) if saved.get("do_center_crop", True) else None
    if "shortest_edge" in given and cropped == size and given["shortest_edge"] == min(size):
        return "shortest"
    if (given.get("height"), given.get("width")) == size and cropped in (None, size):
        return "squash"
    wanted = {"size": given} | ({"crop_size": crop} if cropped else {"do_center_crop": False})
    raise UserError(f"{file} prepares pictures with {wanted}, the model takes {size[0]}x{size[1]}; make them agree")
