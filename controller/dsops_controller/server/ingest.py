"""gRPC interfaces for devices: telemetry, samples and renewal over mutual TLS, enrolment over TLS on its own port.

One event loop on one thread serves both (a thread for each open stream would not reach thousands of devices). Messages
stay bytes until they were counted and checked here, so nothing that a device sends can end as UNKNOWN. The one
batch in flight of a stream is acknowledged after its commit.
"""

import asyncio
import ipaddress
import logging
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from typing import Protocol, TypeAlias, TypeVar
from urllib.parse import unquote

import grpc
from google.protobuf.message import DecodeError, Message
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from dsops.api.v1.enrolment_pb2 import DESCRIPTOR as ENROLMENT
from dsops.api.v1.enrolment_pb2 import EnrolReply, EnrolRequest, RenewRequest
from dsops.api.v1.samples_pb2 import DESCRIPTOR as SAMPLES
from dsops.api.v1.telemetry_pb2 import DESCRIPTOR as TELEMETRY
from dsops.api.v1.telemetry_pb2 import Ack
from dsops.clock import Clock
from dsops.errors import InvalidInput, PortBusy
from dsops_controller.dataops.batches import Kind, parse
from dsops_controller.dataops.inbox import Inbox
from dsops_controller.db.database import Database
from dsops_controller.fleet.applications import Application
from dsops_controller.fleet.enrolment import EnrolmentReply
from dsops_controller.fleet.standing import Changes
from dsops_controller.server.gate import CALLER, Gate, Rules
from dsops_controller.server.identity import Admission, Peer
from dsops_controller.server.quotas import UNCHANGED, QuotaRules, Quotas
from dsops_controller.server.refusals import Context, refusing
from dsops_controller.server.upload_trail import UploadTrail

logger = logging.getLogger(__name__)

MAX_MESSAGE_BYTES = 4 << 20
MAX_ENROL_BYTES = 64 * 1024
ENROLMENTS_AT_ONCE = 1024
M = TypeVar("M", bound=Message)
Handlers: TypeAlias = "list[tuple[str, dict[str, grpc.RpcMethodHandler[bytes, bytes]]]]"

_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.so_reuseport", 0),  # a second server on the port must fail, not share it
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
    ("grpc.http2.max_ping_strikes", 0),
    ("grpc.max_connection_age_ms", 3_600_000),
    ("grpc.max_connection_age_grace_ms", 30_000),
    ("grpc.max_connection_idle_ms", 300_000),  # nobody counts connections without a call
    ("grpc.max_concurrent_streams", 16),
    # What a device may send ahead of what is read: gRPC would let a fast one send megabytes into the server's memory.
    ("grpc.http2.bdp_probe", 0),
    ("grpc.http2.lookahead_bytes", 256 << 10),
)


class Enroller(Protocol):
    """Answers devices that have no certificate."""

    def enrol(self, application: Application) -> EnrolmentReply:
        """Return what the device is told.

        Raises:
            EnrolmentRefused: It may not join.
            InvalidInput: What it says is malformed.
        """
        ...


