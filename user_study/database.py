"""The connection to a study's database: SQLite in a file, or PostgreSQL by its address.

    engine = connect("sqlite:///dress-up.db")
    engine = connect("postgresql://study@db.example.org/study")        # the password from ~/.pgpass or PGPASSWORD
    migrate(engine)

SQLite keeps a write-ahead log (readers and one writer do not wait for each other), waits when another process writes,
checks foreign keys, writes to the disk before it says "committed", and overwrites what is deleted with zeros.

Sources: sqlite.org/pragma.html; SQLAlchemy's documentation on transactions with pysqlite.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, make_url, text
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, OperationalError

from fclip.errors import UserError

MIGRATIONS = Path(__file__).parent / "migrations"
PRAGMAS = ("journal_mode=WAL", "busy_timeout=30000", "foreign_keys=ON", "synchronous=FULL", "secure_delete=ON")


def connect(url: str) -> Engine:
    """An engine; nothing is created yet.

    Raises:
        UserError: no address, or of another kind of database.
    """
    try:
        address = make_url(url)
        if address.drivername in ("postgresql", "postgres"):
            address = address.set(drivername="postgresql+psycopg")
        if address.get_backend_name() not in ("sqlite", "postgresql"):
            raise UserError(f"expected sqlite:///FILE or postgresql://HOST/NAME, got {address.render_as_string()}")
        if address.get_backend_name() == "sqlite":
            return _sqlite(create_engine(address, connect_args={"check_same_thread": False}, pool_size=20))
        return create_engine(address, pool_pre_ping=True, pool_size=20)
    except (ArgumentError, NoSuchModuleError):
        raise UserError("expected a database as sqlite:///FILE or postgresql://HOST/NAME") from None


def migrate(engine: Engine) -> None:
    """Creates the tables, or brings them to the newest version.

    Raises:
        UserError: the database cannot be reached.
    """
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    try:
        with engine.begin() as connection:
            if engine.dialect.name == "postgresql":  # two servers that start at once
                connection.execute(text("SELECT pg_advisory_xact_lock(7301)"))
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
    except OperationalError as error:
        reason = str(error.orig).splitlines()[0]
        raise UserError(f"cannot open the database {engine.url.render_as_string()}: {reason}") from None


def _sqlite(engine: Engine) -> Engine:
    @event.listens_for(engine, "connect")
    def prepare(connection: Any, _: Any) -> None:
        connection.isolation_level = None  # the driver begins no transactions by itself, `begin` below does
        for pragma in PRAGMAS:
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        # At once as a writer: one that begins as a reader may find when it writes that it came too late.
        kind = "DEFERRED" if connection.get_execution_options().get("reads") else "IMMEDIATE"
        connection.exec_driver_sql(f"BEGIN {kind}")

    return engine
