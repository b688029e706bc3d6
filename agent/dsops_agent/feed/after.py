"""A call that is made once several others were."""

import threading
from collections.abc import Callable


class AfterAll:
    """Calls when :meth:`one` was called as often as it was told; safe for several threads.

    Args:
        count: How often.
        settled: What is called then; at once when ``count`` is 0.
    """

    def __init__(self, count: int, settled: Callable[[], None]) -> None:
        self._lock = threading.Lock()
        self._left = count
        self._settled = settled
        if not count:
            settled()

    def one(self) -> None:
        """Take note of one of them."""
        with self._lock:
            self._left -= 1
            is_last = not self._left
        if is_last:
            self._settled()
