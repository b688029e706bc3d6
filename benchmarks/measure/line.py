"""One connection to a broker that never blocks, with or without TLS, for thousands of them in one process."""

import errno
import socket
import ssl
import struct
from collections.abc import Iterator
from contextlib import suppress

from measure.packets import Packet, Splitter

READ_BYTES = 256 * 1024
READS_A_TURN = 4
_BUFFER = memoryview(bytearray(READ_BYTES))
"""Of all lines: one thread serves them, and what was read is cut up before the next read."""
_RECEIVED = struct.Struct("=Q")
_RECEIVED_AT = 128
"""Of ``tcpi_bytes_received`` in ``struct tcp_info``, Linux 4.1 and later (include/uapi/linux/tcp.h)."""


class Line:
    """Connects at once; :meth:`turn` whenever the socket is ready.

    Args:
        address: Host and port of the broker.
        context: None for a connection without TLS.
    """

    def __init__(self, address: tuple[str, int], context: ssl.SSLContext | None) -> None:
        self._context = context
        self._out = bytearray()
        self._splitter = Splitter()
        self.is_open = False
        """Whether there is a connection, its TLS handshake done."""
        self._retry: type[OSError] | None = None
        self._sock = socket.socket()
        self._sock.setblocking(False)
        self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if (code := self._sock.connect_ex(address)) not in (0, errno.EINPROGRESS):
            raise OSError(code, "the broker was not reached")

    def fileno(self) -> int:
        """Return the socket's number."""
        return self._sock.fileno()

    @property
    def wants_write(self) -> bool:
        """Whether the socket should be watched for room to write."""
        if not self.is_open:
            return self._retry is not ssl.SSLWantReadError
        return bool(self._out)

    @property
    def retransmits(self) -> int:
        """Segments that were sent again (``tcpi_total_retrans``): before anything came, those were SYNs."""
        return int(struct.unpack_from("=I", self._info(), 100)[0])

    @property
    def received_bytes(self) -> int:
        """Bytes that the kernel took from the network, TLS included, whether they were read or not."""
        return int(_RECEIVED.unpack_from(self._info(), _RECEIVED_AT)[0])

    def send(self, data: bytes) -> None:
        """Note what to send; it goes with the next :meth:`flush` or :meth:`turn`."""
        self._out += data

    def flush(self) -> None:
        """Send what was noted, as far as there is a connection and room; one call for much costs little."""
        if not self.is_open:
            return
        try:
            while self._out:
                del self._out[: self._sock.send(self._out)]
        except (BlockingIOError, ssl.SSLWantWriteError):
            return

    def turn(self) -> Iterator[Packet]:
        """Go on; yield the packets that came.

        Raises:
            OSError: The connection is lost.
        """
        if not self.is_open and not self._open():
            return
        self.flush()
        for _ in range(READS_A_TURN if self._context is None else 4 * READS_A_TURN):
            try:
                size = self._sock.recv_into(_BUFFER)
            except (BlockingIOError, ssl.SSLWantReadError):
                return
            if not size:
                raise ConnectionResetError("the broker ended the connection")
            yield from self._splitter.feed(_BUFFER[:size])

    def close(self) -> None:
        """End it without a word, as a killed process does."""
        with suppress(OSError):
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._sock.close()

    @property
    def has_decrypted(self) -> bool:
        """Whether TLS holds bytes that polling the socket cannot see."""
        return self.is_open and isinstance(self._sock, ssl.SSLSocket) and self._sock.pending() > 0

    def _open(self) -> bool:
        if code := self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            raise OSError(code, "the broker was not reached")
        if self._context is not None:
            if not isinstance(self._sock, ssl.SSLSocket):
                self._sock = self._context.wrap_socket(
                    self._sock, server_hostname="localhost", do_handshake_on_connect=False
                )
            try:
                self._sock.do_handshake()
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError) as error:
                self._retry = type(error)
                return False
        self.is_open = True
        return True

    def _info(self) -> bytes:
        return self._sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 192)
