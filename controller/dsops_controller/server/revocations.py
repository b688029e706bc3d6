"""Keeps who is shut out away from the broker. The database says who that is; everything here follows from it.

Each look writes the broker's revocation list and access list if they differ from what the database says, has the broker
read them, and then tells ``server/expulsion.py`` who is barred, for a broker closes no session because of a list; lists
never wait for sessions. What happened before does not matter: a controller that was killed between two steps leaves
nothing undone, nor does another controller on the same database.
"""

import logging
import os
import signal
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509

from dsops.clock import Clock
from dsops.errors import DsopsError
from dsops.files import write_atomically
from dsops_controller.db.database import Database
from dsops_controller.fleet import certificates
from dsops_controller.fleet.issuer import Issuer, Revoked
from dsops_controller.fleet.standing import Changes
from dsops_controller.server.mosquitto import access_control

log = logging.getLogger(__name__)

LOOK_S = 1.0
LIST_LIFE = timedelta(days=365)
"""A broker refuses everybody when its list has expired; so it outlives any absence of the controller."""
REFRESH = timedelta(days=1)
BATCH = timedelta(seconds=5)
"""Certificates that were only superseded may wait so long for the list, so that a wave of renewals writes few."""
BACKDATE = timedelta(hours=1)

Follow = Callable[[Sequence[str]], None]
"""Is told at every look who is barred, as soon as the lists say so."""


@dataclass(frozen=True)
class RevocationFiles:
    """What the broker reads: the list of revoked certificates, the access list, and where it says its process id."""

    revoked: Path
    access: Path
    pid: Path
    topic_prefix: str


@dataclass(frozen=True)
class _List:
    """What the revocation list says that the broker has: which serials, and since when."""

    serials: frozenset[str]
    since: datetime


class Revocations:
    """Makes the broker follow the database; :meth:`run` in a thread of its own."""

    def __init__(
        self, db: Database, issuer: Issuer, files: RevocationFiles, follow: Follow, changes: Changes, clock: Clock
    ) -> None:
        self._db = db
        self._issuer = issuer
        self._files = files
        self._follow = follow
        self._changes = changes
        self._clock = clock
        self._list: _List | None = None
        self._barred: tuple[str, ...] | None = None
        self._written_s = -BATCH.total_seconds()
        self._told = ""

    def run(self, stop: threading.Event) -> None:
        """Look whenever something changed, and every second, until ``stop`` is set."""
        self._reload()  # whoever ran before may have been killed before it did
        seen = 0
        while not stop.is_set():
            seen = self._changes.wait(seen, LOOK_S)
            try:
                self.look()
                self._told = ""
            except DsopsError as error:
                self._tell(f"the broker may let in who is shut out: {error}")

    def look(self) -> None:
        """Make the lists follow the database once, and say who is barred.

        Raises:
            DsopsError: The database, the disk or the issuer does not answer.
        """
        now = self._clock.now()
        with self._db.read() as connection:
            barred = certificates.barred(connection, now)
            revoked = certificates.revoked(connection, now)
        if self._barred is None:
            self._list = self._read_list()
        is_urgent = barred != self._barred
        was_written = [self._write_access(barred), self._write_list(revoked, now, is_urgent=is_urgent)]
        if any(was_written):
            self._reload()
        self._barred = barred
        self._follow(barred)

    def _write_access(self, barred: Sequence[str]) -> bool:
        text = access_control(self._files.topic_prefix, barred).encode()
        if barred == self._barred or _content(self._files.access) == text:
            return False
        write_atomically(self._files.access, text, mode=0o600)
        return True

    def _write_list(self, revoked: Sequence[Revoked], now: datetime, *, is_urgent: bool) -> bool:
        serials = frozenset(one.serial for one in revoked)
        had = self._list
        is_fresh = had is not None and now - REFRESH < had.since + BACKDATE
        waits = not is_urgent and self._clock.monotonic_s() - self._written_s < BATCH.total_seconds()
        if is_fresh and had is not None and (had.serials == serials or waits):
            return False
        since = now - BACKDATE
        if had is not None and since <= had.since < now:
            since = had.since + timedelta(seconds=1)  # OpenSSL believes the list with the later date
        write_atomically(self._files.revoked, self._issuer.revocation_list(revoked, since, now + LIST_LIFE))
        self._list = _List(serials, since)
        self._written_s = self._clock.monotonic_s()
        return True

    def _read_list(self) -> _List | None:
        """Return what the file says, or None if it is not of this issuer, or unreadable; then it is written anew."""
        try:
            found = x509.load_pem_x509_crl(_content(self._files.revoked))
            known = x509.load_pem_x509_certificates(self._issuer.chain_pem)
        except ValueError:
            return None
        if not any(found.is_signature_valid(one.public_key()) for one in known):  # type: ignore[arg-type]
            return None
        return _List(frozenset(f"{entry.serial_number:x}" for entry in found), found.last_update_utc)

    def _reload(self) -> None:
        """Have the broker read its files, if it runs here and is ours to signal."""
        try:
            pid = int(self._files.pid.read_text())
            if "mosquitto" in Path(f"/proc/{pid}/comm").read_text():
                os.kill(pid, signal.SIGHUP)
        except (FileNotFoundError, ProcessLookupError, ValueError):
            return  # no broker here; one that starts reads the files
        except PermissionError:
            self._tell(f"the broker (process {pid}) cannot be told to read its files; send it SIGHUP as its user")

    def _tell(self, text: str) -> None:
        if text != self._told:
            log.warning(text)
        self._told = text


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""
