"""Embeddings as unit vectors, taken by parts: nothing as large as the whole is copied, so they may be memory-mapped.

>>> pictures = unit_rows(embeddings, "image")
>>> cosines(pictures, captions, [0, 0], [3, 7])      # picture 0 with captions 3 and 7, in float64
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.integer[Any]]


@dataclass(frozen=True)
class UnitRows:
    """Rows that become unit vectors when they are taken; made by `unit_rows`."""

    rows: Floats  # (N, D) finite, of any length but 0
    norm: NDArray[np.float64]  # (N,)

    def __len__(self) -> int:
        return len(self.rows)

    def exact(self, which: Any) -> NDArray[np.float64]:
        """(n, D) unit vectors in float64."""
        return np.asarray(self.rows[which], np.float64) / self.norm[which][:, None]

    def fast(self, which: slice) -> NDArray[np.float32]:
        """(n, D) unit vectors in float32."""
        if self.rows.dtype not in (np.float16, np.float32):
            return self.exact(which).astype(np.float32)
        return np.asarray(self.rows[which], np.float32) / self.norm[which].astype(np.float32)[:, None]


def unit_rows(rows: Floats, name: str, step: int = 1 << 14) -> UnitRows:
    """Checks embeddings (N, D), normalised or not; `name` is what errors call them.

    Raises:
        ValueError: not (N, D), not finite, or a zero vector.
    """
    if rows.ndim != 2:
        raise ValueError(f"expected {name} embeddings (N, D), got {rows.shape}")
    squares = [(np.asarray(rows[part], np.float64) ** 2).sum(1) for part in slices(len(rows), step)]
    norm = np.sqrt(np.concatenate(squares)) if squares else np.zeros(0)
    if not np.isfinite(norm).all():
        raise ValueError(f"expected finite {name} embeddings, got nan or infinity; the model has diverged")
    if (norm == 0).any():
        raise ValueError(f"expected {name} embeddings with a direction, got a zero vector in row {norm.argmin()}")
    return UnitRows(rows, norm)


def cosines(a: UnitRows, b: UnitRows, first: Ints, second: Ints, step: int = 1 << 12) -> NDArray[np.float64]:
    """(p,) of rows `first` (p,) of a with rows `second` (p,) of b: the same bits for the same vectors anywhere."""
    found = np.zeros(len(first))
    for part in slices(len(first), step):
        found[part] = (a.exact(first[part]) * b.exact(second[part])).sum(1)
    return found


def slices(n: int, step: int) -> Iterator[slice]:
    """0 … n in parts of `step`."""
    return (slice(start, min(start + step, n)) for start in range(0, n, step))
