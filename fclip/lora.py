"""Low-rank adapters (LoRA, Hu et al. 2021) by peft: little learns, and checkpoints know nothing of it.

    add_adapters(model.clip, LoraConfig(rank=8))    # then train
    plain = merged(model.clip)                      # a copy with the adapters in its weights, under the plain names

open_clip's blocks attend with `nn.MultiheadAttention`, which reads its weights without calling the layers that hold
them, so that an adapter on its `out_proj` would do nothing. peft has an adapter for the whole attention.
"""

from __future__ import annotations

import copy
import fnmatch
import re
from typing import Any

import torch
from torch import Tensor, nn

from fclip.config import LoraConfig
from fclip.errors import UserError
from fclip.optimisation import is_new, matching

ADAPTER = "default"  # peft's name for the first adapter of a model


def add_adapters(clip: nn.Module, config: LoraConfig) -> None:
    """Puts adapters into a model and freezes all but them, what `config.also` names, and what is new.

    What is frozen already stays so and gets no adapter. An adapter's update starts at zero.

    Raises:
        UserError: a pattern that matches nothing, or one of `also` that names a weight with an adapter.
    """
    from peft import LoraConfig as PeftConfig
    from peft import inject_adapter_in_model

    learning = {name for name, p in clip.named_parameters() if p.requires_grad}
    also = matching(dict(clip.named_parameters()), config.also, "lora.also")
    targets = _targets(clip, config.targets)
    weights = {name: _weights(name, module) for name, module in clip.named_modules() if name in targets}
    adapted = [name for name, of in weights.items() if of <= learning]
    if not adapted:
        raise UserError("every module of lora.targets is frozen; freeze less, or set lora.targets")
    twice = also & set().union(*(weights[name] for name in adapted))
    if twice:
        raise UserError(f"lora.also names {min(twice)}, which has an adapter; take it out of lora.also or lora.targets")
    # One expression for whole names: peft takes listed names for endings, and the text tower's are endings of ViT's.
    pattern = "|".join(map(re.escape, adapted))
    options = PeftConfig(
        r=config.rank,
        lora_alpha=config.alpha,  # type: ignore[arg-type]  # only ever divided by the rank
        lora_dropout=config.dropout,
        target_modules=pattern,
    )
    options._register_custom_module({nn.MultiheadAttention: _attention_adapter()})
    inject_adapter_in_model(options, clip, ADAPTER)
    for name, parameter in clip.named_parameters():
        name = name.replace(".base_layer", "")
        if name in learning and (name in also or is_new(name)):
            parameter.requires_grad_(True)


def merged(clip: nn.Module) -> nn.Module:
    """A copy with the adapters added to the weights they adapt; the model itself when it has none."""
    if not any(hasattr(module, "lora_A") for module in clip.modules()):
        return clip
    plain = copy.deepcopy(clip)
    _merge_below(plain)
    return plain


def check_gradients(clip: nn.Module) -> None:
    """After a backward pass: refuses adapters that it did not reach.

    Some towers of timm (Swin V2, BEiT) read a layer's weight as `nn.MultiheadAttention` does.

    Raises:
        UserError: an adapter without a gradient.
    """
    idle = [name for name, p in clip.named_parameters() if ".lora_" in name and p.requires_grad and p.grad is None]
    if idle:
        module = idle[0].split(".lora_")[0].replace(".base_layer", "")
        raise UserError(f"the adapter of {module} does not learn: its tower goes round it; change lora.targets")


def _targets(clip: nn.Module, patterns: tuple[str, ...]) -> set[str]:
    """The modules that take an adapter and match a pattern, or lie in a module that does (Swin's `attn`: qkv, proj)."""
    able, every = _adaptable(clip), [name for name, _ in clip.named_modules()]
    found: set[str] = set()
    for pattern in patterns:
        matched = tuple(f"{name}." for name in fnmatch.filter(every, pattern))
        chosen = [name for name in able if f"{name}.".startswith(matched)]
        if not chosen:
            kinds = {name.rsplit(".", 1)[-1]: name for name in able}
            some = ", ".join(list(kinds.values())[:4]) or "(none)"
            raise UserError(
                f"lora.targets pattern {pattern!r} matches no module that takes an adapter; such are {some}"
            )
        found.update(chosen)
    return found


def _adaptable(clip: nn.Module) -> list[str]:
    """Linear layers and attentions; not the layers inside an attention, and nothing new, which learns whole."""
    modules = dict(clip.named_modules())
    attentions = {n for n, m in modules.items() if isinstance(m, nn.MultiheadAttention)}
    whole = {n for n in attentions if modules[n]._qkv_same_embed_dim}  # else peft has no adapter for it
    linear = {n for n, m in modules.items() if isinstance(m, nn.Linear) and n.rsplit(".", 1)[0] not in attentions}
    return [name for name in modules if name in whole | linear and not is_new(f"{name}.")]


def _weights(name: str, module: nn.Module) -> set[str]:
    """The parameters that an adapter of this module changes."""
    attention = isinstance(module, nn.MultiheadAttention)
    return {f"{name}.{of}" for of in (("in_proj_weight", "out_proj.weight") if attention else ("weight",))}


def _merge_below(module: nn.Module) -> None:
    for name, child in module.named_children():
        if hasattr(child, "lora_A"):
            setattr(module, name, _plain(child))
        else:
            _merge_below(child)


def _plain(layer: Any) -> nn.Module:
    """The layer that an adapter wraps, with the adapter in its weights."""
    base: Any = layer.get_base_layer()
    if not hasattr(base, "in_proj_weight"):
        layer.merge()
        return base
    with torch.no_grad():
        base.in_proj_weight += layer.get_delta_weight(ADAPTER)
    base.out_proj = _plain(base.out_proj)
    return base


def _attention_adapter() -> type[nn.Module]:
    """peft's adapter for attention, but for its forward.

    peft 0.21 adds the updates to the weights before each call and subtracts them afterwards. Every rounding stays: the
    frozen weights wander with the number of calls, and a resumed run would differ. And `out_proj` gets its update
    twice, with the gradient of one.
    """
    from peft.tuners.lora.layer import MultiheadAttention

    class Attention(MultiheadAttention):
        def forward(self, query: Tensor, *args: Any, **kwargs: Any) -> Any:
            attention: Any = self.get_base_layer()
            out = attention.out_proj
            weights = {
                "in_proj_weight": attention.in_proj_weight + self.get_delta_weight(ADAPTER),
                "out_proj.base_layer.weight": out.weight + out.get_delta_weight(ADAPTER),
            }
            return torch.func.functional_call(attention, weights, (query, *args), kwargs)

    return Attention
