"""What learns, how fast, and when: AdamW's parameter groups, the learning rate's course, freezing, the first stage.

    optimizer = torch.optim.AdamW(parameter_groups(model, preset))

Layer-wise rates are those of BEiT (Bao et al. 2022, section 3.2): every layer learns `layer_decay` times as fast as the
one above it. Stages are those of LP-FT (Kumar et al. 2022): first only what is new, then everything; each is a run of
its own, with its own warm-up and cosine.
"""

from __future__ import annotations

import fnmatch
import math
import re
from collections.abc import Iterable
from typing import Any

from timm.models import group_parameters
from timm.optim import auto_group_layers
from torch import nn

from fclip.config import LossConfig, Preset
from fclip.errors import UserError
from fclip.model import Model

HEADS = ("visual.head.", "visual.tower.head.")  # the projection of a timm tower, alone and behind a transformer
STN = "visual.stn."
SCALES = "logit_"  # logit_scale, and SigLIP's logit_bias

# The layers of open_clip's own towers and of the text towers of `transformers`, and what is below them; the rest is on
# top of them. "layer1" to "layer4" are those of CLIP's ResNet.
LAYER = re.compile(r"(?:.*\.)?(?:resblocks|layers?|blocks?|h)\.?(\d+)\.")
BELOW = re.compile(
    r"conv\d|bn\d|ln_pre|(text\.)?((class|positional|token)_embedding|cls_emb)|(.*\.)?(embeddings|embed_tokens|shared)\."
)


def parameter_groups(model: Model, preset: Preset) -> list[dict[str, Any]]:
    """AdamW's groups: rates by tower and layer; no decay for vectors, scalars and what a tower exempts by name.

    Besides torch's keys each group has "peak", the rate at the end of the warm-up.
    """
    optim, exempt = preset.optim, no_weight_decay(model.clip)
    layers = layer_factors(model.clip, optim.layer_decay)
    towers = {
        "image": optim.image_lr,
        "head": optim.head_lr,
        "stn": optim.stn_lr,
        "text": optim.text_lr,
        "scale": 1.0,
    }
    groups: dict[tuple[str, float, bool], dict[str, Any]] = {}
    for name, parameter in model.clip.named_parameters():
        if not parameter.requires_grad:
            continue
        tower, layer = tower_of(name), layers.get(name, 1.0)
        decays = parameter.ndim > 1 and name not in exempt
        lr = optim.lr * towers[tower] * layer
        empty = {"params": [], "lr": lr, "peak": lr, "weight_decay": optim.weight_decay if decays else 0.0}
        groups.setdefault((tower, layer, decays), empty)["params"].append(parameter)
    return list(groups.values())


def tower_of(name: str) -> str:
    """The part of the model that a parameter belongs to: head, stn, image, scale or text."""
    if name.startswith(HEADS):
        return "head"
    if name.startswith(STN):
        return "stn"
    return "image" if name.startswith("visual.") else "scale" if name.startswith(SCALES) else "text"


def is_new(name: str) -> bool:
    """Whether a parameter (or a module, by its name and a dot) has no pretrained weights to lose."""
    return tower_of(name) in ("head", "stn", "scale")


def no_weight_decay(module: nn.Module) -> set[str]:
    """The names that any submodule exempts (timm's and open_clip's `no_weight_decay()`), as seen from `module`.

    Swin's `relative_position_bias_table` is two-dimensional and among them: looking at shapes alone would decay it.
    """
    exempt: set[str] = set()
    for prefix, child in module.named_modules():
        if callable(getattr(child, "no_weight_decay", None)):
            exempt |= {f"{prefix}.{name}" if prefix else name for name in child.no_weight_decay()}
    return exempt


def layer_factors(clip: Any, decay: float) -> dict[str, float]:
    """Name → decay^(depth from the top) for both towers; what is new is in no layer and not among the names.

    In open_clip's towers the norm and projection behind the last layer have depth 0, in a timm tower, whose projection
    is a head with its own rate, the last layer with its norm; the embeddings have the greatest.
    """
    if decay == 1:
        return {}
    prefix = "visual.tower." if hasattr(clip.visual, "stn") else "visual."
    image = _image_layers(clip.get_submodule(prefix.rstrip(".")))
    text = _numbered(name for name, _ in clip.named_parameters() if tower_of(name) == "text")
    towers = ({prefix + name: layer for name, layer in image.items()}, text)
    return {name: decay ** (max(of.values()) - layer) for of in towers for name, layer in of.items()}


