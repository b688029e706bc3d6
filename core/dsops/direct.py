"""The agent's direct socket: the messages of the Open Inference Protocol on a local stream, with nothing in between.

It stands beside the inference socket and answers the same calls with the same messages. A call through gRPC's Python
code takes half a millisecond here, several times what a small network takes; a message on a Unix socket a tenth of it.

    u32 LE length of the body | u32 LE code | u32 LE limit | body

A request's code is a :class:`Method`, its limit how long the caller waits, in milliseconds (0: for as long as it
takes), its body the protobuf message. A reply's code is gRPC's status number; with 0 the body is the protobuf message,
otherwise a text; its limit is 0, or 1 when the connection ends with it. The calls of a connection are answered one
after the other, in their order.
"""

import os
import socket
import struct
import threading
from contextlib import suppress
from enum import IntEnum
from pathlib import Path

from dsops.errors import Forbidden, InvalidInput, NotServing, RuntimeCrashed, TimedOut

SUFFIX = ".direct"
MAX_BODY_BYTES = 32 << 20
LAST = 1
"""In the place of a reply's limit: nothing comes after it."""
_HEADER = struct.Struct("<III")
_TIMEVAL = struct.Struct("@ll")
_MAX_LIMIT_MS = 0xFFFFFFFF


class Method(IntEnum):
    """The calls, as requests name them."""

    SERVER_LIVE = 1
    SERVER_READY = 2
    MODEL_READY = 3
    SERVER_METADATA = 4
    MODEL_METADATA = 5
    MODEL_INFER = 6
    REPOSITORY_INDEX = 7
    REPOSITORY_MODEL_LOAD = 8
    REPOSITORY_MODEL_UNLOAD = 9
    SYSTEM_SHARED_MEMORY_STATUS = 10
    SYSTEM_SHARED_MEMORY_REGISTER = 11
    SYSTEM_SHARED_MEMORY_UNREGISTER = 12


def direct_path(inference_socket: str | Path) -> Path:
    """Return where the direct socket beside an inference socket is."""
    return Path(f"{inference_socket}{SUFFIX}")


