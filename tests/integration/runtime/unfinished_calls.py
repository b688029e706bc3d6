"""Calls of gRPC that begin and do not end, in frames of HTTP/2 written here: a client of gRPC ends what it sends.

RFC 9113 for the frames (section 4) and flow control (5.2), RFC 7541 for the header fields (6.2.2).
"""

import socket
import struct
from pathlib import Path

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RESET, _SETTINGS, _WINDOW_UPDATE = 0, 1, 3, 4, 8
_END_HEADERS, _ACK = 4, 1
_FRAME_BYTES = 16384
_FIRST_WINDOW = 65535
_STREAM = 1


class UnfinishedCall:
    """A call whose message is sent as far as the server lets it come, except for its last byte.

    Attributes:
        sent: Bytes of the message that were sent.
        is_over: Whether the server has ended the call.
    """

    def __init__(self, path: Path, length: int) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(str(path))
        self._socket.sendall(_PREFACE + _frame(_SETTINGS, 0, 0) + _frame(_HEADERS, _END_HEADERS, _STREAM, _fields()))
        self._socket.setblocking(False)
        self._pending = b""
        self._received = b""
        self._windows = {0: _FIRST_WINDOW, _STREAM: _FIRST_WINDOW}
        self._first = struct.pack(">BI", 0, length)
        self._left = length - 1
        self.sent = 0
        self.is_over = False

    def go_on(self) -> bool:
        """Send what can be sent now; return whether something was, or may be."""
        self._read()
        if self.is_over:
            return False
        if not self._pending:
            self._pending = self._next()
        try:
            done = self._socket.send(self._pending) if self._pending else 0
        except BlockingIOError:
            done = 0
        except OSError:
            self.is_over = True
            done = 0
        self._pending = self._pending[done:]
        return done > 0

    def close(self) -> None:
        self._socket.close()

    def _next(self) -> bytes:
        room = min(*self._windows.values(), _FRAME_BYTES)
        body = (self._first + bytes(min(self._left, _FRAME_BYTES)))[: max(room, 0)]
        if not body:
            return b""
        told = min(len(self._first), len(body))
        self._first = self._first[told:]
        self._left -= len(body) - told
        self.sent += len(body) - told
        for stream in self._windows:
            self._windows[stream] -= len(body)
        return _frame(_DATA, 0, _STREAM, body)

    def _read(self) -> None:
        try:
            found = self._socket.recv(1 << 16)
            self.is_over = self.is_over or not found
            self._received += found
        except BlockingIOError:
            pass
        except OSError:
            self.is_over = True
        while len(self._received) >= 9:
            length = int.from_bytes(self._received[:3], "big")
            if len(self._received) < 9 + length:
                return
            kind, flags, stream = struct.unpack(">BBI", self._received[3:9])
            self._take(kind, flags, stream, self._received[9 : 9 + length])
            self._received = self._received[9 + length :]

    def _take(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == _WINDOW_UPDATE and stream in self._windows:
            self._windows[stream] += int.from_bytes(payload, "big")
        elif kind == _SETTINGS and not flags & _ACK:
            for at in range(0, len(payload), 6):
                name, value = struct.unpack(">HI", payload[at : at + 6])
                if name == 4:  # SETTINGS_INITIAL_WINDOW_SIZE
                    self._windows[_STREAM] += value - _FIRST_WINDOW
            self._pending += _frame(_SETTINGS, _ACK, 0)
        elif kind in (_HEADERS, _RESET):
            self.is_over = True


def _frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return len(payload).to_bytes(3, "big") + struct.pack(">BBI", kind, flags, stream) + payload


def _fields() -> bytes:
    """Return the header fields of a call, each literal and not indexed."""
    fields = {
        ":method": "POST",
        ":scheme": "http",
        ":path": "/inference.GRPCInferenceService/ModelInfer",
        ":authority": "localhost",
        "te": "trailers",
        "content-type": "application/grpc",
    }
    return b"".join(b"\0" + _text(name) + _text(value) for name, value in fields.items())


def _text(text: str) -> bytes:
    return bytes([len(text)]) + text.encode()
