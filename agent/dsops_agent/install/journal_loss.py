"""Begins the journal anew when its file is lost for certain, with what the keepsake holds.

The new journal is made whole under a name of its own, and takes its place by a rename; killed before, it is made again:
an empty journal beside a keepsake counts as lost. The damaged file stays as ``journal.db.damaged``, the newest only.
"""

import logging
import sqlite3
from contextlib import closing
from pathlib import Path

from dsops.errors import JournalLost, NoSpace, StateDamaged
from dsops.files import fsync_folder, make_private
from dsops_agent.claimed import is_full, put_aside
from dsops_agent.install import schema
from dsops_agent.install.keepsake import Keepsake, KeepsakeFile, write_rows

logger = logging.getLogger(__name__)

LOST = "lost"
"""The setting that says why the journal was begun anew; it goes when a directive is accepted."""

_BOTH_LOST = (
    "look at the disk, then move journal.db and journal.keepsake away to begin with nothing: bundles are fetched "
    "again, and a directive of old that has not expired is accepted if it comes first"
)


def begin_anew(path: Path, kept: KeepsakeFile, loss: JournalLost) -> None:
    """Put a lost journal aside, and a new one in its place that tells of it.

    Args:
        path: The journal's file.
        kept: What must outlive it.
        loss: Why it is lost.

    Raises:
        JournalLost: The keepsake is lost, too; nothing changed.
        NoSpace: The disk is full.
        StateDamaged: The disk fails.
    """
    try:
        keepsake = kept.read()
    except StateDamaged as error:
        raise JournalLost(loss.what, why=f"{loss.why}; {error}", hint=_BOTH_LOST) from error
    logger.warning("the journal is begun anew: %s", loss)
    fresh = path.with_name(f"{path.name}.new")
    try:
        fresh.unlink(missing_ok=True)
        fresh.with_name(f"{fresh.name}-journal").unlink(missing_ok=True)
        _make(fresh, keepsake, loss)
        if path.exists() and path.stat().st_size:
            put_aside(path)
        fsync_folder(path.parent)  # a log of the old journal must never meet the new one
        fresh.replace(path)
        fsync_folder(path.parent)
    except sqlite3.Error as error:
        if is_full(error):
            raise NoSpace(f"cannot make {path.name} anew", why=str(error)) from error
        raise StateDamaged(f"cannot make {path.name} anew", why=str(error)) from error
    except OSError as error:
        raise StateDamaged(f"cannot make {path.name} anew", why=error.strerror or str(error)) from error


def _make(path: Path, keepsake: Keepsake, loss: JournalLost) -> None:
    make_private(path)
    sql = "INSERT INTO outbox (kind, model, release, digest, code, message) VALUES ('journal_lost', '', 0, '', ?, ?)"
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("PRAGMA synchronous=EXTRA")
        schema.bring_up(db)
        db.execute("BEGIN IMMEDIATE")
        write_rows(db, keepsake)
        db.execute("INSERT INTO setting VALUES (?, ?)", (LOST, str(loss)))
        db.execute(sql, (loss.code, str(loss)))
        db.execute("COMMIT")
