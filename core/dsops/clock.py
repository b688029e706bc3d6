"""Time as a value that is passed in: the system's clock for programs, a manual one for tests and simulation."""

import time
from datetime import UTC, datetime, timedelta
from typing import Protocol


class Clock(Protocol):
    """Tells the time."""

    def now(self) -> datetime:
        """Return the wall-clock time, aware, in UTC."""
        ...

    def monotonic_s(self) -> float:
        """Return seconds since an arbitrary moment; never falls."""
        ...


class SystemClock:
    """The clock of this host."""

    def now(self) -> datetime:
        """Return the host's wall-clock time in UTC."""
        return datetime.now(UTC)

    def monotonic_s(self) -> float:
        """Return the host's monotonic time in seconds."""
        return time.monotonic()


class ManualClock:
    """A clock that moves only when it is told to."""

    def __init__(self, start: datetime = datetime(2026, 1, 1, tzinfo=UTC)) -> None:
        self._now = start
        self._mono_s = 0.0

    def now(self) -> datetime:
        """Return the set time."""
        return self._now

    def monotonic_s(self) -> float:
        """Return seconds since the clock was made."""
        return self._mono_s

    def jump(self, seconds: float) -> None:
        """Set the wall clock by ``seconds``, forwards or back, as people and time services do."""
        self._now += timedelta(seconds=seconds)

    def advance(self, seconds: float) -> None:
        """Move both readings forward by ``seconds``."""
        self._now += timedelta(seconds=seconds)
        self._mono_s += seconds


def utc_text(moment: datetime) -> str:
    """Return RFC 3339 text in UTC with milliseconds, as used on the wire."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
