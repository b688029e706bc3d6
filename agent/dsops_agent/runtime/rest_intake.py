"""Receives the requests of REST: how much of them may be there before they are answered, and for how long they come.

The bounds are those of the direct socket: a body takes room by the length that its head tells, before it is received;
its JSON has 4 MiB, or 1 MiB where no length is told; it arrives within a time. Who is refused is told so at once, as
JSON, and what still comes of the body is let go, so that a program that sends all of it first can read why.

waitress receives all requests in one thread, which must not wait: a body waits for its room by not being read.
"""

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from http import HTTPStatus
from io import BytesIO

from waitress.parser import HTTPRequestParser

from dsops.direct import MAX_BODY_BYTES
from dsops.errors import DsopsError, TimedOut, TooLarge
from dsops_agent.runtime import refusals
from dsops_agent.runtime.direct_server import BODY_S, STALLED_S
from dsops_agent.runtime.parsing import JSON_BYTES, PLAIN_BYTES
from dsops_agent.runtime.room import SMALL_BYTES, Room

_JSON_LENGTH = "INFERENCE_HEADER_CONTENT_LENGTH"
_IN_BINARY = "send tensors as binary data or in shared memory, and fewer frames in a request"


class _Kept:
    """The bytes of a body, until they are taken out."""

    def __init__(self) -> None:
        self._came = bytearray()

    def __len__(self) -> int:
        return len(self._came)

    def append(self, data: bytes) -> None:
        self._came += data

    def getfile(self) -> BytesIO:
        taken, self._came = bytes(self._came), bytearray()
        return BytesIO(taken)  # which whoever reads all of it shares

    def close(self) -> None:
        self._came = bytearray()


class _LetGo(_Kept):
    """The bytes of a body that nobody wants."""

    def append(self, data: bytes) -> None:
        pass


class Told:
    """A refusal in the place of an error of waitress.

    Args:
        problem: Why.
        closes: Whether nothing more is taken from the connection.
        is_last: Whether nothing more is answered on it; what still comes is let go.
    """

    def __init__(self, problem: DsopsError, *, closes: bool, is_last: bool = False) -> None:
        is_late = isinstance(problem, TimedOut)  # in arriving; nothing behind this server is
        self.code = HTTPStatus.REQUEST_TIMEOUT if is_late else refusals.http_status(problem)
        self.body = refusals.text_of(problem)
        self.closes = closes
        self.is_last = is_last


class Arriving(HTTPRequestParser):  # type: ignore[misc]
    """A request that is received.

    Attributes:
        command: Its method, once its head is there.
        waits: Whether its body waits for room, and must not be read.
        is_told: Whether its caller was told why it is refused; what comes of it is let go.
    """

    error: object
    command = ""

    def __init__(self, room: Room, user: Callable[[], str], away: DsopsError | None, adj: object) -> None:
        super().__init__(adj)
        self._room, self._user = room, user
        self._taken: list[tuple[int, str]] = []
        self._wanted = (0, "")
        self._ends_s = time.monotonic() + STALLED_S
        self._expects = False
        self._problem = self._away = away
        self._is_over = False
        self.waits = False
        self.is_told = False

    def received(self, data: bytes) -> int:
        """Take in what came; return how much of it was this request's."""
        had_head = self.headers_finished
        consumed: int = super().received(data)
        if self.headers_finished and not had_head and not self.completed:
            self._begin_body()
        if self.chunked and self.body_bytes_received > PLAIN_BYTES and not self._problem:
            self._refuse(
                TooLarge(f"a body that does not tell its length has up to {PLAIN_BYTES} bytes", hint=_IN_BINARY)
            )
        if self.completed and self._problem and not self.error:
            self.empty = self.is_told
            self.error = Told(self._problem, closes=self._away is not None)
        return consumed

    def look(self, now_s: float) -> Told | None:
        """Return what its caller is to be told by now, once."""
        if self._is_over or self.is_told:
            return None
        if self.waits and self._take():
            self.waits, self.expect_continue, self._ends_s = False, self._expects, now_s + BODY_S
        elif now_s > self._ends_s and not self._problem:
            self._refuse(self._room.full() if self.waits else _late(self.headers_finished, self.body_bytes_received))
        if self._problem is None or (self._away and not self.headers_finished):
            return None
        self.is_told = True
        closes = self._expects or isinstance(self._problem, TimedOut)
        return Told(self._problem, closes=closes, is_last=self._away is not None)

    def is_stale(self, now_s: float) -> bool:
        """Return whether it was refused, and what is let go of it takes too long."""
        return self.is_told and now_s > self._ends_s

    def close(self) -> None:
        """Give back what it holds; it takes no more."""
        self._is_over = True
        self._give_back()
        super().close()

    def _begin_body(self) -> None:
        self._ends_s = time.monotonic() + BODY_S
        self._expects = self.expect_continue
        self.body_rcv.buf = _LetGo() if self._problem else _Kept()
        try:
            self._wanted = _weight(self.headers, self.content_length, is_chunked=self.chunked), self._user()
        except TooLarge as error:
            self._refuse(error)
        if self._problem or self._take():  # who finds no place takes no room either
            return
        self.waits, self.expect_continue = True, False
        self._ends_s = time.monotonic() + self._room.wait_s

    def _take(self) -> bool:
        size, user = self._wanted
        if self._is_over or (size and not self._room.try_take(size, user)):
            return False
        self._taken.append(self._wanted)
        return True

    def _give_back(self) -> None:
        with suppress(IndexError):  # one step: a connection may be closed by two threads
            self._room.give_back(*self._taken.pop())

    def _refuse(self, problem: DsopsError) -> None:
        self._problem = problem
        self.waits = self.expect_continue = False
        self._ends_s = time.monotonic() + BODY_S
        self._give_back()
        if self.body_rcv is not None:
            self.body_rcv.buf = _LetGo()


def _weight(headers: Mapping[str, str], length: int, *, is_chunked: bool) -> int:
    """Return how much room a body takes.

    Raises:
        TooLarge: It is longer than one may be.
    """
    if is_chunked:
        return PLAIN_BYTES  # it may become so long
    told = headers.get(_JSON_LENGTH, "")
    plain = min(int(told), length) if told.isascii() and told.isdigit() and len(told) <= 12 else length
    if length > MAX_BODY_BYTES:
        raise TooLarge(f"a body has at most {MAX_BODY_BYTES} bytes", why=f"this one has {length}")
    if plain > JSON_BYTES:
        raise TooLarge(f"a body has up to {JSON_BYTES} bytes of JSON", why=f"this one has {plain}", hint=_IN_BINARY)
    return length if length > SMALL_BYTES else 0


def _late(has_head: bool, came: int) -> TimedOut:
    within_s = BODY_S if has_head else STALLED_S
    return TimedOut(
        "the request did not arrive in time",
        why=f"{came} bytes of its body came within {within_s:g} s" if has_head else f"no head within {within_s:g} s",
        hint="send a request at once when it has begun",
    )
