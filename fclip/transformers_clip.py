"""`transformers` CLIP folders, FashionCLIP's published form, under open_clip's names, exactly.

The differences: names; q, k and v in one matrix; projections transposed; the activation in the config.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from fclip.errors import UserError

NAMES = (  # a part of transformers' name → of open_clip's, applied in this order
    ("vision_model.encoder.layers.", "visual.transformer.resblocks."),
    ("text_model.encoder.layers.", "transformer.resblocks."),
    ("vision_model.embeddings.class_embedding", "visual.class_embedding"),
    ("vision_model.embeddings.patch_embedding.weight", "visual.conv1.weight"),
    ("vision_model.embeddings.position_embedding.weight", "visual.positional_embedding"),
    ("vision_model.pre_layrnorm.", "visual.ln_pre."),
    ("vision_model.post_layernorm.", "visual.ln_post."),
    ("text_model.embeddings.token_embedding.", "token_embedding."),
    ("text_model.embeddings.position_embedding.weight", "positional_embedding"),
    ("text_model.final_layer_norm.", "ln_final."),
    (".layer_norm1.", ".ln_1."),
    (".layer_norm2.", ".ln_2."),
    (".self_attn.out_proj.", ".attn.out_proj."),
    (".self_attn.q_proj.", ".attn.in_proj_"),
    (".mlp.fc1.", ".mlp.c_fc."),
    (".mlp.fc2.", ".mlp.c_proj."),
)
PROJECTIONS = {"visual_projection.weight": "visual.proj", "text_projection.weight": "text_projection"}


def architecture_from_transformers(saved: dict[str, Any]) -> dict[str, Any]:
    """open_clip's `model_cfg` of a transformers CLIP `config.json`; values left out there are CLIPConfig's defaults."""
    from transformers import CLIPConfig

    config = CLIPConfig.from_dict(saved)
    vision: Any = config.vision_config
    text: Any = config.text_config
    if vision.hidden_act != text.hidden_act or vision.hidden_act not in ("quick_gelu", "gelu"):
        raise UserError(f"expected quick_gelu or gelu in both towers, got {vision.hidden_act} and {text.hidden_act}")
    if (vision.layer_norm_eps, text.layer_norm_eps) != (1e-5, 1e-5):
        raise UserError(f"expected layer_norm_eps 1e-5, got {vision.layer_norm_eps} and {text.layer_norm_eps}")
    return {
        "embed_dim": config.projection_dim,
        "quick_gelu": vision.hidden_act == "quick_gelu",
        "vision_cfg": {
            "image_size": vision.image_size,
            "layers": vision.num_hidden_layers,
            "width": vision.hidden_size,
            "head_width": vision.hidden_size // vision.num_attention_heads,
            "mlp_ratio": _ratio(vision),
            "patch_size": vision.patch_size,
        },
        "text_cfg": {
            "context_length": text.max_position_embeddings,
            "vocab_size": text.vocab_size,
            "width": text.hidden_size,
            "heads": text.num_attention_heads,
            "layers": text.num_hidden_layers,
            "mlp_ratio": _ratio(text),
        },
    }


def _ratio(tower: Any) -> float:
    """The ratio from which open_clip gets the inner width back: it rounds width * ratio down."""
    ratio = tower.intermediate_size / tower.hidden_size
    exact = int(tower.hidden_size * ratio) == tower.intermediate_size
    return ratio if exact else math.nextafter(ratio, math.inf)


def state_from_transformers(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """transformers' CLIP weights as open_clip's; the `position_ids` buffers of older releases are left out."""
    result: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if name.endswith("position_ids") or ".k_proj." in name or ".v_proj." in name:
            continue
        if ".q_proj." in name:
            tensor = torch.cat([state[name.replace("q_proj", f"{part}_proj")] for part in "qkv"])
        if name in PROJECTIONS:
            tensor = tensor.T.contiguous()
        result[_renamed(name)] = tensor
    return result


def _renamed(name: str) -> str:
    name = PROJECTIONS.get(name, name)
    for theirs, ours in NAMES:
        name = name.replace(theirs, ours)
    return name
