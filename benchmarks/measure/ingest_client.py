"""Devices of the ingest benchmark, many to a process.

``python -m measure.ingest_client FOLDER FIRST COUNT KIND SECONDS GAP_S`` opens one stream for each device, says
``ready``, and when a line comes sends for so long: each device one batch after the other, as soon as the one before was
acknowledged, or ``GAP_S`` after it was due. It answers with one JSON line (:class:`Sent`). A gap below 0 is a hostile
device's: batches of a mebibyte without end, acknowledged or not, refused or not.
"""

import asyncio
import os
import secrets
import sys
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

import grpc

from dsops.api.v1.telemetry_pb2 import Ack
from measure.child import answer_once
from measure.ingest_load import PATHS, Load, load


@dataclass
class Sent:
    """What devices sent and what was acknowledged.

    Attributes:
        records: Acknowledged.
        bytes: Of acknowledged messages.
        waits_ms: From when each batch was due until its acknowledgement.
        refused: Streams that ended with an error.
        cpu_s: Processor time of the process.
    """

    records: int = 0
    bytes: int = 0
    waits_ms: list[float] = field(default_factory=list)
    refused: int = 0
    cpu_s: float = 0.0


def channel(folder: Path, number: int) -> grpc.aio.Channel:
    """Return a channel of one device."""
    files = [(folder / name).read_bytes() for name in ("ca.crt", f"cam-{number}.key", f"cam-{number}.crt")]
    address = f"localhost:{(folder / 'port').read_text()}"
    options = [("grpc.use_local_subchannel_pool", 1)]
    return grpc.aio.secure_channel(address, grpc.ssl_channel_credentials(*files), options)


async def upload(link: grpc.aio.Channel, work: Load, ends_s: float, gap_s: float, sent: Sent) -> None:
    """Send batches until the end, one in flight."""
    call = link.stream_stream(PATHS[work.kind], response_deserializer=Ack.FromString)()
    stream, first, due_s = secrets.token_bytes(16), 1, time.monotonic() + gap_s * secrets.randbelow(100) / 100
    while time.monotonic() < ends_s:
        await asyncio.sleep(max(0.0, due_s - time.monotonic()) if gap_s else 0)
        began_s = due_s if gap_s else time.monotonic()
        data = work.message(stream, first)
        await call.write(data)
        await call.read()
        sent.waits_ms.append((time.monotonic() - began_s) * 1000)
        sent.records += work.records
        sent.bytes += len(data)
        first += work.records
        due_s += gap_s
    await call.done_writing()


async def flood(link: grpc.aio.Channel, work: Load, ends_s: float, sent: Sent) -> None:
    """Send what nobody asked for, as fast as it goes."""
    stream, first = secrets.token_bytes(16), 1
    large = Load(work.kind, 4 * work.records, work.body * 4)

    async def batches() -> AsyncIterator[bytes]:
        nonlocal first
        while time.monotonic() < ends_s:
            yield large.message(stream, first)
            first += large.records

    while time.monotonic() < ends_s:
        with suppress(grpc.aio.AioRpcError):
            async for _ in link.stream_stream(PATHS[work.kind])(batches(), timeout=ends_s - time.monotonic() + 1):
                sent.records += large.records
            continue
        sent.refused += 1


async def run(folder: Path, numbers: range, work: Load, seconds: float, gap_s: float) -> Sent:
    """Have every device send for so long."""
    sent, ends_s = Sent(), time.monotonic() + seconds
    links = [channel(folder, number) for number in numbers]
    if gap_s < 0:
        await asyncio.gather(*(flood(link, work, ends_s, sent) for link in links for _ in range(4)))
    else:
        await asyncio.gather(*(upload(link, work, ends_s, gap_s, sent) for link in links))
    await asyncio.gather(*(link.close() for link in links))
    times = os.times()
    sent.cpu_s = times.user + times.system
    return sent


if __name__ == "__main__":
    place, first_device, devices, what, how_long, gap = sys.argv[1:]
    wanted = range(int(first_device), int(first_device) + int(devices))
    made = load(what)
    answer_once(lambda: asdict(asyncio.run(run(Path(place), wanted, made, float(how_long), float(gap)))))
