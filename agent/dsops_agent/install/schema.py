"""The journal's tables, and the steps that bring the journal of an older agent up to them.

A step is one transaction with the number of the version that it makes, so that a power cut leaves the version before or
the one after. Version 1 was written by agents of several ages: its step looks at which tables and columns there are.
"""

import sqlite3
from collections.abc import Callable

from dsops_agent.claimed import immediate

_INSTALL = """
CREATE TABLE install (
    model TEXT PRIMARY KEY, state TEXT NOT NULL, seq INTEGER NOT NULL, slot TEXT NOT NULL,
    index_digest TEXT NOT NULL, needs_digest TEXT NOT NULL, attempt INTEGER NOT NULL,
    code TEXT NOT NULL, message TEXT NOT NULL
) WITHOUT ROWID;
"""
_QUARANTINE = """
CREATE TABLE quarantine (
    id INTEGER PRIMARY KEY AUTOINCREMENT, digest TEXT NOT NULL UNIQUE, model TEXT NOT NULL,
    code TEXT NOT NULL, message TEXT NOT NULL
);
"""
_SINCE_FIRST = """
CREATE TABLE IF NOT EXISTS content_key (
    digest TEXT PRIMARY KEY, opened TEXT NOT NULL, newest TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS refusal (
    id INTEGER PRIMARY KEY AUTOINCREMENT, source TEXT NOT NULL UNIQUE,
    digest TEXT NOT NULL, code TEXT NOT NULL, message TEXT NOT NULL
);
"""
_SCHEMA = f"""
CREATE TABLE counter (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE setting (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE desired (model TEXT PRIMARY KEY, seq INTEGER NOT NULL, slot TEXT NOT NULL) WITHOUT ROWID;
{_INSTALL}
CREATE TABLE slot (
    model TEXT NOT NULL, name TEXT NOT NULL, digest TEXT NOT NULL, length_bytes INTEGER NOT NULL,
    release INTEGER NOT NULL, committed INTEGER NOT NULL, PRIMARY KEY (model, name)
) WITHOUT ROWID;
{_QUARANTINE}
CREATE TABLE outbox (
    id INTEGER PRIMARY KEY AUTOINCREMENT, kind TEXT NOT NULL, model TEXT NOT NULL, release INTEGER NOT NULL,
    digest TEXT NOT NULL, code TEXT NOT NULL, message TEXT NOT NULL
);
{_SINCE_FIRST}
"""
_TAKE_INSTALLS = """
INSERT INTO install SELECT model, state, seq, slot, index_digest, '', attempt, code, message FROM old;
UPDATE install SET state = 'received', attempt = 0
    WHERE state IN ('trusted', 'fetching', 'verified', 'staged', 'proved')
"""
_TAKE_QUARANTINE = """
INSERT INTO quarantine (digest, model, code, message) SELECT
    digest, coalesce((SELECT model FROM install WHERE json_extract(slot, '$.sha256') = old.digest), ''), code, message
    FROM old
"""


def _to_2(db: sqlite3.Connection) -> None:
    """Add what bundles need, which models are in quarantine, refusals and keys.

    What was under way and touched nothing yet begins again, for only the trust rules can name what the bundle needs.
    """
    _run(db, _SINCE_FIRST)
    if "needs_digest" not in _columns(db, "install"):
        _run(db, f"ALTER TABLE install RENAME TO old;{_INSTALL};{_TAKE_INSTALLS};DROP TABLE old")
    if "model" not in _columns(db, "quarantine"):
        _run(db, f"ALTER TABLE quarantine RENAME TO old;{_QUARANTINE};{_TAKE_QUARANTINE};DROP TABLE old")


_STEPS: tuple[tuple[int, Callable[[sqlite3.Connection], None]], ...] = ((2, _to_2),)
"""In order: the version that a step makes of the one before it."""
VERSION = _STEPS[-1][0]


def version_of(db: sqlite3.Connection) -> int:
    """Return the version of a journal's tables; 0 while it has none. Raises sqlite3.Error."""
    return int(db.execute("PRAGMA user_version").fetchone()[0])


def bring_up(db: sqlite3.Connection) -> None:
    """Make the tables, or bring those of an older agent up to :data:`VERSION`. Every step is whole or not at all.

    Raises:
        sqlite3.Error: The disk is full, or the file is damaged; it is as it was.
    """
    version = version_of(db)
    if version == 0:
        with immediate(db):
            _run(db, _SCHEMA)
            db.execute(f"PRAGMA user_version={VERSION}")
        return
    for number, step in _STEPS:
        if number > version:
            with immediate(db):
                step(db)
                db.execute(f"PRAGMA user_version={number}")


def _columns(db: sqlite3.Connection, table: str) -> set[str]:
    return {str(row[1]) for row in db.execute(f"PRAGMA table_info({table})")}


def _run(db: sqlite3.Connection, script: str) -> None:
    """Run statements inside the transaction under way; ``executescript`` would commit it first."""
    for statement in script.split(";"):
        if statement.strip():
            db.execute(statement)
