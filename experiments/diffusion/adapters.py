"""Low-rank adapters of a diffusion pipeline: put in, taken out in diffusers' own format.

add_adapters(pipe, AdapterConfig(rank=16))
save_adapters(pipe, folder)             # pipe.load_lora_weights(folder) reads it; so does `generate --lora`
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from experiments.diffusion.config import AdapterConfig
from fclip.errors import UserError

UNET_LAYERS = ("to_q", "to_k", "to_v", "to_out.0")  # of its attention
TEXT_LAYERS = ("q_proj", "k_proj", "v_proj", "out_proj")
PARTS = ("unet", "text_encoder")


def check_trainable(pipe: Any) -> None:
    """Raises UserError for a pipeline whose training differs from Stable Diffusion 1 and 2."""
    from diffusers import StableDiffusionPipeline

    if not isinstance(pipe, StableDiffusionPipeline):
        raise UserError(
            f"adapters are trained for Stable Diffusion 1.x and 2.x, got a {type(pipe).__name__}; train its adapters "
            "with diffusers' own scripts and give them to generate --lora"
        )
    kind = pipe.scheduler.config.get("prediction_type", "epsilon")
    if kind not in ("epsilon", "v_prediction"):
        raise UserError(f"expected a model that tells noise or velocity, got prediction_type {kind!r}")


def add_adapters(pipe: Any, config: AdapterConfig) -> None:
    """Puts adapters into the UNet (and the text encoder), and freezes all else; their updates start at zero."""
    from diffusers.training_utils import cast_training_params
    from peft import LoraConfig

    for part in (pipe.unet, pipe.vae, pipe.text_encoder):
        part.requires_grad_(False)
    ranks = {"unet": (config.rank, UNET_LAYERS), "text_encoder": (config.text_rank, TEXT_LAYERS)}
    for name, (rank, layers) in ranks.items():
        if not rank:
            continue
        options = LoraConfig(
            r=rank,
            lora_alpha=config.alpha * rank / config.rank,  # type: ignore[arg-type]  # only ever divided by the rank
            lora_dropout=config.dropout,
            init_lora_weights="gaussian",
            target_modules=list(layers),
        )
        getattr(pipe, name).add_adapter(options)
        cast_training_params(getattr(pipe, name), torch.float32)


def adapter_state(pipe: Any) -> dict[str, Tensor]:
    """The adapters' weights by name, on the CPU."""
    return {
        f"{part}.{name}": parameter.detach().cpu().clone()
        for part in PARTS
        for name, parameter in getattr(pipe, part).named_parameters()
        if ".lora_" in name
    }


def take_adapter_state(pipe: Any, state: dict[str, Tensor]) -> None:
    """Goes on with weights that `adapter_state` gave.

    Raises:
        UserError: of other adapters.
    """
    now = {
        f"{part}.{name}": p for part in PARTS for name, p in getattr(pipe, part).named_parameters() if ".lora_" in name
    }
    if now.keys() != state.keys() or any(now[name].shape != value.shape for name, value in state.items()):
        raise UserError("the checkpoint's adapters are of another model or rank; resume with the preset it had")
    with torch.no_grad():
        for name, value in state.items():
            now[name].copy_(value)


def save_adapters(pipe: Any, folder: Path) -> None:
    """Writes pytorch_lora_weights.safetensors, with rank and alpha in it."""
    from diffusers import StableDiffusionPipeline
    from diffusers.training_utils import _collate_lora_metadata
    from diffusers.utils import convert_state_dict_to_diffusers
    from peft.utils import get_peft_model_state_dict

    adapted = {name: getattr(pipe, name) for name in PARTS if hasattr(getattr(pipe, name), "peft_config")}
    layers = {
        f"{name}_lora_layers": convert_state_dict_to_diffusers(get_peft_model_state_dict(module))
        for name, module in adapted.items()
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        StableDiffusionPipeline.save_lora_weights(folder, **layers, **_collate_lora_metadata(adapted))
