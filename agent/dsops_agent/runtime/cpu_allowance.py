"""How much processor time a shadow may take: a bucket that fills with time and is emptied by what was spent.

What a request will cost is not known before, so one is let through while anything is left, and a debt is paid off
before the next. Over any time ``t`` the shadow takes at most ``share * t``, the burst, and the cost of one request.
"""

import time

BURST_S = 0.25


class CpuAllowance:
    """A budget of processor time. It starts full. Not thread-safe.

    Args:
        share: Of one core.
        now_s: Monotonic time.
    """

    def __init__(self, share: float, now_s: float) -> None:
        self._share = share
        self._left_s = BURST_S
        self._at_s = now_s

    def has_any(self, now_s: float) -> bool:
        """Return whether anything is left."""
        elapsed_s = max(now_s - self._at_s, 0.0)
        self._left_s = min(self._left_s + elapsed_s * self._share, BURST_S)
        self._at_s = now_s
        return self._left_s > 0

    def spend(self, cpu_s: float) -> None:
        """Take away what was spent."""
        self._left_s -= max(cpu_s, 0.0)


def process_cpu_s(pid: int) -> float:
    """Return the processor time that a process has taken so far, of all its threads.

    Linux makes the clock of a process from its pid (clock_getcpuclockid(3): ``~pid << 3 | 2``).

    Raises:
        OSError: There is no such process.
    """
    return time.clock_gettime((~pid << 3) | 2)
