"""Which process encodes which text: each exactly one, evenly, and all agree."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fclip.text_shares import share_texts

IDS = st.lists(st.integers(0, 12), min_size=1, max_size=8)


def shares(held: list[list[int]], common: list[int]):
    arrays = [np.array(ids, dtype=np.int64) for ids in held]
    return [share_texts(arrays, np.array(common, dtype=np.int64), rank) for rank in range(len(held))]


@given(held=st.lists(IDS, min_size=1, max_size=4), common=st.lists(st.integers(10, 20), max_size=6))
def test_each_distinct_text_is_found_where_its_one_owner_put_it(held, common):
    found = shares(held, common)
    everything = sorted({*common, *(text for ids in held for text in ids)})
    rows = np.full(len(held) * found[0].most, -1)  # what a gather of all processes' texts would hold
    for rank, share in enumerate(found):
        assert set(share.mine.tolist()) <= {*held[rank], *common}  # it has their tokens
        assert 1 <= len(share.mine) <= share.most
        rows[rank * share.most : rank * share.most + len(share.mine)] = share.mine
    for share in found:
        assert share.distinct.tolist() == everything
        assert share.most == found[0].most
        assert rows[share.find(np.array(everything))].tolist() == everything


@given(held=st.lists(IDS, min_size=2, max_size=4), common=st.lists(st.integers(10, 20), max_size=6))
def test_no_text_is_encoded_twice_but_to_have_something_to_do(held, common):
    found = shares(held, common)
    encoded = sum(len(share.mine) for share in found)
    spare = sum(len(share.mine) == 1 for share in found)
    assert len(found[0].distinct) <= encoded <= len(found[0].distinct) + spare


@pytest.mark.parametrize("processes", [1, 2, 3, 4])
def test_what_all_have_is_divided_evenly(processes):
    found = shares([[0]] * processes, list(range(12)))
    assert {len(share.mine) for share in found} == {12 // processes}


def test_what_one_alone_has_comes_first():
    """The first process has much of its own, so the second takes what both have."""
    first, second = shares([[1, 2, 3, 7, 8], [7, 8, 9]], [])
    assert first.mine.tolist() == [1, 2, 3]
    assert second.mine.tolist() == [7, 8, 9]


def test_a_process_without_a_share_encodes_one_text_for_nothing():
    first, second = shares([[5, 5], [5]], [])
    assert first.mine.tolist() == second.mine.tolist() == [5]
    assert first.find(np.array([5, 5])).tolist() == [0, 0]
