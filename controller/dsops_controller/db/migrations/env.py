"""Alembic's entry: runs revisions on the connection that :mod:`dsops_controller.db.migrate` hands over."""

from alembic import context
from sqlalchemy import Connection

from dsops_controller.db import alert_tables, tables

assert alert_tables.alert.metadata is tables.metadata  # one schema, whose tables both modules declare


def run(connection: Connection) -> None:
    """Run the revisions inside the connection's open transaction, which its owner commits."""
    context.configure(connection=connection, target_metadata=tables.metadata, render_as_batch=True)
    with context.begin_transaction():
        context.run_migrations()


run(context.config.attributes["connection"])
