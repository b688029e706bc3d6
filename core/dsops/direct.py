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
import select
import socket
import struct
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from enum import IntEnum
from pathlib import Path
from typing import NamedTuple

from dsops.errors import DsopsError, Forbidden, InvalidInput, NotServing, RuntimeCrashed, TimedOut

SUFFIX = ".direct"
MAX_BODY_BYTES = 32 << 20
LAST = 1
"""In the place of a reply's limit: nothing comes after it."""
_HEADER = struct.Struct("<III")
_TIMEVAL = struct.Struct("@ll")
_AT_ONCE = 4096
"""A message that is not longer is read at once, which asks the kernel only once; of others its beginning is."""
_MAX_LIMIT_MS = 0xFFFFFFFF
_ABSENT = (FileNotFoundError, ConnectionRefusedError)


def _nothing() -> None:
    """Do nothing."""


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
    KPI_REPORT = 13


def direct_path(inference_socket: str | Path) -> Path:
    """Return where the direct socket beside an inference socket is."""
    return Path(f"{inference_socket}{SUFFIX}")


def limit_ms_of(timeout_s: float) -> int:
    """Return how long a caller waits as its request says it.

    Raises:
        InvalidInput: Nobody can wait for so long.
    """
    try:
        is_one = 0 < timeout_s <= _MAX_LIMIT_MS / 1000
    except (TypeError, ValueError):
        is_one = False
    if not is_one:
        raise InvalidInput(
            f"a time to wait is a number, more than 0 and up to {_MAX_LIMIT_MS // 1000} s",
            why=f"got {timeout_s!r}",
            hint="for as long as it takes: 3600",
        )
    return max(int(timeout_s * 1000), 1)


def nobody_listens(error: NotServing) -> bool:
    """Return whether a call failed because there is no direct socket, or nobody behind it."""
    return isinstance(error.__cause__, _ABSENT)


class Head(NamedTuple):
    """What stands before a message.

    Attributes:
        length: Bytes of its body.
        code: Which call, or which status.
        limit_ms: How long the caller waits.
    """

    length: int
    code: int
    limit_ms: int


