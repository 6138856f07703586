"""Gathering across processes, with gradient, so that W processes of B compute the loss of one process of W*B.

Every process computes the same global loss of all embeddings. The backward of the gather sums over processes, which
gives W times the true gradient of the local embeddings; DDP's mean over processes takes that factor out again.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from accelerate import PartialState
from accelerate.utils import gather_object, parse_flag_from_env
from torch import Tensor

from fclip.errors import UserError

T = TypeVar("T")
MPI_SIZES = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")  # what accelerate reads


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        parts = [torch.empty_like(values) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, values)
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total.chunk(dist.get_world_size())[dist.get_rank()]


def gather(values: Tensor) -> Tensor:
    """(B, …) of each process → (W*B, …), in the order of the ranks; differentiable. Alone: the values themselves."""
    if alone():
        return values
    return _Gather.apply(values.contiguous())


def alone() -> bool:
    """Whether there is no other process."""
    return not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1


def rank() -> int:
    """The number of this process; 0 when there is no other."""
    return 0 if alone() else dist.get_rank()


def gather_on_host(values: Tensor) -> Tensor:
    """(B, …) of each process → (W, B, …), in the order of the ranks, from and to the processors' memory.

    It goes beside the GPUs, which then need not finish what they are at.
    """
    if alone():
        return values[None]
    parts = [torch.empty_like(values) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, values.contiguous(), group=_host_group())
    return torch.stack(parts)


_HOST_GROUP: list[Any] = [None, None]  # all processes, and the same for tensors that are not on a GPU


def _host_group() -> Any:
    """The group of all processes for what is on the host; all processes must ask for it first at the same time."""
    if dist.get_backend() == "gloo":
        return None
    if _HOST_GROUP[0] is not dist.group.WORLD:
        _HOST_GROUP[:] = dist.group.WORLD, dist.new_group(backend="gloo")
    return _HOST_GROUP[1]


def average_gradients(parameters: Iterable[Tensor]) -> None:
    """Replaces the gradients by their means over the processes, as DistributedDataParallel does when it waits for all.

    All processes must have gradients of the same parameters.
    """
    if alone():
        return
    for gradient in [p.grad for p in parameters if p.grad is not None]:
        dist.all_reduce(gradient)
        gradient /= dist.get_world_size()


def first_on_this_machine(work: Callable[[], T]) -> T:
    """What `work` gives: one process of a machine does it before the others, which then find what it made.

    A process that fails takes the others with it, which would wait for it. Theirs is a silent exit code 2: one line is
    enough.
    """
    state = PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU"))  # as Accelerator reads it
    found: list[T] = []
    for turn in (True, False):
        error = None
        if state.is_local_main_process == turn:
            try:
                found.append(work())
            except Exception as raised:  # the others must be told whatever it is
                error = raised
        failed = gather_object([error is not None])
        if error is not None:
            raise error
        if any(failed):
            raise SystemExit(2)
    return found[0]


def settle_launch() -> None:
    """Makes what a launcher left in the environment unmistakable; to be called before accelerate's first object.

    Without a GPU, accelerate joins processes only when told to use the CPU: else each takes itself for the only one,
    and all write to one folder.

    Raises:
        UserError: several processes were asked for and one was started, or FSDP without GPUs.
    """
    if "WORLD_SIZE" in os.environ:
        if not torch.accelerator.is_available():
            _refuse_fsdp()
            os.environ["ACCELERATE_USE_CPU"] = "true"
        os.environ["FSDP_CPU_RAM_EFFICIENT_LOADING"] = "false"  # each process has read the weights
    elif "ACCELERATE_USE_CPU" in os.environ and "MASTER_ADDR" in os.environ and not os.environ.keys() & set(MPI_SIZES):
        raise UserError(
            "expected several processes, but `accelerate launch` started one, as it does on CPUs and without "
            "--multi_gpu; start them with `torchrun --nproc_per_node N -m …`; for one, set --num_processes 1 and "
            "unset MASTER_ADDR"
        )


def _refuse_fsdp() -> None:
    """Accelerate drops FSDP without a word where processes have no GPUs, and each would hold everything."""
    if os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true":
        raise UserError("FSDP needs GPUs, and none is here; launch without --use_fsdp, or `torchrun` for CPU processes")
