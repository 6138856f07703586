"""The queue of what systems still have to answer: the answers in state `waiting`, oldest first.

    job = next_job(store, "diffusion")
    finish(store, job, [Recommendation("1163", jpeg)])      # or fail(store, job, "no memory")

The queue is the database: a server that was killed goes on where it was. An answer is finished once; who comes second
(another process, or after it was given up) changes nothing.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import select, update

from user_study.models import Picture, Query, SystemAnswer
from user_study.statements import NEXT_JOB, PHOTOGRAPHS_DATA
from user_study.store import Store, copy_answer


@dataclass(frozen=True)
class Wish:
    """What a system is asked."""

    text: str
    photographs: tuple[bytes, ...]  # JPEG
    filters: dict[str, Any] | None
    participant: str  # pseudonym
    external: str | None  # the name that their invitation gave them
    number: int  # which of their queries
    calibration: int | None  # which of the shared ones


@dataclass(frozen=True)
class Job:
    """A wish that a system has not answered."""

    answer: int
    system: str
    wish: Wish


@dataclass(frozen=True)
class Recommendation:
    """One picture of a system's answer."""

    item: str  # product or file
    picture: bytes  # JPEG, as participants see it


def next_job(store: Store, system: str) -> Job | None:
    """The oldest wish that this system has not answered."""
    with store.reading() as session:
        row = session.execute(NEXT_JOB, {"system": system}).first()
        if row is None:
            return None
        photographs = tuple(session.scalars(PHOTOGRAPHS_DATA, {"query": row.query}))
    wish = Wish(row.text or "", photographs, row.filters, row.participant, row.external, row.number, row.calibration)
    return Job(row.answer, system, wish)


def finish(store: Store, job: Job, found: Sequence[Recommendation]) -> None:
    """Takes down what a system gave."""
    with store.writing() as session:
        if _take(session, job, "ready", None):
            session.add_all(
                Picture(id=secrets.token_urlsafe(16), answer_id=job.answer, place=i, item=one.item, data=one.picture)
                for i, one in enumerate(found, 1)
            )


def fail(store: Store, job: Job, why: str) -> None:
    """Takes down that a system gave nothing; the study goes on."""
    with store.writing() as session:
        _take(session, job, "failed", why[:500])


def copy_shared(store: Store, job: Job) -> bool:
    """Answers a shared query as it was answered for somebody else: all are to judge the same pictures."""
    if job.wish.calibration is None:
        return False
    same = (Query.calibration == job.wish.calibration, SystemAnswer.system == job.system)
    with store.writing() as session:
        ready = select(SystemAnswer).join(Query).where(*same, SystemAnswer.state == "ready")
        source = session.scalars(ready.order_by(SystemAnswer.id).limit(1)).first()
        target = session.get(SystemAnswer, job.answer, with_for_update=True)
        if source is None or target is None or target.state != "waiting":
            return source is not None
        copy_answer(source, target)
        return True


def give_up(store: Store, minutes: float) -> int:
    """Lets fail what waits for longer: nobody should wait for a system that hangs. Returns how many."""
    old = select(Query.id).where(Query.asked < store.clock() - timedelta(minutes=minutes), Query.kind == "own")
    late = (SystemAnswer.state == "waiting", SystemAnswer.query_id.in_(old))
    with store.reading() as session:
        if session.scalar(select(SystemAnswer.id).where(*late).limit(1)) is None:
            return 0
    with store.writing() as session:
        given_up = update(SystemAnswer).where(*late)
        return int(session.execute(given_up.values(state="failed", why=f"no answer in {minutes:g} minutes")).rowcount)  # type: ignore[attr-defined]


def _take(session: Any, job: Job, state: str, why: str | None) -> bool:
    open_ = update(SystemAnswer).where(SystemAnswer.id == job.answer, SystemAnswer.state == "waiting")
    return bool(session.execute(open_.values(state=state, why=why)).rowcount)
