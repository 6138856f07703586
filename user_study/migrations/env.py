"""Alembic's entry: runs the migrations on the connection that it is given.

From the command line, for a new version after a change of models.py, see `versions`.
"""

from alembic import context

from user_study.models import Base

context.configure(
    connection=context.config.attributes["connection"], target_metadata=Base.metadata, render_as_batch=True
)
with context.begin_transaction():
    context.run_migrations()
