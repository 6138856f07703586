"""Several processes that work together: each embeds its share, the main one tells.

    torchrun --nproc_per_node 2 -m eval surfacing --checkpoint runs/plain --catalogue garments --json plain.json
    torchrun --nproc_per_node 2 -m fclip.cli index --checkpoint runs/plain/best --catalogue garments --out shop

In `eval` every process runs the whole protocol, on the same embeddings (`eval.encoding`), so that a protocol needs to
know nothing of this but `is_main` where it writes. Processes of a training run, which measures in its main one alone,
are not joined: only `joined` does that, and the program calls it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from accelerate import PartialState

T = TypeVar("T")
_STATE: ContextVar[PartialState | None] = ContextVar("processes that work together", default=None)


@contextmanager
def joined() -> Iterator[None]:
    """Joins the processes of `torchrun` or `accelerate launch` for a while; all but the main one print nothing.

    Raises:
        UserError: several processes were asked for and one was started.
    """
    if not os.environ.keys() & {"WORLD_SIZE", "MASTER_ADDR"}:
        yield
        return
    from accelerate import PartialState
    from accelerate.utils import parse_flag_from_env

    from fclip.distributed import settle_launch

    settle_launch()
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield
        return
    state = PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU"))
    token = _STATE.set(state)
    try:
        with open(os.devnull, "w") as nowhere:
            if state.is_main_process:
                yield
            else:
                with redirect_stdout(nowhere):
                    yield
    finally:
        _STATE.reset(token)
        state.destroy_process_group()
        PartialState._reset_state()  # else the next to ask would believe that the group still is


def together() -> PartialState | None:
    """The processes that work together; None: this one is alone."""
    return _STATE.get()


def is_main() -> bool:
    """Whether this process is the one that writes and prints."""
    state = together()
    return state is None or state.is_main_process


def share(parts: Sequence[T]) -> Sequence[T]:
    """This process's parts: every W-th of them."""
    state = together()
    return parts if state is None else parts[state.process_index :: state.num_processes]


def wait() -> None:
    """Until all processes are here."""
    state = together()
    if state is not None:
        state.wait_for_everyone()


def gathered(mine: list[T]) -> list[T]:
    """What all processes have, in the order of the processes."""
    if together() is None:
        return mine
    from accelerate.utils import gather_object

    return gather_object(mine)


def everybody(says: bool) -> bool:
    """Whether all processes say so."""
    return all(gathered([says]))


def on_device(model: Any) -> Any:
    """The model on this process's GPU, where there is one."""
    import torch

    state = together()
    if state is not None:
        return model.to(state.device)
    return model.to("cuda") if torch.cuda.is_available() else model
