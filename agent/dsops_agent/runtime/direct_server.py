"""Answers programs on the device over the direct socket: the same calls as over gRPC, in plain frames.

Every connection has a thread. See :mod:`dsops.direct` for what travels.
"""

import logging
import socket
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import grpc
from google.protobuf.message import DecodeError

from dsops.direct import LAST, Framed
from dsops.errors import DsopsError, InvalidInput, QueueFull
from dsops_agent.runtime import refusals
from dsops_agent.runtime.calls import Asking, Call
from dsops_agent.runtime.sockets import Access, listen

logger = logging.getLogger(__name__)

CONNECTIONS = 64
"""A program needs one for each of its threads that asks; a connection costs a thread that sleeps."""
STALLED_S = 30.0
"""How long a caller may rest within a request, or leave an answer untaken."""
_BACKLOG = 64
_PAUSE_S = 0.1
_OK = 0


class DirectServer:
    """Listens on the direct socket from its making on, and answers between :meth:`start` and :meth:`stop`.

    Args:
        calls: What is answered.
        path: The socket; a stale socket file is replaced.
        access: Who may connect to it.

    Raises:
        InvalidConfig: The path cannot be a socket, or its file system keeps no access lists.
        PortBusy: A process listens there.
    """

    def __init__(self, calls: Iterable[Call], path: Path, access: Access) -> None:
        self._calls = {int(call.method): call for call in calls}
        self._listener = listen(path, access.first_mode, _BACKLOG)
        access.grant(path)
        self._open: dict[socket.socket, threading.Thread] = {}
        self._lock = threading.Lock()
        self._ended = False

    def start(self) -> None:
        """Begin to answer."""
        threading.Thread(target=self._accept, name="direct", daemon=True).start()

    def stop(self, grace_s: float) -> None:
        """Take no more requests, and wait until those under way are answered, for so long at most."""
        with self._lock:
            self._ended = True
            threads = dict(self._open)
        with suppress(OSError):  # close alone would not wake the thread that waits in accept
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in threads:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RD)
        ends_s = time.monotonic() + grace_s
        for thread in threads.values():
            thread.join(max(ends_s - time.monotonic(), 0.0))

    def _accept(self) -> None:
        while not self._ended:
            try:
                connection, _ = self._listener.accept()
            except OSError as error:
                if not self._ended:  # too many open files, say: callers wait in the backlog meanwhile
                    logger.warning("no connection could be taken: %s", error)
                    time.sleep(_PAUSE_S)
                continue
            self._begin(connection)

    def _begin(self, connection: socket.socket) -> None:
        thread = threading.Thread(target=self._serve, args=(connection,), name="direct-call", daemon=True)
        with self._lock:
            has_room = len(self._open) < CONNECTIONS and not self._ended
            if has_room:
                self._open[connection] = thread
        if not has_room:
            _turn_away(connection)
            return
        try:
            thread.start()
        except RuntimeError:  # no more threads: as with too many connections
            self._forget(connection)
            _turn_away(connection)

    def _serve(self, connection: socket.socket) -> None:
        framed = Framed(connection, STALLED_S)
        try:
            self._converse(framed)
        except InvalidInput as error:
            with suppress(OSError):
                framed.send(*_refusal(error), LAST)
        except OSError as error:
            logger.debug("a caller is gone: %s", error)
        finally:
            self._forget(connection)
            connection.close()

    def _converse(self, framed: Framed) -> None:
        while not self._ended:
            try:
                asked = framed.receive()
            except BlockingIOError:  # nothing to ask for now
                continue
            if asked is None:
                return
            framed.send(*self._answer(framed, *asked), LAST if self._ended else 0)

    def _answer(self, framed: Framed, number: int, limit_ms: int, body: bytes) -> tuple[int, bytes]:
        call = self._calls.get(number)
        if call is None:
            return _status(grpc.StatusCode.UNIMPLEMENTED), f"there is no call {number}".encode()
        try:
            request = call.request.FromString(body)
        except DecodeError as error:
            return _refusal(InvalidInput(f"the request of {call.name} cannot be read", why=str(error)))
        try:
            asking = Asking(limit_ms / 1000 if limit_ms else None, lambda: framed.is_gone and not self._ended)
            return _OK, call.work(request, asking).SerializeToString()
        except DsopsError as error:
            return _refusal(error)
        except Exception:  # the border to a caller: it gets a status, the log the traceback
            logger.exception("a call failed")
            return _status(grpc.StatusCode.INTERNAL), refusals.FAILED.encode()

    def _forget(self, connection: socket.socket) -> None:
        with self._lock:
            self._open.pop(connection, None)


def _turn_away(connection: socket.socket) -> None:
    """Tell a caller that there is no room for it; the answer to whatever it asks first."""
    with connection, suppress(OSError):
        error = QueueFull("too many programs are connected", why=f"{CONNECTIONS} are")
        Framed(connection, 1.0).send(*_refusal(error), LAST)


def _refusal(error: DsopsError) -> tuple[int, bytes]:
    return _status(refusals.grpc_status(error)), refusals.text_of(error).encode()


def _status(code: grpc.StatusCode) -> int:
    number: int = code.value[0]
    return number
