"""Texts without the padding behind them: the work of a text tower by the length of its texts.

    prefix = prefix_of(model.clip)            # None: the tower looks at all of it (SigLIP, towers of transformers)
    vectors = prefix.encode(prefix.cut(tokens))   # as model.clip.encode_text(tokens)

A causal tower that reads a text off its end token gives the same vector whatever stands behind it. CLIP's texts are
padded to 77 tokens and open_clip computes them all; a caption made of attributes has about fifteen.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from open_clip.transformer import text_global_pool
from torch import Tensor, nn


@dataclass(frozen=True)
class Prefix:
    """Where a tower reads a text off, and the tower.

    Attributes:
        pool: "argmax", the first of the highest ids, or "eos", the first end token.
        eos: id of the end token; only "eos" asks.
        tower: open_clip's `TextTransformer`, or its `CLIP`, which holds the same parts.
    """

    pool: str
    eos: int
    tower: Any = field(repr=False, compare=False)

    def cut(self, tokens: Tensor) -> Tensor:
        """Token ids (B, L) → (B, L'), up to where the longest text is read off; on a GPU this waits for it."""
        if not len(tokens):
            return tokens
        ends = (tokens == self.eos).int() if self.pool == "eos" else tokens
        return tokens[:, : int(ends.argmax(dim=1).max()) + 1]

    def encode(self, tokens: Tensor) -> Tensor:
        """Token ids (B, L), L at most the tower's context → vectors (B, D), not normalised."""
        tower, length = self.tower, tokens.shape[1]
        dtype = tower.transformer.get_cast_dtype()
        inside = tower.token_embedding(tokens).to(dtype) + tower.positional_embedding[:length].to(dtype)
        inside = tower.transformer(inside, attn_mask=tower.attn_mask[:length, :length])
        read = tower.ln_final(text_global_pool(inside, tokens, self.pool, eos_token_id=self.eos))
        projection = tower.text_projection
        if projection is None:
            return read
        return projection(read) if isinstance(projection, nn.Linear) else read @ projection


def prefix_of(clip: Any) -> Prefix | None:
    """How a model's text tower reads; None for one that is changed by what stands behind a text."""
    if hasattr(clip, "text_pool_type"):
        tower, pool, eos = clip, clip.text_pool_type, clip.text_eos_id
    else:
        tower = getattr(clip, "text", None)
        pool, eos = getattr(tower, "pool_type", None), getattr(tower, "eos_id", None)
    causal = getattr(tower, "attn_mask", None) is not None and getattr(tower, "cls_emb", None) is None
    whole = hasattr(tower, "ln_final") and not getattr(tower, "output_tokens", False)
    return Prefix(pool, eos, tower) if causal and whole and pool in ("argmax", "eos") else None
