"""The gate of the gRPC interface with mutual TLS: who calls, and whether it still may, on every call and message.

One interceptor in front of all services but health and reflection, so that no service can forget it. A decision is kept
with the count of changes (:class:`~dsops_controller.fleet.standing.Changes`) that it was made at; a message costs a
comparison of two numbers, and the database is asked again only when somebody's standing changed.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from concurrent.futures import Executor
from contextlib import aclosing, asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import grpc

from dsops.clock import Clock
from dsops.errors import DsopsError, QuotaExceeded, RequestError, TransportError
from dsops_controller.fleet.standing import Changes
from dsops_controller.server.identity import Admission, Peer, check_life, peer
from dsops_controller.server.quotas import Quotas
from dsops_controller.server.refusals import Context, refusing
from dsops_controller.server.upload_trail import UploadTrail

log = logging.getLogger(__name__)

LOOK_S = 1.0
"""How often it is asked whether another process changed anybody's standing; an idle stream ends within two of these."""
IDLE_S = 120.0
"""A stream that brings nothing for so long is ended; agents end theirs sooner."""
OPEN = ("/grpc.health.v1.Health/", "/grpc.reflection.")
CALLER: ContextVar[Peer] = ContextVar("caller")
"""The device that makes the call under way, for the services behind the gate."""

Unary = Callable[[bytes, Context], Awaitable[bytes]]
Stream = Callable[[AsyncIterator[bytes], Context], Awaitable[None]]
Handler = Any  # grpc.RpcMethodHandler, whose members the type stubs do not declare


@dataclass(slots=True)
class _Visit:
    """A call under way, and the count of changes at which it was admitted."""

    caller: Peer
    version: int


@dataclass(frozen=True, slots=True)
class Rules:
    """What the gate decides by.

    Attributes:
        admission: Whether a device may speak.
        changes: When that is to be asked again.
        quotas: How much it may send.
        trail: Where refusals are recorded.
    """

    admission: Admission
    changes: Changes
    quotas: Quotas
    trail: UploadTrail


class Gate(grpc.aio.ServerInterceptor):
    """Admits calls and messages; every refusal has a status and a code, and a row in the audit trail."""

    def __init__(self, rules: Rules, clock: Clock, blocking: Executor) -> None:
        self._admission = rules.admission
        self._changes = rules.changes
        self._quotas = rules.quotas
        self._trail = rules.trail
        self._clock = clock
        self._blocking = blocking

    async def intercept_service(
        self, continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]], details: grpc.HandlerCallDetails
    ) -> Handler:
        """Put the gate in front of a service's method."""
        handler: Handler = await continuation(details)
        if handler is None or details.method.startswith(OPEN):
            return handler
        if handler.unary_unary is not None:
            return grpc.unary_unary_rpc_method_handler(self._unary(handler.unary_unary))
        if handler.stream_stream is not None:
            return grpc.stream_stream_rpc_method_handler(self._stream(handler.stream_stream))
        raise NotImplementedError(f"{details.method} is of a kind that the gate does not know")

    async def watch(self) -> None:
        """Notice what other processes change, until cancelled."""
        told = ""
        while True:
            try:
                await self._blocked(self._changes.look)
                told = ""
            except DsopsError as error:
                if str(error) != told:
                    log.warning("changes of devices are not seen: %s", error)
                told = str(error)
            await asyncio.sleep(LOOK_S)

    def _unary(self, behaviour: Unary) -> Unary:
        async def guarded(request: bytes, context: Context) -> bytes:
            async with refusing(context):
                caller = _caller(context)
                async with self._recording(caller):
                    await self._admit(caller)
                    CALLER.set(caller)
                    return await behaviour(request, context)
            raise AssertionError("refusing never swallows")

        return guarded

    def _stream(self, behaviour: Stream) -> Stream:
        async def guarded(requests: AsyncIterator[bytes], context: Context) -> None:
            async with refusing(context):
                caller = _caller(context)
                async with self._recording(caller):
                    with self._quotas.stream(caller.device):
                        visit = await self._admit(caller)
                        CALLER.set(caller)
                        async with aclosing(self._checked(visit, requests)) as checked:
                            await behaviour(checked, context)

        return guarded

    async def _admit(self, caller: Peer) -> _Visit:
        self._quotas.call(caller.device)
        visit = _Visit(caller, 0)
        await self._check(visit)
        return visit

    @asynccontextmanager
    async def _recording(self, caller: Peer) -> AsyncIterator[None]:
        """Record that a device was refused, and why, once in a while; that the store is busy is no fault of it."""
        try:
            yield
        except (TransportError, RequestError) as error:
            is_its_fault = isinstance(error, RequestError | QuotaExceeded)
            if is_its_fault and self._trail.is_new(caller.device, error.code):
                refused = error
                await self._blocked(lambda: self._trail.record(caller.device, refused))
            raise

    async def _check(self, visit: _Visit) -> None:
        now = self._clock.now()
        check_life(visit.caller, now)
        version = self._changes.version
        if visit.version != version:
            await self._blocked(lambda: self._admission.check(visit.caller, now))
            visit.version = version

    async def _checked(self, visit: _Visit, requests: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
        """Yield a stream's messages, each checked; between them look now and then."""
        source = aiter(requests)
        reading = asyncio.ensure_future(_next(source))
        since_s = self._clock.monotonic_s()
        try:
            while True:
                await asyncio.wait({reading}, timeout=LOOK_S)
                await self._check(visit)
                if not reading.done():
                    if self._clock.monotonic_s() - since_s > IDLE_S:
                        return
                    continue
                data = reading.result()
                if data is None:
                    return
                self._quotas.message(visit.caller.device, len(data))
                yield data
                since_s = self._clock.monotonic_s()
                reading = asyncio.ensure_future(_next(source))
        finally:
            reading.cancel()

    async def _blocked(self, call: Callable[[], None]) -> None:
        await asyncio.get_running_loop().run_in_executor(self._blocking, call)


def _caller(context: Context) -> Peer:
    return peer({name: list(values) for name, values in context.auth_context().items()})


async def _next(source: AsyncIterator[bytes]) -> bytes | None:
    return await anext(source, None)
