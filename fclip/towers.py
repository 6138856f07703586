"""Image towers of timm: one that it has no name for, made known to it by importing this module, and other input sizes.

swin_pico_patch4_window7_112    a Swin of three stages (1.5 M parameters) that learns from nothing on a processor
"""

from __future__ import annotations

import warnings
from typing import Any

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.swin_transformer import SwinTransformer

STATISTICS = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}  # ImageNet's, as timm's Swin
HEAD = {"first_conv": "patch_embed.proj", "classifier": "head.fc", "pool_size": (7, 7), "num_classes": 0}
default_cfgs = generate_default_cfgs(
    {"swin_pico_patch4_window7_112.untrained": {"input_size": (3, 112, 112), **STATISTICS, **HEAD}}
)
"""Where timm looks for a tower's input size and statistics."""


@register_model
def swin_pico_patch4_window7_112(pretrained: bool = False, **options: Any) -> SwinTransformer:
    """Swin (Liu et al., 2021) for 112 px: windows of 7 fit its 28, 14 and 7 patches a side without padding."""
    own = {"img_size": 112, "patch_size": 4, "window_size": 7, "embed_dim": 48, "depths": (2, 2, 2)}
    options = {**own, "num_heads": (2, 4, 8), **options}
    return build_model_with_cfg(SwinTransformer, "swin_pico_patch4_window7_112", pretrained, **options)


def set_input_size(trunk: Any, size: tuple[int, int]) -> None:
    """Fits a timm tower to another (height, width): its positions, and the windows of a Swin, which grow with it."""
    own = getattr(getattr(trunk, "patch_embed", None), "img_size", None)
    if own is None or tuple(own) == tuple(size) or not hasattr(trunk, "set_input_size"):
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of timm's resampling: its own use of torch
        trunk.set_input_size(tuple(size))
