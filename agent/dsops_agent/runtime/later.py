"""Things to do that take long, one after the other, in a thread of their own."""

import logging
import queue
from collections.abc import Callable

logger = logging.getLogger(__name__)

MAX_WAITING = 256


class Later:
    """Takes things to do. ``put`` is safe to call from several threads and never blocks; ``run`` is one thread's body.

    Args:
        max_waiting: How many may wait.
    """

    def __init__(self, max_waiting: int = MAX_WAITING) -> None:
        self._waiting: queue.Queue[Callable[[], None] | None] = queue.Queue(max_waiting)
        self._stopped = False

    def put(self, work: Callable[[], None]) -> bool:
        """Take something to do; False when too much waits, or no more is done."""
        if self._stopped:
            return False
        try:
            self._waiting.put_nowait(work)
        except queue.Full:
            return False
        return True

    def run(self) -> None:
        """Do what is put, in order, until :meth:`stop`."""
        while not self._stopped:
            work = self._waiting.get()
            if work is None:
                return
            try:
                work()
            except Exception:  # the border of the thread: what comes next is none the worse for it
                logger.exception("something that was put off could not be done")

    def stop(self) -> None:
        """Let :meth:`run` return after what it does now; what waits is not done."""
        self._stopped = True
        try:
            self._waiting.put_nowait(None)
        except queue.Full:
            logger.debug("too much waits for one more; the thread sees that it shall stop after what it does now")
