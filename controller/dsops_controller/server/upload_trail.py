"""The audit trail of what devices were refused over gRPC: one row for each device and reason in an hour."""

import logging
import threading

from dsops.clock import Clock
from dsops.errors import DsopsError
from dsops_controller.audit import RefusalGuard
from dsops_controller.db.database import Database

log = logging.getLogger(__name__)

ACTION = "upload.refused"
HOUR_S = 3600.0


class UploadTrail:
    """Appends rows to the audit trail; what was appended within the hour costs a look-up and no transaction."""

    def __init__(self, db: Database, clock: Clock, guard: RefusalGuard | None = None) -> None:
        self._db = db
        self._clock = clock
        self._guard = guard or RefusalGuard(clock)
        self._lock = threading.Lock()
        self._began_s = clock.monotonic_s()
        self._told: set[tuple[str, str]] = set()

    def is_new(self, device: str, code: str) -> bool:
        """Return whether the refusal is the first of its device and code in this hour, and note that it was seen."""
        with self._lock:
            now_s = self._clock.monotonic_s()
            if now_s - self._began_s >= HOUR_S:
                self._began_s, self._told = now_s, set()
            if (device, code) in self._told or self._guard.is_full:
                return False
            self._told.add((device, code))
            return True

    def record(self, device: str, error: DsopsError) -> None:
        """Append the row of one refusal; a trail that cannot be written is logged."""
        try:
            with self._db.write() as connection:
                self._guard.refuse(
                    connection, f"device:{device}", ACTION, device, f"{error.code}: {error}", once=error.code
                )
        except DsopsError as failed:
            log.warning("a refusal of %s was not recorded: %s", device, failed)
