"""Insert a row, or update the one with its key."""

from functools import cache

from sqlalchemy import Insert, Table
from sqlalchemy.dialects import postgresql, sqlite


@cache
def upsert(dialect: str, table: Table) -> Insert:
    """Return the statement that inserts a row or updates the one with its key; built once, since batches are many."""
    keys = [column.name for column in table.primary_key.columns]
    others = [column.name for column in table.columns if column.name not in keys]
    if dialect == "postgresql":
        on_server = postgresql.insert(table)
        newer = {name: on_server.excluded[name] for name in others}
        return on_server.on_conflict_do_update(index_elements=keys, set_=newer)
    embedded = sqlite.insert(table)
    newer = {name: embedded.excluded[name] for name in others}
    return embedded.on_conflict_do_update(index_elements=keys, set_=newer)
