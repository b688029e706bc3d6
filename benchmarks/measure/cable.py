"""A cable between receivers and broker: forwards bytes, counts what comes down, and can be cut."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from measure.broker import HOST

PIECE = 64 * 1024


class Cable:
    """Listens on a port of its own and forwards each connection to the broker's.

    Args:
        port: The broker's.
        cut_after_bytes: A connection is cut when so many bytes came down; only the first one. None never cuts.
    """

    def __init__(self, port: int, cut_after_bytes: int | None) -> None:
        self._to = port
        self._cut_after_bytes = cut_after_bytes
        self._listener = socket.create_server((HOST, 0))
        self.port = int(self._listener.getsockname()[1])
        self.down_bytes: list[int] = []
        """Bytes that came down, of each connection."""
        self._joined: list[tuple[socket.socket, socket.socket]] = []

    def run(self) -> None:
        """Take connections until the listener is closed."""
        with suppress(OSError):
            while True:
                device, _ = self._listener.accept()
                self._join(device, socket.create_connection((HOST, self._to)))

    def cut(self) -> None:
        """End the connections that there are, without a word to either side."""
        joined, self._joined = self._joined, []
        for sock in (sock for pair in joined for sock in pair):
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Take no more connections; those there are end with their own ends."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _join(self, device: socket.socket, broker: socket.socket) -> None:
        number = len(self.down_bytes)
        self.down_bytes.append(0)
        self._joined.append((device, broker))
        for sock in (device, broker):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

        def count(size: int) -> bool:
            self.down_bytes[number] += size
            return number == 0 and self._cut_after_bytes is not None and self.down_bytes[0] >= self._cut_after_bytes

        for args in ((broker, device, count), (device, broker, lambda _: False)):
            threading.Thread(target=_forward, args=args, daemon=True).start()


def _forward(source: socket.socket, sink: socket.socket, is_over: Callable[[int], bool]) -> None:
    with suppress(OSError):
        while data := source.recv(PIECE):
            sink.sendall(data)
            if is_over(len(data)):
                break
    for sock in (source, sink):
        with suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)


@contextmanager
def cable(port: int, cut_after_bytes: int | None) -> Iterator[Cable]:
    """Run a cable."""
    made = Cable(port, cut_after_bytes)
    thread = threading.Thread(target=made.run, daemon=True)
    thread.start()
    try:
        yield made
    finally:
        made.close()
        thread.join()
