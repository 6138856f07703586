"""Reading weights files, and putting them into modules strictly: nothing missing, nothing extra, nothing reshaped."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from fclip.errors import UserError

CLASSIFIERS = (
    "classifier.",
    "fc.",
    "head.fc.",
    "head.weight",
    "head.bias",
)  # what an ImageNet file has beyond the tower


def read_weights(file: str | Path) -> dict[str, Tensor]:
    """A state dict from .safetensors, or from .pt/.pth/.bin read without pickled objects.

    Raises:
        UserError: missing, truncated or tampered file.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    file = Path(file)
    if not file.is_file():
        raise UserError(f"no weights file {file}; check the path")
    try:
        if file.suffix == ".safetensors":
            return load_file(str(file))
        state = torch.load(file, map_location="cpu", weights_only=True)
    except (SafetensorError, OSError, RuntimeError, EOFError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{file} is damaged or no weights file ({reason}); copy it again") from None
    except Exception:  # pickle's own error for anything but tensors
        raise UserError(f"{file} holds more than tensors: refused for safety; save it as safetensors") from None
    return state.get("state_dict", state)


def load_state(module: nn.Module, state: dict[str, Tensor], where: str) -> None:
    """Loads weights strictly.

    Raises:
        UserError: missing, extra or differently shaped weights, named.
    """
    own = module.state_dict()
    state = {k: v for k, v in state.items() if k in own or not k.endswith("num_batches_tracked")}
    missing, extra = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    missing = [m for m in missing if not m.endswith("num_batches_tracked")]
    shapes = [k for k in own.keys() & state.keys() if own[k].shape != state[k].shape]
    if missing or extra or shapes:
        found = {"missing": missing, "unexpected": extra, "of another shape": sorted(shapes)}
        listed = "; ".join(f"{len(v)} {k} ({', '.join(v[:3])}…)" for k, v in found.items() if v)
        raise UserError(f"weights in {where} are of another architecture: {listed}")
    module.load_state_dict(state, strict=False)


def load_image_weights(visual: nn.Module, file: str) -> None:
    """Loads weights of an image tower: timm's, or torchvision's MobileNetV2 (timm has its layers in the same order).

    The classifier of the file is left out; the projection into the shared space stays as it is.

    Raises:
        UserError: weights of another tower.
    """
    load_image_state(visual, read_weights(file), file)


def load_image_state(visual: nn.Module, state: dict[str, Tensor], where: str) -> None:
    """As `load_image_weights`, from a state dict; `where` names it in errors."""
    tower = getattr(visual, "tower", visual)  # behind a spatial transformer
    trunk = getattr(tower, "trunk", tower)
    own = trunk.state_dict()
    if "features.0.0.weight" in state:
        from torchvision.models import mobilenet_v2

        theirs = mobilenet_v2().state_dict()
        state = {ours: state[name] for ours, name in zip(own, theirs, strict=False) if name in state}
    state = {k: v for k, v in state.items() if not k.startswith(CLASSIFIERS)}
    load_state(trunk, state | {k: v for k, v in own.items() if k.startswith(CLASSIFIERS)}, where)
