"""Applies the throttle to requests: reads temperature and processor time, and waits."""

import logging
import time

from dsops_agent.runtime.throttle import Throttle, ThrottleLimits, ThrottleState
from dsops_agent.temperature import hottest_c

logger = logging.getLogger(__name__)

READING_S = 2.0


class Brake:
    """What holds the requests of this process back. Without limits it does nothing."""

    def __init__(self, limits: ThrottleLimits) -> None:
        self._limits = limits
        self._throttle = Throttle(limits, time.monotonic(), time.process_time())
        self._read_s = float("-inf")
        self._because = ""

    def hold(self) -> None:
        """Keep a request waiting as long as it must.

        Raises:
            Throttled: That would be too long.
        """
        if not self._limits.are_set:
            return
        wait_s = self._throttle.admit(time.monotonic(), time.process_time())
        if wait_s:
            time.sleep(wait_s)

    def look(self) -> None:
        """Read the temperature when it is time; a turn of the main loop."""
        now_s = time.monotonic()
        if self._limits.max_temperature_c and now_s - self._read_s >= READING_S:
            self._read_s = now_s
            self._throttle.temperature(hottest_c())
        because = self.state().because
        if bool(because) != bool(self._because):
            logger.warning("inference is held back: %s", because) if because else logger.info("inference runs freely")
        self._because = because

    def state(self) -> ThrottleState:
        """Return what became of requests."""
        return self._throttle.state(time.monotonic())
