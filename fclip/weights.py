"""Reading weights files, and putting them into modules strictly: nothing missing, extra, reshaped, retyped or NaN."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fclip.errors import UserError
from fclip.files import read_json

CLASSIFIERS = (
    "classifier.",
    "fc.",
    "head.fc.",
    "head.weight",
    "head.bias",
)  # what an ImageNet file has beyond the tower
CONTAINERS = ("state_dict", "CLIP")  # where training programs put the weights in a file (open_clip, OpenFashionCLIP)


def read_weights(file: str | Path) -> dict[str, Tensor]:
    """A state dict from .safetensors, or from .pt/.pth/.bin read without pickled objects.

    Weights under "state_dict" or "CLIP" are found, and DistributedDataParallel's prefix "module." is dropped.

    Raises:
        UserError: missing, truncated or tampered file, or one that holds something else than weights.
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
        if "TorchScript" in reason:
            raise UserError(f"{file} is a TorchScript archive, which holds code; save its state_dict instead") from None
        raise UserError(f"{file} is damaged or no weights file ({reason}); copy it again") from None
    except Exception:  # pickle's own error for anything but tensors
        raise UserError(f"{file} holds more than tensors: refused for safety; save it as safetensors") from None
    return _state_dict(state, file)


def _state_dict(saved: Any, file: Path) -> dict[str, Tensor]:
    """The weights in what a file holds."""
    inside = [saved[key] for key in CONTAINERS if isinstance(saved, Mapping) and isinstance(saved.get(key), Mapping)]
    state = inside[0] if inside else saved
    if not isinstance(state, Mapping) or not state or not all(isinstance(v, Tensor) for v in state.values()):
        found = f"the keys {_first(state)}" if isinstance(state, Mapping) else f"a {type(state).__name__}"
        raise UserError(f"expected named tensors in {file}, or below {' or '.join(CONTAINERS)}, got {found}")
    if all(name.startswith("module.") for name in state):
        return {name.removeprefix("module."): value for name, value in state.items()}
    return dict(state)


def read_folder_weights(folder: Path, names: Sequence[str]) -> dict[str, Tensor]:
    """The weights of a model's folder: the first of several files that is there, whole or in shards (NAME.index.json).

    Raises:
        UserError: none of the files, a missing shard, or as `read_weights`.
    """
    for name in names:
        if (folder / name).is_file():
            return read_weights(folder / name)
        index = folder / f"{name}.index.json"
        if index.is_file():
            return _read_shards(index)
    raise UserError(f"expected {' or '.join(names)} in {folder}, found {sorted(p.name for p in folder.iterdir())}")


def _read_shards(index: Path) -> dict[str, Tensor]:
    places = read_json(index, "the index of weights in shards").get("weight_map")
    if not isinstance(places, dict) or not places:
        raise UserError(f"expected a weight_map in {index}; copy it again")
    state: dict[str, Tensor] = {}
    for shard in sorted(set(places.values())):
        if Path(shard).name != shard:  # an index from a stranger names files of its own folder only
            raise UserError(f"expected the name of a file beside {index}, got {shard!r}")
        state |= read_weights(index.parent / shard)
    return state


def load_state(module: nn.Module, state: dict[str, Tensor], where: str, fit_only: bool = False, hint: str = "") -> None:
    """Loads weights strictly.

    Args:
        module: loaded in place, or left alone when something is wrong.
        state: the weights.
        where: they come from, for the message.
        fit_only: load what fits, and print what was left out.
        hint: the end of the message about weights that do not fit.

    Raises:
        UserError: missing, extra, differently shaped or typed weights, named; or weights that are not finite.
    """
    own = module.state_dict()
    state = {k: v for k, v in state.items() if k in own or not k.endswith("num_batches_tracked")}
    _check_finite(state, where)
    both = sorted(own.keys() & state.keys())
    found = {
        "missing": sorted(k for k in own.keys() - state.keys() if not k.endswith("num_batches_tracked")),
        "unexpected": sorted(state.keys() - own.keys()),
        "of another shape": [k for k in both if own[k].shape != state[k].shape],
        "of another type": [k for k in both if own[k].is_floating_point() != state[k].is_floating_point()],
    }
    wrong = {name for names in found.values() for name in names}
    if wrong:
        listed = "; ".join(f"{len(v)} {k} ({_first(v)})" for k, v in found.items() if v)
        fitting = {k: v for k, v in state.items() if k not in wrong}
        if not fit_only or not fitting:
            raise UserError(f"weights in {where} are of another architecture: {listed}{hint}")
        print(f"weights in {where}: {len(fitting)} of {len(own)} fit; left out: {listed}", file=sys.stderr)
        state = fitting
    module.load_state_dict(state, strict=False)


def _check_finite(state: Mapping[str, Tensor], where: str) -> None:
    broken = [k for k, v in state.items() if v.is_floating_point() and not torch.isfinite(_readable(v)).all()]
    if broken:
        raise UserError(
            f"weights in {where} are not finite: {len(broken)} hold NaN or infinity ({_first(broken)}); "
            "the training that wrote them diverged, take an earlier checkpoint"
        )


def _readable(value: Tensor) -> Tensor:
    return value.float() if value.element_size() == 1 else value  # few operations know the 8-bit types


def _first(names: Iterable[str]) -> str:
    return ", ".join(list(names)[:3]) + "…"


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
