"""How much of what waits may go out now: a rate, an allowance per day, and what a metered link is spared.

Events always go, for they are few and tell that something is wrong; they count all the same. Telemetry may use the
whole of a day's allowance, samples three quarters of it. Over a metered link telemetry goes compressed and seldom, so
that a batch is worth its headers, and samples wait for another link.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass

from dsops.clock import Clock
from dsops.directive import TransferLimits
from dsops_agent.install.budget import Budget, Moment, Today
from dsops_agent.telemetry.worth import Kind

SAMPLES_SHARE = 0.75
_LOOK_S = 5.0
"""How long what is known of the link counts."""
_METERED_LOOK_S = 60.0


@dataclass(frozen=True)
class UploadRules:
    """What the device's owner wants; 0 sets no limit.

    Attributes:
        bytes_per_s: Of records, before TLS and compression.
        bytes_per_day: The same over a day of UTC.
        metered_every_s: Over a metered link telemetry goes at most this often.
    """

    bytes_per_s: int = 0
    bytes_per_day: int = 0
    metered_every_s: float = 600.0


class Allowance:
    """What may go out. May be used by several threads.

    Args:
        rules: The owner's.
        clock: Tells the time.
        is_metered: Whether the way to the store costs by the byte now.
        spent: What was sent on the newest day, from before a restart.
        keep: Keeps it.
    """

    def __init__(
        self,
        rules: UploadRules,
        clock: Clock,
        is_metered: Callable[[], bool],
        spent: Today,
        keep: Callable[[Today], None],
    ) -> None:
        self._rules = rules
        self._clock = clock
        self._ask = is_metered
        self._keep = keep
        self._lock = threading.Lock()
        limits = TransferLimits(bytes_per_s=rules.bytes_per_s, bytes_per_day=rules.bytes_per_day)
        self._all = Budget(limits, spent, clock.monotonic_s())
        self._for_samples = Budget(
            TransferLimits(bytes_per_s=0, bytes_per_day=int(rules.bytes_per_day * SAMPLES_SHARE)),
            spent,
            clock.monotonic_s(),
        )
        self._is_metered = False
        self._looked_s = -_LOOK_S
        self._last_s: float | None = None

    @property
    def is_metered(self) -> bool:
        """Whether the link costs by the byte, as it was a few seconds ago."""
        with self._lock:
            now_s = self._clock.monotonic_s()
            if now_s - self._looked_s >= _LOOK_S:
                self._is_metered, self._looked_s = self._ask(), now_s
            return self._is_metered

    def wait_s(self, kind: Kind, size_bytes: int) -> float:
        """Return in how many seconds so many bytes of a stream may go; 0 for now."""
        if kind == "events":
            return 0.0
        if self.is_metered and (wait_s := self._metered_wait_s(kind)) > 0:
            return wait_s
        with self._lock:
            moment = self._moment()
            budgets = (self._all,) if kind == "telemetry" else (self._all, self._for_samples)
            return max(budget.wait_s(size_bytes, moment) for budget in budgets)

    def spend(self, kind: Kind, size_bytes: int) -> None:
        """Count what goes out.

        Raises:
            DeviceError: It cannot be kept; it counts until the next start all the same.
        """
        with self._lock:
            moment = self._moment()
            self._all.spend(size_bytes, moment)
            self._for_samples.spend(size_bytes, moment)
            if kind == "telemetry":
                self._last_s = self._clock.monotonic_s()
            if self._rules.bytes_per_day:
                self._keep(self._all.today)

    def _metered_wait_s(self, kind: Kind) -> float:
        if kind == "samples":
            return _METERED_LOOK_S
        with self._lock:
            if self._last_s is None:
                return 0.0
            return self._last_s + self._rules.metered_every_s - self._clock.monotonic_s()

    def _moment(self) -> Moment:
        return Moment(self._clock.monotonic_s(), self._clock.now())


def unlimited(clock: Clock) -> Allowance:
    """Return an allowance that lets everything go."""
    return Allowance(UploadRules(), clock, lambda: False, Today(), lambda _today: None)
