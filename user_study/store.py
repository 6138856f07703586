"""What participants did, kept so that nothing is lost or doubled: places, queries, answers.

    store = open_store("sqlite:///dress-up.db", study)
    who = store.claim(token := new_token())        # a place in the design, balanced; None: the study is full
    store.ask(who, 0, "a red dress", None, [photograph])
    store.save(who, 0, Given(ranks={"A": 1}))      # what is told so far
    store.submit(who, 0)                           # [] or what is missing; again: nothing happens

Every call is one transaction, on the disk when it returns. Places are given out under a lock (the study's row), so that
two who come at once get different ones. SQLite lets one write at a time and makes the others look again and again, of
which under load one may never have its turn: threads of this process wait in a lock of ours instead. Tokens are kept as
SHA-256: who reads the database cannot use the links.
"""

from __future__ import annotations

import hashlib
import secrets
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, func, select, update
from sqlalchemy.orm import Session
from sqlalchemy.orm.attributes import set_committed_value

from fclip.errors import UserError
from fclip.serving.uploads import RefusedUploadError, as_jpeg, open_upload
from user_study.answers import UNSURE
from user_study.config import Study
from user_study.database import connect, migrate
from user_study.design import Design, Places, make_design, next_order, pages
from user_study.models import Participant, Photograph, Picture, Query, StudyRow, SystemAnswer
from user_study.statements import (
    BY_TOKEN,
    LATE,
    OPEN_QUERY,
    OUTLINE,
    OWN,
    PHOTOGRAPHS,
    SET_NUMBERS,
    SET_VERDICTS,
    SET_WORDS,
    SHOWN,
    WHOLE,
)

PHOTOGRAPH_PX = 1024  # longer side of what is kept
SEEN_EVERY = timedelta(minutes=2)  # a sign of life is written no oftener
Clock = Callable[[], datetime]


class ClosedError(Exception):
    """The study is locked: nothing more is taken."""


class AlreadyBeganError(Exception):
    """Somebody with this external name has begun, in another browser."""


@dataclass(frozen=True)
class Given:
    """What a participant tells of a query's answers, in part or in whole."""

    verdicts: Mapping[str, bool] = field(default_factory=dict)  # picture → relevant
    ranks: Mapping[str, int] = field(default_factory=dict)  # letter → 1 …
    ratings: Mapping[str, int] = field(default_factory=dict)  # letter → 1 … 10
    comments: Mapping[str, str] = field(default_factory=dict)  # letter → words; empty: none


@dataclass(frozen=True)
class Step:
    """Where a participant stands: preferences, waiting, answers, guess or thanks."""

    kind: str
    query: Query | None  # with its answers and pictures; None: thanks
    number: int  # of the query, 1 first
    queries: int  # in all


def new_token() -> str:
    """A secret of 256 bits."""
    return secrets.token_urlsafe(32)


def hashed(token: str) -> str:
    """What is kept of a token."""
    return hashlib.sha256(token.encode()).hexdigest()


def utc_now() -> datetime:
    """The time, with its zone."""
    return datetime.now(UTC)


def open_store(url: str, study: Study, clock: Clock = utc_now) -> Store:
    """Opens or creates a study's database.

    Raises:
        UserError: it cannot be opened, or belongs to a study of another design.
    """
    engine = connect(url)
    try:
        migrate(engine)
        store = Store(engine, study, clock)
        store.register()
    except BaseException:
        engine.dispose()
        raise
    return store


