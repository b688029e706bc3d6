"""How everyone notices that a device may no longer take part: at once in this process, within a second from others."""

import threading
from dataclasses import dataclass

from sqlalchemy import Connection, func, select

from dsops.states import Device
from dsops_controller.db.database import Database
from dsops_controller.db.tables import certificate as certificates
from dsops_controller.db.tables import device as devices

_ASIDE = [state.value for state in Device if state not in {Device.ACCEPTED, Device.PENDING}]


@dataclass(frozen=True)
class Mark:
    """What differs when any device's standing differs: who is shut out, how many certificates are revoked, and when."""

    aside: tuple[str, ...]
    revoked: int
    newest_ms: int

    @classmethod
    def read(cls, connection: Connection) -> "Mark":
        """Read it; two look-ups by index. Who waits counts if it had a certificate: a stranger changes nothing."""
        had_part = (devices.c.state == Device.PENDING.value) & devices.c.serial.is_not(None)
        away = select(devices.c.id, devices.c.state).where(devices.c.state.in_(_ASIDE) | had_part)
        away = away.order_by(devices.c.id)
        aside = tuple(f"{row.id} {row.state}" for row in connection.execute(away))
        ended = certificates.c.revoked_ms
        query = select(func.count(), func.max(ended)).where(ended.is_not(None))
        count, newest_ms = connection.execute(query).one()
        return cls(aside, count, newest_ms or 0)


class Changes:
    """Counts changes of standing. Who keeps a decision keeps the count with it, and decides anew when it differs."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._changed = threading.Condition()
        self._version = 1
        self._mark: Mark | None = None

    @property
    def version(self) -> int:
        """The count now. Cheap."""
        return self._version

    def note(self) -> None:
        """Say that something changed; for who changed it, after the commit."""
        with self._changed:
            self._version += 1
            self._changed.notify_all()

    def look(self) -> None:
        """Notice what other processes changed.

        Raises:
            StateDamaged: The database cannot be read.
        """
        with self._db.read() as connection:
            mark = Mark.read(connection)
        with self._changed:
            before, self._mark = self._mark, mark
        if before is not None and before != mark:
            self.note()

    def wait(self, seen: int, timeout_s: float) -> int:
        """Return the count as soon as it is not ``seen``, or after a while."""
        with self._changed:
            self._changed.wait_for(lambda: self._version != seen, timeout_s)
            return self._version
