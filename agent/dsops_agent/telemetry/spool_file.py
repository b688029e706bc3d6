"""The spool's file: SQLite, written to its full size at once, so that a full disk cannot stop it afterwards."""

import os
import sqlite3
from pathlib import Path

from dsops.errors import DeviceError, NoSpace, StateDamaged
from dsops.files import make_private
from dsops_agent.claimed import claim, fill_log, is_damaged, is_full, make_durable

RESERVE_BYTES = 1 << 20
"""Given back to the file system when the disk is full and SQLite's log must grow."""

LOG_BYTES = 1 << 20
"""Size of SQLite's log (WAL), which is taken at once, too; a longer transaction needs the reserve."""

# Rows lie in the order of their places, so records of a kind lie together: when the oldest of the kind that is worth
# least go, they leave whole pages free.
_SCHEMA = """
create table if not exists stream (kind text primary key, id blob not null, last integer not null default 0,
    produced integer not null default 0, stored integer not null default 0, told integer not null default 0,
    pending integer not null default 0, bytes integer not null default 0);
create table if not exists record (place integer primary key, kind text not null, seq integer not null,
    what text not null, born_s integer not null, size integer not null, data blob not null);
create unique index if not exists record_by_seq on record (kind, seq);
create table if not exists loss (kind text not null, what text not null, reason text not null, count integer not null,
    primary key (kind, what, reason));
create table if not exists age (one integer primary key check (one = 1), s real not null);
create trigger if not exists record_came after insert on record begin
    update stream set pending = pending + 1, bytes = bytes + new.size where kind = new.kind; end;
create trigger if not exists record_went after delete on record begin
    update stream set pending = pending - 1, bytes = bytes - old.size where kind = old.kind; end;
create table if not exists today (one integer primary key check (one = 1), day text not null, bytes integer not null,
    ran_s real not null);
create table if not exists origin (source text primary key, batch integer not null);
insert or ignore into age values (1, 0);
insert or ignore into today values (1, '', 0, 0);
"""


def open_file(path: Path, size_bytes: int, kinds: tuple[str, ...]) -> sqlite3.Connection:
    """Open the file, made and written to its full size when it is not yet.

    Raises:
        sqlite3.Error: It cannot be opened; see ``is_full`` and ``is_damaged`` of :mod:`dsops_agent.claimed`.
    """
    make_private(path)
    sql = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    try:
        claim(sql, path, size_bytes)
        make_durable(sql, LOG_BYTES)
        sql.executescript(_SCHEMA)
        for kind in kinds:
            sql.execute("insert or ignore into stream (kind, id) values (?, ?)", (kind, os.urandom(16)))
        fill_log(sql, LOG_BYTES)
        sql.execute("pragma shrink_memory").fetchall()  # the pages that were only filled
    except sqlite3.Error:
        sql.close()
        raise
    return sql


def keep_reserve(path: Path) -> bool:
    """Make the reserve when it is not there and the disk has ample room; return whether it is there."""
    if path.exists():
        return True
    disk = os.statvfs(path.parent)
    if disk.f_bavail * disk.f_frsize < 4 * RESERVE_BYTES:
        return False
    try:
        with path.open("ab") as file:
            os.posix_fallocate(file.fileno(), 0, RESERVE_BYTES)
    except OSError:
        path.unlink(missing_ok=True)
        return False
    return True


def as_device_error(error: sqlite3.Error) -> DeviceError:
    """Return the error of our tree."""
    if is_full(error):
        return NoSpace("the spool cannot be written", why="the disk is full")
    if is_damaged(error):
        return StateDamaged("the spool is damaged", why=str(error), hint="it was put aside; a new one is in use")
    return DeviceError("the spool failed", why=str(error), hint="check the disk that holds the state folder")