class Store:
    """A study's database."""

    def __init__(self, engine: Engine, study: Study, clock: Clock = utc_now) -> None:
        self.engine, self.study, self.clock = engine, study, clock
        self._reading = engine.execution_options(reads=True)
        alone = engine.dialect.name == "sqlite"
        self._turn: AbstractContextManager[Any] = threading.Lock() if alone else nullcontext()

    @property
    def design(self) -> Design:
        """The orders in which systems are shown."""
        return make_design([system.name for system in self.study.systems], self.study.seed)

    @cached_property
    def shared(self) -> list[list[bytes]]:
        """The photographs of each shared query."""
        return shared_photographs(self.study)

    @contextmanager
    def writing(self) -> Iterator[Session]:
        """A transaction that is on the disk when the block ends, or undone when it fails."""
        with self._turn, Session(self.engine, expire_on_commit=False) as session, session.begin():
            yield session

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """A transaction that sees one moment and writes nothing."""
        with Session(self._reading, expire_on_commit=False) as session, session.begin():
            yield session

    def register(self) -> None:
        """Writes the plan into a new database.

        Raises:
            UserError: another plan is there, and somebody has begun.
        """
        study = self.study
        plan: dict[str, Any] = {"systems": [system.name for system in study.systems], "seed": study.seed}
        plan |= {"own_queries": study.own_queries, "calibration": [query.text for query in study.calibration]}
        plan |= {"pictures": study.pictures, "repeat": study.repeat, "ask_generated": study.ask_generated}
        with self.writing() as session:
            found = session.scalars(select(StudyRow)).first()
            if found is None:
                session.add(StudyRow(name=study.name, plan=plan, claims=0))
                return
            if found.name == study.name and (found.plan == plan or not found.claims):
                found.plan = plan
                return
            other = [key for key in plan if found.plan.get(key) != plan[key]] or ["name"]
            raise UserError(f"the database holds study {found.name!r} with another {other[0]}, and somebody has begun; "
                            "undo the change, or take a new --database")  # fmt: skip

    def claim(self, token: str, external: str | None = None) -> str | None:
        """A new participant's pseudonym, with all their queries; the same again for the same token.

        Returns: None when nobody new is needed.

        Raises:
            ClosedError: the study is locked.
            AlreadyBeganError: somebody else has this external name.
        """
        now, study = self.clock(), self.study
        with self.writing() as session:
            session.execute(update(StudyRow).values(claims=StudyRow.claims + 1))  # the lock
            known = session.scalars(select(Participant).where(Participant.token_hash == hashed(token))).first()
            if known is not None:
                return known.id
            if session.scalar(select(StudyRow.locked)) is not None:
                raise ClosedError
            if external and session.scalar(select(Participant.id).where(Participant.external == external)):
                raise AlreadyBeganError
            stale = now - timedelta(hours=study.stale_hours)
            left = update(Participant).where(Participant.state == "active", Participant.seen < stale)
            session.execute(left.values(state="released"))
            order = next_order(self.design, self._places(session), study.participants)
            if order is None:
                return None
            who = Participant(
                id=f"p{secrets.token_hex(5)}", token_hash=hashed(token), external=external or None, order=order,
                state="active", began=now, seen=now, expires=now + timedelta(days=study.link_days),
            )  # fmt: skip
            who.queries = [self._query(page, now) for page in self._pages(order)]
            session.add(who)
            return who.id

    def places(self) -> Places:
        """How many have each order."""
        with self.reading() as session:
            return self._places(session)

    def participant(self, token: str) -> str | None:
        """Who holds this link; None: nobody, or it has expired. Notes that they are here."""
        now = self.clock()
        with self.reading() as session:
            who = session.execute(BY_TOKEN, {"token": hashed(token)}).first()
        if who is None or who.expires < now:
            return None
        if who.state == "released" or now - who.seen > SEEN_EVERY:
            with self.writing() as session:
                session.execute(update(Participant).where(Participant.id == who.id).values(seen=now))
                back = update(Participant).where(Participant.id == who.id, Participant.state == "released")
                session.execute(back.values(state="active"))
        return who.id

    def step(self, participant: str) -> Step:
        """Where the participant stands; the first look at answers is noted."""
        with self.reading() as session:
            step = self._step(session, participant)
        if step.kind == "answers" and step.query is not None and step.query.started is None:
            with self.writing() as session:
                shown = update(Query).where(Query.id == step.query.id, Query.started.is_(None))
                session.execute(shown.values(started=self.clock()))
        return step

    def ask(
        self, participant: str, number: int, text: str, filters: dict[str, Any] | None, photographs: Sequence[bytes]
    ) -> bool:
        """Takes down an own query, for the systems to answer; False: it was asked before, and stays as it was."""
        with self.writing() as session:
            query = self._locked(session, participant, number)
            if query is None or query.kind != "own" or query.text is not None:
                return False
            query.text, query.filters, query.asked = text, filters, self.clock()
            query.photographs = [
                Photograph(id=secrets.token_urlsafe(16), place=place, data=data)
                for place, data in enumerate(photographs, 1)
            ]
            for answer in query.answers:
                answer.state = "waiting"
            return True

    def save(self, participant: str, number: int, given: Given) -> bool:
        """Takes down what is told so far; False: the query was submitted, or its answers are not all there."""
        with self.writing() as session:
            self._open(session)
            key = {"participant": participant, "number": number}
            query = session.execute(OPEN_QUERY.with_for_update(), key).scalar()
            if query is None or session.scalar(LATE, {"query": query}) is not None:
                return False
            letters = dict.fromkeys([*given.ranks, *given.ratings])
            numbers = [
                {"query": query, "of": one, "new_rank": given.ranks.get(one), "new_rating": given.ratings.get(one)}
                for one in letters
            ]
            words = [{"query": query, "of": one, "words": said or None} for one, said in given.comments.items()]
            verdicts = [{"query": query, "of": one, "fits": fits} for one, fits in given.verdicts.items()]
            for statement, rows in ((SET_NUMBERS, numbers), (SET_WORDS, words), (SET_VERDICTS, verdicts)):
                if rows:
                    session.connection().execute(statement, rows)
            return True

    def submit(self, participant: str, number: int) -> list[str]:
        """Ends a query when all is answered, else says what is missing; a second time nothing happens."""
        with self.writing() as session:
            query = self._locked(session, participant, number)
            if query is None or query.submitted is not None:
                return []
            if lacking := missing(query):
                return lacking
            query.submitted = self.clock()
            repeated = select(Query).where(Query.participant_id == participant, Query.repeats == number)
            for again in session.scalars(repeated):
                self._repeat(session, query, again)
            self._maybe_complete(session, participant)
            return []

    def guess(self, participant: str, letter: str) -> bool:
        """Takes down which system is held to be generated, once; False: not now, or no such letter."""
        with self.writing() as session:
            self._open(session)
            step = self._step(session, participant)
            if step.kind != "guess" or step.query is None:
                return False
            query = self._locked(session, participant, step.query.number)
            known = [UNSURE, *[answer.letter for answer in step.query.answers]]
            if query is None or query.guess is not None or letter not in known:
                return False
            query.guess = letter
            self._maybe_complete(session, participant)
            return True

    def picture(self, participant: str, identity: str) -> bytes | None:
        """A picture that this participant is shown, or their own photograph; None: there is none, or not theirs.

        Nothing is shown before all systems have answered.
        """
        key = {"identity": identity, "participant": participant}
        with self.reading() as session:
            if row := session.execute(SHOWN, key).first():
                return None if row.late else bytes(row.data)
            own: bytes | None = session.scalar(OWN, key)
            return own

    def lock(self) -> None:
        """Ends the study: nobody answers any more, and results may be seen. Cannot be undone."""
        with self.writing() as session:
            session.execute(update(StudyRow).where(StudyRow.locked.is_(None)).values(locked=self.clock()))

    def locked(self) -> datetime | None:
        """When the study was locked."""
        with self.reading() as session:
            return session.scalar(select(StudyRow.locked))

    def _pages(self, order: int) -> Any:
        study = self.study
        return pages(self.design, order, study.own_queries, len(study.calibration), study.repeat)

    def _query(self, page: Any, now: datetime) -> Query:
        """A query as it is before it is asked; a shared one is asked at once."""
        shared = page.calibration is not None
        generated = {system.name: system.generated for system in self.study.systems}
        text = self.study.calibration[page.calibration].text if shared else None
        answers = [
            SystemAnswer(system=name, letter=letter, position=position, generated=generated[name],
                         state="waiting" if shared else "new")
            for position, (name, letter) in enumerate(page.letters.items(), 1)
        ]  # fmt: skip
        pictures = self.shared[page.calibration] if shared else []
        photographs = [
            Photograph(id=secrets.token_urlsafe(16), place=place, data=data) for place, data in enumerate(pictures, 1)
        ]
        return Query(number=page.query, kind=page.kind, calibration=page.calibration, repeats=page.repeats, text=text,
                     asked=now if shared else None, answers=answers, photographs=photographs)  # fmt: skip

    def _places(self, session: Session) -> Places:
        rows = session.execute(
            select(Participant.order, Participant.state, func.count()).group_by(Participant.order, Participant.state)
        )
        counts = {(order, state): number for order, state, number in rows}
        orders = range(len(self.design.orders))
        return Places(*(tuple(counts.get((o, state), 0) for o in orders) for state in ("completed", "active")))

    def _locked(self, session: Session, participant: str, number: int) -> Query | None:
        """A query that nobody else changes until the transaction ends."""
        self._open(session)
        key = {"participant": participant, "number": number}
        locked = WHOLE.with_for_update(of=Query).execution_options(populate_existing=True)
        return session.scalars(locked, key).unique().first()

    def _open(self, session: Session) -> None:
        if session.scalar(select(StudyRow.locked)) is not None:
            raise ClosedError

    def _step(self, session: Session, participant: str) -> Step:
        rows = session.execute(OUTLINE, {"participant": participant}).all()
        row = self._next(rows)
        if row is None:
            return Step("thanks", None, len(rows), len(rows))
        query = session.scalars(WHOLE, {"participant": participant, "number": row.number}).unique().one()
        set_committed_value(query, "photographs", session.scalars(PHOTOGRAPHS, {"query": query.id}).all())
        if query.submitted is not None:
            return Step("guess", query, len(rows), len(rows))
        kind = "preferences" if query.text is None else "answers" if answered(query) else "waiting"
        return Step(kind, query, query.number + 1, len(rows))

    def _next(self, rows: Sequence[Any]) -> Any:
        """The row of the outline on which something is still to be told; None: that was all."""
        for row in rows:
            if row.submitted is None:
                return row
        return rows[-1] if self.study.ask_generated and rows and rows[-1].guess is None else None

    def _repeat(self, session: Session, first: Query, again: Query) -> None:
        """The same pictures, asked again under other letters and addresses."""
        again.text, again.filters, again.asked = first.text, first.filters, self.clock()
        again.photographs = [
            Photograph(id=secrets.token_urlsafe(16), place=one.place, data=one.data) for one in first.photographs
        ]
        before = {answer.system: answer for answer in first.answers}
        for answer in again.answers:
            copy_answer(before[answer.system], answer)

    def _maybe_complete(self, session: Session, participant: str) -> None:
        session.flush()
        if self._next(session.execute(OUTLINE, {"participant": participant}).all()) is None:
            done = update(Participant).where(Participant.id == participant, Participant.completed.is_(None))
            session.execute(done.values(state="completed", completed=self.clock()))


