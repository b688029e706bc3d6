"""Answers programs on the device over gRPC on a Unix socket: the calls of :mod:`dsops_agent.runtime.calls`.

Those of Triton's extensions stand under the protocol's own service name, because clients of Triton make them there.

A call is received by its own thread, as a stream of which one message is taken: only so does gRPC leave it to us when
a message is received, and hand it over unread. On the wire both are the same.
"""

import logging
import os
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.message import Message

from dsops.direct import MAX_BODY_BYTES
from dsops.errors import DsopsError, InvalidInput, PortBusy, QueueFull
from dsops_agent.runtime import refusals
from dsops_agent.runtime.admission import ended
from dsops_agent.runtime.calls import Asking, Call
from dsops_agent.runtime.dispatch import CAPACITY
from dsops_agent.runtime.intake import Intake
from dsops_agent.runtime.parsing import parsed
from dsops_agent.runtime.room import Room
from dsops_agent.runtime.shares import NOBODY, Shares
from dsops_agent.runtime.sockets import Access, make_room
from dsops_agent.runtime.tcp_peers import TcpPeers

logger = logging.getLogger(__name__)

SERVICE = "inference.GRPCInferenceService"
WORKERS = CAPACITY + 8
"""Threads, made when needed. A call that waits holds one; those above the capacity answer what does not wait."""
CONNECTIONS = 128
"""Programs make one each; what a connection may send before anybody receives it is 64 KB a call."""
_STRANGERS = "the programs at the inference socket"
"""Count as one user where bytes are held: which of them holds how much nobody knows, and others must find room too."""
_CALLS_OF_A_CONNECTION = 2 * WORKERS
_OPTIONS = [
    ("grpc.max_receive_message_length", MAX_BODY_BYTES),
    ("grpc.max_send_message_length", MAX_BODY_BYTES),
    ("grpc.max_concurrent_streams", _CALLS_OF_A_CONNECTION),
    ("grpc.max_allowed_incoming_connections", CONNECTIONS),
    ("grpc.http2.bdp_probe", 0),  # it would let callers send more than that, by how fast they do
    ("grpc.so_reuseport", 0),  # two runtimes on one TCP port would share its callers
]


class _Crowd:
    """The calls that gRPC has begun: how many a user has, and which of them must still get their answer.

    Safe to call from several threads.
    """

    def __init__(self) -> None:
        self._shares = Shares(WORKERS)
        self._unanswered = 0
        self._changed = threading.Condition()

    @contextmanager
    def one_of(self, user: str) -> Iterator[None]:
        """Count a call of a user.

        Raises:
            QueueFull: The user has too many.
        """
        with self._changed:
            if not self._shares.fits(1, user):
                raise QueueFull("too many calls are under way", why=f"{user} has as many as one may have")
            self._shares.take(1, user)
        try:
            yield
        finally:
            with self._changed:
                self._shares.give_back(1, user)

    def received(self, context: grpc.ServicerContext) -> None:
        """Count a call as unanswered until gRPC has sent its answer."""
        with self._changed:
            self._unanswered += 1
        if not context.add_callback(self._answered):
            self._answered()

    def wait(self, wait_s: float) -> None:
        """Wait so long at most until every call that was received is answered."""
        with self._changed:
            self._changed.wait_for(lambda: not self._unanswered, wait_s)

    def _answered(self) -> None:
        with self._changed:
            self._unanswered -= 1
            self._changed.notify_all()


