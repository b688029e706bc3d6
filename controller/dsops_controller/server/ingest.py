"""gRPC interfaces for devices: telemetry and samples over mutual TLS, enrolment over TLS on its own port.

One event loop on one thread serves both (a thread for each open stream would not reach thousands of devices). Messages
stay bytes until they were counted and checked here, so nothing that a device sends can end as UNKNOWN. The one
batch in flight of a stream is acknowledged after its commit.
"""

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any, NoReturn, Protocol, TypeAlias, TypeVar

import grpc
from google.protobuf.message import DecodeError
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from dsops.api.v1.enrolment_pb2 import DESCRIPTOR as ENROLMENT
from dsops.api.v1.enrolment_pb2 import EnrolReply, EnrolRequest
from dsops.api.v1.samples_pb2 import DESCRIPTOR as SAMPLES
from dsops.api.v1.telemetry_pb2 import DESCRIPTOR as TELEMETRY
from dsops.api.v1.telemetry_pb2 import Ack
from dsops.clock import Clock
from dsops.errors import (
    Conflict,
    DsopsError,
    EnrolmentRefused,
    Forbidden,
    InvalidInput,
    NotFound,
    Overloaded,
    PortBusy,
    Unauthorized,
)
from dsops_controller.dataops.batches import Kind, parse
from dsops_controller.dataops.inbox import Inbox
from dsops_controller.db.database import Database
from dsops_controller.server.identity import Admission, Peer, peer

logger = logging.getLogger(__name__)

MAX_MESSAGE_BYTES = 4 << 20
MAX_ENROL_BYTES = 64 * 1024
RECHECK_S = 30.0
CODE_KEY = "dsops-code"
"""Trailing metadata of every refusal: the error's code."""
PAUSE_KEY = "dsops-pause-ms"
"""Trailing metadata of RESOURCE_EXHAUSTED when the same batch may be sent again after a pause."""
OVERLOAD_PAUSE_MS = 2000
T = TypeVar("T")
Handlers: TypeAlias = "list[tuple[str, dict[str, grpc.RpcMethodHandler[bytes, bytes]]]]"
Context: TypeAlias = "grpc.aio.ServicerContext[bytes, bytes]"

_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.so_reuseport", 0),  # a second server on the port must fail, not share it
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
    ("grpc.http2.max_ping_strikes", 0),
    ("grpc.max_connection_age_ms", 3_600_000),
    ("grpc.max_connection_age_grace_ms", 30_000),
    ("grpc.max_concurrent_streams", 16),
)

_STATUS: tuple[tuple[type[DsopsError], grpc.StatusCode], ...] = (
    (Unauthorized, grpc.StatusCode.UNAUTHENTICATED),
    (Forbidden, grpc.StatusCode.PERMISSION_DENIED),
    (EnrolmentRefused, grpc.StatusCode.PERMISSION_DENIED),
    (InvalidInput, grpc.StatusCode.INVALID_ARGUMENT),
    (Conflict, grpc.StatusCode.INVALID_ARGUMENT),
    (NotFound, grpc.StatusCode.NOT_FOUND),
    (Overloaded, grpc.StatusCode.RESOURCE_EXHAUSTED),
)


class Enrolled(Protocol):
    """What a newly enrolled device is told; the fields of ``EnrolReply``."""

    @property
    def certificate_pem(self) -> bytes:
        """Leaf, then intermediates."""
        ...

    @property
    def ca_pem(self) -> bytes:
        """Whom the device trusts as broker and store."""
        ...

    @property
    def fleet(self) -> str:
        """Name of the fleet."""
        ...

    @property
    def broker(self) -> str:
        """``host:port`` of the broker."""
        ...

    @property
    def store(self) -> str:
        """``host:port`` of this store."""
        ...

    @property
    def topic_prefix(self) -> str:
        """Prefix of every MQTT topic."""
        ...


class Enroller(Protocol):
    """Exchanges one-time tokens for device certificates."""

    def enrol(
        self, device: str, token: str, csr_der: bytes, facts: Mapping[str, str], content_public_key: bytes = b""
    ) -> Enrolled:
        """Return what the device is told.

        Raises:
            EnrolmentRefused: The token does not fit, was used or has expired.
            InvalidInput: The name or the signing request is not valid.
        """
        ...


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where one interface listens; port 0 lets the system choose."""

    host: str
    port: int

    def text(self) -> str:
        """Return ``host:port``, an IPv6 address in brackets."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Tls:
    """PEM texts: the server's key and certificate chain, and the CA that device certificates come from."""

    key: bytes
    certificate: bytes
    ca: bytes


