"""Pooling equals loops over places, for maps in either order and for tokens."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fclip.errors import UserError
from fclip.pooling import pool

MAP = torch.randn(2, 5, 3, 4, generator=torch.Generator().manual_seed(0))


def naive(feature_map: np.ndarray, kind: str) -> list[float]:
    """One picture's (C, H, W) → C numbers."""
    found = []
    for channel in feature_map:
        values = [float(value) for row in channel for value in row]
        if kind == "avg":
            found.append(sum(values) / len(values))
        elif kind == "max":
            found.append(max(values))
        else:
            found.append((sum(max(v, 1e-6) ** 3 for v in values) / len(values)) ** (1 / 3))
    return found


def expected(kind: str) -> np.ndarray:
    return np.array([naive(one, kind) for one in MAP.double().numpy()])


@pytest.mark.parametrize("kind", ["avg", "max", "gem"])
def test_a_map_is_pooled_as_loops_do_in_any_layout(kind) -> None:
    tokens = MAP.flatten(2).transpose(1, 2)
    prefixed = torch.cat([torch.full((2, 2, 5), 99.0), tokens], 1)
    for features, prefix in ((MAP, 0), (MAP.permute(0, 2, 3, 1), 0), (tokens, 0), (prefixed, 2)):
        np.testing.assert_allclose(pool(features, (kind,), 5, prefix).numpy(), expected(kind), atol=1e-6)


def test_the_class_token_is_the_first() -> None:
    tokens = torch.randn(2, 7, 5, generator=torch.Generator().manual_seed(1))
    assert torch.equal(pool(tokens, ("cls",), 5, 2), tokens[:, 0])


def test_of_several_poolings_the_cosine_is_the_mean_of_theirs() -> None:
    one, other = pool(MAP, ("avg", "max"), 5)
    cosines = []
    for kind in ("avg", "max"):
        a, b = expected(kind)
        cosines.append(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
    cosine = torch.nn.functional.cosine_similarity(one, other, dim=0).item()
    assert cosine == pytest.approx(np.mean(cosines), abs=1e-6)
    first = pool(MAP, ("avg",), 5)[0]
    torch.testing.assert_close(one[:5], first / first.norm())


def test_half_precision_is_pooled_in_single() -> None:
    assert pool(MAP.half(), ("gem",), 5).dtype == torch.float32


def test_what_cannot_be_pooled_is_said() -> None:
    with pytest.raises(UserError, match="class token"):
        pool(MAP, ("cls",), 5)
    with pytest.raises(UserError, match=r"6 channels.*\(2, 5, 3, 4\)"):
        pool(MAP, ("avg",), 6)
