"""A text tower that does not learn: each caption is encoded once in a run, however often it comes.

    texts = LockedTexts(model.encode_text) if text_is_locked(model.clip) else model.encode_text
    vectors = texts(tokens)   # (T, L) → (T, D), the same every time

Attribute captions are few and repeat, so what is kept soon answers for nearly every batch (locked-image tuning with the
sides changed: Zhai et al. 2022).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from fclip.optimisation import tower_of

MOST = 1 << 16  # captions kept: 134 MB of 512 float32 each


def text_is_locked(clip: nn.Module) -> bool:
    """Whether a model gives a caption the same embedding throughout training: all frozen, nothing dropped at random."""
    learns = any(p.requires_grad for name, p in clip.named_parameters() if tower_of(name) == "text")
    return not learns and not any(_drops(m) for name, m in clip.named_modules() if tower_of(f"{name}.") == "text")


def _drops(module: nn.Module) -> bool:
    """Whether a module drops at random: a dropout, or a rate that it hands to a function (as attentions do)."""
    if isinstance(module, nn.modules.dropout._DropoutNd):
        return module.p > 0
    return any("drop" in name and isinstance(value, float) and value > 0 for name, value in vars(module).items())


class LockedTexts:
    """Captions → embeddings, each encoded once; the oldest are forgotten beyond `most`.

    Args:
        encode: tokens (N, L) → (N, D).
        most: how many embeddings are kept, on the device that they come from.
    """

    def __init__(self, encode: Callable[[Tensor], Tensor], most: int = MOST) -> None:
        self._encode, self._most = encode, most
        self._kept: dict[bytes, Tensor] = {}

    @torch.compiler.disable  # looks at values
    @torch.no_grad()
    def __call__(self, tokens: Tensor) -> Tensor:
        """Tokens (T, L) → (T, D), without gradient; those not seen before are encoded."""
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
            return self._encode(tokens)
        return torch.cat([self._encode(row[None]) for row in tokens])