class Framed:
    """One end of a connection. Not thread-safe.

    Args:
        connection: A blocking stream socket.
        patience_s: How long the other end may take to go on within a message, or to take one; at least 1 ms.
    """

    def __init__(self, connection: socket.socket, patience_s: float) -> None:
        self._connection = connection
        self.be_patient(patience_s)

    def be_patient(self, patience_s: float) -> None:
        """Set how long to wait for the other end."""
        # The kernel's own limit: with Python's, every call would ask the kernel twice.
        limit = _TIMEVAL.pack(int(patience_s), int(patience_s % 1 * 1e6) or 1000)
        for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
            self._connection.setsockopt(socket.SOL_SOCKET, option, limit)

    def send(self, code: int, body: bytes, limit_ms: int = 0) -> None:
        """Send a message.

        Raises:
            OSError: The other end is gone, or does not take it.
        """
        header = _HEADER.pack(len(body), code, limit_ms)
        rest = memoryview(body)[max(self._connection.sendmsg([header, body]) - _HEADER.size, 0) :]
        if rest:  # of a header alone the kernel takes no part: its buffer has room for that, or for nothing
            self._connection.sendall(rest)

    def receive(self) -> tuple[int, int, bytes] | None:
        """Return code, limit and body of the next message; None when the other end closed between two.

        Raises:
            BlockingIOError: None began in time.
            ConnectionError: The connection ended, or rested for too long, within a message.
            InvalidInput: What came is too long for a message; nothing that follows can be read.
            OSError: The connection failed.
        """
        header = self._connection.recv(_HEADER.size, socket.MSG_WAITALL)
        if not header:
            return None
        if len(header) < _HEADER.size:
            raise ConnectionError("the connection ended within a message")
        length, code, limit_ms = _HEADER.unpack(header)
        if length > MAX_BODY_BYTES:
            raise InvalidInput(f"a message has up to {MAX_BODY_BYTES} bytes", why=f"this one has {length}")
        return code, limit_ms, self._body(length) if length else b""

    @property
    def is_gone(self) -> bool:
        """Whether the other end has closed the connection."""
        try:
            return not self._connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except OSError:
            return True

    def end(self) -> None:
        """End the connection; whoever waits for something on it, waits no longer."""
        with suppress(OSError):  # the other end may be gone
            self._connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the connection; nobody may use it any more."""
        self._connection.close()

    def _body(self, length: int) -> bytes:
        """Return a body; what does not come in one piece is put together."""
        parts: list[bytes] = []
        while length:
            try:
                part = self._connection.recv(length, socket.MSG_WAITALL)
            except BlockingIOError:
                part = b""
            if not part:
                raise ConnectionError("the connection ended within a message")
            parts.append(part)
            length -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)


class DirectChannel:
    """The caller's end: connections to one socket, made when needed. Safe to call from several threads.

    Args:
        path: The direct socket.
        late_s: How long after its limit a reply still counts: a server that keeps to the limit says itself that it has
            passed.
    """

    def __init__(self, path: Path, late_s: float = 0.25) -> None:
        self._path = path
        self._late_s = late_s
        self._idle: list[Framed] = []
        self._busy: set[Framed] = set()
        self._lock = threading.Lock()
        self._closed = False

    def call(self, method: Method, body: bytes, timeout_s: float) -> tuple[int, bytes]:
        """Return status and body of the reply.

        Raises:
            InvalidInput: The request is too long.
            NotServing: Nobody listens there.
            Forbidden: The socket is not for this user.
            TimedOut: No reply came in time.
            RuntimeCrashed: The connection was lost, so that nobody knows whether the request was answered.
        """
        if len(body) > MAX_BODY_BYTES:
            raise InvalidInput(f"a request has up to {MAX_BODY_BYTES} bytes", why=f"this one has {len(body)}")
        connection = self._take()
        goes_on = False  # after a failure an answer may still come, and must not be taken for another's
        try:
            connection.be_patient(timeout_s + self._late_s)
            reply = _exchange(connection, method, body, min(max(int(timeout_s * 1000), 1), _MAX_LIMIT_MS))
            if reply is None:
                raise RuntimeCrashed("the connection to the agent was lost", why="it ended before the answer")
            status, last, answer = reply
            goes_on = not last
        except BlockingIOError as error:
            raise TimedOut("the agent did not answer", why=f"{timeout_s:g} s have passed") from error
        except OSError as error:
            raise RuntimeCrashed("the connection to the agent was lost", why=str(error)) from error
        finally:
            self._give_back(connection, goes_on=goes_on)
        return status, answer

    def close(self) -> None:
        """Close every connection; calls under way fail."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
            for connection in self._busy:
                connection.end()
        for connection in idle:
            connection.close()

    def _take(self) -> Framed:
        while True:
            with self._lock:
                if self._closed:
                    raise NotServing(f"the connection to {self._path} was closed", hint="open a new one")
                kept = self._idle.pop() if self._idle else None
            connection = kept or self._connect()
            if kept is None or not kept.is_gone:  # else the agent has ended since, and may be there again
                with self._lock:
                    self._busy.add(connection)
                return connection
            kept.close()

    def _give_back(self, connection: Framed, *, goes_on: bool) -> None:
        with self._lock:
            self._busy.discard(connection)
            if goes_on and not self._closed:
                self._idle.append(connection)
                return
        connection.close()

    def _connect(self) -> Framed:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.connect(str(self._path))
        except PermissionError as error:
            connection.close()
            raise Forbidden(f"the socket {self._path} is not for this user", why=f"uid {os.geteuid()}") from error
        except OSError as error:
            connection.close()
            raise NotServing(f"no agent listens on {self._path}", why=error.strerror or "") from error
        return Framed(connection, 1.0)


def _exchange(connection: Framed, method: Method, body: bytes, limit_ms: int) -> tuple[int, int, bytes] | None:
    with suppress(BrokenPipeError, ConnectionResetError):  # an agent that has no room says so, and closes
        connection.send(method, body, limit_ms)
    return connection.receive()
