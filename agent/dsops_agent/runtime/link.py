"""The data process's end of the control channel: one control process at a time, and how long there has been none."""

import logging
import socket
import threading

from dsops.clock import Clock
from dsops_agent.runtime.channel import Channel, Handler

logger = logging.getLogger(__name__)

_HANDOVER_S = 1.0
"""How long a new connection waits for the end of the old one to be noticed."""


class ControlLink:
    """Takes control connections from a listening socket.

    Args:
        listener: The socket; it belongs to the link from now on.
        handle: Answers requests of the control process.
        clock: Tells the time.
    """

    def __init__(self, listener: socket.socket, handle: Handler, clock: Clock) -> None:
        self._listener = listener
        self._handle = handle
        self._clock = clock
        self._lock = threading.Lock()
        self._channel: Channel | None = None
        self._last_seen_s = clock.monotonic_s()
        self._stopped = threading.Event()

    def run(self) -> None:
        """Take connections until :meth:`stop`; the body of a thread."""
        while not self._stopped.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError as error:
                if not self._stopped.is_set():
                    logger.warning("a control connection could not be taken: %s", error)
                    self._stopped.wait(0.5)
                continue
            self._take(connection)

    def channel(self) -> Channel | None:
        """Return the channel to the control process, or None while there is none."""
        with self._lock:
            channel = self._channel
            if channel is not None and channel.closed.is_set():
                logger.warning("the control process is gone; requests are still answered")
                self._channel = channel = None
            if channel is not None:
                self._last_seen_s = self._clock.monotonic_s()
            return channel

    def alone_s(self) -> float:
        """Return for how many seconds there has been no control process."""
        if self.channel() is not None:
            return 0.0
        return self._clock.monotonic_s() - self._last_seen_s

    def stop(self) -> None:
        """Close the channel and take no more connections."""
        self._stopped.set()
        try:
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes accept, which a close alone does not
        except OSError as error:
            logger.debug("the control socket was closed already: %s", error)
        self._listener.close()
        channel = self.channel()
        if channel is not None:
            channel.close()

    def _take(self, connection: socket.socket) -> None:
        before = self.channel()
        if before is not None and not before.closed.wait(_HANDOVER_S):
            logger.warning("a second control connection was refused")
            connection.close()
            return
        channel = Channel(connection, self._handle)
        with self._lock:
            self._channel = channel
            self._last_seen_s = self._clock.monotonic_s()
        channel.start()
        logger.info("a control process is connected")
