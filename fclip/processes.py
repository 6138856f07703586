"""Several processes that work together: each embeds its share, the main one tells.

    torchrun --nproc_per_node 2 -m eval surfacing --checkpoint runs/plain --catalogue garments --json plain.json
    torchrun --nproc_per_node 2 -m fclip.cli index --checkpoint runs/plain/best --catalogue garments --out shop

In `eval` every process runs the whole protocol, on the same embeddings (`eval.encoding`), so that a protocol needs to
know nothing of this but `is_main` where it writes. Processes of a training run, which measures in its main one alone,
are not joined: only `joined` does that, and the program calls it.

A user's mistake is met by every process. `said_once` lets the first one say it; the others end with the same status and
without a word, unless the first one is well: then the mistake is theirs alone, and is said with their number.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, TypeVar

from fclip.errors import UserError

if TYPE_CHECKING:
    from accelerate import PartialState

WAIT_S = 5.0  # for the first process to end, whose mistake it is too

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


def said_once(app: Callable[..., Any]) -> Callable[..., Any]:
    """The program, whose user's mistakes the first of several processes says, and no other.

    The launcher ends the others as soon as the first one has ended: they wait for that, and only when it does not
    happen the mistake is theirs alone.
    """
    rank = int(os.environ.get("RANK", "0")) if int(os.environ.get("WORLD_SIZE", "1")) > 1 else 0
    if rank == 0:
        return app

    def run(**given: Any) -> None:
        try:
            code = app(**given, standalone_mode=False)
        except Exception as error:
            told = str(error) if isinstance(error, UserError) else getattr(error, "format_message", lambda: None)()
            if told is None:
                raise
            if not _first_has_ended():
                raise UserError(f"process {rank}: {told}") from None
            raise SystemExit(getattr(error, "exit_code", 2)) from None
        if code:
            raise SystemExit(code)

    return run


def _first_has_ended() -> bool:
    """Whether nothing answers any more where the first process listens, within `WAIT_S`."""
    place = os.environ.get("MASTER_ADDR", ""), int(os.environ.get("MASTER_PORT", "0"))
    until = time.monotonic() + WAIT_S
    while time.monotonic() < until:
        try:
            socket.create_connection(place, 1).close()
        except OSError:
            return True
        time.sleep(0.1)
    return False


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
    """The model on this process's GPU, where there is one; convolutions channels-last, which they are faster in."""
    import torch

    model = model.to(memory_format=torch.channels_last)
    state = together()
    if state is not None:
        return model.to(state.device)
    return model.to("cuda") if torch.cuda.is_available() else model
