"""Answers programs on the device over the direct socket: the same calls as over gRPC, in plain frames.

One thread at a time waits for all connections, and answers small requests of quick models itself; a connection that
asks for more keeps the thread that answers it, and another one waits for the others (:mod:`dsops_agent.runtime.crew`).
When as many connections are open as may be, the one that has asked nothing for longest is ended for the next: its
program makes a new one when it asks again. See :mod:`dsops.direct` for what travels.
"""

import logging
import socket
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from dsops.call_status import CallStatus, status_of
from dsops.direct import LAST, Framed, Head, Method
from dsops.errors import DsopsError, InvalidInput, QueueFull, TimedOut
from dsops_agent.runtime import refusals
from dsops_agent.runtime.admission import ended
from dsops_agent.runtime.calls import Asking, Call
from dsops_agent.runtime.crew import Crew, Lead
from dsops_agent.runtime.parsing import parsed
from dsops_agent.runtime.room import SMALL_BYTES, Room
from dsops_agent.runtime.shares import most_of
from dsops_agent.runtime.sockets import Access, listen, peer_user

logger = logging.getLogger(__name__)

CONNECTIONS = 64
"""A program needs one for each of its threads that asks; a connection costs a thread at most."""
STALLED_S = 30.0
"""How long a caller may rest within the head of a request, or leave an answer untaken."""
BODY_S = 5.0
"""How long the body of a request may take to arrive once its head is there; on one device it takes milliseconds."""
QUICK_S = 0.002
"""Who leads no more gives a connection back to the leader after a request that took no longer."""
_BACKLOG = 64
_PAUSE_S = 0.1
_LEAVING_S = 1.0


@dataclass(eq=False)
class _Line:
    """A connection.

    Attributes:
        framed: Its end here.
        user: Who is at the other end.
        leaves: Is called when nobody serves it any more.
        rests_since_s: When its last answer was given; None while it is asked for one.
        ends: Whether nothing more is taken from it.
    """

    framed: Framed
    user: str
    leaves: Callable[["_Line"], None]
    rests_since_s: float | None = None
    ends: bool = False

    def fileno(self) -> int:
        """Return its descriptor."""
        return self.framed.fileno()

    def close(self) -> None:
        """Close it, which may take long; its place is free before."""
        self.leaves(self)
        self.framed.close()

    def take_no_more(self) -> None:
        """Answer what was sent, and no more."""
        self.ends = True
        self.framed.take_no_more()


class _Turn:
    """One request.

    Attributes:
        is_slow: Whether others might have had to wait for it.
    """

    __slots__ = ("_lead", "is_slow")

    def __init__(self, lead: Lead[_Line]) -> None:
        self._lead = lead
        self.is_slow = False

    def slowly(self) -> None:
        """Let others not wait for what comes next."""
        self.is_slow = True
        self._lead.hand_over()


