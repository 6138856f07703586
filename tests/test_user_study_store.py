from __future__ import annotations

import io
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor, wait

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from PIL import Image
from serving import jpeg
from sqlalchemy import text
from study_stores import JPEG, Clock, make_study, postgres, postgres_programs

from fclip.errors import UserError
from user_study.config import Calibration
from user_study.database import connect
from user_study.jobs import Recommendation, copy_shared, fail, finish, give_up, next_job
from user_study.models import Base
from user_study.store import AlreadyBeganError, ClosedError, Given, new_token, open_store, shared_photographs


@pytest.fixture(scope="session")
def postgres_url():
    if postgres_programs() is None:
        pytest.skip("no PostgreSQL here: apt install postgresql")
    with postgres() as url:
        yield url


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def url(request, tmp_path):
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/study.db"
        return
    found = request.getfixturevalue("postgres_url")
    yield found
    engine = connect(found)
    with engine.begin() as connection:
        connection.execute(text("DROP SCHEMA public CASCADE"))
        connection.execute(text("CREATE SCHEMA public"))
    engine.dispose()


@pytest.fixture
def opened(url):
    """opened(study, clock) → the store; all are closed at the end."""
    stores = []

    def make(study=None, clock=None):
        store = open_store(url, study or make_study(), clock or Clock())
        stores.append(store)
        return store

    yield make
    for store in stores:
        store.engine.dispose()


def answer_all(store, pictures: int = 2, failing: tuple[str, ...] = ()) -> None:
    for system in store.study.systems:
        while job := next_job(store, system.name):
            if copy_shared(store, job):
                continue
            if system.name in failing:
                fail(store, job, "out of memory")
            else:
                finish(store, job, [Recommendation(f"{system.name}-{i}", JPEG + b"%d" % i) for i in range(pictures)])


def everything(query) -> Given:
    judged = [answer for answer in query.answers if answer.state == "ready"]
    return Given(
        {picture.id: True for answer in judged for picture in answer.pictures},
        {answer.letter: i for i, answer in enumerate(judged, 1)},
        {answer.letter: 5 for answer in judged},
        {judged[0].letter: "nice"},
    )


def complete(store, who: str) -> None:
    while (step := store.step(who)).kind != "thanks":
        if step.kind == "preferences":
            assert store.ask(who, step.query.number, "a red dress", None, [JPEG])
            answer_all(store)
        elif step.kind == "waiting":
            answer_all(store)
        elif step.kind == "guess":
            assert store.guess(who, "unsure")
        else:
            assert store.save(who, step.query.number, everything(step.query))
            assert store.submit(who, step.query.number) == []


def test_the_migrations_make_the_tables_of_the_models(opened):
    store = opened()
    with store.engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), Base.metadata) == []