def _image_layers(tower: Any) -> dict[str, int]:
    """Parameter → layer, counted from the bottom: by timm for its trunks (as `timm.optim.param_groups_layer_decay`)."""
    if not hasattr(tower, "trunk"):
        return _numbered(name for name, _ in tower.named_parameters())
    if hasattr(tower.trunk, "group_matcher"):
        layers = group_parameters(tower.trunk, tower.trunk.group_matcher(coarse=False), reverse=True)
    else:
        layers = auto_group_layers(tower.trunk)
    return {f"trunk.{name}": layer for name, layer in layers.items()}


def _numbered(names: Iterable[str]) -> dict[str, int]:
    """The same by the numbers in the names: one below the first layer, the layers, one on top of the last."""
    names = list(names)
    layers = {name: int(found[1]) for name in names if (found := LAYER.match(name))}
    below, top = min(layers.values(), default=0) - 1, max(layers.values(), default=0) + 1
    return {name: layers.get(name, below if BELOW.match(name) else top) for name in names}


def lr_factor(step: int, steps: int, warmup: float) -> float:
    """Linear warm-up over the share `warmup` of all steps, then half a cosine to zero."""
    rising = max(1, round(steps * warmup))
    if step < rising:
        return (step + 1) / rising
    return 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, steps - rising)))


def first_stage(preset: Preset, steps: int) -> int:
    """How many of a run's steps teach only what is new."""
    return min(steps, round(steps * preset.optim.head_epochs / preset.epochs))


def within_stage(step: int, steps: int, first: int) -> tuple[int, int]:
    """A step's number within its stage, and the stage's steps; the first stage has `first`, the second the rest."""
    return (step, first) if step < first else (step - first, steps - first)


def check_first_stage(clip: nn.Module) -> None:
    """Refuses a first stage in which nothing but the temperature could learn.

    Raises:
        UserError: no new projection and no spatial transformer, or both are frozen.
    """
    learning = [n for n, p in clip.named_parameters() if p.requires_grad and tower_of(n) in ("head", "stn")]
    if not learning:
        raise UserError(
            "optim.head_epochs is for a model with a new projection (visual.head) or a spatial transformer "
            "(visual.stn) that learns, and this one has neither; set optim.head_epochs=0"
        )


def drop_old_gradients(clip: nn.Module) -> None:
    """Leaves gradients to what is new only: AdamW then neither moves nor decays the rest, nor builds moments for it.

    Not by `requires_grad`: DistributedDataParallel would wait for gradients that never come.
    """
    for name, parameter in clip.named_parameters():
        if not is_new(name):
            parameter.grad = None


def keep_statistics(clip: nn.Module) -> None:
    """Puts the batch norms of all that is not new in evaluation mode: their running statistics stay."""
    for name, module in clip.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and not is_new(f"{name}."):
            module.eval()


def keep_constants(averaged: nn.Module, trained: nn.Module) -> None:
    """Gives averaged weights the constants of the trained ones: a mask's -inf averaged with itself is no number.

    Constants are the buffers that no checkpoint holds.
    """
    held, constants = averaged.state_dict().keys(), dict(trained.named_buffers())
    for name, buffer in averaged.named_buffers():
        if name not in held:
            buffer.copy_(constants[name])


def freeze(model: Model, patterns: tuple[str, ...]) -> None:
    """Freezes the parameters whose names match.

    Raises:
        UserError: a pattern matches nothing.
    """
    parameters = dict(model.clip.named_parameters())
    for name in matching(parameters, patterns, "freeze"):
        parameters[name].requires_grad_(False)


def settle_bias(clip: Any, loss: LossConfig) -> None:
    """Lets a logit bias learn only where the loss has a use for it: DistributedDataParallel waits for every gradient.

    Raises:
        UserError: the sigmoid loss, and a model without a bias.
    """
    bias = getattr(clip, "logit_bias", None)
    if loss.kind == "sigmoid" and bias is None:
        raise UserError("loss.kind=sigmoid is for a model with a logit bias, e.g. siglip; set loss.kind=softmax")
    if loss.kind == "softmax" and bias is not None:
        bias.requires_grad_(False)


def matching(names: Iterable[str], patterns: Iterable[str], key: str) -> set[str]:
    """The names that fit any of the patterns (`fnmatch`); `key` is where the preset has them.

    Raises:
        UserError: a pattern matches nothing.
    """
    names, found = list(names), set()
    for pattern in patterns:
        chosen = fnmatch.filter(names, pattern)
        if not chosen:
            raise UserError(f"{key} pattern {pattern!r} matches no parameter; names look like {', '.join(names[:3])}")
        found.update(chosen)
    return found
