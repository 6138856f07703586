"""Orders are balanced by counting, and stay so while participants come, leave and come back."""

from __future__ import annotations

import itertools
from datetime import datetime, timedelta

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from user_study.design import (
    Places,
    carry_over_counts,
    imbalance,
    is_stale,
    letters,
    make_design,
    next_order,
    pages,
    position_counts,
    williams,
)


@pytest.mark.parametrize("n", range(2, 9))
def test_every_system_is_equally_often_everywhere_and_after_every_other(n):
    orders = williams(n)
    assert len(orders) == (n if n % 2 == 0 else 2 * n)
    positions, after = np.zeros((n, n), int), np.zeros((n, n), int)
    for order in orders:
        assert sorted(order) == list(range(n))
        for position, system in enumerate(order):
            positions[system, position] += 1
        for before, system in itertools.pairwise(order):
            after[before, system] += 1
    times = len(orders) // n
    assert (positions == times).all()
    assert (after == times * (1 - np.eye(n, dtype=int))).all()


def test_the_square_of_four_is_the_published_one():
    assert williams(4) == ((0, 1, 3, 2), (1, 2, 0, 3), (2, 3, 1, 0), (3, 0, 2, 1))


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 7), st.integers(0, 99))
def test_a_seeded_design_counts_as_balanced_and_another_seed_is_another_design(n, seed):
    systems = [f"s{i}" for i in range(n)]
    design = make_design(systems, seed)
    assert design == make_design(systems, seed)
    everyone = [3] * len(design.orders)
    assert np.ptp(position_counts(design, everyone)) == 0
    after = carry_over_counts(design, everyone)
    assert len(set(after[~np.eye(n, dtype=bool)].tolist())) == 1
    assert np.trace(after) == 0
    assert imbalance(design, everyone) == 0


def test_seeds_shuffle_systems_and_orders():
    assert len({make_design("abcd", seed).orders for seed in range(20)}) > 10
    assert len({make_design("abcd", seed).orders[0][0] for seed in range(20)}) == 4


@settings(max_examples=30, deadline=None)
@given(
    st.integers(2, 5), st.lists(st.sampled_from(["come", "come", "finish", "leave", "return"]), max_size=80), st.data()
)
def test_completed_places_stay_balanced_whoever_leaves(n, events, data):
    """As many orders behind as people left at once; when all who are active finish, new ones fill the gaps first."""
    design = make_design([f"s{i}" for i in range(n)])
    completed, active, gone = ([0] * len(design.orders) for _ in range(3))
    for event in events:
        if event == "come":
            order = next_order(design, Places(tuple(completed), tuple(active)))
            taken = np.add(completed, active)
            assert taken[order] == taken.min()
            active[order] += 1
            continue
        source = gone if event == "return" else active
        full = [order for order, count in enumerate(source) if count]
        if full:
            order = data.draw(st.sampled_from(full))
            source[order] -= 1
            (gone if event == "leave" else completed)[order] += 1
    completed = np.add(completed, active).tolist()
    while imbalance(design, completed):
        order = next_order(design, Places(tuple(completed), (0,) * len(completed)))
        assert completed[order] == min(completed)
        completed[order] += 1


def test_active_ones_may_leave_so_a_tie_goes_to_whom_fewer_completed():
    design = make_design("abcd")
    assert next_order(design, Places((2, 1, 2, 2), (0, 1, 0, 0))) == 1
    assert next_order(design, Places((2, 2, 2, 1), (0, 0, 0, 0))) == 3
    assert next_order(design, Places((0, 0, 0, 0), (0, 0, 0, 0))) == 0


def test_a_full_study_takes_nobody_until_a_place_is_given_back():
    design = make_design("abcd")
    assert next_order(design, Places((1, 1, 1, 0), (0, 0, 0, 1)), target=4) is None
    assert next_order(design, Places((1, 1, 1, 0), (0, 0, 0, 0)), target=4) == 3


def test_a_place_is_stale_after_the_hours_and_not_before():
    now = datetime(2026, 3, 1, 12)
    assert not is_stale(now - timedelta(hours=2), now, 2)
    assert is_stale(now - timedelta(hours=2, seconds=1), now, 2)


@pytest.mark.parametrize("n", [3, 4])
def test_every_page_is_balanced_over_a_block_and_no_two_in_a_row_are_alike(n):
    design = make_design([f"s{i}" for i in range(n)], seed=3)
    block = [pages(design, order, own=2, calibration=2, repeat=True) for order in range(len(design.orders))]
    assert [page.kind for page in block[0]] == ["own", "own", "calibration", "calibration", "repeat"]
    assert block[0][-1].repeats == 0
    for asked in zip(*block, strict=True):
        assert sorted(page.systems for page in asked) == sorted(design.orders)
    for own in block:
        assert all(a.systems != b.systems for a, b in itertools.pairwise(own))
        assert own[0].systems != own[-1].systems
        assert own[0].letters == dict(zip(own[0].systems, letters(n), strict=True))
    assert {own[2].calibration for own in block} == {0, 1}
    assert all({own[2].calibration, own[3].calibration} == {0, 1} for own in block)


def test_a_design_needs_two_systems_of_different_names_and_its_own_counts():
    for systems in (["a"], ["a", "a"], [str(i) for i in range(27)]):
        with pytest.raises(ValueError, match="systems"):
            make_design(systems)
    with pytest.raises(ValueError, match="counts of 4 orders, got 3"):
        next_order(make_design("abcd"), Places((0, 0, 0), (0, 0, 0)))
    with pytest.raises(ValueError, match="counts of 4 orders"):
        imbalance(make_design("abcd"), [1])