def test_places_are_balanced_when_many_come_at_once(opened):
    store = opened(make_study(participants=8))
    claimed, wrong = [], []

    def come() -> None:
        try:
            claimed.append(store.claim(new_token()))
        except Exception as error:
            wrong.append(error)

    threads = [threading.Thread(target=come) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert claimed.count(None) == 4
    assert len(set(claimed)) == 9
    assert store.places().active == (2, 2, 2, 2)


def test_who_writes_waits_for_their_turn_however_long_it_takes(tmp_path, monkeypatch):
    monkeypatch.setattr("user_study.database.PRAGMAS", ("journal_mode=WAL", "busy_timeout=0"))
    store = open_store(f"sqlite:///{tmp_path}/study.db", make_study())
    with ThreadPoolExecutor(3) as others:
        with store.writing() as session:
            session.execute(text("UPDATE study SET claims = claims"))
            waiting = [others.submit(store.claim, new_token()) for _ in range(3)]
            done, _ = wait(waiting, timeout=0.3)
            assert not done
        assert len({one.result() for one in waiting}) == 3
    store.engine.dispose()


def test_consent_that_is_sent_twice_makes_one_participant(opened):
    store, token = opened(), new_token()
    assert store.claim(token) == store.claim(token)
    assert sum(store.places().active) == 1


def test_an_external_name_begins_once(opened):
    store = opened()
    store.claim(new_token(), "5f3c")
    with pytest.raises(AlreadyBeganError):
        store.claim(new_token(), "5f3c")


def test_a_stale_place_is_given_to_the_next_and_who_returns_goes_on(opened):
    clock = Clock()
    store, token = opened(make_study(participants=1, stale_hours=24), clock), new_token()
    who = store.claim(token)
    assert store.claim(new_token()) is None
    clock.pass_(hours=25)
    other = store.claim(new_token())
    assert other is not None
    assert sum(store.places().active) == 1
    assert store.participant(token) == who
    assert sum(store.places().active) == 2
    complete(store, who)
    assert sum(store.places().completed) == 1


def test_a_link_expires_and_a_guessed_one_is_nobodys(opened):
    clock = Clock()
    store, token = opened(make_study(link_days=3), clock), new_token()
    who = store.claim(token)
    clock.pass_(days=2.9)
    assert store.participant(token) == who
    clock.pass_(days=0.2)
    assert store.participant(token) is None
    assert store.participant(new_token()) is None


def test_no_token_is_in_the_database(opened):
    store, token = opened(), new_token()
    store.claim(token)
    with store.reading() as session:
        kept = [str(row) for table in Base.metadata.sorted_tables for row in session.execute(table.select())]
    assert token not in "".join(kept)


def test_what_is_told_in_parts_adds_up(opened):
    store = opened()
    who = store.claim(new_token())
    store.ask(who, 0, "a red dress", {"gender": "Women"}, [JPEG])
    assert store.step(who).kind == "waiting"
    assert not store.save(who, 0, Given(ranks={"A": 1}))
    answer_all(store)
    query = store.step(who).query
    assert store.save(who, 0, Given(ranks={"A": 2}, comments={"A": "hm"}))
    assert store.save(who, 0, Given(ranks={"B": 1}, ratings={"A": 7}))
    assert store.submit(who, 0)[0] == "A: 2 of 2 pictures are not marked"
    assert store.save(who, 0, everything(query))
    assert store.submit(who, 0) == []
    with store.reading() as session:
        rows = session.execute(text("SELECT letter, rank, rating, comment FROM answers ORDER BY position")).all()
    assert rows == [("A", 1, 5, "nice"), ("B", 2, 5, None), ("C", 3, 5, None), ("D", 4, 5, None)]


def test_nobody_tells_anything_of_anothers_pictures(opened):
    store = opened()
    who, other = store.claim(new_token()), store.claim(new_token())
    for one in (who, other):
        store.ask(one, 0, "a red dress", None, [])
    answer_all(store)
    theirs = [picture.id for answer in store.step(other).query.answers for picture in answer.pictures]
    assert store.save(who, 0, Given(dict.fromkeys(theirs, True), {"A": 1, "Z": 2}, {}, {"A": "hm", "é": "x"}))
    assert all(p.relevant is None and a.rank is a.comment is None for a in store.step(other).query.answers
               for p in a.pictures)  # fmt: skip
    assert [(a.letter, a.rank, a.comment) for a in store.step(who).query.answers if a.rank] == [("A", 1, "hm")]


def test_equal_ranks_are_asked_again(opened):
    store = opened()
    who = store.claim(new_token())
    store.ask(who, 0, "a red dress", None, [])
    answer_all(store)
    store.save(who, 0, everything(store.step(who).query))
    store.save(who, 0, Given(ranks={"B": 1}))
    assert store.submit(who, 0) == ["two have the same rank: give each a rank of its own"]


def test_a_submitted_query_is_closed_and_submitting_again_changes_nothing(opened):
    clock = Clock()
    store = opened(clock=clock)
    who = store.claim(new_token())
    complete(store, who)
    clock.pass_(hours=1)
    assert not store.save(who, 0, Given(ranks={"A": 4}))
    assert not store.ask(who, 0, "something else", None, [])
    assert store.submit(who, 0) == []
    assert sum(store.places().completed) == 1
    with store.reading() as session:
        assert session.scalar(text("SELECT rank FROM answers WHERE letter = 'A'")) == 1
        assert "10:00" not in str(session.scalar(text("SELECT submitted FROM queries")))


def test_the_study_goes_on_when_a_system_fails(opened):
    store = opened()
    who = store.claim(new_token())
    store.ask(who, 0, "a red dress", None, [])
    answer_all(store, failing=("system-2",))
    query = store.step(who).query
    assert Counter(answer.state for answer in query.answers) == {"ready": 3, "failed": 1}
    assert store.save(who, 0, everything(query))
    assert store.submit(who, 0) == []


def test_who_hangs_is_given_up_and_comes_too_late(opened):
    clock = Clock()
    store = opened(clock=clock)
    who = store.claim(new_token())
    store.ask(who, 0, "a red dress", None, [])
    job = next_job(store, "system-1")
    clock.pass_(minutes=9)
    assert give_up(store, 10) == 0
    clock.pass_(minutes=2)
    assert give_up(store, 10) == 4
    finish(store, job, [Recommendation("late", JPEG)])
    assert all(not answer.pictures for answer in store.step(who).query.answers)


def test_all_judge_the_same_pictures_of_a_shared_query(opened):
    store = opened(make_study(calibration=(Calibration("a warm coat"),)))
    first, second = store.claim(new_token()), store.claim(new_token())
    job = next_job(store, "system-0")
    assert not copy_shared(store, job)
    finish(store, job, [Recommendation("only", JPEG + b"first")])
    again = next_job(store, "system-0")
    assert again.wish.participant != job.wish.participant
    assert copy_shared(store, again)
    for who in (first, second):
        store.ask(who, 0, "x", None, [])
        answer_all(store)
        store.save(who, 0, everything(store.step(who).query))
        store.submit(who, 0)
        query = store.step(who).query
        [answer] = [answer for answer in query.answers if answer.system == "system-0"]
        assert [store.picture(who, picture.id) for picture in answer.pictures] == [JPEG + b"first"]


def test_the_photographs_of_a_shared_query_are_shown_and_given_to_every_system(opened, tmp_path):
    (tmp_path / "coat.png").write_bytes(jpeg("green", (60, 90), "PNG"))
    store = opened(make_study(calibration=(Calibration("a warm coat", (str(tmp_path / "coat.png"),)),)))
    who = store.claim(new_token())
    job = next_job(store, "system-0")
    assert (job.wish.calibration, len(job.wish.photographs)) == (0, 1)
    assert Image.open(io.BytesIO(job.wish.photographs[0])).size == (60, 90)
    store.ask(who, 0, "x", None, [])
    answer_all(store)
    store.save(who, 0, everything(store.step(who).query))
    store.submit(who, 0)
    [shown] = store.step(who).query.photographs
    assert store.picture(who, shown.id) == job.wish.photographs[0]


@pytest.mark.parametrize(("content", "said"), [(b"GIF89a", "got a GIF"), (None, "cannot read the picture")])
def test_a_picture_of_a_shared_query_that_is_none_is_told_in_one_line(tmp_path, content, said):
    file = tmp_path / "coat.gif"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(UserError, match=f"calibration: .*{said}"):
        shared_photographs(make_study(calibration=(Calibration("a warm coat", (str(file),)),)))


def test_a_repeated_query_shows_the_same_pictures_in_another_order(opened):
    store = opened(make_study(repeat=True, ask_generated=True))
    who = store.claim(new_token())
    store.ask(who, 0, "a red dress", None, [JPEG])
    answer_all(store)
    first = store.step(who).query
    store.save(who, 0, everything(first))
    store.submit(who, 0)
    again = store.step(who).query
    assert (again.kind, again.text) == ("repeat", "a red dress")
    assert [a.system for a in again.answers] != [a.system for a in first.answers]
    items = [{a.system: [p.item for p in a.pictures] for a in query.answers} for query in (first, again)]
    assert items[0] == items[1]
    assert all(p.relevant is None for a in again.answers for p in a.pictures)
    store.save(who, 1, everything(again))
    store.submit(who, 1)
    assert store.step(who).kind == "guess"
    assert not store.guess(who, "Z")
    assert store.guess(who, "B")
    assert store.step(who).kind == "thanks"
    assert not store.guess(who, "C")


def test_pictures_are_their_participants_and_wait_for_the_last_system(opened):
    store = opened()
    who, other = store.claim(new_token()), store.claim(new_token())
    store.ask(who, 0, "a red dress", None, [JPEG + b"mine"])
    finish(store, next_job(store, "system-0"), [Recommendation("x", JPEG)])
    query = store.step(who).query
    [early] = [picture.id for answer in query.answers for picture in answer.pictures]
    assert store.picture(who, early) is None
    answer_all(store)
    assert store.picture(who, early) == JPEG
    assert store.picture(other, early) is None
    mine = query.photographs[0].id
    assert store.picture(who, mine) == JPEG + b"mine"
    assert store.picture(other, mine) is None


def test_a_locked_study_takes_nothing(opened):
    store = opened()
    who = store.claim(new_token())
    store.lock()
    with pytest.raises(ClosedError):
        store.claim(new_token())
    with pytest.raises(ClosedError):
        store.ask(who, 0, "a red dress", None, [])


def test_a_plan_cannot_change_once_somebody_began(opened):
    opened()
    store = opened(make_study(pictures=4))
    store.claim(new_token())
    with pytest.raises(UserError, match="with another pictures"):
        opened(make_study(pictures=3))


@pytest.mark.parametrize("url", ["mysql://x/y", "nonsense", "oracle://"])
def test_another_database_is_refused(url):
    with pytest.raises(UserError, match="sqlite:///FILE or postgresql"):
        connect(url)
