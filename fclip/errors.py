"""The one exception for a user's mistake.

Its message says what was expected, what came, and what to do. Programs turn it into one line and exit code 2;
anything else that is raised is a fault of ours and keeps its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """A mistake in the input: a path, a column, a preset key, a checkpoint of another kind."""


def nearest(name: str, known: Iterable[object]) -> str:
    """The end of an "unknown name" message: the closest known name if one is close, then the list of all."""
    names = sorted(str(k) for k in known)
    close = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"{hint}known: {', '.join(names) or '(none)'}"
