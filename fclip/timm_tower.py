"""timm image towers: their part of an open_clip `model_cfg`, their preprocessing, their published weights.

timm:swin_tiny_patch4_window7_224            random weights
timm:swin_tiny_patch4_window7_224.ms_in1k    the weights of this tag, from the hub
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from torch import Tensor

from fclip.config import ModelConfig
from fclip.errors import UserError, nearest
from fclip.model import Preprocess
from fclip.towers import set_input_size  # this import also makes ours known to timm

CROP_MODES = {"center": "shortest", "squash": "squash", "border": "longest"}


def timm_vision_cfg(name: str, config: ModelConfig) -> dict[str, Any]:
    """open_clip's `vision_cfg` of a timm tower with a linear projection.

    Raises:
        UserError: timm has no such tower, or no such weights for it.
    """
    check_name(name)
    return {
        "image_size": list(_size(name, config)),
        "timm_model_name": name.split(".")[0],
        "timm_pool": "",
        "timm_proj": "linear",
        "timm_drop_path": config.drop_path or None,
    }


def timm_preprocess(name: str, config: ModelConfig, base: Preprocess) -> Preprocess:
    """The tower's own size and statistics in `base`, or what the preset sets instead."""
    import timm

    own = timm.get_pretrained_cfg(name)
    statistics: dict[str, Any] = {} if own is None else {"mean": tuple(own.mean), "std": tuple(own.std)}
    statistics |= {k: v for k, v in (("mean", config.mean), ("std", config.std)) if v is not None}
    return replace(base, size=_size(name, config), **statistics)


def timm_weights(name: str, size: tuple[int, int], hint: str = "") -> dict[str, Tensor]:
    """The published weights of a name with a tag, for this input size; `hint` says how to do without the hub.

    Raises:
        UserError: they cannot be fetched.
    """
    import timm

    try:
        trunk = timm.create_model(name, pretrained=True, num_classes=0)
    except Exception as error:  # the hub's and timm's own errors have no common base
        reason = " ".join(str(error).split())[:300]
        hint = hint or (
            f"is the hub reachable? A local file can be given as model.image_weights, with the name without its tag: "
            f"{name.split('.')[0]}"
        )
        raise UserError(f"cannot fetch timm's weights {name}: {reason}; {hint}") from None
    set_input_size(trunk, size)
    return trunk.state_dict()


def near(name: str, names: Iterable[str]) -> str:
    """Only the close names: the whole list would be thousands."""
    close = difflib.get_close_matches(name, list(names), n=3, cutoff=0.5)
    return f"did you mean {', '.join(close)}?" if close else nearest(name, [])


def check_name(name: str) -> None:
    import timm

    tower, _, tag = name.partition(".")
    if tower not in timm.list_models():
        raise UserError(f"timm has no model {name!r}; {near(name, timm.list_models())}")
    tags = [known.partition(".")[2] for known in timm.list_pretrained(f"{tower}.*")]
    if tag and tag not in tags:
        raise UserError(f"timm has no weights {tag!r} for {tower}; {nearest(tag, tags)}")


def _size(name: str, config: ModelConfig) -> tuple[int, int]:
    import timm

    own = timm.get_pretrained_cfg(name)
    return config.image_size or ((224, 224) if own is None else (own.input_size[1], own.input_size[2]))


def timm_trunk(name: str, size: tuple[int, int], options: dict[str, Any]) -> Any:
    """A tower with random weights and no classifier, for this input size.

    Raises:
        UserError: timm cannot make it of these options.
    """
    import timm

    try:
        trunk = timm.create_model(name.split(".")[0], pretrained=False, num_classes=0, **options)
    except Exception as error:  # TypeError of an option, and each tower's own
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"timm cannot make {name} of the options {options or 'given'}: {reason}") from None
    set_input_size(trunk, size)
    return trunk


def timm_data_preprocess(name: str, size: tuple[int, int] | None) -> Preprocess:
    """Exactly timm's evaluation of these weights: `create_transform(**resolve_data_config(…))`."""
    import timm
    from timm.data import resolve_data_config

    own = timm.get_pretrained_cfg(name)
    wanted: dict[str, Any] = {} if size is None else {"input_size": (3, *size)}
    config = resolve_data_config(wanted, {} if own is None else own.to_dict())
    height, width = config["input_size"][1:]
    mean, std, mode = tuple(config["mean"]), tuple(config["std"]), CROP_MODES[config["crop_mode"]]
    resize = math.floor(height / config["crop_pct"]), math.floor(width / config["crop_pct"])
    fill = round(255 * mean[0]) if mode == "longest" else 255  # all of timm's that pad have a grey mean
    return Preprocess((height, width), mean, std, config["interpolation"], mode, fill, resize)
