"""Gradient caching (GradCache, Gao et al. 2021): a contrastive batch that does not depend on memory.

    outputs = backward(step_module, accelerator, batch, chunk=64)   # then optimizer.step()

The loss sees a batch only through its embeddings, which are small. So the towers run part by part without a graph, the
loss gives the gradient of every embedding, and the towers run once more, each part's backward taking the gradients of
its own embeddings. The gradients of the parameters are those of the whole batch, in the memory of one part (beside the
B × B similarities).

https://arxiv.org/abs/2101.06983
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

SCALARS = ("scale", "bias")


def backward(step_module: nn.Module, accelerator: Accelerator, batch: dict[str, Any], chunk: int) -> dict[str, Tensor]:
    """Adds the gradients of a batch's loss to the parameters.

    Args:
        step_module: a `Contrastive` as accelerator has prepared it.
        accelerator: scales what must be scaled, and synchronises.
        batch: collated.
        chunk: pictures, and texts, per forward pass at most; 0: all at once, with a single forward pass.

    Returns:
        What `Contrastive.loss` does; not to be gone backward through again.
    """
    contrastive: Any = accelerator.unwrap_model(step_module)
    batch = contrastive.with_texts(batch)
    if not chunk:
        outputs = step_module(batch)
        accelerator.backward(outputs["loss"])
        return outputs
    parts = split(*_in_step(batch, chunk, accelerator))
    with torch.no_grad(), rehearsal(step_module, contrastive.model.device):
        embedded = [step_module(part, only_embed=True) for part in parts]
    leaves = _leaves(embedded)
    outputs = contrastive.loss(leaves, batch)
    gradients = dict(zip(leaves, torch.autograd.grad(outputs["loss"], list(leaves.values())), strict=True))
    for part, gradient in zip(parts, _by_part(gradients, embedded), strict=True):
        last = part is parts[-1]
        with nullcontext() if last else without_synchronising(step_module, accelerator):
            again = step_module(part, only_embed=True)
            aligned = torch.stack([(again[name] * g).sum() for name, g in gradient.items()]).sum()
            if aligned.requires_grad:  # a part without texts, when only the text tower learns
                accelerator.backward(aligned)
    return outputs


def number_of_parts(batch: dict[str, Any], chunk: int) -> int:
    """The fewest parts of at most `chunk` pictures and texts each."""
    return -(-max(len(batch[_seen(batch)]), len(batch["texts"])) // chunk)


def _seen(batch: dict[str, Any]) -> str:
    """What a batch has of its pictures: a locked tower's features, or their pixels."""
    return "features" if "features" in batch else "pixels"


def split(batch: dict[str, Any], number: int) -> list[dict[str, Tensor]]:
    """So many parts of about equal size, the larger ones last.

    With few texts the first parts have none. The last one always has both: DistributedDataParallel synchronises after
    it, and waits for all parameters.
    """
    seen = _seen(batch)
    pictures, texts = (_larger_last(batch[name], number) for name in (seen, "texts"))
    return [{seen: p, "texts": t} for p, t in zip(pictures, texts, strict=True)]


def _in_step(batch: dict[str, Any], chunk: int, accelerator: Accelerator) -> tuple[dict[str, Any], int]:
    """The batch to be split, and into how many parts.

    Under FSDP every forward gathers its weights from all processes: each must go through both towers as often as the
    others, so the one with the most texts decides, and where texts are too few the last is encoded again for nothing.
    """
    if not accelerator.is_fsdp2:
        return batch, number_of_parts(batch, chunk)
    number = -(-max(len(batch[_seen(batch)]), batch["most"]) // chunk)
    texts = batch["texts"]
    spare = texts[-1:].expand(max(0, number - len(texts)), -1)
    return batch | {"texts": torch.cat([texts, spare])}, number


def _larger_last(rows: Tensor, number: int) -> Sequence[Tensor]:
    sizes = [len(part) for part in rows.tensor_split(number)]
    return rows.split(sizes[::-1])


@contextmanager
def rehearsal(module: nn.Module, device: torch.device) -> Iterator[None]:
    """What runs inside leaves no trace, so that it can run again with the same random numbers.

    Batch norms in training mode use the batch's statistics as ever but do not add them to the running ones: the second
    pass does. (Copying them back instead would undo DistributedDataParallel's broadcast of them.)
    """
    norms = [m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    tracking = [m for m in norms if m.training and m.track_running_stats]
    for norm in tracking:
        norm.track_running_stats = False
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            yield
    finally:
        for norm in tracking:
            norm.track_running_stats = True


def without_synchronising(step_module: nn.Module, accelerator: Accelerator) -> AbstractContextManager[None]:
    """Gradients stay each process's own. Accelerate's does nothing for a DistributedDataParallel of one process."""
    own = getattr(step_module, "no_sync", None) if accelerator.num_processes == 1 else None
    return own() if own else accelerator.no_sync(step_module)


def _leaves(embedded: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The whole batch's embeddings, and the scalars once: through every part they would learn k times as fast."""
    whole = {name: torch.cat([part[name] for part in embedded if name in part]) for name in ("image", "text")}
    whole |= {name: embedded[-1][name] for name in SCALARS if name in embedded[-1]}
    return {name: value.detach().requires_grad_() for name, value in whole.items()}


def _by_part(gradients: dict[str, Tensor], embedded: list[dict[str, Tensor]]) -> Iterator[dict[str, Tensor]]:
    """The gradients of each part's embeddings; the last part has those of the scalars."""
    first = dict.fromkeys(("image", "text"), 0)
    for part in embedded:
        mine = {}
        for name in [name for name in first if name in part]:
            mine[name] = gradients[name][first[name] : first[name] + len(part[name])]
            first[name] += len(part[name])
        if part is embedded[-1]:
            mine |= {name: gradients[name] for name in SCALARS if name in gradients}
        yield mine
