"""The paper's changes to the image side (Dress-UP, sections 3.3, 3.4): another tower, a spatial transformer in front.

model = with_image_tower(model, ModelConfig(image_tower="swin_tiny_patch4_window7_224.ms_in1k"))
model = with_stn(model, StnConfig(transform="affine", look_size=(448, 448)))

Both compose with any model: neither the towers nor the trainer know of them.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

from fclip.config import ModelConfig, StnConfig
from fclip.errors import UserError
from fclip.model import LookingTower, Model, Preprocess, instantiate
from fclip.timm_tower import timm_preprocess, timm_vision_cfg
from stn import SpatialTransformer


def with_image_tower(model: Model, config: ModelConfig) -> Model:
    """The same text tower beside a timm image tower with a new projection; how pictures enter is the tower's own.

    Raises:
        UserError: timm has no such tower.
    """
    assert config.image_tower is not None
    architecture = copy.deepcopy(model.card.architecture)
    architecture["vision_cfg"] = timm_vision_cfg(config.image_tower, config)
    architecture.pop("stn", None)
    clip: Any = instantiate(architecture)
    old = {k: v for k, v in model.clip.state_dict().items() if not k.startswith("visual.")}
    clip.load_state_dict(clip.state_dict() | old)
    own = Preprocess(resize_mode=config.resize_mode or model.preprocess.resize_mode)
    preprocess = timm_preprocess(config.image_tower, config, own)
    name = f"{model.name}+{config.image_tower.split('.')[0]}"
    card = replace(model.card, name=name, architecture=architecture, preprocess=preprocess)
    return Model(clip, card, model.tokenizer)


def with_stn(model: Model, config: StnConfig) -> Model:
    """The model behind a spatial transformer; pictures are squashed to what it looks at, without centre crop.

    Raises:
        UserError: bounds that let the view leave the picture, sizes that do not fit, or a model that has one already.
    """
    if "stn" in model.card.architecture:
        raise UserError(
            f"{model.name} has a spatial transformer already; set model.stn.transform=none to go on with it"
        )
    out_size = model.preprocess.size
    look_size = config.look_size or out_size
    if min(look_size) < config.look_at:
        raise UserError(
            f"expected model.stn.look_size of at least look_at ({config.look_at} px) a side, got "
            f"{look_size[0]}x{look_size[1]}; enlarge it, or set model.stn.look_at lower"
        )
    options: dict[str, Any] = {
        "transform": config.transform,
        "in_size": list(look_size),  # lists, as they come back from a checkpoint's JSON
        "out_size": list(out_size),
        "localisation": config.localisation,
        "look_at": config.look_at,
        "shift": config.max_shift,
        "zoom": config.max_zoom,
        "angle_deg": config.max_angle_deg,
        "bend": config.max_bend,
        "points": config.points,
    }
    try:
        stn = SpatialTransformer(**options)
    except ValueError as error:
        raise UserError(f"model.stn: {error}") from None
    model.clip.visual = LookingTower(stn, model.clip.visual)
    card = replace(
        model.card,
        name=f"stn+{model.name}",
        architecture=model.card.architecture | {"stn": options},
        preprocess=replace(model.preprocess, size=look_size, resize_mode="squash"),
    )
    return Model(model.clip, card, model.tokenizer)
