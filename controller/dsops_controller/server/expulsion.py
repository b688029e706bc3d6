"""Ends the sessions of who is shut out, in a thread of its own, so that a broker that is silent holds up nothing else.

Who was barred last comes first (``server/turns.py``). After a start, the audit trail says who was barred lately; those
come at once, in case the controller was killed before it did, and all others spread out.
"""

import logging
import threading
from collections.abc import Sequence
from datetime import timedelta
from typing import Protocol

from sqlalchemy import func, select

from dsops.clock import Clock
from dsops.errors import DsopsError
from dsops.states import Device
from dsops_controller.db.database import Database
from dsops_controller.db.tables import audit
from dsops_controller.db.times import to_ms
from dsops_controller.fleet import certificates
from dsops_controller.server.turns import Turns

log = logging.getLogger(__name__)

LOOK_S = 1.0
MOST = 16
"""Evictions in one look; then it is asked again who is most urgent."""
LATELY = timedelta(hours=1)
ENDED, ENDED_EVERY_S = timedelta(hours=6), 60.0
"""Devices whose last certificate expired in this time are evicted too; looked for so often."""

_BARRING = [f"device.{state.value}" for state in Device if state is not Device.ACCEPTED]


class Evictions(Protocol):
    """Ends sessions at the broker."""

    def evict(self, device: str) -> None:
        """Close the device's connection, if it has one."""
        ...


class Expulsion:
    """Evicts barred devices, and those whose certificate ended; :meth:`run` in a thread of its own."""

    def __init__(self, db: Database, evictions: Evictions, clock: Clock) -> None:
        self._db = db
        self._evictions = evictions
        self._clock = clock
        self._turns = Turns()
        self._called = threading.Event()
        self._lock = threading.Lock()  # of the next two, which other threads write
        self._barred: dict[str, None] | None = None
        self._heard: set[str] = set()
        self._old: frozenset[str] | None = None
        self._ended: tuple[str, ...] = ()
        self._ended_s = -ENDED_EVERY_S

    def follow(self, barred: Sequence[str]) -> None:
        """Say who is barred, after the broker's lists say so; from any thread."""
        with self._lock:
            before, self._barred = self._barred, dict.fromkeys(barred)
            if self._barred != before:
                self._called.set()

    def heard(self, device: str) -> None:
        """Say that a device was heard at the broker; if it is barred, its session is ended soon. From any thread."""
        with self._lock:
            if device in (self._barred or ()):
                self._heard.add(device)
                self._called.set()

    def run(self, stop: threading.Event) -> None:
        """Look whenever there is something to do, and every second, until ``stop`` is set."""
        told = ""
        is_busy = False
        while not stop.is_set():
            if not is_busy:
                self._called.wait(LOOK_S)
            try:
                is_busy = self.look()
                told = ""
            except DsopsError as error:
                is_busy = False
                text = f"sessions of devices that are shut out may go on: {error}"
                if text != told:
                    log.warning(text)
                told = text

    def look(self) -> bool:
        """Evict those whose turn it is, a few at most; return whether there may be more.

        Raises:
            DsopsError: The database or the broker does not answer.
        """
        self._called.clear()
        with self._lock:
            barred = self._barred
            heard, self._heard = self._heard, set()
        if barred is None:
            return False
        self._look_for_ended()
        self._plan(barred, heard)
        due = self._turns.due(self._clock.monotonic_s(), MOST)
        for device in due:
            if self._called.is_set():
                return True  # somebody may be more urgent now
            self._take(device)
        return len(due) == MOST

    def _plan(self, barred: dict[str, None], heard: set[str]) -> None:
        lately: tuple[str, ...] = ()
        if self._old is None:
            lately = tuple(device for device in self._barred_lately() if device in barred)
            self._old = frozenset(barred).difference(lately)
        self._old = self._old.intersection(barred)
        now_s = self._clock.monotonic_s()
        urgent = dict.fromkeys((*lately, *(device for device in barred if device not in self._old)))
        self._turns.follow(urgent, (*sorted(self._old), *self._ended), now_s)
        for device in heard:
            self._turns.hear(device, now_s)

    def _take(self, device: str) -> None:
        with self._db.read() as connection:
            is_back = certificates.takes_part(connection, device, self._clock.now())
        is_done = False
        try:
            if not is_back:  # since it was planned, it may have been accepted, or got a new certificate
                self._evictions.evict(device)
            is_done = True
        finally:
            self._turns.took(device, self._clock.monotonic_s(), is_done=is_done)

    def _look_for_ended(self) -> None:
        """Find who may be connected still by a certificate that expired meanwhile; brokers check it only at first."""
        if self._clock.monotonic_s() - self._ended_s >= ENDED_EVERY_S:
            now = self._clock.now()
            with self._db.read() as connection:
                self._ended = certificates.ended(connection, now, now - ENDED)
            self._ended_s = self._clock.monotonic_s()

    def _barred_lately(self) -> tuple[str, ...]:
        """Return who lost the fleet's trust lately, the last one first."""
        query = select(audit.c.subject).where(audit.c.action.in_(_BARRING))
        query = query.where(audit.c.time_ms > to_ms(self._clock.now() - LATELY))
        query = query.group_by(audit.c.subject).order_by(func.max(audit.c.id).desc())
        with self._db.read() as connection:
            return tuple(connection.execute(query).scalars())
