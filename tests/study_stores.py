"""Databases for the study's tests: SQLite in a folder, and a PostgreSQL that the tests start."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from user_study.config import Study, System
from user_study.store import Store

JPEG = b"\xff\xd8\xff picture "


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = datetime(2026, 3, 1, 9, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def pass_(self, **time: float) -> None:
        self.now += timedelta(**time)


def make_study(systems: int = 4, **keys: object) -> Study:
    made = tuple(System(f"system-{i}", "folder", "nowhere", generated=i == systems - 1) for i in range(systems))
    return Study(**{"name": "test", "systems": made, "pictures": 2, "least_images": 0} | keys)


def postgres_programs() -> Path | None:
    """The folder of PostgreSQL's programs, as Debian installs them."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return found[-1].parent if found else None


@contextmanager
def postgres() -> Iterator[str]:
    """A server of its own, reached by a socket in a new folder; yields its address."""
    programs = postgres_programs()
    assert programs is not None
    as_user = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []  # it refuses to run as root
    # Not in pytest's folder, which is its user's only; and a socket's address may have 107 characters.
    folder = Path(tempfile.mkdtemp(prefix="pg-"))
    if as_user:
        shutil.chown(folder, "postgres")
    data, options = folder / "data", f"-k {folder} -c listen_addresses= -c fsync=off"

    def do(*words: str) -> None:
        subprocess.run([*as_user, *words], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/")

    do(str(programs / "initdb"), "-D", str(data), "-A", "trust", "-U", "study", "-N")
    do(str(programs / "pg_ctl"), "-D", str(data), "-o", options, "-l", str(folder / "log"), "-w", "start")
    try:
        yield f"postgresql://study@/postgres?host={folder}"
    finally:
        do(str(programs / "pg_ctl"), "-D", str(data), "-m", "immediate", "stop")
        shutil.rmtree(folder, ignore_errors=True)


def seen_of(store: Store) -> str:
    """Everything in the database's files, as it lies on the disk."""
    file = Path(store.engine.url.database or "")
    return b"".join(one.read_bytes() for one in file.parent.glob(f"{file.name}*")).decode("latin-1")
