"""Interpolating weights: WiSE-FT (Wortsman et al. 2022, "Robust fine-tuning of zero-shot models", section 3).

    fclip interpolate fashionclip runs/mine/best --alpha 0.5 --out runs/between

Between a model and its fine-tuned self lie models that keep more of what the first knew of other pictures than the
second does, often at no cost on the second's own.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fclip.errors import UserError
from fclip.model import Model


def interpolate(start: Mapping[str, Tensor], trained: Mapping[str, Tensor], alpha: float) -> dict[str, Tensor]:
    """(1 - alpha) * start + alpha * trained, exact at both ends.

    Args:
        start, trained: state dicts of one architecture.
        alpha: share of the trained weights, 0 to 1.

    Returns:
        All floating weights and buffers interpolated; what counts (integer buffers) as in `trained`.
    """
    return {
        name: torch.lerp(start[name].to(value), value, alpha) if value.is_floating_point() else value
        for name, value in trained.items()
    }


def interpolate_checkpoints(start: str | Path, trained: str | Path, alpha: float) -> Model:
    """The model between two that `open_model` knows; card and tokenizer are the second's.

    Raises:
        UserError: an alpha out of range, or models whose weights do not mean the same.
    """
    from fclip.pretrained import open_model

    if not 0 <= alpha <= 1:
        raise UserError(f"expected an alpha between 0 ({start}) and 1 ({trained}), got {alpha}")
    first, second = open_model(start, []), open_model(trained, [])
    _check_alike(first, second, f"{start} and {trained}")
    second.clip.load_state_dict(interpolate(first.clip.state_dict(), second.clip.state_dict(), alpha))
    second.fingerprint = "unsaved"
    return second


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested groups → one level, e.g. {"optim.lr": 0.001}."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value}
    return found


def _check_alike(first: Model, second: Model, which: str) -> None:
    kinds = {
        "architecture": [flat(model.card.architecture) for model in (first, second)],
        "preprocessing": [asdict(model.preprocess) for model in (first, second)],
        "tokenizer": [_tokenizer(model) for model in (first, second)],
    }
    for kind, (one, other) in kinds.items():
        different = sorted(key for key in one.keys() | other.keys() if one.get(key) != other.get(key))
        if different:
            names = ", ".join(different[:3])
            raise UserError(f"{which} differ in {kind} ({names}); only a model and its fine-tuned self can be mixed")


def _tokenizer(model: Model) -> dict[str, Any]:
    """What makes texts into ids: kind, length and the tokenizer's files."""
    with tempfile.TemporaryDirectory() as folder:
        model.tokenizer.save(Path(folder))
        files = {file.name: file.read_bytes() for file in Path(folder).iterdir()}
    return {"kind": model.tokenizer.kind, "context_length": model.tokenizer.context_length, **files}
