"""torch.compile for the towers of a run (`compile: true` in a preset).

    compile_towers(model.clip)

Each tower is compiled in place: names and state dict stay as they were, so checkpoints are those of any other run. The
loss stays as it is: it is small, and its shapes change with the captions of a batch. Copies that are evaluated or kept
are not compiled (a copy drops the compiled call).
"""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from fclip.errors import UserError
from fclip.prefix import prefix_of

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
    # Dynamo looks at the gradient of whatever comes in, which torch warns of.
    warnings.filterwarnings("ignore", "The .grad attribute of a Tensor that is not a leaf", UserWarning)
    clip.visual.compile(backend=BACKEND)
    for part in text_parts(clip):
        part.compile(backend=BACKEND, dynamic=True)


def text_parts(clip: Any) -> Iterator[nn.Module]:
    """What a text tower spends its time in, as `Model.encode_text` calls it."""
    text = getattr(clip, "text", clip)
    yield clip.transformer if text is clip else text if prefix_of(clip) is None else text.transformer


def has_compiler() -> bool:
    """Whether a C++ compiler is found."""
    return any(map(shutil.which, COMPILERS))
