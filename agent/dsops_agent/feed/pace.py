"""How often frames are taken. Pure."""


class Pace:
    """Lets so many frames a second pass, evenly; it saves nothing up while none come.

    Args:
        rate_hz: Frames a second; 0 sets no limit.
    """

    def __init__(self, rate_hz: float) -> None:
        self._gap_s = 1 / rate_hz if rate_hz else 0.0
        self._next_s = float("-inf")

    def wait_s(self, now_s: float) -> float:
        """Return how long to wait until a frame may pass."""
        return max(0.0, self._next_s - now_s)

    def passes(self, now_s: float) -> bool:
        """Return whether a frame that comes now passes; if so, it has passed."""
        if now_s < self._next_s:
            return False
        self.passed(now_s)
        return True

    def passed(self, now_s: float, count: int = 1) -> None:
        """Take note of frames that passed."""
        late_s = now_s - self._next_s
        begin_s = self._next_s if late_s < self._gap_s else now_s  # a small delay does not lower the rate
        self._next_s = begin_s + count * self._gap_s
