"""The one exception for a user's mistake, and one for a store that is away.

Its message says what was expected, what came, and what to do. Programs turn it into one line and exit code 2;
anything else that is raised is a fault of ours and keeps its traceback.
"""

from __future__ import annotations

import difflib
import reprlib
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any

NAMED = 20  # known names that a message lists
LONG = 60  # characters of a name among many, or of a value that came; of longer ones the beginning


class UserError(ValueError):
    """A mistake in the input: a path, a column, a preset key, a checkpoint of another kind."""


class StoreUnavailableError(Exception):
    """A store of vectors that cannot be reached, after several tries: nobody's mistake, and it may be over soon."""


def nearest(name: str, known: Iterable[object]) -> str:
    """The end of an "unknown name" message: the closest known name if one is close, then the list of all.

    Of more than NAMED names the closest come first, then the first of the alphabet, then how many more there are.
    """
    names = sorted(str(k) for k in known)
    close = difflib.get_close_matches(name, names, n=NAMED)
    hint = f"did you mean {close[0]!r}? " if close else ""
    if len(names) <= NAMED:
        return f"{hint}known: {', '.join(names) or '(none)'}"
    first = list(dict.fromkeys([*close, *names[:NAMED]]))[:NAMED]
    listed = ", ".join(name if len(name) <= LONG else f"{name[:LONG]}…" for name in first)
    return f"{hint}known: {listed}, … and {len(names) - NAMED:,} more"


def shown(value: object) -> str:
    """Of a value that came the first LONG characters, in one line; the whole may be an array of megabytes."""
    short = reprlib.Repr()
    short.maxstring = short.maxother = LONG
    text = " ".join(short.repr(value).split())
    return text if len(text) <= LONG else f"{text[:LONG]}…"


def run_program(app: Callable[..., Any], argv: Sequence[str] | None, name: str) -> None:
    """Runs a typer program; a user's mistake is one line on stderr and exit code 2, a store that is away 1.

    Args:
        app: the program.
        argv: its arguments; None: those of the process.
        name: as it is called, for its help.
    """
    try:
        app(args=None if argv is None else list(argv), prog_name=name)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except StoreUnavailableError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(1) from None
    finally:
        _leave_group()


def _leave_group() -> None:
    """Leaves the group of processes that the program joined, if it still is in one.

    Its threads, still running when the interpreter ends, now and then abort a process that had done its work.
    """
    distributed: Any = sys.modules.get("torch.distributed")  # who never joined has not loaded it
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()
