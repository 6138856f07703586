"""Multi-label attributes in groups (texture, fabric, shape, part, style): top-k recall and average precision.

Top-k recall, DeepFashion's measure (Liu et al., DeepFashion, CVPR 2016, section 2.3): rank attributes by score, count
how many of a picture's own are among the first k. One group alone is ranked within itself. For all groups together
the published "all" columns differ, so all three are told:

    all_joint   all attributes in one ranking, its first k: the wording of the paper
    all_pooled  within each group its first k, hits and positives summed over the groups
    all_mean    mean of the groups' recalls

Recall is micro: hits summed over pictures, divided by positives summed over pictures. Where k is a group's size, its
recall is 1 for any model.

    >>> attribute_recall(scores, positive, {"sleeve": [0, 1, 2], "fit": [3, 4, 5, 6]}, k=2)["groups"]["sleeve"]

Attribute surfacing accuracy is in `eval.metrics.surfacing`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eval.metrics.means import finite, known_mean, share
from eval.metrics.ranking import ranking_of_scores
from eval.metrics.retrieval import average_precision

Array = NDArray[np.float64]
Flags = NDArray[np.bool_]


def attribute_recall(
    scores: NDArray[Any],
    positive: Flags,
    groups: Mapping[str, Sequence[int]],
    k: int,
    known: Flags | None = None,
    tie: float = 0.0,
) -> dict[str, Any]:
    """Top-k recall of each group and of all.

    Args:
        scores: (N, A), higher is better.
        positive: (N, A) the picture has the attribute.
        groups: name → columns.
        k: attributes taken from a ranking.
        known: (N, A) the label is known; others are no candidates. None: all are.
        tie: scores this close are equal; 1e-6 for float32 cosines.

    Returns: "groups" {name: recall}, "all_joint", "all_pooled", "all_mean"; nan where nothing is positive.

    Raises:
        ValueError: shapes disagree, scores not finite, or a group has fewer than k attributes.
    """
    columns = [column for group in groups.values() for column in group]
    hits = {name: group_hits(scores, positive, group, k, known, tie) for name, group in groups.items()}
    joint, joint_of = group_hits(scores, positive, columns, k, known, tie)
    found = np.array([[h.sum(), of.sum()] for h, of in hits.values()]).reshape(-1, 2)
    recalls = share(found[:, 0], found[:, 1])
    return {
        "groups": dict(zip(groups, recalls.tolist(), strict=True)),
        "all_joint": float(share(joint.sum(), joint_of.sum())),
        "all_pooled": float(share(found[:, 0].sum(), found[:, 1].sum())),
        "all_mean": known_mean(recalls),
    }


def group_hits(
    scores: NDArray[Any],
    positive: Flags,
    columns: Sequence[int],
    k: int,
    known: Flags | None = None,
    tie: float = 0.0,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(N,) positives among the first k of these columns, and (N,) positives: numerators and denominators to resample.

    Arguments and errors as `attribute_recall`.
    """
    scores, positive = finite(scores, "scores"), np.asarray(positive, bool)
    if scores.ndim != 2 or scores.shape != positive.shape or (known is not None and known.shape != scores.shape):
        raise ValueError(f"expected scores, labels and what is known (N, A), got {scores.shape} and {positive.shape}")
    if not 1 <= k <= len(columns):
        raise ValueError(f"expected k in 1 … {len(columns)}, the number of attributes in the group, got {k}")
    part, wanted = scores[:, columns], positive[:, columns]
    if known is not None:
        lowest = part.min(initial=0) - 1 - tie  # stands behind every known attribute
        part, wanted = np.where(known[:, columns], part, lowest), wanted & known[:, columns]
    found = ranking_of_scores(part, wanted, tie).flags(k)
    return found.sum(1), wanted.sum(1)


def attribute_average_precision(
    scores: NDArray[Any], positive: Flags, known: Flags | None = None, tie: float = 0.0
) -> Array:
    """(A,) average precision of each attribute: all pictures ranked by its score; their `known_mean` is mAP.

    scikit-learn takes equal scores as one step of the curve; here they are settled against the model.

    Args: as `attribute_recall`; a picture whose label is unknown is no candidate.

    Returns: nan for an attribute that no picture has.
    """
    scores, positive = finite(scores, "scores"), np.asarray(positive, bool)
    known = np.ones(scores.shape, bool) if known is None else known
    found = np.full(scores.shape[1], np.nan)
    for a in range(scores.shape[1]):
        rows = known[:, a]
        if (positive[:, a] & rows).any():
            found[a] = average_precision(ranking_of_scores(scores[None, rows, a], positive[None, rows, a], tie))[0]
    return found
