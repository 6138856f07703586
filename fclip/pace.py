"""How fast a run goes: images per second, seconds per step, the share of time spent waiting for data, memory.

    pace = Pace(images_per_step=256)
    for batch in pace.waiting(loader):
        loss = step(batch)
    loss.item()  # a GPU is done only now
    print(pace.look())

It reads the clock and nothing else: between two looks the processor runs ahead of a GPU as it did.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")
KEYS = ("images_per_second", "step_seconds", "data_wait", "memory_gib")
"""What a look tells; `data_wait` is a share, an upper bound on what a GPU idles: it may still be busy meanwhile."""


class Pace:
    """Times the steps between two looks.

    Args:
        images_per_step: of all processes.
        clock: seconds, from anywhere.
    """

    def __init__(self, images_per_step: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._images, self._clock = images_per_step, clock
        self.restart()

    def restart(self) -> None:
        """Begins a new span: after whatever was not training."""
        self._since, self._waited, self._steps = self._clock(), 0.0, 0

    def waiting(self, loader: Iterable[T]) -> Iterator[T]:
        """The loader's batches, with the wait for each of them timed."""
        batches = iter(loader)
        while True:
            before = self._clock()
            try:
                batch = next(batches)
            except StopIteration:
                return
            self._waited += self._clock() - before
            self._steps += 1
            yield batch

    def look(self) -> dict[str, float]:
        """KEYS → value over the steps since the last look; begins a new span."""
        seconds, steps = max(self._clock() - self._since, 1e-9), max(self._steps, 1)
        values = (self._images * self._steps / seconds, seconds / steps, self._waited / seconds, peak_memory_gib())
        self.restart()
        return dict(zip(KEYS, values, strict=True))


def peak_memory_gib() -> float:
    """The most memory that this process has held: on the GPU if it used one, else its own without its workers."""
    import torch

    on_gpu = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
    if on_gpu:
        return on_gpu / 2**30
    if sys.platform == "win32":
        return 0.0  # it has no `resource`
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30
