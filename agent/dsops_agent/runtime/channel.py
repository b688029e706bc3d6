"""The control channel between the two processes of a device: requests and replies in both directions on one socket.

    u32 LE header length | u32 LE body length | header (JSON object) | body (bytes)

A request's header is ``{"id": n, "op": name, ...}``; its reply's is ``{"re": n, "ok": true, ...}`` or
``{"re": n, "ok": false, "error": {...}}``. Each side numbers its own requests. The socket belongs to one user (0600),
so the peer is trusted to be a dsops process, but not to be healthy: every length and every wait has a limit.
"""

import json
import logging
import queue
import socket
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from dsops.errors import Conflict, DsopsError, InvalidInput, RuntimeCrashed, from_dict

logger = logging.getLogger(__name__)

MAX_HEADER_BYTES = 1 << 20
MAX_BODY_BYTES = 16 << 20
MAX_WAITING_REQUESTS = 64
WORKERS = 3
"""Handlers that may run side by side, so that a long one does not hold up a status question."""
SEND_TIMEOUT_S = 10
"""How long a peer may refuse to take bytes before the connection is given up."""

_LENGTHS = struct.Struct("<II")

Header = dict[str, Any]
Handler = Callable[[str, Header, bytes], tuple[Header, bytes]]


class FrameRefused(ValueError):
    """Bytes on the channel are not a frame."""


@dataclass
class _Pending:
    """A request that waits for its reply."""

    done: threading.Event = field(default_factory=threading.Event)
    header: Header | None = None
    body: bytes = b""


class Asked:
    """A question to the peer. Thread-safe."""

    def __init__(self, op: str, waiting: _Pending, give_up: Callable[[], None]) -> None:
        self._op, self._waiting = op, waiting
        self.give_up = give_up
        """Wait for the answer no longer."""

    def wait(self, timeout_s: float) -> bool:
        """Wait so long at most; return whether there is an answer, or none can come any more."""
        return self._waiting.done.wait(timeout_s)

    def answer(self) -> tuple[Header, bytes]:
        """Return what came: header fields and body.

        Raises:
            RuntimeCrashed: The peer is gone.
            DsopsError: The error that the peer's handler raised.
        """
        header = self._waiting.header
        if header is None:
            raise RuntimeCrashed(f"no answer to {self._op!r}", why="the control channel was closed")
        if not header.get("ok"):
            error = header.get("error")
            raise from_dict(error if isinstance(error, dict) else {})
        return {key: value for key, value in header.items() if key not in ("re", "ok")}, self._waiting.body


def encode_frame(header: Header, body: bytes = b"") -> bytes:
    """Return the bytes of one frame.

    Raises:
        FrameRefused: It is longer than the peer would take.
    """
    text = json.dumps(header, separators=(",", ":")).encode()
    _check_lengths(len(text), len(body))
    return _LENGTHS.pack(len(text), len(body)) + text + body


def read_frame(sock: socket.socket) -> tuple[Header, bytes] | None:
    """Read one frame; None when the peer closed the connection between two frames.

    Raises:
        FrameRefused: What came is not a frame.
        OSError: The connection failed.
    """
    lengths = _read_exactly(sock, _LENGTHS.size, may_end=True)
    if not lengths:
        return None
    header_bytes, body_bytes = _LENGTHS.unpack(lengths)
    _check_lengths(header_bytes, body_bytes)
    header = _parse_header(_read_exactly(sock, header_bytes))
    return header, _read_exactly(sock, body_bytes)


def _check_lengths(header_bytes: int, body_bytes: int) -> None:
    if header_bytes > MAX_HEADER_BYTES or body_bytes > MAX_BODY_BYTES:
        raise FrameRefused(f"a frame of {header_bytes} + {body_bytes} bytes is too long")


def _parse_header(text: bytes) -> Header:
    try:
        header = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise FrameRefused(f"the header is not JSON: {error}") from error
    if not isinstance(header, dict):
        raise FrameRefused("the header is not a JSON object")
    return header


def _read_exactly(sock: socket.socket, length: int, *, may_end: bool = False) -> bytes:
    data = bytearray(length)
    view = memoryview(data)
    have = 0
    while have < length:
        got = sock.recv_into(view[have:])
        if got == 0:
            if may_end and have == 0:
                return b""
            raise FrameRefused("the connection ended inside a frame")
        have += got
    return bytes(data)


