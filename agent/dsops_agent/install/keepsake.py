"""The keepsake: what must outlive the journal, in a file of its own beside it.

The journal is the truth. Should its file be damaged, a new one begins with what stands here: which directives were
accepted, what each slot holds, which bundles are in quarantine, the keys of sealed bundles, and numbers that were never
used. The file is written before the commit that changes one of those, so it is never older than the journal, unless the
disk did not take it. It begins with the SHA-256 of the rest: a keepsake that is damaged itself is none.
"""

import logging
import sqlite3
from pathlib import Path

from pydantic import Field, ValidationError

from dsops import strictjson
from dsops.bundle import sha256_hex
from dsops.errors import DsopsError, StateDamaged
from dsops.files import write_secret
from dsops.manifest import Frozen, first_problem

logger = logging.getLogger(__name__)

SEQ = "directive seq"
_BLOCK = 1024
"""Numbers rise with every report: what is kept of them changes once in so many."""
_LEAP = 1 << 20
"""Numbers go on so far ahead, for the disk may not have taken the keepsake for long; gaps are no fault."""
Row = tuple[str | int, ...]


class Keepsake(Frozen):
    """Rows of the journal's tables, as :func:`read_rows` orders their columns.

    Attributes:
        seq: Of the newest accepted directive.
        numbers: What no counter has reached yet, by name.
    """

    seq: int = Field(default=0, ge=0)
    numbers: dict[str, int] = Field(default={})
    slot: tuple[Row, ...] = ()
    quarantine: tuple[Row, ...] = ()
    content_key: tuple[Row, ...] = ()

    def encode(self) -> bytes:
        """Return the file's bytes."""
        text = strictjson.dumps(self.model_dump(mode="json"))
        return sha256_hex(text).encode() + b"\n" + text


def read_rows(db: sqlite3.Connection) -> Keepsake:
    """Return what must be kept of a journal. Raises sqlite3.Error."""
    counters = {str(name): int(value) for name, value in db.execute("SELECT name, value FROM counter")}
    return Keepsake(
        seq=counters.pop(SEQ, 0),
        numbers={name: (value // _BLOCK + 1) * _BLOCK for name, value in sorted(counters.items())},
        slot=tuple(db.execute("SELECT model, name, digest, length_bytes, release, committed FROM slot ORDER BY 1, 2")),
        quarantine=tuple(db.execute("SELECT digest, model, code, message FROM quarantine ORDER BY id")),
        content_key=tuple(db.execute("SELECT digest, opened, newest FROM content_key ORDER BY digest")),
    )


def write_rows(db: sqlite3.Connection, kept: Keepsake) -> None:
    """Fill an empty journal. The newest accepted directive may come once more, for nothing is known of what it wanted.

    Raises:
        sqlite3.Error: The disk is full, or fails.
    """
    numbers = {name: value + _LEAP for name, value in kept.numbers.items()} | {SEQ: max(0, kept.seq - 1)}
    db.executemany("INSERT INTO counter VALUES (?, ?)", numbers.items())
    db.executemany(
        "INSERT INTO slot (model, name, digest, length_bytes, release, committed) VALUES (?, ?, ?, ?, ?, ?)", kept.slot
    )
    db.executemany("INSERT INTO quarantine (digest, model, code, message) VALUES (?, ?, ?, ?)", kept.quarantine)
    db.executemany("INSERT INTO content_key (digest, opened, newest) VALUES (?, ?, ?)", kept.content_key)


class KeepsakeFile:
    """The file. Written when something changed; a disk that does not take it keeps no journal from being written.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._written = b""
        self._trouble = ""

    def exists(self) -> bool:
        """Return whether there is one, damaged or not."""
        return self._path.exists()

    def sweep(self) -> None:
        """Remove what a kill left behind. Raises OSError."""
        for leftover in self._path.parent.glob(f".{self._path.name}.*.tmp"):
            leftover.unlink(missing_ok=True)

    def read(self) -> Keepsake:
        """Read the file.

        Raises:
            StateDamaged: There is none, or it cannot be read.
        """
        try:
            digest, _, text = self._path.read_bytes().partition(b"\n")
            if digest != sha256_hex(text).encode():
                raise StateDamaged(f"{self._path.name} is damaged, too", why="its bytes have changed")
            return Keepsake.model_validate(strictjson.loads(text))
        except OSError as error:
            raise StateDamaged(f"cannot read {self._path.name}", why=error.strerror or str(error)) from error
        except ValidationError as error:
            raise StateDamaged(f"{self._path.name} is not a keepsake", why=first_problem(error)) from error
        except strictjson.JsonRefused as error:
            raise StateDamaged(f"{self._path.name} is not a keepsake", why=str(error)) from error

    def keep(self, kept: Keepsake) -> None:
        """Make it durable, if it differs from what was written last. What the disk does not take is tried again."""
        data = kept.encode()
        if data == self._written:
            return
        try:
            if not (self._path.is_file() and self._path.read_bytes() == data):
                write_secret(self._path, data)
        except (OSError, DsopsError) as error:
            if str(error) != self._trouble:
                logger.warning("what must outlive the journal is not kept: %s", error)
            self._trouble = str(error)
            return
        self._written, self._trouble = data, ""
