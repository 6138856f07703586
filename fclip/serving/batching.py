"""Concurrent requests are encoded together: one thread runs the model, what arrives meanwhile is its next batch.

    batcher = Batcher(encoder.embed_texts, max_batch=64)
    vectors = await batcher.submit(["red dress"])          # (1, D)
    await batcher.close()

An idle thread starts at once, so that a lone request waits for nobody. Only when the batch before was shared does the
next one wait `wait_ms` for the others, who are about to come back with their next question.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

T = TypeVar("T")


class BusyError(Exception):
    """More is waiting than can be answered in time."""


@dataclass
class _Waiting(Generic[T]):
    """What one request wants encoded."""

    items: Sequence[T]
    future: asyncio.Future[np.ndarray]


class Batcher(Generic[T]):
    """Collects what requests want encoded, and encodes it together.

    Attributes:
        waiting: items not yet begun.
    """

    def __init__(
        self,
        encode: Callable[[list[T]], np.ndarray],
        thread: Executor,
        max_batch: int = 64,
        wait_ms: float = 2.0,
        max_waiting: int = 1024,
        observe: Callable[[int, float], None] = lambda items, seconds: None,
    ) -> None:
        """A batcher of its own event loop.

        Args:
            encode: items → vectors (N, D); runs in the thread.
            thread: of one worker; several batchers may share it.
            max_batch: items encoded at once; a request of more is encoded alone.
            wait_ms: how long a batch waits for company when the one before had some.
            max_waiting: items; beyond them requests are turned away.
            observe: told the size of every batch and its seconds.
        """
        self._encode, self._thread, self._observe = encode, thread, observe
        self._max_batch, self._wait_s, self._max_waiting = max_batch, wait_ms / 1000, max_waiting
        self._queue: deque[_Waiting[T]] = deque()
        self._arrived = asyncio.Event()
        self._worker: asyncio.Task[None] | None = None
        self._idle = True

    @property
    def waiting(self) -> int:
        return sum(len(entry.items) for entry in self._queue)

    async def submit(self, items: Sequence[T]) -> np.ndarray:
        """Vectors (N, D) of some items; cancelled, it takes them out of the queue.

        Raises:
            BusyError: too much is waiting.
            Exception: what `encode` raised for these items, whoever they were encoded with.
        """
        if self.waiting + len(items) > self._max_waiting:
            raise BusyError
        if self._worker is None:
            self._worker = asyncio.create_task(self._work())
        entry = _Waiting(items, asyncio.get_running_loop().create_future())
        self._queue.append(entry)
        self._arrived.set()
        return await entry.future

    async def close(self) -> None:
        """Encodes what waits, then ends."""
        if self._worker is None:
            return
        while (self._queue or not self._idle) and not self._worker.done():
            await asyncio.sleep(0.005)
        self._worker.cancel()
        await asyncio.wait([self._worker])
        self._worker = None

    async def _work(self) -> None:
        shared = False
        while True:
            self._idle = True
            await self._arrived.wait()
            self._idle = False
            if shared and self.waiting < self._max_batch:
                await asyncio.sleep(self._wait_s)
            batch = self._next_batch()
            shared = len(batch) > 1
            if batch:
                await self._run(batch)

    def _next_batch(self) -> list[_Waiting[T]]:
        """Whole requests, the oldest first, without those whose client has gone."""
        batch: list[_Waiting[T]] = []
        size = 0
        while self._queue and (not batch or size + len(self._queue[0].items) <= self._max_batch):
            entry = self._queue.popleft()
            if not entry.future.done():
                batch.append(entry)
                size += len(entry.items)
        if not self._queue:
            self._arrived.clear()
        return batch

    async def _run(self, batch: list[_Waiting[T]]) -> None:
        try:
            vectors = await self._encoded([item for entry in batch for item in entry.items])
        except Exception as error:
            if len(batch) == 1:
                _fail(batch[0].future, error)
                return
            for entry in batch:  # one of them is at fault: each alone, so that the others have their answer
                if not entry.future.done():
                    await self._run([entry])
            return
        begin = 0
        for entry in batch:
            part, begin = vectors[begin : begin + len(entry.items)], begin + len(entry.items)
            if not entry.future.done():
                entry.future.set_result(part)

    async def _encoded(self, items: list[T]) -> np.ndarray:
        began = time.perf_counter()
        vectors = await asyncio.get_running_loop().run_in_executor(self._thread, self._encode, items)
        self._observe(len(items), time.perf_counter() - began)
        if len(vectors) != len(items):
            raise RuntimeError(f"expected {len(items)} vectors, the encoder gave {len(vectors)}")
        return vectors


def _fail(future: asyncio.Future[np.ndarray], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
