"""SQLite files whose room is claimed at once, so that a disk that fills up later cannot stop them.

One connection a file, so no shared-memory file has to grow; WAL with synchronous=FULL, so what was committed survives a
power cut; file and log (WAL) are written to their sizes at the start and written over from then on.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_FILL_BYTES = 64_000
_CACHE_KIB = 128
"""Rows are written once and read once, in order: SQLite's 2 MiB of pages would be kept for nothing."""
_PAGES = 128
"""The log is taken over into the file when it has so many pages of 4 KiB."""


def claim(sql: sqlite3.Connection, path: Path, size_bytes: int) -> None:
    """Grow the file: rows that are written and deleted leave free pages behind, which SQLite uses first.

    Raises:
        sqlite3.Error: The disk is full, or the file is not a database.
    """
    missing_bytes = size_bytes - (path.stat().st_size if path.exists() else 0)
    if missing_bytes <= 0:
        return
    with immediate(sql):
        sql.execute("create table fill (data blob)")
        for _ in range(missing_bytes // _FILL_BYTES + 1):
            sql.execute("insert into fill values (zeroblob(?))", (_FILL_BYTES,))
        sql.execute("drop table fill")


def make_durable(sql: sqlite3.Connection, log_bytes: int) -> None:
    """Choose how commits are made durable, and limit the log to a size.

    Raises:
        sqlite3.Error: The file is not a database, or another connection has it.
    """
    for pragma in (
        "locking_mode=exclusive",
        "journal_mode=wal",
        "synchronous=full",
        f"cache_size=-{_CACHE_KIB}",
        f"wal_autocheckpoint={_PAGES}",
        f"journal_size_limit={log_bytes}",
    ):
        sql.execute(f"pragma {pragma}").fetchall()


def fill_log(sql: sqlite3.Connection, log_bytes: int) -> None:
    """Grow the log to about its size by writing as much; from then on it is written over from its beginning.

    What a process before left in the log is taken over, so that its room serves again: on a disk that was filled since,
    there is no other.

    Raises:
        sqlite3.Error: The disk is full.
    """
    sql.execute("pragma wal_checkpoint").fetchall()
    (_, _, path) = sql.execute("pragma database_list").fetchone()
    log = Path(f"{path}-wal")
    if log.exists() and log.stat().st_size >= log_bytes * 3 // 4:
        return
    with immediate(sql):
        sql.execute("create table fill (data blob)")
        sql.execute("insert into fill values (zeroblob(?))", (log_bytes - log_bytes // 8,))
        sql.execute("drop table fill")
    sql.execute("pragma wal_checkpoint").fetchall()


@contextmanager
def immediate(sql: sqlite3.Connection) -> Iterator[None]:
    """Run the block in one transaction, rolled back when it raises."""
    sql.execute("begin immediate")
    try:
        yield
        sql.execute("commit")
    except BaseException:
        if sql.in_transaction:
            sql.execute("rollback")
        raise


def put_aside(path: Path) -> None:
    """Rename a damaged file, so that a new one can be made and the old one be looked at; the newest stays."""
    path.replace(path.with_name(f"{path.name}.damaged"))
    for tail in ("-wal", "-shm", "-journal"):
        path.with_name(path.name + tail).unlink(missing_ok=True)


def is_full(error: sqlite3.Error) -> bool:
    """Whether the disk is full."""
    return _code(error) == sqlite3.SQLITE_FULL


def is_damaged(error: sqlite3.Error) -> bool:
    """Whether the file is not, or is no more, a database. A disk that fails at a read or a write says nothing of it."""
    return _code(error) in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def _code(error: sqlite3.Error) -> int:
    """Return the primary result code; errors that the Python module raises by itself have none."""
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF
