"""How the calls of :mod:`dsops.client` reach the agent: over its direct socket, or over gRPC while there is none.

gRPC is loaded only where it is needed: it takes 100 ms and 20 MB.
"""

import os
import socket
from contextlib import suppress
from pathlib import Path
from typing import Protocol, TypeVar

from google.protobuf.message import Message
from typing_extensions import override

from dsops.call_status import error_of
from dsops.client_place import Place
from dsops.direct import MAX_BODY_BYTES, DirectChannel, Method, direct_path, nobody_listens
from dsops.errors import DsopsError, NotServing, RuntimeCrashed, TimedOut

Reply = TypeVar("Reply", bound=Message)
_SERVICE = "/inference.GRPCInferenceService/"
_OPTIONS = [
    ("grpc.max_receive_message_length", MAX_BODY_BYTES),  # what the agent sends at most
    ("grpc.enable_http_proxy", 0),  # else frames for this device go wherever the environment says
]
_SAID: dict[type[DsopsError], str] = {
    NotServing: "the agent does not serve",  # or is not there, which gRPC calls the same
    TimedOut: "the agent did not answer in time",
    RuntimeCrashed: "the agent failed",
}


class Transport(Protocol):
    """How calls travel."""

    def call(self, method: Method, request: Message, reply: type[Reply]) -> Reply:
        """Return the reply, or raise the DsopsError that its status means."""
        ...

    def close(self) -> None:
        """End the connection."""
        ...


class _Local(Transport):
    """Calls over the agent's direct socket; those that find nobody behind it go over gRPC, if somebody listens there.

    Each call looks anew: the agent may come, or come again, later than its callers.
    """

    def __init__(self, address: Path, timeout_s: float) -> None:
        self._address = address
        self._direct = DirectChannel(direct_path(self._address))
        self._grpc: _Grpc | None = None
        self._timeout_s = timeout_s

    @override
    def call(self, method: Method, request: Message, reply: type[Reply]) -> Reply:
        try:
            status, body = self._direct.call(method, request.SerializeToString(), self._timeout_s)
        except NotServing as error:
            if not (nobody_listens(error) and _someone_listens(self._address)):
                raise
            return self._over_grpc().call(method, request, reply)
        if status:
            raise _error(status, body.decode(errors="replace"))
        return reply.FromString(body)

    @override
    def close(self) -> None:
        self._direct.close()
        if self._grpc:
            self._grpc.close()

    def _over_grpc(self) -> "_Grpc":
        if self._grpc is None:
            self._grpc = _Grpc(f"unix:{self._address}", self._timeout_s)
        return self._grpc


class _Grpc(Transport):
    """Calls over gRPC."""

    def __init__(self, target: str, timeout_s: float) -> None:
        import grpc  # noqa: PLC0415 - programs that ask over the direct socket do without it

        self._failure = grpc.RpcError
        self._channel = grpc.insecure_channel(target, _OPTIONS)
        self._timeout_s = timeout_s

    @override
    def call(self, method: Method, request: Message, reply: type[Reply]) -> Reply:
        made = self._channel.unary_unary(
            f"{_SERVICE}{_name_of(method)}",
            request_serializer=type(request).SerializeToString,
            response_deserializer=reply.FromString,
        )
        try:
            answer: Reply = made(request, timeout=self._timeout_s)
        except self._failure as error:
            raise _error(error.code().value[0], error.details() or error.code().name) from error
        except ValueError as error:  # so gRPC says that the channel was closed
            raise NotServing("the connection to the agent was closed", hint="open a new one") from error
        return answer

    @override
    def close(self) -> None:
        self._channel.close()


def agent_uid(place: Place) -> int:
    """Return who owns the sockets, who is who answers on them; ourselves over loopback, or where none can be seen."""
    for path in (direct_path(place), place) if isinstance(place, Path) else ():
        with suppress(OSError):
            return path.stat().st_uid
    return os.geteuid()


def _someone_listens(path: Path) -> bool:
    """Return whether a process listens on a socket; to ask for that by gRPC would mean to load it."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(str(path))
        except BlockingIOError:  # so many callers wait there
            return True
        except OSError:
            return False
    return True


def reach(place: Place, timeout_s: float) -> Transport:
    """Return how to reach the agent."""
    return _Local(place, timeout_s) if isinstance(place, Path) else _Grpc(place, timeout_s)


def _name_of(method: Method) -> str:
    """Return the protocol's name of a call: ModelInfer for MODEL_INFER."""
    return method.name.title().replace("_", "")


def _error(status: int, details: str) -> DsopsError:
    kind = error_of(status)
    return kind(_SAID.get(kind, "the agent refused"), why=details)