@dataclass(frozen=True, slots=True)
class Traffic:
    """What passed both interfaces since the start: serialized messages, without HTTP/2 and TLS."""

    messages_in: int = 0
    messages_out: int = 0
    bytes_in: int = 0
    bytes_out: int = 0

    @property
    def grpc_bytes(self) -> int:
        """Bytes of all messages, both ways."""
        return self.bytes_in + self.bytes_out


@dataclass(frozen=True, slots=True)
class Services:
    """What the interfaces hand messages to."""

    db: Database
    inbox: Inbox
    enroller: Enroller
    clock: Clock


@dataclass(slots=True)
class _Session:
    """An open stream of a device, and when it was last admitted."""

    caller: Peer
    checked_s: float


class IngestServer:
    """Serves devices on two ports. ``start`` returns when both are bound; ``stop`` may be called once.

    Args:
        services: The store, the enrolment and the clock.
        tls: Key, certificate and CA.
        ingest: Where telemetry and samples are taken (mutual TLS).
        enrolment: Where devices enrol (TLS).
        recheck_s: Seconds between two looks at whether a device with an open stream still may speak.
    """

    def __init__(
        self, services: Services, tls: Tls, ingest: Endpoint, enrolment: Endpoint, recheck_s: float = RECHECK_S
    ) -> None:
        self._services = services
        self._tls = tls
        self._endpoints = (ingest, enrolment)
        self._recheck_s = recheck_s
        self._admission = Admission(services.db)
        self._blocking = ThreadPoolExecutor(max_workers=4, thread_name_prefix="ingest-db")
        self._thread = threading.Thread(target=self._run, name="ingest", daemon=True)
        self._bound: Future[tuple[int, int]] = Future()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopped = asyncio.Event()
        self._grace_s = 0.0
        self._traffic = Traffic()

    def start(self) -> tuple[int, int]:
        """Bind both ports and serve; return the ports.

        Raises:
            PortBusy: A port cannot be bound.
        """
        self._thread.start()
        try:
            return self._bound.result()
        except BaseException:
            self.stop(0.0)
            raise

    def stop(self, grace_s: float = 2.0) -> None:
        """Refuse new streams, give open ones ``grace_s`` seconds, and end."""
        self._grace_s = grace_s
        if self._loop is not None and self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stopped.set)
        if self._thread.ident is not None:
            self._thread.join()
        self._blocking.shutdown()

    def traffic(self) -> Traffic:
        """Return what passed since the start."""
        return self._traffic

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except Exception as error:
            if self._bound.done():
                logger.exception("the gRPC interfaces ended")
            else:
                self._bound.set_exception(error)

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        names = [TELEMETRY.services_by_name["Telemetry"].full_name, SAMPLES.services_by_name["Samples"].full_name]
        streams: Handlers = [
            (names[0], {"Report": grpc.stream_stream_rpc_method_handler(self._report)}),
            (names[1], {"Upload": grpc.stream_stream_rpc_method_handler(self._upload)}),
        ]
        enrolment = ENROLMENT.services_by_name["Enrolment"].full_name
        unary: Handlers = [(enrolment, {"Enrol": grpc.unary_unary_rpc_method_handler(self._enrol)})]
        servers = (await _server(streams, MAX_MESSAGE_BYTES), await _server(unary, MAX_ENROL_BYTES))
        try:
            ports = tuple(
                _bind(server, endpoint, _credentials(self._tls, mutual=mutual))
                for server, endpoint, mutual in zip(servers, self._endpoints, (True, False), strict=True)
            )
            for server in servers:
                await server.start()
            self._bound.set_result((ports[0], ports[1]))
            await self._stopped.wait()
        finally:
            await asyncio.gather(*(server.stop(self._grace_s) for server in servers))

    async def _report(self, _requests: AsyncIterator[bytes], context: Context) -> None:
        await self._stream(Kind.TELEMETRY, context)

    async def _upload(self, _requests: AsyncIterator[bytes], context: Context) -> None:
        await self._stream(Kind.SAMPLES, context)

    async def _stream(self, kind: Kind, context: Context) -> None:
        """Commit and acknowledge one batch after the other, until the device ends the stream or may no longer speak."""
        async with _refusing(context):
            caller = peer(_auth(context))
            session = _Session(caller, self._services.clock.monotonic_s())
            await self._check(session)
            reading = asyncio.ensure_future(context.read())
            try:
                while (data := await self._next(session, reading)) is not None:
                    await self._answer(context, await self._commit(caller, kind, data))
                    reading = asyncio.ensure_future(context.read())
            finally:
                reading.cancel()

    async def _commit(self, caller: Peer, kind: Kind, data: bytes) -> bytes:
        self._count_in(data)
        batch = parse(kind, data)
        seq = await asyncio.wrap_future(self._services.inbox.submit(caller.device, batch))
        return Ack(committed_seq=seq, pause_ms=self._services.inbox.pause_ms()).SerializeToString()

    async def _answer(self, context: Context, data: bytes) -> None:
        await context.write(data)
        self._count_out(data)

    async def _next(self, session: _Session, reading: asyncio.Future[Any]) -> bytes | None:
        """Return the next message, None at the end; now and then ask whether the device still may speak."""
        while True:
            age_s = self._services.clock.monotonic_s() - session.checked_s
            done, _ = await asyncio.wait({reading}, timeout=max(0.0, self._recheck_s - age_s))
            if self._services.clock.monotonic_s() - session.checked_s >= self._recheck_s:
                await self._check(session)
            if done:
                data = reading.result()
                return data if isinstance(data, bytes) else None  # else it is grpc.aio.EOF

    async def _check(self, session: _Session) -> None:
        await self._blocked(lambda: self._admission.check(session.caller, self._services.clock.now()))
        session.checked_s = self._services.clock.monotonic_s()

    async def _enrol(self, data: bytes, context: Context) -> bytes:
        self._count_in(data)
        async with _refusing(context):
            reply = (await self._blocked(lambda: self._enrol_now(data))).SerializeToString()
        self._count_out(reply)
        return reply

    def _enrol_now(self, data: bytes) -> EnrolReply:
        try:
            request = EnrolRequest.FromString(data)
        except DecodeError as error:
            raise InvalidInput("an enrolment request cannot be parsed", why=str(error)) from error
        told = self._services.enroller.enrol(
            request.device, request.token, request.csr_der, dict(request.facts), request.content_public_key
        )
        return EnrolReply(
            certificate_pem=told.certificate_pem,
            ca_pem=told.ca_pem,
            fleet=told.fleet,
            broker=told.broker,
            store=told.store,
            topic_prefix=told.topic_prefix,
        )

    async def _blocked(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._blocking, call)

    def _count_in(self, data: bytes) -> None:
        seen = self._traffic
        self._traffic = replace(seen, messages_in=seen.messages_in + 1, bytes_in=seen.bytes_in + len(data))

    def _count_out(self, data: bytes) -> None:
        seen = self._traffic
        self._traffic = replace(seen, messages_out=seen.messages_out + 1, bytes_out=seen.bytes_out + len(data))


