"""The pace of a run, by a clock that is set by hand."""

from __future__ import annotations

import pytest
import torch

from fclip.pace import KEYS, Pace, peak_memory_gib


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def loader(clock: Clock, seconds: list[float]):
    """Batches that take so long to load."""
    for number, wait in enumerate(seconds):
        clock.now += wait
        yield number


def test_speed_and_waiting_by_hand(clock):
    pace = Pace(32, clock)
    for _ in pace.waiting(loader(clock, [1.0, 0.5])):
        clock.now += 1.25  # the step
    look = pace.look()
    assert tuple(look) == KEYS
    assert look["images_per_second"] == pytest.approx(2 * 32 / 4)
    assert look["step_seconds"] == pytest.approx(2)
    assert look["data_wait"] == pytest.approx(1.5 / 4)


def test_a_look_begins_a_new_span_and_a_restart_forgets_what_was_not_training(clock):
    pace = Pace(10, clock)
    batches = pace.waiting(loader(clock, [3.0, 0.0, 1.0]))
    next(batches)
    pace.look()
    next(batches)
    clock.now += 2
    assert pace.look()["images_per_second"] == pytest.approx(5)
    clock.now += 1000  # an evaluation
    pace.restart()
    next(batches)
    clock.now += 1
    look = pace.look()
    assert (look["step_seconds"], look["data_wait"]) == pytest.approx((2, 0.5))


def test_a_look_in_no_time_is_a_number(clock):
    look = Pace(10, clock).look()
    assert look["images_per_second"] == look["data_wait"] == 0


@pytest.mark.skipif(torch.cuda.is_available(), reason="there it is the GPU's memory")
def test_the_peak_of_memory_grows_with_what_is_held():
    before = peak_memory_gib()
    held = torch.ones(2**28)  # one GiB, touched
    assert peak_memory_gib() >= max(before, held.nbytes / 2**30)
    assert before > 0.05