class Renewer(Protocol):
    """Answers devices that have a certificate with the next one."""

    def renew(self, device: str, csr_der: bytes) -> EnrolmentReply:
        """Return what the device is told.

        Raises:
            InvalidInput: The request is malformed, or not for a new key.
            Overloaded: It asks too often.
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
    renewer: Renewer
    changes: Changes
    clock: Clock
    quotas: QuotaRules = UNCHANGED


class IngestServer:
    """Serves devices on two ports. ``start`` returns when both are bound; ``stop`` may be called once.

    Args:
        services: The store, the enrolment and the clock.
        tls: Key, certificate and CA.
        ingest: Where telemetry and samples are taken (mutual TLS).
        enrolment: Where devices enrol (TLS).
    """

    def __init__(self, services: Services, tls: Tls, ingest: Endpoint, enrolment: Endpoint) -> None:
        self._services = services
        self._tls = tls
        self._endpoints = (ingest, enrolment)
        # Strangers have threads of their own: a flood of them must not hold up devices that are known.
        self._blocking = ThreadPoolExecutor(max_workers=4, thread_name_prefix="ingest-db")
        self._enrolling = ThreadPoolExecutor(max_workers=2, thread_name_prefix="enrolment")
        self._quotas = Quotas(services.quotas, services.clock)
        trail = UploadTrail(services.db, services.clock)
        rules = Rules(Admission(services.db), services.changes, self._quotas, trail)
        self._gate = Gate(rules, services.clock, self._blocking)
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
        self._enrolling.shutdown()

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
        servers = await self._servers()
        try:
            ports = tuple(
                _bind(server, endpoint, _credentials(self._tls, mutual=mutual))
                for server, endpoint, mutual in zip(servers, self._endpoints, (True, False), strict=True)
            )
            for server in servers:
                await server.start()
            self._bound.set_result((ports[0], ports[1]))
            watching = asyncio.ensure_future(self._gate.watch())
            await self._stopped.wait()
            watching.cancel()
        finally:
            await asyncio.gather(*(server.stop(self._grace_s) for server in servers))

    async def _servers(self) -> tuple[grpc.aio.Server, grpc.aio.Server]:
        """Return the server behind the gate, and the one for devices that have no certificate."""
        names = [file.services_by_name[name].full_name for file, name in _SERVICES]
        known: Handlers = [
            (names[0], {"Report": grpc.stream_stream_rpc_method_handler(self._report)}),
            (names[1], {"Upload": grpc.stream_stream_rpc_method_handler(self._upload)}),
            (names[2], {"Renew": grpc.unary_unary_rpc_method_handler(self._renew)}),
        ]
        strangers: Handlers = [(names[3], {"Enrol": grpc.unary_unary_rpc_method_handler(self._enrol)})]
        return (
            await _server(known, MAX_MESSAGE_BYTES, [self._gate]),
            await _server(strangers, MAX_ENROL_BYTES, at_once=ENROLMENTS_AT_ONCE),
        )

    async def _report(self, requests: AsyncIterator[bytes], context: Context) -> None:
        await self._stream(Kind.TELEMETRY, requests, context)

    async def _upload(self, requests: AsyncIterator[bytes], context: Context) -> None:
        await self._stream(Kind.SAMPLES, requests, context)

    async def _stream(self, kind: Kind, requests: AsyncIterator[bytes], context: Context) -> None:
        """Commit and acknowledge one batch after the other, until the device ends the stream; the gate checked each."""
        caller = CALLER.get()
        self._services.inbox.check_room()
        async for data in requests:
            await self._answer(context, await self._commit(caller, kind, data))

    async def _commit(self, caller: Peer, kind: Kind, data: bytes) -> bytes:
        self._count_in(data)
        batch = parse(kind, data)
        self._quotas.records(caller.device, len(batch.seqs))
        seq = await asyncio.wrap_future(self._services.inbox.submit(caller.device, batch))
        now_us = int(self._services.clock.now().timestamp() * 1_000_000)
        ack = Ack(committed_seq=seq, pause_ms=self._services.inbox.pause_ms(), server_us=now_us)
        return ack.SerializeToString()

    async def _answer(self, context: Context, data: bytes) -> None:
        await context.write(data)
        self._count_out(data)

    async def _renew(self, data: bytes, _context: Context) -> bytes:
        caller = CALLER.get()
        return await self._told(self._blocking, data, lambda: self._renew_now(caller, data))

    def _renew_now(self, caller: Peer, data: bytes) -> EnrolmentReply:
        return self._services.renewer.renew(caller.device, _parsed(RenewRequest, data).csr_der)

    async def _enrol(self, data: bytes, context: Context) -> bytes:
        origin = address(context.peer())
        async with refusing(context):
            return await self._told(self._enrolling, data, lambda: self._enrol_now(data, origin))
        raise AssertionError("refusing never swallows")

    def _enrol_now(self, data: bytes, origin: str) -> EnrolmentReply:
        asked = _parsed(EnrolRequest, data)
        return self._services.enroller.enrol(
            Application(
                device=asked.device,
                csr_der=asked.csr_der,
                token=asked.token,
                facts=dict(asked.facts),
                proof=asked.proof,
                content_public_key=asked.content_public_key,
                origin=origin,
            )
        )

    async def _told(self, threads: ThreadPoolExecutor, data: bytes, call: Callable[[], EnrolmentReply]) -> bytes:
        self._count_in(data)
        told = await asyncio.get_running_loop().run_in_executor(threads, call)
        reply = EnrolReply(**asdict(told)).SerializeToString()
        self._count_out(reply)
        return reply

    def _count_in(self, data: bytes) -> None:
        seen = self._traffic
        self._traffic = replace(seen, messages_in=seen.messages_in + 1, bytes_in=seen.bytes_in + len(data))

    def _count_out(self, data: bytes) -> None:
        seen = self._traffic
        self._traffic = replace(seen, messages_out=seen.messages_out + 1, bytes_out=seen.bytes_out + len(data))


_SERVICES = ((TELEMETRY, "Telemetry"), (SAMPLES, "Samples"), (ENROLMENT, "Renewal"), (ENROLMENT, "Enrolment"))


def _parsed(kind: type[M], data: bytes) -> M:
    try:
        return kind.FromString(data)
    except DecodeError as error:
        raise InvalidInput(f"a {kind.__name__} cannot be parsed", why=str(error)) from error


def address(peer_text: str) -> str:
    """Return the address in gRPC's text for a peer; of IPv6 the network (64 bits), which is what one host has."""
    text = unquote(peer_text.removeprefix("ipv4:").removeprefix("ipv6:"))
    host = text.rpartition(":")[0].strip("[]").partition("%")[0]
    try:
        found = ipaddress.ip_address(host)
    except ValueError:
        return text[:64]
    if found.version == 4 or found.ipv4_mapped is not None:
        return str(getattr(found, "ipv4_mapped", None) or found)
    return str(ipaddress.ip_network(f"{found}/64", strict=False))


async def _server(
    services: Handlers, max_bytes: int, gates: Sequence[grpc.aio.ServerInterceptor] = (), at_once: int | None = None
) -> grpc.aio.Server:
    """Return a server of raw handlers, with health (SERVING) and reflection."""
    options = (*_OPTIONS, ("grpc.max_receive_message_length", max_bytes))
    server = grpc.aio.server(interceptors=gates, options=options, maximum_concurrent_rpcs=at_once)
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
