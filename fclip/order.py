"""Which rows each batch has: a matter of seed and step alone, so that any number of processes sees the same batches.

for rows in BatchOrder(len(pictures), batch_size=64, epochs=10, seed=0, rank=0, world=2, start=step): ...
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

RUNS = 16  # of neighbouring rows, that are shuffled together


class BatchOrder:
    """The indices of every batch of a whole run for one process: a new permutation each epoch, last odd rows dropped.

    Process r of W takes rows r*B..(r+1)*B of each global batch of W*B, so W processes of B see what one of W*B would.

    Args:
        rows: length of the training set.
        batch_size: per process.
        epochs: passes; the last may be part of one, but there is at least one step.
        seed: of the order.
        rank, world: this process and their number.
        start: global steps already done, when resuming.
        window: rows that are shuffled among each other (`shuffled`); 0: all.
    """

    def __init__(
        self,
        rows: int,
        batch_size: int,
        epochs: float,
        seed: int,
        rank: int = 0,
        world: int = 1,
        start: int = 0,
        window: int = 0,
    ):
        self.steps_per_epoch = rows // (batch_size * world)
        self.steps = max(1, round(self.steps_per_epoch * epochs)) if self.steps_per_epoch else 0
        self._rows, self._batch, self._seed, self._rank, self._world = rows, batch_size, seed, rank, world
        self._start, self._window = start, window

    def __len__(self) -> int:
        return self.steps - self._start

    def __iter__(self) -> Iterator[list[int]]:
        step = self._start
        while step < self.steps:
            epoch = step // self.steps_per_epoch
            order = shuffled(self._rows, np.random.default_rng([self._seed, epoch]), self._window)
            left = self.steps - epoch * self.steps_per_epoch
            for within in range(step % self.steps_per_epoch, min(self.steps_per_epoch, left)):
                first = (within * self._world + self._rank) * self._batch
                yield (order[first : first + self._batch] + epoch * self._rows).tolist()
                step += 1


def shuffled(rows: int, rng: np.random.Generator, window: int = 0) -> np.ndarray:
    """Row numbers in a random order (rows,) that reads shards in long runs.

    Runs of neighbouring rows are put in a random order, and each `RUNS` that follow one another are shuffled together.
    With a window of 0, or of all rows, every order is as likely.
    """
    if not window or window >= rows:
        return rng.permutation(rows)
    run = max(1, window // RUNS)
    starts = rng.permutation(np.arange(0, rows, run))
    order = (starts[:, None] + np.arange(run)).reshape(-1)
    order = order[order < rows]
    for first in range(0, rows, run * RUNS):
        rng.shuffle(order[first : first + run * RUNS])
    return order
