"""Makes the deltas that rollouts need, each once, in a thread of its own.

No database transaction is open while a delta is made. The directive that could offer it waits meanwhile, because one
that is signed without it would have its device fetch everything; but a rollout waits for a delta only so long.
"""

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from sqlalchemy import Connection

from dsops.bundle import Bundle, sha256_hex
from dsops.clock import Clock
from dsops.delta import is_worth
from dsops.errors import DigestMismatch, DsopsError
from dsops_controller.db import tables
from dsops_controller.db.database import Database, upsert
from dsops_controller.db.times import to_ms
from dsops_controller.deltas import room, table
from dsops_controller.deltas.files import DeltaFiles
from dsops_controller.deltas.making import make_delta
from dsops_controller.deltas.matching import BundleBytes
from dsops_controller.rollout.wanted import RETAINED_BYTES

log = logging.getLogger(__name__)

PATIENCE_S = 60.0
"""How long a directive waits for its delta at most."""
TIDY_S = 600.0
"""How often deltas are looked for that nobody can use any more."""
SEALED, SAVES_TOO_LITTLE = "ciphertexts have nothing in common", "it saves too little"


class Opener(Protocol):
    """The pushed bundles, as far as deltas are made of them."""

    def open(self, sha256: str) -> Bundle:
        """Open a bundle's file."""
        ...


@dataclass(frozen=True)
class Wish:
    """A delta to make: digests of two bundles."""

    base: str
    target: str


class Workshop:
    """Makes deltas. :meth:`awaits` may be called from any thread.

    Args:
        db: Keeps what is known.
        bundles: Opens bundles.
        files: Keeps what is made.
        clock: Time.
        retained_bytes: How long all files together may be that the broker is offered.
    """

    def __init__(
        self, db: Database, bundles: Opener, files: DeltaFiles, clock: Clock, retained_bytes: int = RETAINED_BYTES
    ) -> None:
        self._db = db
        self._bundles = bundles
        self.files = files
        self._clock = clock
        self._retained_bytes = retained_bytes
        self._tidied_s: float | None = None
        self._changed = threading.Condition()
        self._asked_s: dict[Wish, float] = {}
        self._failed: set[Wish] = set()
        self.made: Callable[[], None] = lambda: None
        """Called after each delta; the composition root has it wake the rollout driver."""

    def awaits(self, connection: Connection, device: str, model: str, target: str) -> bool:
        """Return whether a directive should wait for its delta, which is made then if nobody asked before."""
        base = table.active_bundles(connection, device).get(model)
        if base is None or table.is_settled(connection, base, target):
            return False
        wish = Wish(base, target)
        with self._changed:
            if wish in self._failed:
                return False
            asked_s = self._asked_s.setdefault(wish, self._clock.monotonic_s())
            self._changed.notify_all()
        return self._clock.monotonic_s() - asked_s < PATIENCE_S

    def run(self, stop: threading.Event) -> None:
        """Make what is asked for until ``stop`` is set; between two of them tidy up, at most every ``TIDY_S``."""
        while not stop.is_set():
            self.tidy()
            with self._changed:
                self._changed.wait_for(lambda: self._asked_s, timeout=0.5)
            self.work()

    def tidy(self) -> None:
        """Forget deltas that are lost, and remove those that nobody can use any more, if it is time for that."""
        now_s = self._clock.monotonic_s()
        if self._tidied_s is not None and now_s - self._tidied_s < TIDY_S:
            return
        self._tidied_s = now_s
        try:
            self.files.forget_lost()
            self.files.remove_unwanted()
        except (DsopsError, OSError) as error:  # devices that are offered what is lost fetch the bundle
            log.warning("deltas are not tidied up: %s", error)

    def work(self) -> bool:
        """Make what was asked for first; return whether there was anything."""
        with self._changed:
            wish = next(iter(self._asked_s), None)
        if wish is None:
            return False
        is_settled = self._attempt(wish)
        with self._changed:
            del self._asked_s[wish]
            if not is_settled:
                self._failed.add(wish)
        self.made()
        return True

    def _attempt(self, wish: Wish) -> bool:
        try:
            self._make(wish)
        except DsopsError as error:  # until the next start directives go without this one
            log.warning("no delta from %s to %s: %s", wish.base[:16], wish.target[:16], error)
            return False
        except Exception:  # the others are to be made all the same
            log.exception("a delta from %s to %s could not be made", wish.base[:16], wish.target[:16])
            return False
        return True

    def _make(self, wish: Wish) -> None:
        """Make a delta, keep its file, then say so; killed in between, it makes the same again."""
        began_s = self._clock.monotonic_s()
        old, new = self._read(wish.base), self._read(wish.target)
        if old.manifest.sealed or new.manifest.sealed:  # ciphertexts have nothing in common
            self._remember(wish, 0, None, SEALED)
            return
        data = make_delta(old, new)
        if is_worth(len(data), len(new.data)):
            withheld = self._offer(wish, data)
        else:
            withheld = self._remember(wish, len(data), None, SAVES_TOO_LITTLE)
        share, took_s = len(data) / len(new.data), self._clock.monotonic_s() - began_s
        what = f"is not offered: {withheld}" if withheld else "is offered"
        log.info(
            "the delta from %s to %s has %.0f %% of its bytes and %s; made in %.1f s",
            wish.base[:16], wish.target[:16], share * 100, what, took_s,
        )  # fmt: skip

    def _offer(self, wish: Wish, data: bytes) -> str:
        withheld = self._remember(wish, len(data), self.files.keep(data), "")
        if withheld:
            self.files.remove_strays()
        return withheld

    def _read(self, sha256: str) -> BundleBytes:
        bundle = self._bundles.open(sha256)
        data = bundle.path.read_bytes()
        if sha256_hex(data) != sha256:
            raise DigestMismatch(f"bundle {sha256} is damaged on the server", hint="push it again: dsops bundle push")
        return BundleBytes(data, bundle.manifest)

    def _remember(self, wish: Wish, length_bytes: int, kept: tuple[str, str] | None, withheld: str) -> str:
        """Say what was made, unless there is no room for it by now; return why it is not offered."""
        with self._db.write() as connection:
            if kept and not room.has_room(connection, length_bytes, self._retained_bytes):
                kept, withheld = None, room.NO_ROOM
            sha256, index = kept or (None, None)
            upsert(
                connection,
                tables.delta,
                base_sha256=wish.base,
                target_sha256=wish.target,
                sha256=sha256,
                length_bytes=length_bytes,
                index_sha256=index,
                withheld=withheld,
                created_ms=to_ms(self._clock.now()),
            )
        return withheld
