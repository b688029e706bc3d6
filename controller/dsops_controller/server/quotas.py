"""How much one device may upload, and how many streams may be open: what a hostile or broken device cannot exceed.

A device has three buckets that fill at a rate: records, bytes and calls. What it sends is taken out once its size is
known, so a bucket may fall below zero by one message; until it is above zero again nothing of that device is taken, and
the device is told how long that is. So a batch is never too large for its quota, it only costs the wait after it.

Source: token bucket, RFC 2697 section 3 (one rate, with a burst), in its form that goes into debt.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from dsops.clock import Clock
from dsops.errors import Overloaded, QuotaExceeded

LONGEST_PAUSE_MS = 60_000
"""No device is told to wait longer at once: rules change, and controllers are restarted."""
_MANY = 10_000


@dataclass(frozen=True, slots=True)
class QuotaRules:
    """What each device may, and the server together; a rate of 0 sets no limit.

    Attributes:
        records_per_s: Records of one device in the long run.
        records_burst: Records of one device at once.
        bytes_per_s: Bytes of one device's messages in the long run.
        bytes_burst: Bytes of one device's messages at once.
        calls_per_s: Calls of one device in the long run.
        calls_burst: Calls of one device at once.
        device_streams: Streams that one device may have open.
        streams: Streams that may be open together.
    """

    records_per_s: float = 2_000
    records_burst: float = 100_000
    bytes_per_s: float = 4 << 20
    bytes_burst: float = 64 << 20
    calls_per_s: float = 10
    calls_burst: float = 100
    device_streams: int = 8
    streams: int = 1024


UNCHANGED = QuotaRules()
"""The rules of whoever configured none."""


class Bucket:
    """A level that fills at a rate up to a burst, and that what was taken may leave below zero."""

    __slots__ = ("_burst", "_level", "_per_s", "_since_s")

    def __init__(self, per_s: float, burst: float, now_s: float) -> None:
        self._per_s, self._burst = per_s, burst
        self._level, self._since_s = burst, now_s

    def wait_s(self, now_s: float) -> float:
        """Return in how many seconds something may be taken; 0 for now."""
        if not self._per_s:
            return 0.0
        self._fill(now_s)
        return 0.0 if self._level > 0 else (1 - self._level) / self._per_s

    def take(self, amount: float) -> None:
        """Take out so much."""
        self._level -= amount

    def is_full(self, now_s: float) -> bool:
        """Return whether the bucket is as if it were new."""
        self._fill(now_s)
        return not self._per_s or self._level >= self._burst

    def _fill(self, now_s: float) -> None:
        self._level = min(self._burst, self._level + (now_s - self._since_s) * self._per_s)
        self._since_s = now_s


@dataclass(slots=True)
class _Device:
    records: Bucket
    bytes: Bucket
    calls: Bucket
    streams: int = field(default=0)

    def buckets(self) -> tuple[tuple[str, Bucket], ...]:
        return ("records", self.records), ("bytes", self.bytes), ("calls", self.calls)


class Quotas:
    """What each device has used up. For one thread, the event loop's: nothing here waits."""

    def __init__(self, rules: QuotaRules, clock: Clock) -> None:
        self._rules = rules
        self._clock = clock
        self._devices: dict[str, _Device] = {}
        self._streams = 0
        self._many = _MANY

    def __len__(self) -> int:
        """Return how many devices are remembered."""
        return len(self._devices)

    def call(self, device: str) -> None:
        """Count a call of a device.

        Raises:
            QuotaExceeded: It has used up a quota; the error says for how long.
        """
        self._check(device).calls.take(1)

    @contextmanager
    def stream(self, device: str) -> Iterator[None]:
        """Hold one of the streams that may be open.

        Raises:
            QuotaExceeded: The device has too many.
            Overloaded: All devices together have.
        """
        found = self._of(device)
        if found.streams >= self._rules.device_streams:
            raise QuotaExceeded(f"{device} has {found.streams} streams open", why="it may not have more at once")
        if self._streams >= self._rules.streams:
            raise Overloaded("the store has as many open streams as it may", why=f"{self._streams} are open")
        found.streams += 1
        self._streams += 1
        try:
            yield
        finally:
            found.streams -= 1
            self._streams -= 1

    def message(self, device: str, size_bytes: int) -> None:
        """Count a message before it is parsed.

        Raises:
            QuotaExceeded: The device has used up a quota; the error says for how long.
        """
        found = self._check(device)
        found.bytes.take(size_bytes)

    def records(self, device: str, count: int) -> None:
        """Count the records of a message."""
        self._of(device).records.take(count)

    def _check(self, device: str) -> _Device:
        found, now_s = self._of(device), self._clock.monotonic_s()
        wait_s, what = max((bucket.wait_s(now_s), name) for name, bucket in found.buckets())
        if wait_s > 0:
            raise QuotaExceeded(
                f"{device} sends more {what} than it may",
                why=f"there is room again in {wait_s:.1f} s",
                pause_ms=min(LONGEST_PAUSE_MS, math.ceil(wait_s * 1000)),
            )
        return found

    def _of(self, device: str) -> _Device:
        found = self._devices.get(device)
        if found is None:
            if len(self._devices) >= self._many:
                self._forget()
            rules, now_s = self._rules, self._clock.monotonic_s()
            found = self._devices[device] = _Device(
                Bucket(rules.records_per_s, rules.records_burst, now_s),
                Bucket(rules.bytes_per_s, rules.bytes_burst, now_s),
                Bucket(rules.calls_per_s, rules.calls_burst, now_s),
            )
        return found

    def _forget(self) -> None:
        """Drop devices that have everything again. Names are those of certificates: a fleet's, not an attacker's."""
        now_s = self._clock.monotonic_s()
        self._devices = {
            name: device
            for name, device in self._devices.items()
            if device.streams or not all(bucket.is_full(now_s) for _, bucket in device.buckets())
        }
        self._many = max(_MANY, 2 * len(self._devices))
