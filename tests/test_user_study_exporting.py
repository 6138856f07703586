from __future__ import annotations

import json
import threading
from dataclasses import replace

import pytest
from sqlalchemy import text
from study_stores import JPEG, Clock, make_study, seen_of
from test_user_study_store import answer_all, complete

from fclip.errors import UserError
from user_study.analysis import analyse
from user_study.exporting import answers_of, backup, clear_log, erase, export
from user_study.reading import read_answers
from user_study.rehearsal import Told, differences
from user_study.store import Store, connect, new_token, open_store

SECRET = "velvet cloak of whoever this is"
PIXELS = JPEG + b"pixels of nobody else" * 500


@pytest.fixture
def store(tmp_path):
    opened = open_store(f"sqlite:///{tmp_path}/study.db", make_study(repeat=True, ask_generated=True), Clock())
    yield opened
    opened.engine.dispose()


def two(store) -> list[str]:
    """Who completed, with a secret; and who left in the middle."""
    first = store.claim(new_token(), "5f3c")
    store.clock.pass_(minutes=1)
    second = store.claim(new_token())
    store.ask(first, 0, SECRET, {"gender": "Women"}, [PIXELS])
    answer_all(store, failing=("system-1",))
    complete(store, first)
    store.ask(second, 0, "a plain coat", None, [])
    answer_all(store)
    return [first, second]


@pytest.mark.parametrize("form", ["csv", "json", "parquet"])
def test_an_export_is_read_again_as_it_was(store, tmp_path, form):
    two(store)
    assert "DICTIONARY.md" in export(store, tmp_path / "export", form)
    assert read_answers(tmp_path / "export") == answers_of(store)


def test_an_export_tells_who_failed_what_was_repeated_and_who_left(store):
    first, second = two(store)
    answers = answers_of(store)
    assert {(row.system, row.failed) for row in answers.systems if row.participant == first} == {
        ("system-0", False), ("system-1", True), ("system-2", False), ("system-3", False)
    }  # fmt: skip
    assert [(row.participant, row.kind, row.images, row.repeats, row.guess) for row in answers.queries] == [
        (first, "own", 1, None, None), (first, "repeat", 1, 0, "unsure"), (second, "own", 0, None, None)
    ]  # fmt: skip
    assert answers.queries[0].filters == {"gender": "Women"}
    assert answers.queries[2].submitted is None
    assert analyse(answers, None, ["own"], None, 0, 0).measured.counts["participants"] == 1


def test_no_name_of_an_invitation_is_exported(store, tmp_path):
    two(store)
    export(store, tmp_path / "export", "json")
    assert "5f3c" not in "".join(file.read_text() for file in (tmp_path / "export").iterdir())


def test_nothing_of_who_is_erased_is_left_on_the_disk(store):
    first, second = two(store)
    assert SECRET in seen_of(store)
    assert PIXELS.decode("latin-1")[:30] in seen_of(store)
    assert erase(store, "5f3c") == 2
    left = seen_of(store)
    assert SECRET not in left
    assert "nobody else" not in left
    assert first not in left
    assert "a plain coat" in left
    assert {row.participant for row in answers_of(store).queries} == {second}
    with store.reading() as session:
        assert session.scalar(text("SELECT count(*) FROM pictures")) == 8


def test_a_log_that_is_in_use_is_said(store):
    first, second = two(store)
    reader = connect(str(store.engine.url))
    with reader.execution_options(reads=True).begin() as connection:
        connection.execute(text("SELECT count(*) FROM queries"))
        store.ask(second, 0, "x", None, [])
        with pytest.raises(UserError, match="may still hold it"):
            _hurried(store, first)
    reader.dispose()
    clear_log(store)
    assert SECRET not in seen_of(store)


def _hurried(store, who) -> None:
    """Erases with little patience for readers."""
    from sqlalchemy import event

    event.listen(store.engine, "connect", lambda connection, _: connection.execute("PRAGMA busy_timeout=50"))
    erase(store, who)


def test_nobody_unknown_is_erased(store):
    with pytest.raises(UserError, match="no participant 'p0'"):
        erase(store, "p0")


def test_a_backup_while_others_write_is_whole(store, tmp_path):
    two(store)
    stop, wrong = threading.Event(), []

    def write() -> None:
        while not stop.is_set():
            who = store.claim(new_token())
            if who is None or not store.ask(who, 0, "busy", None, [JPEG]):
                wrong.append(who)
                return

    study = replace(store.study, participants=10_000)
    store.study = study
    thread = threading.Thread(target=write)
    thread.start()
    try:
        backup(store, tmp_path / "backup.db")
    finally:
        stop.set()
        thread.join()
    assert wrong == []
    copy = Store(connect(f"sqlite:///{tmp_path}/backup.db"), study)
    with copy.reading() as session:
        assert session.scalar(text("PRAGMA integrity_check")) == "ok"
        assert session.execute(text("PRAGMA foreign_key_check")).all() == []
    assert answers_of(copy).queries[0].text == SECRET
    copy.engine.dispose()
    with pytest.raises(UserError, match="exists already"):
        backup(store, tmp_path / "backup.db")


def test_a_rehearsal_sees_what_is_lost_doubled_or_changed(store):
    two(store)
    answers = answers_of(store)
    ranks = {(row.query, row.system): row.rank for row in answers.systems if row.rank is not None}
    told = {SECRET: Told(ranks, dict.fromkeys(ranks, 5))}
    own = {row.participant for row in answers.queries if row.text == SECRET}
    assert differences(answers, told) == []
    lost = replace(answers, systems=tuple(row for row in answers.systems if row.participant not in own))
    assert len([line for line in differences(lost, told) if "answer lost" in line]) == len(ranks)
    doubled = replace(answers, systems=answers.systems + answers.systems[:1])
    assert differences(doubled, told) == ["1 answers are doubled"]
    changed = replace(answers, systems=tuple(replace(row, rating=1.0) for row in answers.systems))
    assert json.dumps(differences(changed, told)).count("answer changed") == len(ranks)
