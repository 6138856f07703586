"""Who sees which system where: Williams squares, balanced over the participants that complete the study.

A participant sees the answers of S systems side by side under letters. A Williams square is a set of orders in which
every system stands equally often in every position, and equally often directly after every other system (first-order
carry-over): S orders for an even S, for an odd S 2S, the square and its mirror. Participants are divided evenly over
the orders; who leaves gives the place back.

    >>> design = make_design(["baseline", "tuned", "stn", "diffusion"], seed=7)
    >>> order = next_order(design, Places(completed=(1, 1, 0, 1), active=(0, 0, 0, 0)))   # 2: the one that is behind
    >>> [page.systems for page in pages(design, order, own=1, calibration=2, repeat=True)]

All are pure functions; the store counts and asks. Letters go by position, A first, on every page anew: a letter tells
nothing, since every system has every letter equally often.

Source: Williams, Experimental designs balanced for the estimation of residual effects of treatments, 1949.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from string import ascii_uppercase

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Design:
    """The orders in which systems are shown."""

    systems: tuple[str, ...]  # as the study names them
    orders: tuple[tuple[str, ...], ...]  # each all systems, by position


@dataclass(frozen=True)
class Places:
    """How many participants have each order of a design: the state that a store keeps."""

    completed: tuple[int, ...]  # answered everything
    active: tuple[int, ...]  # began and may still complete; released ones count in neither


@dataclass(frozen=True)
class Page:
    """One query of one participant: what is asked, and the systems by position."""

    query: int  # 0, 1, … in the order in which they are asked
    kind: str  # own, calibration or repeat
    calibration: int | None  # which calibration query
    repeats: int | None  # the query that is asked again
    systems: tuple[str, ...]

    @property
    def letters(self) -> dict[str, str]:
        """System → letter."""
        return dict(zip(self.systems, letters(len(self.systems)), strict=True))


def williams(n: int) -> tuple[tuple[int, ...], ...]:
    """The orders of n treatments: n of them for an even n, else 2n.

    Raises:
        ValueError: fewer than two treatments.
    """
    if n < 2:
        raise ValueError(f"expected two systems or more to compare, got {n}")
    first = [(i + 1) // 2 if i % 2 else -(i // 2) for i in range(n)]  # 0, 1, -1, 2, -2, …
    square = [tuple((start + step) % n for step in first) for start in range(n)]
    return tuple(square if n % 2 == 0 else [*square, *(order[::-1] for order in square)])


def make_design(systems: Sequence[str], seed: int = 0) -> Design:
    """The study's orders; the seed decides which system is which number of the square, and which order comes first.

    Raises:
        ValueError: fewer than two systems, more than there are letters, or a name twice.
    """
    if len(set(systems)) < len(systems) or len(systems) > len(ascii_uppercase):
        raise ValueError(f"expected at most {len(ascii_uppercase)} systems with different names, got {list(systems)}")
    rng, square = np.random.default_rng(seed), williams(len(systems))
    names = [systems[i] for i in rng.permutation(len(systems))]
    rows = [square[i] for i in rng.permutation(len(square))]
    return Design(tuple(systems), tuple(tuple(names[i] for i in row) for row in rows))


def letters(n: int) -> tuple[str, ...]:
    """A, B, C, …"""
    return tuple(ascii_uppercase[:n])


def next_order(design: Design, places: Places, target: int | None = None) -> int | None:
    """The order for the next participant: the one that fewest have or will have completed.

    Of several the one with the fewest completed, since active ones may leave; then the first.

    Args:
        target: participants that are wanted in all; None: no limit.

    Returns: the order's number, or None when completed and active ones are as many as are wanted.

    Raises:
        ValueError: the counts are not of this design.
    """
    _check(design, places.completed, places.active)
    taken = [done + busy for done, busy in zip(places.completed, places.active, strict=True)]
    if target is not None and sum(taken) >= target:
        return None
    return min(range(len(taken)), key=lambda order: (taken[order], places.completed[order], order))


def is_stale(last_seen: datetime, now: datetime, hours: float) -> bool:
    """Whether an active place is given back: nothing was heard for so long.

    Who comes back after that goes on in the old order and counts when completed; the next ones make up for it.
    """
    return now - last_seen > timedelta(hours=hours)


def pages(design: Design, order: int, own: int = 1, calibration: int = 0, repeat: bool = False) -> list[Page]:
    """What a participant is asked: own queries, then the shared ones, at last the first own one again.

    Over a complete block of participants every page is balanced. Each page has another order than the one before, and
    the repeated query another than at first (with two systems there are only two orders).

    Args:
        order: of `next_order`.
        own: queries of the participant's own.
        calibration: queries that all participants share, asked in turns so that each comes first equally often.
        repeat: ask the first own query again, to see how steady answers are.
    """
    kinds: list[tuple[str, int | None, int | None]] = [("own", None, None)] * own
    kinds += [("calibration", (order + i) % calibration, None) for i in range(calibration)]
    kinds += [("repeat", None, 0)] if repeat and own else []
    found = []
    for query, (kind, shared, again) in enumerate(kinds):
        same = kind == "repeat" and query % len(design.orders) == 0
        systems = design.orders[(order + query + same) % len(design.orders)]
        found.append(Page(query, kind, shared, again, systems))
    return found


def position_counts(design: Design, participants: Sequence[int]) -> Ints:
    """(S, S) how often each system stood in each position, over so many participants of each order."""
    counts = np.zeros((len(design.systems),) * 2, np.int64)
    for order, number in zip(design.orders, participants, strict=True):
        for position, system in enumerate(order):
            counts[design.systems.index(system), position] += number
    return counts


def carry_over_counts(design: Design, participants: Sequence[int]) -> Ints:
    """(S, S) how often the system of the column stood directly after the system of the row."""
    counts = np.zeros((len(design.systems),) * 2, np.int64)
    for order, number in zip(design.orders, participants, strict=True):
        for before, after in itertools.pairwise(order):
            counts[design.systems.index(before), design.systems.index(after)] += number
    return counts


def imbalance(design: Design, participants: Sequence[int]) -> int:
    """The most that two orders differ in participants: 0 after complete blocks, 1 while a block fills."""
    _check(design, participants)
    return max(participants) - min(participants)


def _check(design: Design, *counts: Sequence[int]) -> None:
    for of_orders in counts:
        if len(of_orders) != len(design.orders):
            raise ValueError(f"expected counts of {len(design.orders)} orders, got {len(of_orders)}")
