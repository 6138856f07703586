"""Rows of a small table in memory: from when, until when, and never older than what LanceDB answers.

That they answer as LanceDB does is part of the contract (`test_fclip_store.py`, "lance in memory").
"""

from __future__ import annotations

import time
from datetime import timedelta

import pytest
from store_rows import SCHEMA, ids_in, query, rows_of, table

import fclip.store.lance
from fclip.errors import StoreUnavailableError
from fclip.store import Store, create_store, open_store


class Clock:
    """A clock for the store, which stands still but for `later`."""

    now = 100.0
    sleep = staticmethod(time.sleep)

    def monotonic(self) -> float:
        return self.now

    def later(self) -> None:
        """The time passes within which what others write may be unseen."""
        self.now += 10
        time.sleep(0.1)  # LanceDB has a clock of its own


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(fclip.store.lance, "time", clock)
    return clock


@pytest.fixture
def asked_often(tmp_path, monkeypatch, clock) -> Store:
    """A store whose ten rows are in memory."""
    monkeypatch.setattr(fclip.store.lance, "EXACT_UP_TO", 100)
    monkeypatch.setattr(fclip.store.lance, "SEEN_WITHIN", timedelta(seconds=0.05))
    store = create_store(str(tmp_path / "often"), SCHEMA)
    store.add(table(rows_of(range(10))))
    opened = open_store(store.uri)
    assert len(ids_in(opened)) == 10
    assert opened._held is None
    clock.later()
    assert len(ids_in(opened)) == 10
    assert opened._held is not None
    return opened


def test_rows_are_held_from_the_second_look_and_until_they_change(asked_often, clock, monkeypatch) -> None:
    """Who asks once, or writes between questions, does not read them all."""
    other = open_store(asked_often.uri)
    other.add(table(rows_of(range(10, 12))))
    assert len(ids_in(asked_often)) == 10
    clock.later()
    assert len(ids_in(asked_often)) == 12
    assert asked_often._held is None
    clock.later()
    assert len(ids_in(asked_often)) == 12
    assert asked_often._held is not None


def test_what_is_written_during_a_look_is_not_hidden_by_what_was_held(asked_often, clock, monkeypatch) -> None:
    """Others may have been answered from it already."""
    now = asked_often._now

    def written_behind() -> tuple[int, int]:
        state = now()
        if state[1] == 10:
            open_store(asked_often.uri).add(table(rows_of(range(10, 12))))
            time.sleep(0.1)  # LanceDB's own clock
        return state

    clock.later()
    monkeypatch.setattr(asked_often, "_now", written_behind)
    assert len(ids_in(asked_often)) == 12


def test_while_one_thread_looks_others_ask_lancedb(asked_often) -> None:
    asked_often.delete(["plain/0"])
    with asked_often._looking:
        assert "plain/0" not in ids_in(asked_often)
        assert asked_often.get(["plain/0"]) == []
    assert "plain/0" not in ids_in(asked_often)


def test_a_look_that_fails_leaves_nothing_old_behind(asked_often, clock, monkeypatch) -> None:
    open_store(asked_often.uri).add(table(rows_of(range(10, 12))))
    clock.later()
    with monkeypatch.context() as broken:
        broken.setattr(asked_often, "count", lambda: (_ for _ in ()).throw(StoreUnavailableError("gone")))
        for _ in range(2):
            with pytest.raises(StoreUnavailableError):
                asked_often.search(query(), 1)
    assert len(ids_in(asked_often)) == 12


def test_a_folder_made_anew_is_seen(asked_often, clock, monkeypatch) -> None:
    create_store(asked_often.uri, SCHEMA).add(table(rows_of(range(20, 27))))
    clock.later()
    assert ids_in(asked_often) == {row["id"] for row in rows_of(range(20, 27))}
