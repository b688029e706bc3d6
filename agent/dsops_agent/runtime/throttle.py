"""Holds inference back while the device is too hot, or has used its share of the processor. Pure but for a lock.

A token bucket of processor time, filled at the share that is allowed and emptied by what the process really used: what
a request costs is known only after it. A request that comes while the bucket is overdrawn waits until it would be
filled again, or is refused when that takes longer than a caller should be kept.

The share is one for all inference of the device. A second bucket is filled and emptied alike, and challengers empty it
besides: they are asked only while there is anything in it. So champions never wait for what challengers used, and over
any time ``t`` all of them together use at most ``share * t``, two bursts, and what they had begun.
"""

import threading
from dataclasses import dataclass

from dsops.errors import Throttled

HOT_PERCENT = 10.0
"""Share of one core that is left while the device is too hot: programs get some answers, and it can cool down."""
COOLER_C = 5.0
"""So much below the limit the device must be before it counts as cool again; else it would change with each reading."""
MAX_DELAY_S = 0.25
"""Longest wait for the bucket; a request that would have to wait longer is refused."""
_BURST_S = 1.0
"""So much of the share may be used at once after a rest."""
_DEBT_S = 10.0
"""So much of the share may be owed at most: to refuse requests costs too, and must not hold inference back for ever."""


@dataclass(frozen=True)
class ThrottleLimits:
    """When inference is held back; 0 sets no limit.

    Attributes:
        max_temperature_c: Above it only :data:`HOT_PERCENT` of a core may be used.
        cpu_percent: Share of one core that inference may use.
    """

    max_temperature_c: float = 0.0
    cpu_percent: float = 0.0

    @property
    def are_set(self) -> bool:
        """Whether there is anything to watch."""
        return bool(self.max_temperature_c or self.cpu_percent)


@dataclass(frozen=True)
class ThrottleState:
    """What became of requests since the start, and why they are held back now; empty when they are not."""

    delayed: int = 0
    refused: int = 0
    because: str = ""


class Throttle:
    """Decides for each request. Safe to call from several threads. Times are of a clock that never goes back.

    Args:
        limits: When to hold back.
        now_s: Time.
        cpu_s: Processor time that champions have used.
    """

    def __init__(self, limits: ThrottleLimits, now_s: float, cpu_s: float) -> None:
        self._limits = limits
        self._lock = threading.Lock()
        self._read = (now_s, cpu_s)
        self._is_hot = False
        self._temperature_c = 0.0
        self._tokens_s = self._left_s = self._share() * _BURST_S
        self._delayed = self._refused = 0
        self._held_s = float("-inf")

    def temperature(self, now_c: float) -> None:
        """Take note of a reading; 0 is none, and counts as cool."""
        most = self._limits.max_temperature_c
        with self._lock:
            self._temperature_c = now_c
            if most:
                self._is_hot = now_c > (most - COOLER_C if self._is_hot else most)

    def admit(self, now_s: float, cpu_s: float) -> float:
        """Return how many seconds a request has to wait before it is answered.

        Raises:
            Throttled: It would have to wait too long.
        """
        with self._lock:
            self._fill(now_s, cpu_s)
            share = self._share()
            if not share or self._tokens_s >= 0:
                return 0.0
            wait_s = -self._tokens_s / share
            self._held_s = now_s
            if wait_s <= MAX_DELAY_S:
                self._delayed += 1
                return wait_s
            self._refused += 1
            raise Throttled(
                "inference is held back", why=self._why(), hint=f"ask again in {wait_s:.1f} s, or less often"
            )

    def leaves_any(self, now_s: float, cpu_s: float, others_s: float) -> bool:
        """Return whether champions leave any time to a challenger.

        Args:
            now_s: Time.
            cpu_s: Processor time that champions have used.
            others_s: What challengers have used since the last call.
        """
        with self._lock:
            self._fill(now_s, cpu_s)
            self._left_s = _bounded(self._left_s - others_s, self._share())
            return not self._share() or self._left_s > 0

    def state(self, now_s: float) -> ThrottleState:
        """Return what became of requests; one that was held back is news for five seconds."""
        with self._lock:
            is_holding = self._is_hot or now_s - self._held_s < 5
            return ThrottleState(self._delayed, self._refused, self._why() if is_holding else "")

    def _fill(self, now_s: float, cpu_s: float) -> None:
        passed_s, used_s = now_s - self._read[0], cpu_s - self._read[1]
        self._read = (now_s, cpu_s)
        share = self._share()
        gained_s = passed_s * share - used_s
        self._tokens_s = _bounded(self._tokens_s + gained_s, share)
        self._left_s = _bounded(self._left_s + gained_s, share)

    def _share(self) -> float:
        """Return the share of a core that may be used; 0 for no limit."""
        most = self._limits.cpu_percent
        if self._is_hot:
            most = min(most or HOT_PERCENT, HOT_PERCENT)
        return most / 100

    def _why(self) -> str:
        if self._is_hot:
            most = self._limits.max_temperature_c
            return f"the device is at {self._temperature_c:.0f} degrees Celsius, its limit is {most:g}"
        return f"the runtime has used its {self._limits.cpu_percent:g} % of a processor core"


def _bounded(tokens_s: float, share: float) -> float:
    """Return what may be left in a bucket: no more than a burst, and no more owed than can be paid back soon."""
    return max(-share * _DEBT_S, min(share * _BURST_S, tokens_s))