class DirectServer:
    """Listens on the direct socket from its making on, and answers between :meth:`start` and :meth:`stop`.

    Args:
        calls: What is answered.
        path: The socket; a stale socket file is replaced.
        access: Who may connect to it.
        room: What the bodies of requests take, before they are received.

    Raises:
        InvalidConfig: The path cannot be a socket, or its file system keeps no access lists.
        PortBusy: A process listens there.
    """

    def __init__(self, calls: Iterable[Call], path: Path, access: Access, room: Room | None = None) -> None:
        self._room = room or Room()
        self._calls = {int(call.method): call for call in calls}
        self._listener = listen(path, access.first_mode, _BACKLOG)
        access.grant(path)
        self._open: set[_Line] = set()
        self._changed = threading.Condition()
        self._crew: Crew[_Line] = Crew("direct-call", self._serve)
        self._ended = False

    def start(self) -> None:
        """Begin to answer."""
        self._crew.start()
        threading.Thread(target=self._accept, name="direct", daemon=True).start()

    def stop(self, grace_s: float) -> None:
        """Take no more requests, and wait until those under way are answered, for so long at most."""
        self.end()
        self.wait(grace_s)

    def end(self) -> None:
        """Take no more requests; those that are there already, and were not begun, are told so."""
        with self._changed:
            self._ended = True
            lines = list(self._open)
        with suppress(OSError):  # close alone would not wake the thread that waits in accept
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for line in lines:
            line.take_no_more()
        self._crew.end()

    def wait(self, wait_s: float) -> None:
        """Wait so long at most until what was under way at the end is answered."""
        with self._changed:
            self._changed.wait_for(lambda: not self._open, wait_s)

    def _accept(self) -> None:
        while not self._ended:
            try:
                connection, _ = self._listener.accept()
            except OSError as error:
                if not self._ended:  # too many open files, say: callers wait in the backlog meanwhile
                    logger.warning("no connection could be taken: %s", error)
                    time.sleep(_PAUSE_S)
                continue
            framed = Framed(connection, STALLED_S)
            self._let_go()
            line = _Line(framed, peer_user(connection), self._leave, rests_since_s=time.monotonic())
            if problem := self._admit(line):
                _turn_away(framed, problem)

    def _leave(self, line: _Line) -> None:
        with self._changed:
            self._open.discard(line)
            self._changed.notify_all()

    def _let_go(self) -> None:
        """Let those that were ended for others go, when there are as many as may stay."""
        with self._changed:
            self._changed.wait_for(lambda: sum(line.ends for line in self._open) < CONNECTIONS, _LEAVING_S)

    def _admit(self, line: _Line) -> DsopsError | None:
        """Let a connection be served, or return why not."""
        with self._changed:
            if self._ended:
                return ended()
            if problem := self._crowded(line.user):
                return problem
            try:
                self._crew.add(line)
            except OSError as error:
                return QueueFull("too many programs are connected", why=str(error))
            self._open.add(line)
        return None

    def _crowded(self, user: str) -> QueueFull | None:
        """Return why a user may not connect once more; a connection that rests may have to go for the new one."""
        staying = [line for line in self._open if not line.ends]
        theirs = [line for line in staying if line.user == user]
        if len(theirs) >= most_of(CONNECTIONS):  # one of the same user's has to go
            return self._make_way(theirs, f"user {user} has {len(theirs)} of {CONNECTIONS}, and asks on each")
        if len(staying) >= CONNECTIONS:
            return self._make_way(staying, f"{CONNECTIONS} are, and ask")
        return None

    def _make_way(self, lines: Sequence[_Line], why: str) -> QueueFull | None:
        """Let the connection go that rests for longest, or return why none may go."""
        resting = {line: since_s for line in lines if (since_s := line.rests_since_s) is not None}
        if not resting or len(self._open) >= 2 * CONNECTIONS:  # those that were ended take a moment to go
            return QueueFull("too many programs are connected", why=why)
        min(resting, key=resting.__getitem__).take_no_more()
        return None

    def _serve(self, line: _Line, lead: Lead[_Line]) -> bool:
        """Answer at a connection what is there; return whether it goes on."""
        try:
            return self._converse(line, lead)
        except (InvalidInput, QueueFull, TimedOut) as error:  # what of it is still to come would be taken for the next
            lead.hand_over()
            with suppress(OSError):
                line.framed.send(*_refusal(error), LAST)
        except (OSError, EOFError) as error:
            logger.debug("a caller is gone: %s", error)
        return False

    def _converse(self, line: _Line, lead: Lead[_Line]) -> bool:
        """Answer one request as the leader; who no longer is stays until one was quick, or the connection ends."""
        framed = line.framed
        while True:
            turn = _Turn(lead)
            message = framed.at_once(SMALL_BYTES) if lead.is_held else None
            if message:
                line.rests_since_s, began_s = None, time.monotonic()
                status, body = self._answer(line, *message, turn)
            else:
                lead.hand_over()
                try:
                    head = framed.head()
                except BlockingIOError:  # nothing to ask for now
                    continue
                if head is None:
                    return False
                line.rests_since_s, began_s = None, time.monotonic()
                with self._room.held(head.length, line.user):
                    status, body = self._answer(line, head, _received(framed, head), turn)
            if framed.holds_more:  # others do not wait for all that was sent at once
                turn.slowly()
            is_last = line.ends and framed.is_gone  # what was sent before the end is answered first
            line.rests_since_s = time.monotonic()  # before its caller knows: it may be another one's turn at once
            framed.send(status, body, LAST if is_last else 0, turn.slowly)
            if is_last:
                return False
            is_quick = not turn.is_slow and line.rests_since_s - began_s < QUICK_S
            if not framed.holds_more and (lead.is_held or is_quick):
                return True

    def _answer(self, line: _Line, head: Head, body: bytes, turn: _Turn) -> tuple[int, bytes]:
        """Return status and body of the reply to a request."""
        call = self._calls.get(head.code)
        if self._ended:
            return _refusal(ended())
        if call is None:
            return CallStatus.UNIMPLEMENTED, f"there is no call {head.code}".encode()
        if call.method is not Method.MODEL_INFER:  # of those that ask the system for something no time is known
            turn.slowly()
        try:
            request = parsed(call.request, call.name, body)
            del body  # the message has its own copy
            limit_s = head.limit_ms / 1000 if head.limit_ms else None
            asking = Asking(limit_s, lambda: line.framed.hung_up, line.user, turn.slowly)
            return CallStatus.OK, call.work(request, asking).SerializeToString()
        except DsopsError as error:
            return _refusal(error)
        except Exception:  # the border to a caller: it gets a status, the log the traceback
            logger.exception("a call failed")
            return CallStatus.INTERNAL, refusals.FAILED.encode()


def _received(framed: Framed, head: Head) -> bytes:
    if head.length <= SMALL_BYTES:  # the limit would cost two calls of the kernel
        return framed.body(head, STALLED_S)
    framed.be_patient(BODY_S)
    body = framed.body(head, BODY_S)
    framed.be_patient(STALLED_S)
    return body


def _turn_away(framed: Framed, problem: DsopsError) -> None:
    """Turn a caller away; others do not wait for the close, with which descriptors go that it sent already."""
    try:
        threading.Thread(target=_tell, args=(framed, problem), name="direct-away", daemon=True).start()
    except RuntimeError:  # no further thread can be had
        _tell(framed, problem)


def _tell(framed: Framed, problem: DsopsError) -> None:
    """Tell a caller why it cannot be taken; the answer to whatever it asks first."""
    framed.be_patient(1.0)
    with suppress(OSError):
        framed.send(*_refusal(problem), LAST)
    framed.close()


def _refusal(error: DsopsError) -> tuple[int, bytes]:
    return status_of(error), refusals.text_of(error).encode()
