"""A bad courier between clients and a real broker: it ends TLS on both sides, reads MQTT and ill-treats messages.

To the broker it shows the certificate of the client that came, so the broker's rules hold as they are.
"""

import asyncio
import random
import ssl
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from chaos import Chaos, ConnectionReset, Ills
from measure.packets import Kind, Packet, Splitter, message_of

HOLD_S = 0.03
"""How long a message waits for one that overtakes it."""
READ_BYTES = 64 * 1024
SLICE_S = 0.1
"""At a slow rate bytes go out so often."""


@dataclass(frozen=True)
class Between:
    """Whom the proxy stands between.

    Attributes:
        port: Where clients come; 0 takes any.
        broker_port: Where the broker is, on this machine.
        authority: Folder of ``ca.crt``, ``server.crt`` and ``server.key``.
        identity: Returns certificate and key of a client, by the name in its certificate.
    """

    port: int
    broker_port: int
    authority: Path
    identity: Callable[[str], tuple[Path, Path]]


class ChaosProxy:
    """Runs in a thread of its own between :meth:`start` and :meth:`stop`."""

    def __init__(self, between: Between, ills: Ills, seed: int) -> None:
        self.port = between.port
        self.done: Counter[str] = Counter()
        """What happened: messages, and every ill by its name."""
        self.sent: list[tuple[str, bytes]] = []
        """Messages as clients sent them, of topics for which ``keep`` is true."""
        self.keep: Callable[[str], bool] = lambda _topic: False
        self.ills = ills
        self._between = between
        self._draw = random.Random(seed)
        self._loop = asyncio.new_event_loop()
        self._writers: set[asyncio.StreamWriter] = set()
        self._listens = threading.Event()
        self._over = asyncio.Event()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._serve(),), daemon=True)

    def start(self) -> None:
        """Take connections from now on."""
        self._thread.start()
        assert self._listens.wait(20)

    def become(self, ills: Ills) -> None:
        """Change what happens from now on; the connections that there are end."""
        self.ills = ills
        self._loop.call_soon_threadsafe(self._cut)

    def _cut(self) -> None:
        for writer in self._writers:
            writer.transport.abort()

    def stop(self) -> None:
        """End everything."""
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join(20)
        assert not self._thread.is_alive()
        self._loop.close()

    async def _serve(self) -> None:
        authority = self._between.authority
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(authority / "ca.crt"))
        context.load_cert_chain(authority / "server.crt", authority / "server.key")
        context.verify_mode = ssl.CERT_REQUIRED
        server = await asyncio.start_server(self._join, "127.0.0.1", self._between.port, ssl=context)
        self.port = server.sockets[0].getsockname()[1]
        self._listens.set()
        async with server:
            await self._over.wait()
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _join(self, client_in: asyncio.StreamReader, client_out: asyncio.StreamWriter) -> None:
        writers = {client_out}
        with suppress(OSError, asyncio.CancelledError):  # cancelled at the end, when nobody asks for the result
            context = self._context(_name(client_out))
            broker_in, broker_out = await asyncio.open_connection(
                "127.0.0.1", self._between.broker_port, ssl=context, server_hostname="localhost"
            )
            writers.add(broker_out)
            self._writers |= writers
            self.done["connection"] += 1
            await self._carry((client_in, broker_out), (broker_in, client_out))
        self._writers -= writers
        for writer in writers:
            writer.transport.abort()

    async def _carry(self, *ways: tuple[asyncio.StreamReader, asyncio.StreamWriter]) -> None:
        """Carry both ways until one ends."""
        tasks = [asyncio.create_task(self._pump(*way, number == 0)) for number, way in enumerate(ways)]
        life_s = self.ills.reset_after_s * self._draw.uniform(0.5, 1.5) or None
        try:
            done, _ = await asyncio.wait(tasks, timeout=life_s, return_when=asyncio.FIRST_COMPLETED)
            self.done["reset"] += not done
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, is_up: bool) -> None:
        chaos, splitter = Chaos(self.ills, random.Random(self._draw.random()), self.done), Splitter()
        reading: asyncio.Task[bytes] | None = None
        with suppress(ConnectionReset, OSError):
            while True:
                reading = reading or asyncio.create_task(source.read(READ_BYTES))
                done, _ = await asyncio.wait({reading}, timeout=HOLD_S if chaos.holds else None)
                if not done:
                    await self._write(sink, chaos, chaos.release())
                    continue
                data, reading = reading.result(), None
                if not data:
                    return
                for packet in splitter.feed(data):
                    self._note(packet, is_up)
                    await self._write(sink, chaos, chaos.take(packet))

    async def _write(self, sink: asyncio.StreamWriter, chaos: Chaos, made: list[bytes]) -> None:
        rate, owed_s = self.ills.bytes_per_s, 0.0
        for piece in (piece for data in made for cut in chaos.pieces(data) for piece in _slices(cut, rate)):
            sink.write(piece)
            await sink.drain()
            owed_s += len(piece) / rate if rate else 0.0
            if owed_s >= SLICE_S / 2:
                await asyncio.sleep(owed_s)
                owed_s = 0.0
        if owed_s:
            await asyncio.sleep(owed_s)

    def _note(self, packet: Packet, is_up: bool) -> None:
        if is_up and packet.kind == Kind.PUBLISH:
            message = message_of(packet)
            if self.keep(message.topic):
                self.sent.append((message.topic, packet.body[message.start :]))

    def _context(self, name: str) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=str(self._between.authority / "ca.crt"))
        context.load_cert_chain(*self._between.identity(name))
        return context


def _slices(data: bytes, bytes_per_s: float) -> Iterator[bytes]:
    """Cut what would take long at a rate."""
    size = max(1, int(bytes_per_s * SLICE_S)) if bytes_per_s else len(data)
    return (data[start : start + size] for start in range(0, len(data), size or 1))


def _name(writer: asyncio.StreamWriter) -> str:
    """Return the name (CN) in the client's certificate."""
    subject = writer.get_extra_info("peercert")["subject"]
    return next(str(value) for parts in subject for key, value in parts if key == "commonName")


@contextmanager
def chaos_proxy(between: Between, ills: Ills, seed: int) -> Iterator[ChaosProxy]:
    """Run a proxy."""
    proxy = ChaosProxy(between, ills, seed)
    proxy.start()
    try:
        yield proxy
    finally:
        proxy.stop()
