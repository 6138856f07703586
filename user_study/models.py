"""The tables of a study's database: what `user_study.store` keeps, as SQLAlchemy maps it.

    participants → queries → answers (one for each system) → pictures
                           → photographs

Pictures and photographs lie in the database: one transaction keeps rows and pixels together, one file is the backup,
and erasing a participant leaves no file behind. Changes of a table need a migration in `migrations/versions`.

Source: SQLAlchemy 2, declarative mapping.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import JSON, DateTime, Dialect, ForeignKey, LargeBinary, UniqueConstraint
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship
from sqlalchemy.types import TypeDecorator


class Utc(TypeDecorator[datetime]):
    """A time in UTC; SQLite forgets the zone, so it is put back."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return value.replace(tzinfo=UTC) if value is not None and value.tzinfo is None else value


class Base(DeclarativeBase):
    """All tables."""

    type_annotation_map = {datetime: Utc, dict[str, Any]: JSON, bytes: LargeBinary}  # noqa: RUF012


class StudyRow(Base):
    """The study itself; its row is also the lock under which places are given out."""

    __tablename__ = "study"
    name: Mapped[str] = mapped_column(primary_key=True)
    plan: Mapped[dict[str, Any]]  # what must not change once somebody has begun
    claims: Mapped[int] = mapped_column(default=0)
    locked: Mapped[datetime | None]  # from then on nobody answers, and results may be seen


class Participant(Base):
    """Who takes part: a pseudonym, and the hash of the secret that their link holds."""

    __tablename__ = "participants"
    id: Mapped[str] = mapped_column(primary_key=True)
    token_hash: Mapped[str] = mapped_column(unique=True)
    external: Mapped[str | None] = mapped_column(unique=True)  # e.g. PROLIFIC_PID; not in exports
    expires: Mapped[datetime]
    order: Mapped[int]  # of the design
    state: Mapped[str]  # active, released or completed
    began: Mapped[datetime]
    seen: Mapped[datetime]
    completed: Mapped[datetime | None]
    queries: Mapped[list[Query]] = relationship(order_by="Query.number", cascade="all, delete-orphan")


class Query(Base):
    """A query of a participant, asked or still to be asked."""

    __tablename__ = "queries"
    __table_args__ = (UniqueConstraint("participant_id", "number"),)
    id: Mapped[int] = mapped_column(primary_key=True)
    participant_id: Mapped[str] = mapped_column(ForeignKey("participants.id", ondelete="CASCADE"))
    number: Mapped[int]
    kind: Mapped[str]
    calibration: Mapped[int | None]
    repeats: Mapped[int | None]
    text: Mapped[str | None]  # None: not asked yet
    filters: Mapped[dict[str, Any] | None]
    asked: Mapped[datetime | None]  # when the systems were asked
    started: Mapped[datetime | None]  # when the answers were first shown
    submitted: Mapped[datetime | None]
    guess: Mapped[str | None]
    answers: Mapped[list[SystemAnswer]] = relationship(order_by="SystemAnswer.position", cascade="all, delete-orphan")
    photographs: Mapped[list[Photograph]] = relationship(order_by="Photograph.place", cascade="all, delete-orphan")


class SystemAnswer(Base):
    """What a system gave for a query, and what the participant says of it."""

    __tablename__ = "answers"
    __table_args__ = (UniqueConstraint("query_id", "system"),)
    id: Mapped[int] = mapped_column(primary_key=True)
    query_id: Mapped[int] = mapped_column(ForeignKey("queries.id", ondelete="CASCADE"))
    system: Mapped[str] = mapped_column(index=True)
    letter: Mapped[str]
    position: Mapped[int]
    generated: Mapped[bool]
    state: Mapped[str] = mapped_column(default="new", index=True)  # new, waiting, ready or failed
    why: Mapped[str | None]  # it failed; for the researcher
    rank: Mapped[int | None]
    rating: Mapped[int | None]
    comment: Mapped[str | None]
    pictures: Mapped[list[Picture]] = relationship(order_by="Picture.place", cascade="all, delete-orphan")


class Picture(Base):
    """A picture that a participant is shown; its id is its address and tells nothing."""

    __tablename__ = "pictures"
    id: Mapped[str] = mapped_column(primary_key=True)
    answer_id: Mapped[int] = mapped_column(ForeignKey("answers.id", ondelete="CASCADE"), index=True)
    place: Mapped[int]
    item: Mapped[str]
    relevant: Mapped[bool | None]
    data: Mapped[bytes] = mapped_column(deferred=True)  # JPEG


class Photograph(Base):
    """A photograph that a participant sent, re-encoded."""

    __tablename__ = "photographs"
    id: Mapped[str] = mapped_column(primary_key=True)
    query_id: Mapped[int] = mapped_column(ForeignKey("queries.id", ondelete="CASCADE"), index=True)
    place: Mapped[int]
    data: Mapped[bytes] = mapped_column(deferred=True)  # JPEG
