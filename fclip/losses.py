"""The contrastive loss, and which pairs count as positives.

Captions made from attributes repeat: in a batch of 256 many pictures share one sentence, and plain CLIP would push a
picture away from the very words that describe it. So positives are a matrix, not a diagonal.

All functions are pure; similarities are computed in float32 whatever the autocast.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def equal_captions(ids: Tensor) -> Tensor:
    """Pairs whose captions are equal: caption ids (B,) → bool (B, B)."""
    return ids[:, None] == ids[None, :]


def compatible_captions(attributes: Tensor, stated: Tensor) -> Tensor:
    """Pairs in which the caption says nothing that the picture contradicts.

    Args:
        attributes: codes of the pictures (B, G), -1 where unknown.
        stated: codes that the captions state (N, G), -1 where they say nothing of a group.

    Returns:
        bool (B, N), picture i by caption j. A caption that states a group unknown for the picture is no positive.
    """
    agrees = torch.ones(len(attributes), len(stated), dtype=torch.bool, device=stated.device)
    for has, says in zip(attributes.T, stated.T, strict=True):  # by group: (B, N, G) would be the largest of all
        agrees &= (has[:, None] == says) | (says < 0)
    return agrees


def caption_overlap(attributes: Tensor, stated: Tensor) -> Tensor:
    """The share of what a caption states that the picture has.

    Args:
        attributes: codes of the pictures (B, G), -1 where unknown.
        stated: codes that the captions state (N, G), -1 where they say nothing of a group.

    Returns:
        float (B, N) in 0..1, picture i by caption j; 0 for a caption that states nothing.
    """
    shared = torch.zeros(len(attributes), len(stated), device=stated.device).float()
    for has, says in zip(attributes.T, stated.T, strict=True):
        shared += (has[:, None] == says) & (says >= 0)
    return shared / (stated >= 0).sum(dim=1).clamp(min=1)


def contrastive_loss(image: Tensor, text: Tensor, logit_scale: Tensor, positives: Tensor | None = None) -> Tensor:
    """Half the cross-entropy of pictures over texts plus half that of texts over pictures (Dress-UP, section 3.1).

    The target of a row (a column) is proportional to its entries in `positives`: uniform over the positives when these
    are bool. With `positives` left out, pair i, i is the only one, and the loss is CLIP's.

    Args:
        image: unit vectors (B, D).
        text: unit vectors (N, D); N = B without `positives`.
        logit_scale: logarithm of the inverse temperature, scalar.
        positives: (B, N), bool, or how much of a positive each pair is (at least 0). Rows and columns without any are
            left out of the mean.

    Returns:
        A scalar; 0 when there is no positive at all.
    """
    with torch.autocast(image.device.type, enabled=False):
        logits = logit_scale.float().exp() * image.float() @ text.float().T
        if positives is None:
            positives = torch.eye(len(image), dtype=torch.bool, device=image.device)
        return (_soft_cross_entropy(logits, positives) + _soft_cross_entropy(logits.T, positives.T)) / 2


def _soft_cross_entropy(logits: Tensor, positives: Tensor) -> Tensor:
    totals = positives.sum(dim=1)
    counts = totals > 0
    own = (F.log_softmax(logits, dim=1) * positives).sum(dim=1) / totals.where(counts, 1)
    return -own.sum() / counts.sum().clamp(min=1)


def sigmoid_loss(
    image: Tensor, text: Tensor, logit_scale: Tensor, logit_bias: Tensor, positives: Tensor | None = None
) -> Tensor:
    """Cross-entropy of every pair by itself, positive or not, per picture (SigLIP, Zhai et al. 2023, section 3.2).

    Args:
        image: unit vectors (B, D).
        text: unit vectors (N, D); N = B without `positives`.
        logit_scale: logarithm of the inverse temperature, scalar.
        logit_bias: added to every logit, scalar; far below zero at the start, since most pairs are negative.
        positives: (B, N), bool, or how much of a positive each pair is (0..1); None: pair i, i.

    Returns:
        A scalar.
    """
    with torch.autocast(image.device.type, enabled=False):
        logits = logit_scale.float().exp() * image.float() @ text.float().T + logit_bias.float()
        if positives is None:
            positives = torch.eye(len(image), device=image.device)
        return F.binary_cross_entropy_with_logits(logits, positives.to(logits.dtype), reduction="sum") / len(image)


def surfacing_loss(
    image: Tensor, bank: Tensor, logit_scale: Tensor, target: Tensor, inclusion: Tensor | None = None
) -> Tensor:
    """Cross-entropy of pictures over distinct captions, each counted once: text surfacing accuracy, made smooth.

    In a batch a caption appears as often as pictures with it do, so the contrastive loss learns likelihood ratios, and
    a rare caption looks as good as a frequent one. Over distinct captions it learns which caption is most probable,
    which is what surfacing asks.

    Args:
        image: unit vectors (B, D).
        bank: unit vectors of distinct captions (N, D).
        logit_scale: logarithm of the inverse temperature, scalar.
        target: the row of `bank` that is the picture's caption (B,); -1 leaves the picture out.
        inclusion: the chance (N,) with which each caption came into `bank`, where that is a sample of all. Dividing by
            it makes the partition sum right in expectation (sampled softmax, Bengio and Senécal 2003).

    Returns:
        A scalar; 0 when every picture is left out.
    """
    with torch.autocast(image.device.type, enabled=False):
        logits = logit_scale.float().exp() * image.float() @ bank.float().T
        if inclusion is not None:
            logits = logits - inclusion.float().log()
        total = F.cross_entropy(logits, target, ignore_index=-1, reduction="sum")
        return total / (target >= 0).sum().clamp(min=1)
