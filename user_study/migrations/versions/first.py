"""The tables of the first version."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Creates them."""
    op.create_table(
        "study",
        sa.Column("name", sa.String, primary_key=True),
        sa.Column("plan", sa.JSON, nullable=False),
        sa.Column("claims", sa.Integer, nullable=False),
        sa.Column("locked", TIME),
    )
    op.create_table(
        "participants",
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("token_hash", sa.String, nullable=False, unique=True),
        sa.Column("external", sa.String, unique=True),
        sa.Column("expires", TIME, nullable=False),
        sa.Column("order", sa.Integer, nullable=False),
        sa.Column("state", sa.String, nullable=False),
        sa.Column("began", TIME, nullable=False),
        sa.Column("seen", TIME, nullable=False),
        sa.Column("completed", TIME),
    )
    op.create_table(
        "queries",
        sa.Column("id", sa.Integer, primary_key=True),
        _within("participants", sa.String, "participant_id"),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("kind", sa.String, nullable=False),
        sa.Column("calibration", sa.Integer),
        sa.Column("repeats", sa.Integer),
        sa.Column("text", sa.String),
        sa.Column("filters", sa.JSON),
        sa.Column("asked", TIME),
        sa.Column("started", TIME),
        sa.Column("submitted", TIME),
        sa.Column("guess", sa.String),
        sa.UniqueConstraint("participant_id", "number"),
    )
    op.create_table(
        "answers",
        sa.Column("id", sa.Integer, primary_key=True),
        _within("queries", sa.Integer, "query_id"),
        sa.Column("system", sa.String, nullable=False, index=True),
        sa.Column("letter", sa.String, nullable=False),
        sa.Column("position", sa.Integer, nullable=False),
        sa.Column("generated", sa.Boolean, nullable=False),
        sa.Column("state", sa.String, nullable=False, index=True),
        sa.Column("why", sa.String),
        sa.Column("rank", sa.Integer),
        sa.Column("rating", sa.Integer),
        sa.Column("comment", sa.String),
        sa.UniqueConstraint("query_id", "system"),
    )
    op.create_table(
        "pictures",
        sa.Column("id", sa.String, primary_key=True),
        _within("answers", sa.Integer, "answer_id", index=True),
        sa.Column("place", sa.Integer, nullable=False),
        sa.Column("item", sa.String, nullable=False),
        sa.Column("relevant", sa.Boolean),
        sa.Column("data", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "photographs",
        sa.Column("id", sa.String, primary_key=True),
        _within("queries", sa.Integer, "query_id", index=True),
        sa.Column("place", sa.Integer, nullable=False),
        sa.Column("data", sa.LargeBinary, nullable=False),
    )


def downgrade() -> None:
    """Drops them."""
    for table in ("photographs", "pictures", "answers", "queries", "participants", "study"):
        op.drop_table(table)


def _within(table: str, kind: type, name: str, index: bool = False) -> sa.Column:
    return sa.Column(name, kind, sa.ForeignKey(f"{table}.id", ondelete="CASCADE"), nullable=False, index=index)
