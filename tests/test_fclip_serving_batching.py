"""What is asked at the same time is encoded together, and nobody gets another's answer, error or wait."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from fclip.serving.batching import Batcher, BusyError


class Encoder:
    """Every word becomes its length and first letter; `gate` holds the thread, "bad" fails the batch it is in."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.gate = threading.Event()
        self.gate.set()

    def __call__(self, words: list[str]) -> np.ndarray:
        self.gate.wait(5)
        self.batches.append(list(words))
        if "bad" in words:
            raise ValueError("a bad word")
        return np.array([[len(word), ord(word[0])] for word in words], np.float32)


def expected(words) -> list[list[float]]:
    return [[len(word), ord(word[0])] for word in words]


def run(scenario, **options):
    """The scenario's result, given an encoder and a batcher of its own."""

    async def go():
        encoder = Encoder()
        with ThreadPoolExecutor(1) as thread:
            batcher = Batcher(encoder, thread, **options)
            try:
                return await asyncio.wait_for(scenario(encoder, batcher), 10)
            finally:
                encoder.gate.set()
                await batcher.close()

    return asyncio.run(go())


async def behind_a_closed_gate(encoder, batcher, *requests):
    """Starts a first request, then the others while that one is being encoded."""
    encoder.gate.clear()
    first = asyncio.create_task(batcher.submit(["first"]))
    await asyncio.sleep(0.02)
    tasks = [asyncio.create_task(batcher.submit(words)) for words in requests]
    await asyncio.sleep(0.01)
    return first, tasks


def test_what_comes_meanwhile_is_one_batch_and_each_gets_its_own() -> None:
    requests = [[f"{chr(97 + i)}{'x' * i}" for _ in range(1 + i % 3)] for i in range(20)]

    async def scenario(encoder, batcher):
        first, tasks = await behind_a_closed_gate(encoder, batcher, *requests)
        encoder.gate.set()
        assert (await first).tolist() == expected(["first"])
        for words, task in zip(requests, tasks, strict=True):
            assert (await task).tolist() == expected(words)
        assert list(map(len, encoder.batches)) == [1, sum(map(len, requests))]

    run(scenario)


def test_a_batch_holds_whole_requests_up_to_its_limit() -> None:
    async def scenario(encoder, batcher):
        first, tasks = await behind_a_closed_gate(encoder, batcher, ["a"] * 3, ["b"] * 2, ["c"] * 9, ["d"])
        encoder.gate.set()
        await asyncio.gather(first, *tasks)
        assert encoder.batches[1:] == [["a"] * 3, ["b"] * 2, ["c"] * 9, ["d"]]

    run(scenario, max_batch=4)


def test_one_that_fails_fails_alone() -> None:
    async def scenario(encoder, batcher):
        first, tasks = await behind_a_closed_gate(encoder, batcher, ["good"], ["bad"], ["fine", "words"])
        encoder.gate.set()
        await first
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert results[0].tolist() == expected(["good"])
        assert isinstance(results[1], ValueError)
        assert results[2].tolist() == expected(["fine", "words"])

    run(scenario)


def test_who_has_gone_is_not_encoded() -> None:
    async def scenario(encoder, batcher):
        first, tasks = await behind_a_closed_gate(encoder, batcher, ["stays"], ["leaves"])
        tasks[1].cancel()
        await asyncio.sleep(0)
        encoder.gate.set()
        await asyncio.gather(first, tasks[0])
        assert encoder.batches == [["first"], ["stays"]]
        tasks = [asyncio.create_task(batcher.submit(["all leave"]))]
        await asyncio.sleep(0)
        tasks[0].cancel()
        assert (await batcher.submit(["next"])).tolist() == expected(["next"])
        assert ["all leave"] not in encoder.batches

    run(scenario)


def test_who_leaves_while_it_is_encoded_disturbs_nobody() -> None:
    async def scenario(encoder, batcher):
        first, (second,) = await behind_a_closed_gate(encoder, batcher, ["second"])
        first.cancel()
        encoder.gate.set()
        assert (await second).tolist() == expected(["second"])

    run(scenario)


def test_too_much_is_turned_away_rather_than_kept_waiting() -> None:
    async def scenario(encoder, batcher):
        first, tasks = await behind_a_closed_gate(encoder, batcher, ["a", "b"])
        assert batcher.waiting == 2
        with pytest.raises(BusyError):
            await batcher.submit(["c", "d"])
        encoder.gate.set()
        await asyncio.gather(first, *tasks)
        assert len(await batcher.submit(["c", "d"])) == 2

    run(scenario, max_waiting=3)


def test_a_lone_request_does_not_wait_for_company() -> None:
    async def scenario(encoder, batcher):
        for _ in range(3):
            await batcher.submit(["alone"])  # ten seconds are all that the scenario has

    run(scenario, wait_ms=60_000)


def test_closing_answers_what_waits() -> None:
    async def scenario(encoder, batcher):
        first, tasks = await behind_a_closed_gate(encoder, batcher, ["a"], ["b"])
        closing = asyncio.create_task(batcher.close())
        encoder.gate.set()
        await closing
        assert [task.done() for task in [first, *tasks]] == [True] * 3

    run(scenario)


def test_an_encoder_that_gives_too_few_vectors_is_no_silent_mistake() -> None:
    async def scenario(encoder, batcher):
        batcher._encode = lambda words: np.zeros((0, 2), np.float32)
        with pytest.raises(RuntimeError, match="expected 1 vectors"):
            await batcher.submit(["a"])

    run(scenario)


def test_sizes_and_seconds_are_told() -> None:
    told = []

    async def scenario(encoder, batcher):
        await batcher.submit(["a", "b"])

    run(scenario, observe=lambda items, seconds: told.append((items, seconds >= 0)))
    assert told == [(2, True)]
