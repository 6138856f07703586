"""How far predicted landmarks are off: normalised error and PDJ curves.

Only visible points count, in the numerator and in the denominator: an invisible one is neither found nor missed.
(A well-known toolbox multiplies prediction and truth by visibility, so that every invisible point counts as found.)

    distance          |predicted - true| / scale, scale = (width, height) of the picture or box, or a reference length
    normalised error  the mean over landmarks of each one's mean distance
    PDJ at t          share of distances of at most t, "percentage of detected joints"; over t it is a curve

    >>> far = landmark_distances(predicted, truth, visible, sizes_px)   # (N, L), nan where invisible
    >>> normalised_error(far)["mean"], pdj(far, [0.1, 0.2])

Sources: Liu et al., Fashion Landmark Detection in the Wild, ECCV 2016 (error in normalised coordinates); Sapp & Taskar,
MODEC, CVPR 2013 (PDJ).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eval.metrics.means import finite, known_mean, share

Array = NDArray[np.float64]


def landmark_distances(
    predicted: NDArray[Any], truth: NDArray[Any], visible: NDArray[np.bool_], scale: NDArray[Any] | float = 1.0
) -> Array:
    """(N, L) distances in units of the scale, nan where the point is invisible.

    Args:
        predicted, truth: (N, L, 2) x and y; the truth of invisible points is not read.
        visible: (N, L) the point can be seen.
        scale: what 1 is: (N, 2) width and height, (N,) a length such as the torso's, or one number.

    Raises:
        ValueError: shapes disagree, coordinates are not finite, or a scale is not positive.
    """
    predicted, visible = finite(predicted, "predicted landmarks"), np.asarray(visible, bool)
    truth = finite(np.where(visible[..., None], truth, 0), "visible landmarks")
    if predicted.ndim != 3 or predicted.shape[2] != 2 or predicted.shape != truth.shape:
        raise ValueError(f"expected landmarks (N, L, 2), got {predicted.shape} and {truth.shape}")
    unit = finite(scale, "scales")
    if (unit <= 0).any() or (unit.ndim and unit.shape not in ((len(predicted),), (len(predicted), 2))):
        raise ValueError(f"expected positive scales (N,) or (N, 2) of {len(predicted)} pictures, got {unit.shape}")
    unit = unit.reshape(len(predicted), 1, -1) if unit.ndim else unit
    return np.where(visible, np.linalg.norm((predicted - truth) / unit, axis=2), np.nan)


def normalised_error(distances: Array) -> dict[str, Any]:
    """Mean distances.

    Returns: "landmarks" (L,), nan for a landmark never visible; "mean" of these; "pooled" over all visible points.
    """
    each = known_mean(distances.T)
    return {"landmarks": each, "mean": known_mean(each), "pooled": known_mean(distances.ravel())}


def pdj(distances: Array, thresholds: Sequence[float]) -> dict[str, Array]:
    """The PDJ curve; a distance equal to the threshold is within it.

    Args:
        distances: (N, L), nan where invisible.
        thresholds: (T,) in units of the distances.

    Returns: "all" (T,) over all visible points, "landmarks" (T, L); nan where none is visible.
    """
    limits = finite(thresholds, "thresholds")
    within = (distances[None] <= limits[:, None, None]).sum(1)  # nan is not within
    visible = (~np.isnan(distances)).sum(0)
    return {"all": share(within.sum(1), visible.sum()), "landmarks": share(within, visible[None])}
