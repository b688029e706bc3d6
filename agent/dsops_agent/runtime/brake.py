"""Applies the throttle to requests: reads temperature and processor time, and waits."""

import logging
import threading
import time
from collections.abc import Callable

from dsops_agent.runtime.cpu_allowance import process_cpu_s
from dsops_agent.runtime.throttle import Throttle, ThrottleLimits, ThrottleState
from dsops_agent.temperature import ANY, hottest_c

logger = logging.getLogger(__name__)

READING_S = 2.0
_MOST_SEEN = 64


class Brake:
    """What holds inference on this device back. Without limits it does nothing. Safe to call from several threads.

    Args:
        limits: The limits.
        sensor: Pattern of the sensors that say how hot the device is.
    """

    def __init__(self, limits: ThrottleLimits, sensor: str = ANY) -> None:
        self._sensor = sensor
        self._limits = limits
        self._throttle = Throttle(limits, time.monotonic(), time.process_time())
        self._read_s = float("-inf")
        self._because = ""
        self._lock = threading.Lock()
        self._seen_s: dict[int, float] = {}
        self._aside_s = self._unpaid_s = 0.0

    def hold(self, slowly: Callable[[], None]) -> None:
        """Keep a request waiting as long as it must; ``slowly`` is called before.

        Raises:
            Throttled: That would be too long.
        """
        if not self._limits.are_set:
            return
        wait_s = self._throttle.admit(time.monotonic(), self._champions_s())
        if wait_s:
            slowly()
            time.sleep(wait_s)

    def leaves_any(self, pid: int) -> bool:
        """Take note of what a challenger's process has used since the last call; return whether it may be asked now."""
        if not self._limits.are_set:
            return True
        try:
            used_s = process_cpu_s(pid)
        except OSError:  # it is gone, and asking it will say so
            return True
        with self._lock:
            others_s = used_s - self._seen_s.get(pid, used_s) + self._unpaid_s
            self._unpaid_s = 0.0
            if len(self._seen_s) >= _MOST_SEEN:  # of processes that ended long ago
                self._seen_s.clear()
            self._seen_s[pid] = used_s
        return self._throttle.leaves_any(time.monotonic(), self._champions_s(), others_s)

    def set_aside(self, cpu_s: float) -> None:
        """Take note of what this process has used for the sake of a challenger."""
        with self._lock:
            self._aside_s += cpu_s
            self._unpaid_s += cpu_s

    def look(self) -> None:
        """Read the temperature when it is time; a turn of the main loop."""
        now_s = time.monotonic()
        if self._limits.max_temperature_c and now_s - self._read_s >= READING_S:
            found_c, is_first = hottest_c(self._sensor), self._read_s < 0
            if is_first and not found_c:
                logger.warning("there is no temperature to go by: no sensor %s has a reading that can be", self._sensor)
            self._read_s = now_s
            self._throttle.temperature(found_c)
        because = self.state().because
        if bool(because) != bool(self._because):
            logger.warning("inference is held back: %s", because) if because else logger.info("inference runs freely")
        self._because = because

    def state(self) -> ThrottleState:
        """Return what became of requests."""
        return self._throttle.state(time.monotonic())

    def _champions_s(self) -> float:
        return time.process_time() - self._aside_s
