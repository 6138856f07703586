"""Which value is taken for which? Counts of true against found values of one attribute.

    counts[t, f]   pictures whose true value is t and whose nearest caption states f

Pictures whose true value is unknown do not count. A caption that states no value is a column of its own, the last one:
it is wrong, and not another value. Rows divided by their sums are recalls; their mean is macro recall, not attribute
SFA of the group, which weights by pictures.

    >>> confusion(np.array([0, 0, 1]), np.array([0, -1, 1]), 2).tolist()
    [[1, 0, 1], [0, 1, 0]]

The definition is scikit-learn's `confusion_matrix`, but for the last column.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from eval.metrics.surfacing import UNKNOWN, Ints


def confusion(true: Ints, found: Ints, n_values: int) -> NDArray[np.int64]:
    """Counts (n_values, n_values + 1); the last column counts pictures for which no value was found.

    Args:
        true: (N,) 0 … n_values - 1, -1 = unknown.
        found: (N,) 0 … n_values - 1, -1 = none.

    Raises:
        ValueError: lengths disagree, or a code is out of range.
    """
    if len(true) != len(found):
        raise ValueError(f"expected a found value for each true one, got {len(found)} for {len(true)}")
    for codes in (true, found):
        if len(codes) and not -1 <= codes.min() <= codes.max() < n_values:
            raise ValueError(f"expected codes of {n_values} values or -1, got {codes.min()} … {codes.max()}")
    known = true != UNKNOWN
    columns = np.where(found == UNKNOWN, n_values, found)[known]
    counts = np.bincount(true[known] * (n_values + 1) + columns, minlength=n_values * (n_values + 1))
    return counts.reshape(n_values, n_values + 1).astype(np.int64)


def commonest(codes: Ints, limit: int) -> Ints:
    """The values that occur, the commonest first, at most `limit`; the lower code first of equally common ones."""
    values, counts = np.unique(codes[codes != UNKNOWN], return_counts=True)
    return values[np.argsort(-counts, kind="stable")][:limit]


def renumbered(codes: Ints, values: Ints) -> Ints:
    """Codes as places in `values`, the others as one more value, len(values); unknown stays unknown."""
    places = np.full(1 + max(codes.max(initial=0), values.max(initial=0)), len(values), np.int64)
    places[values] = np.arange(len(values))
    return np.where(codes == UNKNOWN, UNKNOWN, places[np.maximum(codes, 0)])
