"""Shares and means that say nan, never 0, where there is nothing to divide by.

>>> known_mean(np.array([1.0, np.nan, 0.0]))   # a query without relevant candidates is left out
0.5
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def share(part: Any, whole: Any) -> NDArray[np.float64]:
    """part / whole, nan where whole is 0."""
    part, whole = np.asarray(part, np.float64), np.asarray(whole, np.float64)
    return np.divide(part, whole, out=np.full(np.broadcast(part, whole).shape, np.nan), where=whole != 0)


def known_mean(values: Any) -> Any:
    """The mean over the last axis of what is not nan; nan if all is. A float for one axis, else an array."""
    values = np.asarray(values, np.float64)
    known = ~np.isnan(values)
    mean = share(np.where(known, values, 0).sum(-1), known.sum(-1))
    return float(mean) if mean.ndim == 0 else mean


def finite(values: Any, name: str) -> NDArray[np.float64]:
    """The values as float64.

    Raises:
        ValueError: some are nan or infinite.
    """
    values = np.asarray(values, np.float64)
    if not np.isfinite(values).all():
        raise ValueError(f"expected finite {name}, got nan or infinity; the model has diverged")
    return values
