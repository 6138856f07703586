"""`transformers` CLIP folders, FashionCLIP's published form, under open_clip's names and back, exactly.

The differences: names; q, k and v in one matrix; projections transposed; the activation in the config.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from fclip.errors import UserError
from fclip.model import Preprocess

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


SHARED = {  # what both libraries can say of a model and its towers, by open_clip's names
    "model": {"embed_dim", "quick_gelu", "vision_cfg", "text_cfg", "custom_text", "init_logit_scale"},
    "vision_cfg": {"image_size", "layers", "width", "head_width", "mlp_ratio", "patch_size", "patch_dropout"},
    "text_cfg": {"context_length", "vocab_size", "width", "heads", "layers", "mlp_ratio", "pool_type", "eos_id"}
    | {"pad_id", "hf_tokenizer_name", "tokenizer_kwargs"},  # the tokenizer is exported as files
}
ARGMAX_EOS = 2  # with this id in a config transformers pools at the highest id, whatever it is (transformers#24773)


def unlike_clip(architecture: dict[str, Any]) -> str:
    """What of an open_clip `model_cfg` transformers' CLIP has no place for, in words; empty when it has all."""
    vision, text = architecture["vision_cfg"], architecture["text_cfg"]
    if vision.get("timm_model_name"):
        return f"a timm image tower ({vision['timm_model_name']})"
    if isinstance(vision.get("layers"), (list, tuple)):
        return "a ResNet image tower"
    if text.get("hf_model_name"):
        return f"a text tower of another kind ({text['hf_model_name']})"
    if len(set(_pair(vision.get("image_size", 224)))) > 1 or len(set(_pair(vision.get("patch_size", 16)))) > 1:
        return f"pictures or patches that are not square ({vision})"
    if text.get("pool_type") == "eos" and text.get("eos_id", ARGMAX_EOS) == ARGMAX_EOS:
        return f"pooling at token {ARGMAX_EOS}"
    return ", ".join(_options_of_its_own(architecture))


def _pair(size: int | list[int] | tuple[int, int]) -> tuple[int, ...]:
    return tuple(size) if isinstance(size, (list, tuple)) else (size, size)


def _options_of_its_own(architecture: dict[str, Any]) -> list[str]:
    """Options that are set to something else than open_clip's defaults and that transformers' CLIP does not know."""
    from open_clip import CLIPTextCfg, CLIPVisionCfg

    found = [f"{k}={v}" for k, v in architecture.items() if k not in SHARED["model"] and v]
    for tower, kind in (("vision_cfg", CLIPVisionCfg), ("text_cfg", CLIPTextCfg)):
        default = asdict(kind())
        own = {k: v for k, v in architecture[tower].items() if k not in SHARED[tower]}
        found += [f"{tower}.{k}={v}" for k, v in own.items() if v != default.get(k)]
    if architecture["text_cfg"].get("pool_type", "argmax") not in ("argmax", "eos"):
        found.append(f"text_cfg.pool_type={architecture['text_cfg']['pool_type']}")
    return found


def architecture_to_transformers(architecture: dict[str, Any], tokenizer: Any) -> dict[str, Any]:
    """The `config.json` of transformers' CLIP for an open_clip `model_cfg` that `unlike_clip` has nothing against.

    Args:
        architecture: open_clip's `model_cfg`.
        tokenizer: of `transformers`; its end token is where the text is pooled.
    """
    from open_clip import CLIPTextCfg, CLIPVisionCfg

    vision, text = CLIPVisionCfg(**architecture["vision_cfg"]), CLIPTextCfg(**architecture["text_cfg"])
    shared = {
        "hidden_act": "quick_gelu" if architecture.get("quick_gelu") else "gelu",
        "layer_norm_eps": 1e-5,
        "projection_dim": architecture["embed_dim"],
    }
    return {
        "architectures": ["CLIPModel"],
        "model_type": "clip",
        "projection_dim": architecture["embed_dim"],
        "vision_config": shared
        | {
            "image_size": _pair(vision.image_size)[0],
            "patch_size": _pair(vision.patch_size)[0],
            "num_attention_heads": vision.width // vision.head_width,
            **_sizes(vision),
        },
        "text_config": shared
        | {
            "max_position_embeddings": text.context_length,
            "vocab_size": text.vocab_size,
            "num_attention_heads": text.heads,
            **_sizes(text),
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": _eos(text, tokenizer),
            "pad_token_id": tokenizer.pad_token_id,
        },
    }


def _sizes(tower: Any) -> dict[str, Any]:
    inner = int(tower.width * tower.mlp_ratio)
    return {"hidden_size": tower.width, "intermediate_size": inner, "num_hidden_layers": tower.layers}


def _eos(text: Any, tokenizer: Any) -> int:
    """The id that makes transformers pool where open_clip does: at the highest id, or at the one it names."""
    if text.pool_type == "eos":
        return text.eos_id
    is_highest = tokenizer.eos_token_id == len(tokenizer) - 1
    return tokenizer.eos_token_id if is_highest else ARGMAX_EOS


def state_to_transformers(state: dict[str, Tensor], names: Iterable[str]) -> dict[str, Tensor]:
    """open_clip's weights under transformers' names: `state_from_transformers` the other way round.

    Args:
        state: of open_clip's `CLIP`, or of `CustomTextCLIP` with CLIP's text tower.
        names: of all weights of transformers' model.
    """
    left = {name.removeprefix("text."): tensor for name, tensor in state.items()}
    result: dict[str, Tensor] = {}
    for name in names:
        part = next((place for place, letter in enumerate("qkv") if f".{letter}_proj." in name), None)
        tensor = left[_renamed(name.replace(".k_proj.", ".q_proj.").replace(".v_proj.", ".q_proj."))]
        if part is not None:
            tensor = tensor.chunk(3)[part].clone()  # safetensors refuses tensors that share memory
        result[name] = tensor.T.contiguous() if name in PROJECTIONS else tensor
    assert sum(t.numel() for t in result.values()) == sum(t.numel() for t in left.values()), "a weight was left over"
    return result


def preprocess_to_transformers(preprocess: Preprocess) -> dict[str, Any]:
    """CLIPImageProcessor's `preprocessor_config.json`; its resizing has no `longest`."""
    assert preprocess.resize_mode in ("shortest", "squash")
    height, width = preprocess.size
    square, crops = {"height": height, "width": width}, preprocess.resize_mode == "shortest"
    return {
        "image_processor_type": "CLIPImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"shortest_edge": height} if crops else square,
        "resample": 2 if preprocess.interpolation == "bilinear" else 3,  # PIL's numbers; 3 is bicubic
        "do_center_crop": crops,
        "crop_size": square,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(preprocess.mean),
        "image_std": list(preprocess.std),
    }
