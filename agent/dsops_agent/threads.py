"""The control process's threads: a fixed, named set. One that ends before its time ends the agent."""

import logging
import threading
import time
from collections.abc import Callable

from dsops.errors import DsopsError

logger = logging.getLogger(__name__)


class Threads:
    """Starts threads and watches over them.

    Attributes:
        failure: The first error of the tree that ended a thread.
    """

    def __init__(self, stop: threading.Event) -> None:
        self._stop = stop
        self._threads: dict[str, threading.Thread] = {}
        self.failure: DsopsError | None = None

    def start(self, name: str, body: Callable[[], None]) -> None:
        """Start one thread. When its body raises, the agent stops."""
        thread = threading.Thread(target=self._run, args=(body,), name=name, daemon=True)
        self._threads[name] = thread
        thread.start()

    def _run(self, body: Callable[[], None]) -> None:
        try:
            body()
        except DsopsError as error:
            logger.warning("the agent stops: %s", error)
            self.failure = self.failure or error
            self._stop.set()
        except Exception as error:
            logger.exception("the agent stops")
            self.failure = self.failure or DsopsError("the agent failed", why=repr(error), hint="see the agent's log")
            self._stop.set()

    def join(self, timeout_s: float, *names: str) -> None:
        """Wait for threads, ``timeout_s`` seconds in all; one that does not end is named in the log."""
        ends_s = time.monotonic() + timeout_s
        for name in names:
            thread = self._threads.get(name)
            if thread is None:
                continue
            thread.join(max(0.0, ends_s - time.monotonic()))
            if thread.is_alive():
                logger.warning("thread %s does not end in time", name)
