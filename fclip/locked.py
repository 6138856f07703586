"""Towers that do not learn: what they make of a caption or a picture is computed once (Zhai et al. 2022, LiT).

    texts = LockedTexts(model) if text_is_locked(model.clip) else model.encode_text
    vectors = texts(tokens)   # (T, L) → (T, D), the same every time
    cut = cut_image_tower(model.clip.visual)
    vectors = cut.head(cut.body(pixels))   # what `body` gives is kept by `fclip.features`

Attribute captions are few and repeat, so what is kept in memory soon answers for nearly every batch. Pictures do not
repeat before the next epoch; what is kept of them is computed before the first one, and lies on the disk.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from open_clip.transformer import VisionTransformer
from torch import Tensor, nn

from fclip.optimisation import is_new, tower_of

if TYPE_CHECKING:
    from fclip.model import Model

MOST = 1 << 16  # captions kept: 134 MB of 512 float32 each


def text_is_locked(clip: nn.Module, only_new: bool = False) -> bool:
    """Whether a model gives a caption the same embedding throughout: all frozen, nothing dropped at random.

    Args:
        clip: the two towers.
        only_new: in a stage that teaches only what is new, which nothing of a text tower is.
    """
    learns = any(p.requires_grad for name, p in clip.named_parameters() if tower_of(name) == "text")
    return (only_new or not learns) and not any(
        _drops(m) for name, m in clip.named_modules() if tower_of(f"{name}.") == "text"
    )


def _drops(module: nn.Module) -> bool:
    """Whether a module drops at random: a dropout, or a rate that it hands to a function (as attentions do)."""
    if isinstance(module, nn.modules.dropout._DropoutNd):
        return module.p > 0
    rates = ("drop", "prob") if "drop" in type(module).__name__.lower() else ("drop",)  # prob: PatchDropout's
    named = [value for name, value in vars(module).items() if any(rate in name for rate in rates)]
    return any(isinstance(value, float) and value > 0 for value in named)


@dataclass(frozen=True)
class Cut:
    """An image tower in two.

    Attributes:
        body: normalised pixels (B, 3, H, W) → features (B, …); nothing in it learns.
        head: features → vectors (B, D).
        above: what the names of the head's parameters begin with; "" where the body is all.
    """

    body: Callable[[Tensor], Tensor]
    head: Callable[[Tensor], Tensor]
    above: str


def cut_image_tower(visual: nn.Module, only_new: bool = False) -> Cut | None:
    """An image tower cut below what learns of it: nothing, or its projection; None when more than that learns.

    Args:
        visual: the image tower, also behind a spatial transformer.
        only_new: in a stage that teaches only what is new.
    """
    learning = (name for name, p in visual.named_parameters() if p.requires_grad)
    learns = [name for name in learning if not only_new or is_new(f"visual.{name}")]
    if not learns:
        return Cut(visual, nn.Identity(), "")
    stn = getattr(visual, "stn", None)
    tower: Any = visual if stn is None else visual.tower
    prefix = "" if stn is None else "tower."
    below: Callable[[Tensor], Tensor]
    if hasattr(tower, "trunk") and all(name.startswith(f"{prefix}head.") for name in learns):
        below, head, above = tower.trunk, tower.head, f"{prefix}head."
    elif isinstance(tower, VisionTransformer) and learns == [f"{prefix}proj"]:
        below, head, above = _without_projection(tower), lambda features: features @ tower.proj, f"{prefix}proj"
    else:
        return None
    return Cut(below if stn is None else lambda pixels: below(stn(pixels)), head, above)


def _without_projection(tower: Any) -> Callable[[Tensor], Tensor]:
    def body(pixels: Tensor) -> Tensor:
        projection, tower.proj = tower.proj, None
        try:
            return tower(pixels)
        finally:
            tower.proj = projection

    return body


def why_features_vary(visual: nn.Module, cut: Cut) -> str | None:
    """Why, in the mode that it is in, a tower's body would not give a picture the same features again; None: it does.

    A batch norm in training mode makes a picture's features depend on its batch.
    """
    body = [(name, m) for name, m in visual.named_modules() if not (cut.above and f"{name}.".startswith(cut.above))]
    for name, module in body:
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.training:
            return f"its batch norms learn ({name}); set freeze_batch_norm=true"
        if _drops(module):
            return f"it drops at random ({name})"
    return None


class LockedTexts:
    """Captions → embeddings, each encoded once; the oldest are forgotten beyond `most`.

    Args:
        model: whose text tower encodes them.
        most: how many embeddings are kept, on the device that they come from.
    """

    def __init__(self, model: Model, most: int = MOST) -> None:
        self._model, self._most = model, most
        self._kept: dict[bytes, Tensor] = {}

    @torch.compiler.disable  # looks at values
    @torch.no_grad()
    def __call__(self, tokens: Tensor) -> Tensor:
        """Tokens (T, L), not cut → (T, D), without gradient; those not seen before are encoded."""
        keys = [row.tobytes() for row in tokens.cpu().numpy()]
        new = {key: row for row, key in enumerate(keys) if key not in self._kept}
        if new:
            self._kept |= dict(zip(new, self._encode_new(tokens[list(new.values())]).unbind(), strict=True))
        found = torch.stack([self._kept[key] for key in keys])
        for key in list(self._kept)[: max(0, len(self._kept) - self._most)]:
            del self._kept[key]
        return found

    def _encode_new(self, tokens: Tensor) -> Tensor:
        """On a CPU one by one: the last bits depend on the batch, and a resumed run meets captions in other batches."""
        if tokens.device.type != "cpu":
            return self._model.encode_text(tokens)
        return torch.cat([self._model.encode_text(self._model.cut(row[None])) for row in tokens])
