"""The gate of the gRPC interface with mutual TLS: who calls, and whether it still may, on every call and message.

One interceptor in front of all services but health and reflection, so that no service can forget it. A decision is kept
with the count of changes (:class:`~dsops_controller.fleet.standing.Changes`) that it was made at; a message costs a
comparison of two numbers, and the database is asked again only when somebody's standing changed.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from concurrent.futures import Executor
from contextlib import aclosing
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import grpc

from dsops.clock import Clock
from dsops.errors import DsopsError
from dsops_controller.fleet.standing import Changes
from dsops_controller.server.identity import Admission, Peer, check_life, peer
from dsops_controller.server.refusals import Context, refusing

log = logging.getLogger(__name__)

LOOK_S = 1.0
"""How often it is asked whether another process changed anybody's standing; an idle stream ends within two of these."""
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


class Gate(grpc.aio.ServerInterceptor):
    """Admits calls and messages; every refusal has a status and a code."""

    def __init__(self, admission: Admission, changes: Changes, clock: Clock, blocking: Executor) -> None:
        self._admission = admission
        self._changes = changes
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
                CALLER.set((await self._admit(context)).caller)
                return await behaviour(request, context)
            raise AssertionError("refusing never swallows")

        return guarded

    def _stream(self, behaviour: Stream) -> Stream:
        async def guarded(requests: AsyncIterator[bytes], context: Context) -> None:
            async with refusing(context):
                visit = await self._admit(context)
                CALLER.set(visit.caller)
                async with aclosing(self._checked(visit, requests)) as checked:
                    await behaviour(checked, context)

        return guarded

    async def _admit(self, context: Context) -> _Visit:
        caller = peer({name: list(values) for name, values in context.auth_context().items()})
        visit = _Visit(caller, 0)
        await self._check(visit)
        return visit

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
        try:
            while True:
                await asyncio.wait({reading}, timeout=LOOK_S)
                await self._check(visit)
                if not reading.done():
                    continue
                data = reading.result()
                if data is None:
                    return
                yield data
                reading = asyncio.ensure_future(_next(source))
        finally:
            reading.cancel()

    async def _blocked(self, call: Callable[[], None]) -> None:
        await asyncio.get_running_loop().run_in_executor(self._blocking, call)


async def _next(source: AsyncIterator[bytes]) -> bytes | None:
    return await anext(source, None)
