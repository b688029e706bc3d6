"""When a record is made: the start of the host, a clock that never jumps, and what the wall clock is worth.

A device may have no battery for its clock, no time service, or an owner who sets it by hand. So every record says,
beside its wall-clock time, at which monotonic time of which start it was made. Records of one start can then be put in
order, and a wrong wall-clock time be corrected by a record of the same start whose time is known.
"""

import ctypes
import threading
import uuid
from collections.abc import Callable
from pathlib import Path

from dsops.api.v1.samples_pb2 import SampleRecord
from dsops.api.v1.telemetry_pb2 import ClockTrust, Moment, TelemetryRecord
from dsops.clock import Clock
from dsops_agent.boot import boot_id

CHECKED_WITHIN_S = 5.0
"""A clock this close to the store's counts as checked; so does one that has not jumped further since."""
_TIMEX_BYTES = 512
"""More than any ``struct timex``; all zero asks for the state and sets nothing."""
_TIME_ERROR = 5
_SYNCHRONISED = Path("/run/systemd/timesync/synchronized")


def kernel_trust() -> ClockTrust.ValueType:
    """Return whether a time service keeps this host's clock: adjtimex(2), or systemd's sign where that is forbidden."""
    adjtimex = getattr(ctypes.CDLL(None, use_errno=True), "adjtimex", None)
    state = -1 if adjtimex is None else adjtimex(ctypes.create_string_buffer(_TIMEX_BYTES))
    if state < 0:
        return ClockTrust.CLOCK_SYNCHRONISED if _SYNCHRONISED.exists() else ClockTrust.CLOCK_UNKNOWN
    return ClockTrust.CLOCK_FREE if state == _TIME_ERROR else ClockTrust.CLOCK_SYNCHRONISED


class Moments:
    """Tells moments. May be used by several threads.

    Args:
        clock: Tells wall-clock and monotonic time.
        boot: Name of this start of the host, a UUID; empty when unknown.
        kept: What the kernel says of the clock.
    """

    def __init__(
        self, clock: Clock, boot: str | None = None, kept: Callable[[], ClockTrust.ValueType] = kernel_trust
    ) -> None:
        self.clock = clock
        self._boot = _boot_bytes(boot_id() if boot is None else boot)
        self._kept = kept
        self._lock = threading.Lock()
        self._checked: float | None = None  # wall-clock less monotonic seconds when it was close to the store's

    def heard(self, server_us: int) -> None:
        """Take note of the store's time, microseconds since 1970 UTC, which has just come in; 0 says nothing."""
        if not server_us:
            return
        with self._lock:
            is_close = abs(self.clock.now().timestamp() - server_us / 1e6) <= CHECKED_WITHIN_S
            self._checked = self._offset_s() if is_close else None

    def now(self) -> Moment:
        """Return the moment of the call."""
        return Moment(boot=self._boot, monotonic_us=int(self.clock.monotonic_s() * 1e6), clock=self._trust())

    def stamp(self, record: TelemetryRecord | SampleRecord) -> None:
        """Say in a record that it was made now."""
        record.moment.CopyFrom(self.now())

    def appended(self, kind: type[TelemetryRecord | SampleRecord], data: bytes) -> bytes:
        """Return a serialized record that says it was made now: messages that stand one after the other are merged."""
        return data + kind(moment=self.now()).SerializeToString()

    def _trust(self) -> ClockTrust.ValueType:
        kept = self._kept()
        if kept == ClockTrust.CLOCK_SYNCHRONISED:
            return kept
        with self._lock:
            is_checked = self._checked is not None and abs(self._offset_s() - self._checked) <= CHECKED_WITHIN_S
        return ClockTrust.CLOCK_CHECKED if is_checked else kept

    def _offset_s(self) -> float:
        return self.clock.now().timestamp() - self.clock.monotonic_s()


def _boot_bytes(boot: str) -> bytes:
    try:
        return uuid.UUID(boot).bytes
    except ValueError:
        return b""
