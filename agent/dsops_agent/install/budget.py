"""How much a device may fetch: a rate in bytes per second, and an allowance per day. Pure; time comes in as values.

The rate is a token bucket that holds a few seconds of the rate, and one window at most, so that what is asked for at
one moment never exceeds the rate by more than that. A chunk is asked for whole, so the bucket holds one however low the
rate is. It is empty at the start: devices of a site that start together ask for nothing at once, and a restart brings
nothing. A day is one of UTC by trusted time, which never goes back; a clock that is known to be ahead ends no day. So
that no wrong clock blocks for ever, a day also ends after 24 hours of the device's own running.

Source: the token bucket of RFC 2697 (1999), section 3, with one colour.
"""

from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time, timedelta

from dsops.chunks import MAX_CHUNK_BYTES
from dsops.directive import TransferLimits

BURST_BYTES = 512 * 1024
"""One window: what a transfer has outstanding at most."""
BURST_S = 4.0
DAY_S = 86_400.0


@dataclass(frozen=True)
class Today:
    """What was fetched on the newest day on which anything was; ``day`` is empty before the first.

    It is what survives a restart. ``ran_s`` is how long the device has been running on that day.
    """

    day: str = ""
    fetched_bytes: int = 0
    ran_s: float = 0.0


@dataclass(frozen=True)
class Moment:
    """Now: on the clock that only runs while the device does, and as date and time; None while those are doubtful."""

    now_s: float
    date: datetime | None


def burst(bytes_per_s: int) -> int:
    """Return the bytes that may be asked for at one moment at most."""
    return max(MAX_CHUNK_BYTES, min(BURST_BYTES, int(BURST_S * bytes_per_s)))


def lowest(own: TransferLimits, told: TransferLimits) -> TransferLimits:
    """Return the limits that satisfy both: what the controller tells can only lower a device's own."""
    return TransferLimits(
        bytes_per_s=_lower(own.bytes_per_s, told.bytes_per_s),
        bytes_per_day=_lower(own.bytes_per_day, told.bytes_per_day),
    )


def _lower(one: int, other: int) -> int:
    return min(one, other) if one and other else one or other


class Budget:
    """What a device may still fetch. Not thread-safe.

    Args:
        limits: The limits; 0 sets none.
        today: What was fetched on the newest day, from before a restart.
        now_s: The present moment.
    """

    def __init__(self, limits: TransferLimits, today: Today, now_s: float) -> None:
        self._limits = limits
        self._tokens = 0.0
        self._since_s = now_s
        self.today = today

    def limit(self, limits: TransferLimits) -> None:
        """Change the limits; what was fetched counts on."""
        self._limits = limits

    def take(self, length_bytes: int, now: Moment) -> bool:
        """Return whether so many bytes may be asked for now; if so, they are spent."""
        if not self.allows(length_bytes, now):
            return False
        self.spend(length_bytes, now)
        return True

    def allows(self, length_bytes: int, now: Moment) -> bool:
        """Return whether so many bytes may be asked for now."""
        return self.wait_s(length_bytes, now) <= 0

    def spend(self, length_bytes: int, now: Moment) -> None:
        """Note that so many bytes were asked for, whether that is allowed or not; later ones wait the longer."""
        self.turn(now)
        if self._limits.bytes_per_s:
            self._tokens -= length_bytes
        self.today = replace(self.today, fetched_bytes=self.today.fetched_bytes + length_bytes)

    def wait_s(self, length_bytes: int, now: Moment) -> float:
        """Return in how many seconds so many bytes may be asked for at the earliest; 0 for now."""
        self.turn(now)
        if self.is_used_up(length_bytes):
            return self._until_tomorrow_s(now)
        if not self._limits.bytes_per_s:
            return 0.0
        return max(0.0, (min(length_bytes, burst(self._limits.bytes_per_s)) - self._tokens) / self._limits.bytes_per_s)

    def is_used_up(self, length_bytes: int) -> bool:
        """Return whether the day's allowance does not cover so many bytes; a whole allowance covers any one chunk."""
        most, fetched = self._limits.bytes_per_day, self.today.fetched_bytes
        return bool(most) and fetched > 0 and fetched + length_bytes > most

    def explain(self, length_bytes: int, now: Moment) -> str:
        """Return what a transfer waits for, in words; empty when it is not the day's allowance."""
        self.turn(now)
        if not self.is_used_up(length_bytes):
            return ""
        what = f"the day's {_amount(self._limits.bytes_per_day)} are fetched"
        wait = timedelta(seconds=self._until_tomorrow_s(now))
        if now.date is None:
            return f"{what}; goes on within {wait // timedelta(hours=1) + 1} h, for the clock is wrong"
        return f"{what}; goes on at {(now.date + wait).astimezone(UTC):%Y-%m-%d %H:%M} UTC"

    def turn(self, now: Moment) -> None:
        """Let time pass: tokens come back, and a new day begins with nothing fetched. The date never goes back."""
        passed_s = max(0.0, now.now_s - self._since_s)
        self._since_s = max(self._since_s, now.now_s)
        rate = self._limits.bytes_per_s
        self._tokens = min(float(burst(rate)), self._tokens + passed_s * rate)
        ran_s = self.today.ran_s + passed_s
        day = now.date.astimezone(UTC).date().isoformat() if now.date else ""
        is_new = day > self.today.day or ran_s >= DAY_S
        self.today = Today(max(day, self.today.day)) if is_new else replace(self.today, ran_s=ran_s)

    def _until_tomorrow_s(self, now: Moment) -> float:
        """Return the seconds to the next day by the date, or of the device's running if that is sooner."""
        rest_s = DAY_S - self.today.ran_s
        if now.date is None:
            return rest_s
        tomorrow = date.fromisoformat(self.today.day) + timedelta(days=1)
        return min(rest_s, (datetime.combine(tomorrow, time(), UTC) - now.date).total_seconds())


def _amount(length_bytes: int) -> str:
    """Return an amount as people write it, such as 5 MB."""
    for unit, size in (("GB", 1_000_000_000), ("MB", 1_000_000), ("kB", 1_000)):
        if length_bytes >= size:
            return f"{length_bytes / size:.3g} {unit}"
    return f"{length_bytes} bytes"
