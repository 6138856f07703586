"""A model in a folder of `transformers` or of open_clip: a config, safetensors, preprocessing and tokenizer.

    image, text = to_open_clip(load_checkpoint("runs/mine/best"), folder)

Each function writes into an existing folder and returns the towers as the other library loads them from there; what it
cannot hold is refused before the weights are written.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from fclip.errors import UserError
from fclip.export_tokenizer import cleaning, write_tokenizer
from fclip.files import write_json
from fclip.model import Model
from fclip.transformers_clip import (
    architecture_to_transformers,
    preprocess_to_transformers,
    state_to_transformers,
    unlike_clip,
)

Towers = tuple[Callable[[Tensor], Tensor], Callable[[Sequence[str]], Tensor]]
"""uint8 pixels (B, 3, H, W) → vectors (B, D), and texts → vectors (B, D); of any length."""


# transformers


def to_transformers(model: Model, folder: Path) -> Towers:
    from transformers import CLIPConfig, CLIPModel

    _refuse_stn(model, "transformers")
    tokenizer = write_tokenizer(model.tokenizer, folder)
    _refuse_unlike_clip(model, folder)
    config = CLIPConfig.from_dict(architecture_to_transformers(model.card.architecture, tokenizer))
    with torch.device("meta"):  # only its names are wanted
        names = CLIPModel(config).state_dict()
    state = state_to_transformers(_state(model), names)
    save_file(state, str(folder / "model.safetensors"), metadata={"format": "pt"})
    config.save_pretrained(folder)
    write_json(folder / "preprocessor_config.json", preprocess_to_transformers(model.preprocess))
    return _transformers_towers(model, folder)


def _transformers_towers(model: Model, folder: Path) -> Towers:
    from transformers import AutoTokenizer, CLIPModel

    clip, tokenizer = CLIPModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)

    def pooled(output: Any) -> Tensor:  # 5 returns outputs whose pooled part is already projected; 4 the projection
        return getattr(output, "pooler_output", output)

    def image(pixels: Tensor) -> Tensor:
        return pooled(clip.get_image_features(pixel_values=model.preprocess.normalise(pixels)))

    def text(texts: Sequence[str]) -> Tensor:
        tokens = tokenizer(list(texts), padding="max_length", truncation=True, return_tensors="pt")
        return pooled(clip.get_text_features(input_ids=tokens.input_ids))

    return image, text


def _refuse_stn(model: Model, to: str) -> None:
    if model.card.architecture.get("stn"):
        raise UserError(f"{to} has no place for a spatial transformer in front of the image tower; use --to onnx")


def _refuse_unlike_clip(model: Model, folder: Path) -> None:
    what = unlike_clip(model.card.architecture)
    if not what and model.preprocess.resize_mode == "longest":
        what = "padded pictures (resize_mode longest)"
    if not what and cleaning(folder):
        what = f"a tokenizer with options ({cleaning(folder)})"
    if what:
        raise UserError(
            f"transformers' CLIP is a ViT beside CLIP's text tower, this model has {what}; use --to open_clip"
        )


# open_clip


def to_open_clip(model: Model, folder: Path) -> Towers:
    _refuse_stn(model, "open_clip")
    _refuse_timm_tower(model)
    write_tokenizer(model.tokenizer, folder)
    text = dict(model.card.architecture["text_cfg"])
    if model.tokenizer.kind != "clip":
        text.setdefault("hf_tokenizer_name", "tokenizer.json")  # in a folder any will do; on the hub the repository's
        text["tokenizer_kwargs"] = cleaning(folder)
    architecture = model.card.architecture | {"text_cfg": text}
    preprocess = {"mode": "RGB", **{k: v for k, v in asdict(model.preprocess).items() if k != "resize"}}
    write_json(folder / "open_clip_config.json", {"model_cfg": architecture, "preprocess_cfg": preprocess})
    save_file(_state(model), str(folder / "open_clip_model.safetensors"), metadata={"format": "pt"})
    return _open_clip_towers(model, folder)


def _open_clip_towers(model: Model, folder: Path) -> Towers:
    import open_clip

    try:
        clip: Any = open_clip.create_model(f"local-dir:{folder}").eval()
        tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
    except Exception as error:  # torch's, timm's and open_clip's own errors have no common base
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"open_clip cannot load this model: {reason}; use --to onnx") from None
    return (
        lambda pixels: clip.encode_image(model.preprocess.normalise(pixels)),
        lambda texts: clip.encode_text(tokenizer(list(texts))),
    )


def _refuse_timm_tower(model: Model) -> None:
    """Refuses what open_clip cannot make: it knows timm's towers alone, and at the size that they come in."""
    name = model.card.architecture["vision_cfg"].get("timm_model_name")
    if not name:
        return
    import timm

    trunk = model.clip.visual.trunk
    if timm.model_entrypoint(name).__module__.startswith("fclip."):
        raise UserError(f"open_clip has no image tower {name}, which is fclip's own; use --to onnx")
    made, own = getattr(trunk, "patch_embed", None), tuple(trunk.default_cfg["input_size"][1:])
    if hasattr(trunk, "set_input_size") and made is not None and tuple(made.img_size) != own:
        size = "x".join(map(str, made.img_size))
        raise UserError(f"open_clip makes {name} for {own[0]}x{own[1]} pixels only, this one has {size}; use --to onnx")


def _state(model: Model) -> dict[str, Tensor]:
    return {name: tensor.detach().contiguous() for name, tensor in model.clip.state_dict().items()}