@asynccontextmanager
async def _refusing(context: Context) -> AsyncIterator[None]:
    """Turn an error into the status that tells the device what to do: again later, differently, or not at all."""
    try:
        yield
    except DsopsError as error:
        await _refuse(context, error)
    except Exception:
        logger.exception("a message from a device could not be handled")
        await context.abort(grpc.StatusCode.INTERNAL, "the store failed; its log says why")


async def _refuse(context: Context, error: DsopsError) -> NoReturn:
    status = next((code for kind, code in _STATUS if isinstance(error, kind)), grpc.StatusCode.UNAVAILABLE)
    if status is grpc.StatusCode.UNAVAILABLE:
        logger.warning("a message from a device was put off: %s", error)
    metadata = [(CODE_KEY, error.code)]
    if isinstance(error, Overloaded):
        metadata.append((PAUSE_KEY, str(OVERLOAD_PAUSE_MS)))
    await context.abort(status, str(error)[:1000], tuple(metadata))


def _auth(context: Context) -> dict[str, list[bytes]]:
    return {name: list(values) for name, values in context.auth_context().items()}


async def _server(services: Handlers, max_bytes: int) -> grpc.aio.Server:
    """Return a server of raw handlers, with health (SERVING) and reflection."""
    options = (*_OPTIONS, ("grpc.max_receive_message_length", max_bytes))
    server = grpc.aio.server(options=options)
    names = [name for name, _ in services]
    handlers = [grpc.method_handlers_generic_handler(name, methods) for name, methods in services]
    server.add_generic_rpc_handlers(handlers)
    serving = health_pb2.HealthCheckResponse.SERVING
    servicer = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    for name in ("", *names):
        await servicer.set(name, serving)
    reflection.enable_server_reflection((*names, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
    return server


def _credentials(tls: Tls, *, mutual: bool) -> grpc.ServerCredentials:
    ca = tls.ca if mutual else None
    return grpc.ssl_server_credentials([(tls.key, tls.certificate)], ca, require_client_auth=mutual)


def _bind(server: grpc.aio.Server, endpoint: Endpoint, credentials: grpc.ServerCredentials) -> int:
    address = endpoint.text()
    try:
        port = server.add_secure_port(address, credentials)
    except RuntimeError as error:
        raise PortBusy(f"cannot listen on {address}", why=str(error)) from error
    if port == 0:
        raise PortBusy(f"cannot listen on {address}")
    return port