def shared_photographs(study: Study) -> list[list[bytes]]:
    """The photographs of every shared query, as participants' own are kept.

    Raises:
        UserError: one cannot be read.
    """
    return [[_photograph(file) for file in query.images] for query in study.calibration]


def _photograph(file: str) -> bytes:
    try:
        picture = open_upload(Path(file).read_bytes(), size_px=PHOTOGRAPH_PX)
    except OSError as error:
        raise UserError(f"calibration: cannot read the picture {file}: {error.strerror}") from None
    except RefusedUploadError as error:
        raise UserError(f"calibration: {file}: {error}") from None
    picture.thumbnail((PHOTOGRAPH_PX, PHOTOGRAPH_PX))
    return as_jpeg(picture)


def copy_answer(source: SystemAnswer, target: SystemAnswer) -> None:
    """What a system gave, for another page; without what was said of it."""
    target.state, target.why = source.state, source.why
    target.pictures = [
        Picture(id=secrets.token_urlsafe(16), place=one.place, item=one.item, data=one.data) for one in source.pictures
    ]


def answered(query: Query) -> bool:
    """Whether every system gave something or failed."""
    return all(answer.state in ("ready", "failed") for answer in query.answers)


def missing(query: Query) -> list[str]:
    """What a participant has still to tell, in their words; what is doubled counts as missing."""
    judged = [answer for answer in query.answers if answer.state == "ready"]
    lacking = []
    for answer in judged:
        unknown = sum(picture.relevant is None for picture in answer.pictures)
        lacking += [f"{answer.letter}: {unknown} of {len(answer.pictures)} pictures are not marked"] if unknown else []
        lacking += [f"{answer.letter}: the rank"] if answer.rank is None else []
        lacking += [f"{answer.letter}: the rating"] if answer.rating is None else []
    ranks = [answer.rank for answer in judged if answer.rank is not None]
    if len(set(ranks)) < len(ranks):
        lacking.append("two have the same rank: give each a rank of its own")
    elif len(ranks) == len(judged) and sorted(ranks) != list(range(1, len(judged) + 1)):
        lacking.append(f"the ranks should be 1 to {len(judged)}, since not all gave pictures")
    return lacking