class Channel:
    """One end of the channel. Nothing runs until :meth:`start`.

    ``handle(op, header, body)`` answers the peer's requests, on worker threads of the channel: it may call back, and
    several may run at once. What it raises of the tree of :mod:`dsops.errors` reaches the caller as that error.

    Attributes:
        closed: Set once the connection is over, from either side.
    """

    def __init__(self, sock: socket.socket, handle: Handler) -> None:
        self.closed = threading.Event()
        self._sock = sock
        self._handle = handle
        self._send_lock = threading.Lock()
        self._pending_lock = threading.Lock()
        self._pending: dict[int, _Pending] = {}
        self._next_id = 0
        self._requests: queue.Queue[tuple[Header, bytes] | None] = queue.Queue(MAX_WAITING_REQUESTS + WORKERS)

    def start(self) -> None:
        """Start the reader and the workers."""
        sent_within = struct.pack("@ll", SEND_TIMEOUT_S, 0)  # struct timeval
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, sent_within)
        threading.Thread(target=self._read, name="channel-reader", daemon=True).start()
        for number in range(WORKERS):
            threading.Thread(target=self._work, name=f"channel-worker-{number}", daemon=True).start()

    def call(self, op: str, body: bytes = b"", timeout_s: float = 10.0, **header: object) -> tuple[Header, bytes]:
        """Ask the peer and return its answer: header fields and body.

        Raises:
            RuntimeCrashed: The peer is gone or does not answer in time.
            InvalidInput: The request is too long for one frame.
            DsopsError: The error that the peer's handler raised.
        """
        asked = self.ask(op, body, **header)
        try:
            if not asked.wait(timeout_s):
                raise RuntimeCrashed(f"no answer to {op!r}", why=f"the other process was silent for {timeout_s:g} s")
            return asked.answer()
        finally:
            asked.give_up()

    def ask(self, op: str, body: bytes = b"", **header: object) -> "Asked":
        """Ask the peer, and return the question: its answer is waited for, and it is given up in the end.

        Raises:
            RuntimeCrashed: The peer is gone.
            InvalidInput: The request is too long for one frame.
        """
        number, waiting = self._register()
        asked = Asked(op, waiting, lambda: self._forget(number))
        try:
            self._send({**header, "id": number, "op": op}, body)
        except DsopsError:
            asked.give_up()
            raise
        return asked

    def close(self) -> None:
        """End the connection; calls under way raise RuntimeCrashed. Does nothing when it is over already."""
        with self._pending_lock:
            if self.closed.is_set():
                return
            self.closed.set()
            waiting = list(self._pending.values())
        try:
            self._sock.shutdown(socket.SHUT_RDWR)  # wakes the reader, which a close alone does not
        except OSError as error:
            logger.debug("the channel was down already: %s", error)
        for pending in waiting:
            pending.done.set()
        self._stop_workers()

    def _stop_workers(self) -> None:
        while True:  # requests that nobody will read the answer to are dropped
            try:
                self._requests.get_nowait()
            except queue.Empty:
                break
        for _ in range(WORKERS):
            self._requests.put_nowait(None)

    def _forget(self, number: int) -> None:
        with self._pending_lock:
            self._pending.pop(number, None)

    def _register(self) -> tuple[int, _Pending]:
        with self._pending_lock:
            if self.closed.is_set():
                raise RuntimeCrashed("the other process is gone", why="the control channel is closed")
            self._next_id += 1
            self._pending[self._next_id] = waiting = _Pending()
            return self._next_id, waiting

    def _send(self, header: Header, body: bytes) -> None:
        try:
            frame = encode_frame(header, body)
        except FrameRefused as error:
            raise InvalidInput("the message is too long for the control channel", why=str(error)) from error
        try:
            with self._send_lock:
                self._sock.sendall(frame)
        except OSError as error:  # part of a frame may be out: nothing that follows could be understood
            self.close()
            raise RuntimeCrashed("the other process is gone", why=f"cannot send: {error.strerror}") from error

    def _read(self) -> None:
        try:
            while (frame := read_frame(self._sock)) is not None:
                self._take(*frame)
        except FrameRefused as error:
            logger.warning("control channel closed: %s", error)
        except OSError as error:
            logger.debug("control channel closed: %s", error)
        finally:
            self.close()
            self._sock.close()

    def _take(self, header: Header, body: bytes) -> None:
        if "re" not in header:
            self._take_request(header, body)
            return
        if not isinstance(header["re"], int):
            raise FrameRefused("a reply names its request by number")
        with self._pending_lock:
            waiting = self._pending.get(header["re"])
        if waiting is None:
            logger.warning("an answer came too late for its request")
            return
        waiting.header, waiting.body = header, body
        waiting.done.set()

    def _take_request(self, header: Header, body: bytes) -> None:
        if not isinstance(header.get("id"), int) or not isinstance(header.get("op"), str):
            raise FrameRefused("a request needs an id and an op")
        if self._requests.qsize() >= MAX_WAITING_REQUESTS:
            self._reply(header["id"], Conflict("too many requests wait on the control channel"))
            return
        self._requests.put_nowait((header, body))

    def _work(self) -> None:
        while (request := self._requests.get()) is not None:
            header, body = request
            number, op = header.pop("id"), header.pop("op")
            try:
                answer, answer_body = self._handle(op, header, body)
            except DsopsError as error:
                self._reply(number, error)
            except Exception as error:  # the border of a thread: the peer must get an answer, and the thread must live
                logger.exception("request %r failed", op)
                self._reply(number, DsopsError(f"request {op!r} failed inside the other process", why=repr(error)))
            else:
                self._reply(number, answer, answer_body)

    def _reply(self, number: int, answer: Header | DsopsError, body: bytes = b"") -> None:
        if isinstance(answer, DsopsError):
            header: Header = {"re": number, "ok": False, "error": answer.as_dict()}
        else:
            header = {**answer, "re": number, "ok": True}
        try:
            self._send(header, body)
        except DsopsError as error:
            logger.warning("an answer on the control channel could not be sent: %s", error)