class Framed:
    """One end of a connection. Not thread-safe.

    Args:
        connection: A blocking stream socket.
        patience_s: How long the other end may take to go on within a message, or to take one; at least 1 ms.
    """

    def __init__(self, connection: socket.socket, patience_s: float) -> None:
        self._connection = connection
        self._came = b""
        self._patience_s = 0.0
        self.be_patient(patience_s)

    def be_patient(self, patience_s: float) -> None:
        """Set how long to wait for the other end."""
        if patience_s == self._patience_s:
            return
        self._patience_s = patience_s
        # The kernel's own limit: with Python's, every call would ask the kernel twice.
        limit = _TIMEVAL.pack(int(patience_s), int(patience_s % 1 * 1e6) or 1000)
        for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
            self._connection.setsockopt(socket.SOL_SOCKET, option, limit)

    def fileno(self) -> int:
        """Return the descriptor of the connection."""
        return self._connection.fileno()

    def send(self, code: int, body: bytes, limit_ms: int = 0, waits: Callable[[], None] = _nothing) -> None:
        """Send a message.

        Args:
            code: Its code.
            body: Its body.
            limit_ms: Its limit.
            waits: Called before the other end is waited for.

        Raises:
            OSError: The other end is gone, or does not take it.
        """
        parts = _HEADER.pack(len(body), code, limit_ms), body
        try:
            sent = self._connection.sendmsg(parts, (), socket.MSG_DONTWAIT)
        except BlockingIOError:
            waits()
            sent = self._connection.sendmsg(parts)
        # Of a header alone the kernel takes no part: its buffer has room for that, or for nothing.
        if rest := memoryview(body)[max(sent - _HEADER.size, 0) :]:
            waits()
            self._connection.sendall(rest)

    def at_once(self, most_bytes: int) -> tuple[Head, bytes] | None:
        """Return the next message if it is there, without waiting; what is there of it can be read in any case.

        Args:
            most_bytes: The body of a message that is returned is not longer.

        Raises:
            EOFError: The other end closed.
            OSError: The connection failed.
        """
        came = self._came
        try:
            if not came and not (came := self._connection.recv(_AT_ONCE, socket.MSG_DONTWAIT)):
                raise EOFError
            self._came = came
            if len(came) < _HEADER.size:
                return None
            head = Head(*_HEADER.unpack_from(came))
            whole = _HEADER.size + head.length
            if len(came) < whole and head.length <= most_bytes:
                self._came = came = came + self._connection.recv(whole - len(came), socket.MSG_DONTWAIT)
        except BlockingIOError:
            return None
        if len(came) < whole or head.length > most_bytes:
            return None
        self._came = came[whole:]
        return head, came[_HEADER.size : whole]

    def receive(self) -> tuple[int, int, bytes] | None:
        """Return code, limit and body of the next message; None when the other end closed between two.

        Raises:
            BlockingIOError: None began in time.
            ConnectionError: The connection ended, or rested for too long, within a message.
            InvalidInput: What came is too long for a message; nothing that follows can be read.
            OSError: The connection failed.
        """
        head = self.head()
        return (head.code, head.limit_ms, self.body(head)) if head else None

    def head(self) -> Head | None:
        """Return what stands before the next message, whose body comes next; None when the other end closed.

        Raises:
            BlockingIOError: None began in time.
            ConnectionError: The connection ended, or rested for too long, within it.
            InvalidInput: What came is too long for a message; nothing that follows can be read.
            OSError: The connection failed.
        """
        came = self._came or self._connection.recv(_AT_ONCE)
        if not came:
            return None
        if len(came) < _HEADER.size:
            came += b"".join(self._parts(_HEADER.size - len(came), float("inf")))
        head = Head(*_HEADER.unpack_from(came))
        if head.length > MAX_BODY_BYTES:
            raise InvalidInput(f"a message has up to {MAX_BODY_BYTES} bytes", why=f"this one has {head.length}")
        self._came = came[_HEADER.size :]
        return head

    def body(self, head: Head, within_s: float = float("inf")) -> bytes:
        """Return the body of a message; what does not come in one piece is put together.

        Args:
            head: What stood before it.
            within_s: How long all of it may take; looked at when the other end rested for its patience.

        Raises:
            TimedOut: It took longer.
            ConnectionError: The connection ended, or rested for too long.
        """
        came = self._came
        if len(came) > head.length:  # the rest is of the next message
            self._came = came[head.length :]
            return came[: head.length]
        self._came = b""
        if len(came) == head.length:
            return came
        parts = self._parts(head.length - len(came), within_s)
        return b"".join((came, *parts)) if came or len(parts) > 1 else parts[0]

    def _parts(self, left: int, within_s: float) -> list[bytes]:
        """Return so many bytes, in the pieces in which they came."""
        parts: list[bytes] = []
        length, ends_s = left, time.monotonic() + within_s
        while left:
            try:
                part = self._connection.recv(left, socket.MSG_WAITALL)
            except BlockingIOError:
                part = b""
            parts.append(part)
            left -= len(part)
            if left and time.monotonic() >= ends_s:
                raise TimedOut(
                    "the request did not arrive in time",
                    why=f"{length - left} of {length} bytes came within {within_s:g} s",
                    hint="send a request at once when it has begun",
                )
            if not part:
                raise ConnectionError("the connection ended within a message")
        return parts

    @property
    def holds_more(self) -> bool:
        """Whether a part of the next message was read already."""
        return bool(self._came)

    @property
    def is_gone(self) -> bool:
        """Whether nothing more can be read: the other end sends nothing more, or has closed."""
        if self._came:
            return False
        try:
            return not self._connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except OSError:
            return True

    @property
    def hung_up(self) -> bool:
        """Whether the other end is closed for good; one that only sends nothing more may still wait for an answer."""
        looked = select.poll()
        looked.register(self._connection, 0)
        return bool(looked.poll(0))

    def take_no_more(self) -> None:
        """Let the other end send nothing more; what it has sent can still be read."""
        with suppress(OSError):  # the other end may be gone
            self._connection.shutdown(socket.SHUT_RD)

    def end(self) -> None:
        """End the connection; whoever waits for something on it, waits no longer."""
        with suppress(OSError):  # the other end may be gone
            self._connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the connection; nobody may use it any more."""
        self._connection.close()


class DirectChannel:
    """The caller's end: connections to one socket, made when needed. Safe to call from several threads.

    A process that was forked makes connections of its own: of two that read from one, each gets the other's answers.

    Args:
        path: The direct socket.
        late_s: How long after its limit a reply still counts: a server that keeps to the limit says itself that it has
            passed.
    """

    def __init__(self, path: Path, late_s: float = 0.25) -> None:
        self._path = path
        self._late_s = late_s
        self._by_process: dict[int, _Connections] = {}
        self._closed = False

    def call(self, method: Method, body: bytes, timeout_s: float) -> tuple[int, bytes]:
        """Return status and body of the reply.

        Raises:
            InvalidInput: The request is too long, or the time to wait cannot be.
            NotServing: Nobody listens there, or takes requests any more.
            Forbidden: The socket is not for this user.
            TimedOut: No reply came in time.
            RuntimeCrashed: The connection was lost, so that nobody knows whether the request was answered.
        """
        if len(body) > MAX_BODY_BYTES:
            raise InvalidInput(f"a request has up to {MAX_BODY_BYTES} bytes", why=f"this one has {len(body)}")
        limit_ms = limit_ms_of(timeout_s)
        while True:
            connection, is_new = self._connections().take(timeout_s + self._late_s)
            goes_on = False  # after a failure an answer may still come, and must not be taken for another's
            try:
                status, last, answer = _exchange(connection, method, body, limit_ms)
                goes_on = not last
            except _NotTakenError as error:
                if is_new:
                    raise NotServing(
                        "the agent takes no more requests",
                        why=str(error),
                        hint="ask again in a moment: it may be started again",
                    ) from error
                continue  # the agent ended this connection, for another or with itself, before it read the request
            except BlockingIOError as error:
                raise TimedOut("the agent did not answer", why=f"{timeout_s:g} s have passed") from error
            except OSError as error:
                raise RuntimeCrashed("the connection to the agent was lost", why=str(error)) from error
            finally:
                self._connections().give_back(connection, goes_on=goes_on)
            return status, answer

    def close(self) -> None:
        """Close every connection of this process; calls under way fail."""
        self._closed = True
        self._connections().close()

    def _connections(self) -> "_Connections":
        pid = os.getpid()
        found = self._by_process.get(pid)
        if found is None:
            # one step, without a lock: a thread that the fork left behind might have held it
            found = self._by_process.setdefault(pid, _Connections(self._path))
            for other in set(self._by_process) - {pid}:
                if parents := self._by_process.pop(other, None):
                    parents.leave()
            if self._closed:
                found.close()
        return found


class _Connections:
    """The connections of one process to a socket."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._idle: list[Framed] = []
        self._busy: set[Framed] = set()
        self._lock = threading.Lock()
        self._closed = False

    def take(self, patience_s: float) -> tuple[Framed, bool]:
        """Return a connection that nobody else uses, and whether it is a new one; another may have ended since."""
        with self._lock:
            self._check_open()
            if self._idle:
                kept = self._idle.pop()
                self._busy.add(kept)
                kept.be_patient(patience_s)
                return kept, False
        connection = self._connect(patience_s)
        self._begin(connection)
        return connection, True

    def give_back(self, connection: Framed, *, goes_on: bool) -> None:
        """Take a connection back, and keep it for the next call if it goes on."""
        with self._lock:
            self._busy.discard(connection)
            if goes_on and not self._closed:
                self._idle.append(connection)
                return
        connection.close()

    def close(self) -> None:
        """Close what is idle, and end what is busy."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
            for connection in self._busy:
                connection.end()
        for connection in idle:
            connection.close()

    def leave(self) -> None:
        """Close what the process had before it was forked; to end it would end it for the parent."""
        for connection in (*self._idle, *self._busy):
            connection.close()

    def _check_open(self) -> None:
        if self._closed:
            raise NotServing(f"the connection to {self._path} was closed", hint="open a new one")

    def _begin(self, connection: Framed) -> None:
        try:
            with self._lock:
                self._check_open()  # again: it may have been closed while this one was made
                self._busy.add(connection)
        except NotServing:
            connection.close()
            raise

    def _connect(self, patience_s: float) -> Framed:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        framed = Framed(connection, patience_s)  # which limits how long it waits to be taken, too
        try:
            connection.connect(str(self._path))
        except OSError as error:
            connection.close()
            raise _refused(self._path, error) from error
        return framed


class _NotTakenError(Exception):
    """The other end closed before it had read the whole request: it was not answered, and never will be."""


def _refused(path: Path, error: OSError) -> DsopsError:
    """Return why there is no connection."""
    if isinstance(error, PermissionError):
        return Forbidden(
            f"the socket {path} is not for this user",
            why=f"uid {os.geteuid()}",
            hint="name the user in inference.allow of agent.toml, and let it through the folders above the socket",
        )
    if isinstance(error, BlockingIOError):
        return TimedOut("the agent takes no connection", why=f"too many wait at {path}")
    return NotServing(
        f"no agent listens on {path}",
        why=error.strerror or str(error),
        hint="start the agent, or give the path of its inference.socket",
    )


def _exchange(connection: Framed, method: Method, body: bytes, limit_ms: int) -> tuple[int, int, bytes]:
    failure: OSError | None = None
    try:
        connection.send(method, body, limit_ms)
    except (BrokenPipeError, ConnectionResetError) as error:  # an agent that has no room says so, and closes
        failure = error
    try:
        reply = connection.receive()
    except ConnectionResetError as error:  # so Linux says that it left something unread (unix(7))
        raise _NotTakenError(str(error)) from error
    if reply is None and failure is not None:
        raise _NotTakenError(str(failure)) from failure
    if reply is None:
        raise RuntimeCrashed("the connection to the agent was lost", why="it ended before the answer")
    return reply