class GrpcServer:
    """Answers from its making on; use :func:`start_server`.

    Args:
        calls: What is answered.
        room: What messages take once they are there.

    Attributes:
        tcp_port: Where it answers on loopback; 0 for nowhere.
    """

    def __init__(self, calls: Iterable[Call], room: Room) -> None:
        self._room = room
        self._intake = Intake()
        self._crowd = _Crowd()
        self._ended = False
        self._peers = TcpPeers()
        self.tcp_port = 0
        workers = ThreadPoolExecutor(WORKERS, thread_name_prefix="inference")
        self._server = grpc.server(workers, options=_OPTIONS, maximum_concurrent_rpcs=WORKERS)
        handlers = {call.name: self._handler(call) for call in calls}
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))

    def bind(self, address: str, name: str) -> int:
        """Listen on one more address, which people know by ``name``; return its port, if it has one.

        Raises:
            PortBusy: It cannot be bound.
        """
        try:
            return self._server.add_insecure_port(address)
        except RuntimeError as error:
            raise PortBusy(f"cannot listen on {name}", why=str(error)) from error

    def bind_tcp(self, address: str) -> None:
        """Listen on a loopback address, host:port.

        Raises:
            PortBusy: It cannot be bound.
        """
        self.tcp_port = self.bind(address, address)

    def start(self) -> None:
        """Begin to answer."""
        self._server.start()

    def end(self) -> None:
        """Answer nothing more that is not begun: who asks is told so, for as long as the process is there.

        gRPC's own end would cancel the calls that have just arrived, and their callers could not tell whether to ask
        again. The end of the process closes the connections: that is UNAVAILABLE to who asks.
        """
        self._ended = True

    def wait(self, wait_s: float) -> None:
        """Wait so long at most until what was received is answered."""
        self._crowd.wait(wait_s)

    def stop(self, wait_s: float) -> None:
        """Come to an end within a process that goes on: calls under way have so long, and are cancelled then."""
        self.end()
        self.wait(wait_s)
        self._server.stop(0).wait()

    def _handler(self, call: Call) -> "grpc.RpcMethodHandler[Any, Any]":
        def answer(messages: Iterator[bytes], context: grpc.ServicerContext) -> Message:
            try:
                return self._answer(call, messages, context)
            except DsopsError as error:
                context.abort(refusals.grpc_status(error), refusals.text_of(error))
            except grpc.RpcError:  # the caller went away within its request, or was given up; gRPC knows
                raise
            except Exception:  # the border to a caller: it gets a status, the log the traceback
                logger.exception("a call failed")
                context.abort(grpc.StatusCode.INTERNAL, refusals.FAILED)

        return grpc.stream_unary_rpc_method_handler(
            answer, response_serializer=lambda response: response.SerializeToString()
        )

    def _answer(self, call: Call, messages: Iterator[bytes], context: grpc.ServicerContext) -> Message:
        """Return the answer to a call.

        Raises:
            DsopsError: There is none.
            grpc.RpcError: Its caller is gone.
        """
        user = self._user_of(context)
        with self._crowd.one_of(user):
            with self._intake.place(user, context.cancel):
                body = next(messages, None)
            if body is None:
                raise InvalidInput(f"a call of {call.name} has one message", why="this one has none")
            if self._ended:
                raise ended()
            self._crowd.received(context)
            holder = user or _STRANGERS
            with self._room.held(len(body), holder):
                request = parsed(call.request, call.name, body)
                del body  # the message has its own copy
                asking = Asking(context.time_remaining(), lambda: not context.is_active(), holder)
                return call.work(request, asking)

    def _user_of(self, context: grpc.ServicerContext) -> str:
        """Return who calls over loopback; gRPC does not tell who does over the socket, whom its access list lets in."""
        peer = context.peer()
        return NOBODY if peer.startswith("unix:") else self._peers.user_of(peer, self.tcp_port)


def start_server(
    calls: Iterable[Call], path: Path, access: Access, tcp: str = "", room: Room | None = None
) -> GrpcServer:
    """Start answering on a Unix socket; a stale socket file is replaced.

    Args:
        calls: What is answered.
        path: The socket.
        access: Who may connect to it.
        tcp: A loopback address, host:port, to answer on as well; empty for none.
        room: What messages take once they are there.

    Raises:
        InvalidConfig: The path cannot be a socket, or its file system keeps no access lists.
        PortBusy: A process listens there, or an address cannot be bound.
    """
    make_room(path)
    server = GrpcServer(calls, room or Room())
    before = os.umask(0o777 & ~access.first_mode)
    own = path.with_name(f"{path.name}.{os.getpid():x}")  # at its end gRPC removes what has this name
    try:
        server.bind(f"unix:{own.resolve()}", str(path))
        if tcp:
            server.bind_tcp(tcp)
        server.start()
    finally:
        os.umask(before)
    access.grant(own)
    own.rename(path)
    return server
