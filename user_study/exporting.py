"""From the database to `user_study.answers`, and what else a researcher does with the database.

export(store, "export", "csv")       # pictures, systems, queries, DICTIONARY.md
erase(store, "p3fa9c01b2e")          # everything of a participant
backup(store, "dress-up-backup.db")  # while the server runs
"""

from __future__ import annotations

import os
from contextlib import closing
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.orm import selectinload

from fclip.errors import UserError
from fclip.files import new_folder, writable
from user_study.answers import Answers, PictureRow, QueryRow, SystemRow, write_answers
from user_study.models import Participant, Query, SystemAnswer
from user_study.store import Store


def answers_of(store: Store) -> Answers:
    """All that was asked and told; queries that were never asked are left out."""
    pictures: list[PictureRow] = []
    systems: list[SystemRow] = []
    queries: list[QueryRow] = []
    asked = select(Query).join(Participant).where(Query.text.is_not(None)).order_by(Participant.began, Participant.id)
    whole = selectinload(Query.answers).selectinload(SystemAnswer.pictures)
    with store.reading() as session:
        found = session.scalars(
            asked.order_by(Query.number).options(whole, selectinload(Query.photographs))
        ).all()  # fmt: skip
    for one in found:
        who, number = one.participant_id, one.number
        queries.append(
            QueryRow(who, number, one.kind, one.text, len(one.photographs), one.filters, one.started, one.submitted,
                     one.guess, one.repeats)
        )  # fmt: skip
        for answer in one.answers:
            rank, rating = (None if value is None else float(value) for value in (answer.rank, answer.rating))
            place = (answer.system, answer.letter, answer.position)
            systems.append(
                SystemRow(who, number, one.kind, *place, rank, rating, answer.comment, answer.state == "failed",
                          answer.generated)
            )  # fmt: skip
            pictures += [PictureRow(who, number, *place, p.place, p.item, p.relevant) for p in answer.pictures]
    return Answers(tuple(pictures), tuple(systems), tuple(queries))


def export(store: Store, out: str | Path, form: str = "csv", overwrite: bool = False) -> list[str]:
    """Writes the answers and their dictionary into a folder, whole or not at all; returns the files' names.

    Raises:
        UserError: the folder exists, or cannot be written, or another form than csv, json, parquet.
    """
    if form not in ("csv", "json", "parquet"):
        raise UserError(f"expected --format csv, json or parquet, got {form!r}")
    with new_folder(out, overwrite) as folder:
        return [file.name for file in write_answers(answers_of(store), folder, form)]


def erase(store: Store, name: str) -> int:
    """Removes a participant, by pseudonym or external name: answers, pictures, photographs, and what the log holds.

    Embeddings and thumbnails are never kept. Freed pages are overwritten with zeros. Returns how many queries went.

    Raises:
        UserError: nobody of that name, or the log is in use, and has to be emptied later.
    """
    with store.writing() as session:
        named = (Participant.id == name) | (Participant.external == name)
        who = session.scalars(select(Participant).where(named).with_for_update()).first()
        if who is None:
            raise UserError(f"no participant {name!r}; take the pseudonym from an export, or the invitation's name")
        queries = len(who.queries)
        session.delete(who)
    clear_log(store)
    return queries


def clear_log(store: Store) -> None:
    """Empties SQLite's write-ahead log, in which deleted rows would stay readable.

    Raises:
        UserError: another process reads just now.
    """
    if store.engine.dialect.name != "sqlite":
        return
    store.engine.dispose()  # our own idle connections
    with closing(store.engine.raw_connection()) as connection:  # no transaction is begun on it
        blocked = connection.cursor().execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
    if blocked:
        raise UserError(
            "erased, but the database's log is in use and may still hold it; erase once more when it is not"
        )


def backup(store: Store, out: str | Path) -> None:
    """Copies the database to a file as it is at one moment, while it is used; whole or not at all.

    Raises:
        UserError: the file exists or cannot be written, or the database is not SQLite.
    """
    if store.engine.dialect.name != "sqlite":
        raise UserError("PostgreSQL has its own: pg_dump --format=custom --file BACKUP ADDRESS")
    file = Path(out).resolve()
    if file.exists():
        raise UserError(f"{file} exists already; choose another name for the backup")
    if not file.parent.is_dir():
        raise UserError(f"expected a folder for the backup, found none at {file.parent}")
    beside = writable(file).with_name(f".{file.name}.new-{os.getpid()}")
    try:
        with closing(store.engine.raw_connection()) as connection:  # no transaction is begun on it
            connection.cursor().execute("VACUUM INTO ?", (str(beside),))
        beside.rename(file)
    finally:
        beside.unlink(missing_ok=True)
