"""From a tower's feature map or tokens to one vector for each picture.

    vectors = pool(tower.forward_features(pixels), ("avg", "max"), channels=2048)      # (B, 4096)

avg   the mean over all places
max   the largest value over all places: Style Matcher's GlobalMaxPooling2D
gem   (mean of x^p)^(1/p) with p = 3 and x at least 1e-6: between the two (Radenovic et al., 2018)
cls   the first token, which transformers put in front of their places

Of several, each is brought to unit length before they are put side by side: largest values are several times as long as
means and would drown them. The cosine of two such vectors is the mean of the cosines of their parts.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from fclip.errors import UserError

OWN = "own"  # what the tower itself gives to its classifier
POOLINGS = ("avg", "max", "gem", "cls")
GEM_POWER = 3.0
GEM_LEAST = 1e-6


def pool(features: Tensor, kinds: Sequence[str], channels: int, prefix: int = 0) -> Tensor:
    """Pools features.

    Args:
        features: (B, C, H, W), (B, H, W, C) or tokens (B, N, C).
        kinds: some of `POOLINGS`, in the order of the parts.
        channels: C.
        prefix: tokens in front that are no places, the class token first.

    Returns: (B, C · number of kinds), float32.

    Raises:
        UserError: "cls" of features without such a token, or features of another shape.
    """
    tokens = tokens_of(features.float(), channels)
    places = tokens[:, prefix:]
    parts = [_first(tokens, prefix) if kind == "cls" else _over_places(places, kind) for kind in kinds]
    return parts[0] if len(parts) == 1 else torch.cat([F.normalize(part, dim=-1) for part in parts], dim=-1)


def tokens_of(features: Tensor, channels: int) -> Tensor:
    """Features as (B, N, C), N = H · W of a map.

    Raises:
        UserError: features of another shape.
    """
    if features.ndim == 4 and features.shape[1] == channels:
        return features.flatten(2).transpose(1, 2)
    if features.ndim in (3, 4) and features.shape[-1] == channels:
        return features.flatten(1, -2)
    raise UserError(
        f"expected a map or tokens of {channels} channels to pool, got features of shape {tuple(features.shape)}; "
        "leave the pooling out and the tower's own is taken"
    )


def _over_places(places: Tensor, kind: str) -> Tensor:
    if kind == "avg":
        return places.mean(1)
    if kind == "max":
        return places.amax(1)
    return places.clamp(min=GEM_LEAST).pow(GEM_POWER).mean(1).pow(1 / GEM_POWER)


def _first(tokens: Tensor, prefix: int) -> Tensor:
    if not prefix:
        raise UserError("expected a tower with a class token for cls pooling, this one has none; take avg, max or gem")
    return tokens[:, 0]
