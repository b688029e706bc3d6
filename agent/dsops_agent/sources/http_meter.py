"""A socket that is read under a budget of bytes and of time, by whoever parses what comes.

Every byte counts, those of headers and of framing too: a server can neither hold the reader for longer nor feed it more
than the budget says, wherever in its answer it tries. Reading looks up several times a second, so that it can be told
to stop from another thread.
"""

import io
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass

from typing_extensions import Buffer, override

from dsops.errors import SourceEndless, SourceFailed, SourceSlow

_LOOK_S = 0.2


@dataclass(frozen=True)
class Limits:
    """How much patience an HTTP server gets.

    Attributes:
        connect_s: For the connection, and again for the TLS handshake.
        answer_s: From the request to the end of the answer's header.
        window_s: Length of the intervals over which the rate is looked at.
        least_bytes_per_s: Slowest rate that is of use.
        header_bytes: Longest header.
    """

    connect_s: float = 10.0
    answer_s: float = 15.0
    window_s: float = 10.0
    least_bytes_per_s: int = 512
    header_bytes: int = 16 * 1024

    def body_s(self, length: int) -> float:
        """Return how long a body may take in all."""
        return self.window_s + length / self.least_bytes_per_s


class Stopped(Exception):
    """Reading was told to stop: nobody wants the answer any more."""


class Meter:
    """Counts what is read of one answer, and ends it when the budget is used up.

    Args:
        limits: The patience.
        clock: Returns monotonic seconds.
    """

    def __init__(self, limits: Limits, clock: Callable[[], float]) -> None:
        self._limits = limits
        self._clock = clock
        self._stopped = threading.Event()
        self._most_bytes = limits.header_bytes
        self._ends_s = clock() + limits.answer_s
        self._window: tuple[float, int] | None = None
        self.read_bytes = 0

    def stop(self) -> None:
        """Make reading end; from any thread."""
        self._stopped.set()

    def body(self, length: int) -> None:
        """Begin the body: up to ``length`` bytes, and as many as servers take to frame those."""
        now_s = self._clock()
        self._most_bytes += length + length // 8
        self._ends_s = now_s + self._limits.body_s(length)
        self._window = (now_s, self.read_bytes)

    def room(self) -> int:
        """Return how many bytes may be read now.

        Raises:
            SourceEndless: None.
            SourceSlow: Time is up, or too little came in the last interval.
            Stopped: Reading was told to stop.
        """
        if self._stopped.is_set():
            raise Stopped
        self._check_time(self._clock())
        if self.read_bytes >= self._most_bytes:
            raise SourceEndless("the server sends more than was asked for", why=f"{self.read_bytes} bytes were read")
        return self._most_bytes - self.read_bytes

    def _check_time(self, now_s: float) -> None:
        if now_s >= self._ends_s:
            raise self._slow("it did not end in time" if self._window else "the header of its answer did not come")
        if self._window is None:
            return
        began_s, before = self._window
        took_s = now_s - began_s
        if took_s < self._limits.window_s:
            return
        rate = (self.read_bytes - before) / took_s
        if rate < self._limits.least_bytes_per_s:
            raise self._slow(f"{rate:.0f} bytes a second, {self._limits.least_bytes_per_s} are of use")
        self._window = (now_s, self.read_bytes)

    def _slow(self, why: str) -> SourceFailed:
        return SourceSlow("the server is too slow", why=why)


class MeteredSocket(io.RawIOBase):
    """The reading side of a connected socket, as :class:`http.client.HTTPResponse` wants one."""

    def __init__(self, sock: socket.socket, meter: Meter, receiving: Callable[[], None]) -> None:
        super().__init__()
        self._sock = sock
        self._meter = meter
        self._receiving = receiving

    def makefile(self, _mode: str) -> io.BufferedReader:
        """Return the buffered file that the parser reads."""
        return io.BufferedReader(self, 4096)

    @override
    def readable(self) -> bool:
        return True

    @override
    def readinto(self, buffer: Buffer, /) -> int:
        view = memoryview(buffer)
        while True:
            room = self._meter.room()
            self._sock.settimeout(_LOOK_S)
            try:
                count = self._sock.recv_into(view, min(len(view), room))
            except TimeoutError:
                continue
            self._meter.read_bytes += count
            self._receiving()
            return count
