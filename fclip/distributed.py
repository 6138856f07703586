"""Gathering across processes, with gradient, so that W processes of B compute the loss of one process of W*B.

Every process computes the same global loss of all embeddings. The backward of the gather sums over processes, which
gives W times the true gradient of the local embeddings; DDP's mean over processes takes that factor out again.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor


def gather(values: Tensor) -> Tensor:
    """(B, …) of each process → (W*B, …), in the order of the ranks; differentiable. Alone: the values themselves."""
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return values
    if values.requires_grad:
        from torch.distributed.nn.functional import all_gather

        return torch.cat(all_gather(values))
    parts = [torch.empty_like(values) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, values.contiguous())
    return torch.cat(parts)
