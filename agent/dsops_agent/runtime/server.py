"""Answers programs on the device over gRPC on a Unix socket: the calls of :mod:`dsops_agent.runtime.calls`.

Those of Triton's extensions stand under the protocol's own service name, because clients of Triton make them there.
"""

import logging
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import grpc
from google.protobuf.message import Message

from dsops.direct import MAX_BODY_BYTES
from dsops.errors import DsopsError, PortBusy
from dsops_agent.runtime import refusals
from dsops_agent.runtime.calls import Asking, Call
from dsops_agent.runtime.dispatch import CAPACITY
from dsops_agent.runtime.sockets import Access, make_room

logger = logging.getLogger(__name__)

SERVICE = "inference.GRPCInferenceService"
WORKERS = CAPACITY + 8
"""Threads, made when needed. A call that waits holds one; those above the capacity answer what does not wait."""

Result = TypeVar("Result")


def _handler(call: Call) -> "grpc.RpcMethodHandler[Any, Any]":
    def answer(request: Message, context: grpc.ServicerContext) -> Message:
        asking = Asking(context.time_remaining(), lambda: not context.is_active())
        return _guarded(context, lambda: call.work(request, asking))

    return grpc.unary_unary_rpc_method_handler(
        answer,
        request_deserializer=call.request.FromString,
        response_serializer=lambda response: response.SerializeToString(),
    )


def _guarded(context: grpc.ServicerContext, work: Callable[[], Result]) -> Result:
    """Return what ``work`` returns, or end the call with the status that fits its error."""
    try:
        return work()
    except DsopsError as error:
        context.abort(refusals.grpc_status(error), refusals.text_of(error))
    except Exception:  # the border to a caller: it gets a status, the log the traceback
        logger.exception("a call failed")
        context.abort(grpc.StatusCode.INTERNAL, refusals.FAILED)


def start_server(calls: Iterable[Call], path: Path, access: Access, tcp: str = "") -> grpc.Server:
    """Start answering on a Unix socket; a stale socket file is replaced.

    Args:
        calls: What is answered.
        path: The socket.
        access: Who may connect to it.
        tcp: A loopback address, host:port, to answer on as well; empty for none.

    Raises:
        InvalidConfig: The path cannot be a socket, or its file system keeps no access lists.
        PortBusy: A process listens there, or an address cannot be bound.
    """
    make_room(path)
    workers = ThreadPoolExecutor(WORKERS, thread_name_prefix="inference")
    options = [
        ("grpc.max_receive_message_length", MAX_BODY_BYTES),
        ("grpc.max_send_message_length", MAX_BODY_BYTES),
        ("grpc.so_reuseport", 0),  # two runtimes on one TCP port would share its callers
    ]
    server = grpc.server(workers, options=options, maximum_concurrent_rpcs=WORKERS)
    handlers = {call.name: _handler(call) for call in calls}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    before = os.umask(0o777 & ~access.first_mode)
    own = path.with_name(f"{path.name}.{os.getpid():x}")  # at its end gRPC removes what has this name
    try:
        _bind(server, f"unix:{own.resolve()}", str(path))
        if tcp:
            _bind(server, tcp, tcp)
        server.start()
    finally:
        os.umask(before)
    access.grant(own)
    own.rename(path)
    return server


def _bind(server: grpc.Server, address: str, name: str) -> None:
    try:
        server.add_insecure_port(address)
    except RuntimeError as error:
        raise PortBusy(f"cannot listen on {name}", why=str(error)) from error
