"""FSDP2: parameters and moments lie in pieces on the processes; what is measured, kept and resumed is whole.

    accelerate launch --use_fsdp --fsdp_version 2 --fsdp_transformer_layer_cls_to_wrap ResidualAttentionBlock …

The splitting is torch's (`fully_shard`), by accelerate. Here is what a run needs besides, so that its checkpoints are
those of any other launch. Without pieces every function gives back what it got.

https://docs.pytorch.org/docs/stable/distributed.fsdp.fully_shard.html
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from fclip.config import Preset
from fclip.errors import UserError


def shards(accelerator: Accelerator, preset: Preset) -> bool:
    """Whether the launch splits parameters.

    Raises:
        UserError: FSDP of the first version, or a preset with what no pieces can have.
    """
    if accelerator.distributed_type != DistributedType.FSDP:
        return False
    if not accelerator.is_fsdp2:
        raise UserError("expected FSDP2, got the first FSDP; launch with --fsdp_version 2")
    for asked, key in ((preset.lora.rank, "lora.rank"), (preset.optim.ema, "optim.ema")):
        if asked:
            raise UserError(f"{key} does not go with FSDP; set {key}=0, or launch without --use_fsdp")
    return True


def divisible(clip: Any) -> nn.Module:
    """Makes vectors of a model's scalars, which FSDP2 refuses; returns a copy of the model as it was."""
    before = copy.deepcopy(clip)
    for name in [name for name, p in clip.named_parameters() if p.ndim == 0]:
        scalar = clip.get_parameter(name)
        clip.register_parameter(name, nn.Parameter(scalar.detach().reshape(1), scalar.requires_grad))
    return before


def whole(value: Any) -> Any:
    """A tensor in one piece; all processes call it, in the same order."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def gather_into(target: nn.Module, pieces: nn.Module) -> nn.Module:
    """Puts the values of a split module into the copy of it that `divisible` made. All processes call it."""
    state = target.state_dict()
    for name, piece in pieces.state_dict().items():
        state[name].copy_(whole(piece).reshape(state[name].shape))
    return target


@torch.no_grad()
def scatter_into(pieces: nn.Module, source: nn.Module) -> None:
    """Puts the values of the whole module into the split one. All processes call it."""
    state = source.state_dict()
    for name, piece in pieces.state_dict().items():
        piece.copy_(_like(state[name].to(piece.device), piece))


def optimizer_state(optimizer: Any) -> dict[str, Any]:
    """An optimiser's state in one piece, on the CPU where it was split. All processes call it."""
    state = optimizer.state_dict()
    return state | {"state": {n: {k: _kept(v) for k, v in of.items()} for n, of in state["state"].items()}}


def load_optimizer_state(optimizer: Any, state: dict[str, Any]) -> None:
    """Takes up what `optimizer_state` gave, of this launch or another. All processes call it."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    split = {
        n: {k: v if k == "step" else _like(v, parameters[n]) for k, v in of.items()} for n, of in state["state"].items()
    }
    optimizer.load_state_dict(state | {"state": split})


def _kept(value: Any) -> Any:
    return whole(value).cpu() if isinstance(value, DTensor) else value


def _like(value: Tensor, other: Tensor) -> Tensor:
    """A whole tensor in the shape of another, and split as it is."""
    value = value.reshape(other.shape)
    if not isinstance(other, DTensor):
        return value
    return distribute_tensor(value.to(other.device), other.device_mesh, other.placements)
