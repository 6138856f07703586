"""torch.compile for the towers of a run (`compile: true` in a preset).

    compile_towers(model.clip)

Each tower is compiled in place: names and state dict stay as they were, so checkpoints are those of any other run. The
loss stays as it is: it is small, and its shapes change with the captions of a batch. Copies that are evaluated or kept
are not compiled (a copy drops the compiled call).
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from fclip.errors import UserError

BACKEND = "inductor"
COMPILERS = ("g++", "c++", "clang++")


def compile_towers(clip: Any) -> None:
    """Makes the towers compile when they are first called; the text tower for any number of texts.

    Raises:
        UserError: on a CPU without a C++ compiler.
    """
    if BACKEND == "inductor" and not torch.cuda.is_available() and not has_compiler():
        raise UserError(
            f"compile=true needs a C++ compiler on a CPU, found none of {', '.join(COMPILERS)}; "
            "install one, or set compile=false"
        )
    clip.visual.compile(backend=BACKEND)
    for part in text_parts(clip):
        part.compile(backend=BACKEND, dynamic=True)


def text_parts(clip: Any) -> Iterator[nn.Module]:
    """What a text tower spends its time in: open_clip's CLIP has no module for the whole of it."""
    yield clip.text if hasattr(clip, "text") else clip.transformer


def has_compiler() -> bool:
    """Whether a C++ compiler is found."""
    return any(map(shutil.which, COMPILERS))
