"""What the store itself takes, without a network: micro-batches straight into the inbox, or straight into the lake.

``python -m measure.ingest_store FOLDER bytes|inbox|lake KIND SECONDS DEVICES`` answers with one JSON line: records and
seconds. Every micro-batch is durable before the next one of its device. ``bytes`` begins with messages as devices send
them, which are parsed and checked; ``inbox`` and ``lake`` begin with records that were checked.
"""

import os
import secrets
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from pathlib import Path

from deltalake import DeltaTable, WriterProperties, write_deltalake

from dsops_controller.dataops.batches import Batch, Kind, parse
from dsops_controller.dataops.lake.columns import RECORDS
from dsops_controller.dataops.lake.rows import Pending, split
from measure.child import answer_once
from measure.ingest_load import Load, load
from measure.ingest_server import Store


class _Device:
    """One device's batches, parsed already."""

    def __init__(self, name: str, work: Load) -> None:
        self.name = name
        self._work = work
        self._stream = secrets.token_bytes(16)
        self._parsed = parse(Kind(work.kind), work.message(self._stream, 1))
        self._first = 1

    def received(self) -> Batch:
        """Return the next batch, out of its bytes."""
        first, self._first = self._first, self._first + self._work.records
        return parse(Kind(self._work.kind), self._work.message(self._stream, first))

    def batch(self) -> Batch:
        """Return the next batch, made of records that were parsed once."""
        old = self._parsed
        first, self._first = self._first, self._first + len(old.seqs)
        return Batch(old.kind, old.stream, tuple(range(first, self._first)), old.message, old.size_bytes)


Make = Callable[[_Device], Batch]


def into_inbox(folder: Path, work: Load, seconds: float, devices: int, make: Make) -> dict[str, float]:
    """Commit batches of several devices, one in flight for each, as the server does behind its network."""
    store = Store(folder)
    store.start()
    members = [_Device(f"cam-{number}", work) for number in range(devices)]
    began_s, records = time.monotonic(), 0
    ends_s = began_s + seconds
    flying: dict[Future[int], _Device] = {store.inbox.submit(one.name, make(one)): one for one in members}
    while flying:
        for done in wait(flying, return_when=FIRST_COMPLETED).done:
            device = flying.pop(done)
            records += work.records if done.result() else 0
            if time.monotonic() < ends_s:
                flying[store.inbox.submit(device.name, make(device))] = device
    took_s = time.monotonic() - began_s
    store.stop()
    return {"records": records, "seconds": took_s}


def into_lake(folder: Path, work: Load, seconds: float) -> dict[str, float]:
    """Append micro-batches to the table, each followed by a sync of the file system."""
    store = Store(folder)
    store.lake.open()
    device = _Device("cam-0", work)
    properties = WriterProperties(compression="ZSTD", compression_level=1)
    began_s, records = time.monotonic(), 0
    while time.monotonic() < began_s + seconds:
        rows = split(_pending(device))
        for table in filter(rows.has, RECORDS):
            delta, values = DeltaTable(folder / "lake" / table), rows.above(table, -1)
            write_deltalake(delta, values, mode="append", writer_properties=properties)
        os.sync()
        records += work.records
    took_s = time.monotonic() - began_s
    store.db.close()
    return {"records": records, "seconds": took_s}


def _pending(device: _Device) -> Iterator[Pending]:
    batch = device.batch()
    seqs = b"".join(seq.to_bytes(8, "little") for seq in batch.seqs)
    now_ms = time.time_ns() // 1_000_000
    yield Pending(1, device.name, batch.stream, batch.kind, seqs, batch.message.SerializeToString(), now_ms)


if __name__ == "__main__":
    place, where, what, how_long, count = sys.argv[1:]
    made = load(what)
    if where == "lake":
        answer_once(lambda: into_lake(Path(place), made, float(how_long)))
    else:
        one: Make = _Device.received if where == "bytes" else _Device.batch
        answer_once(lambda: into_inbox(Path(place), made, float(how_long), int(count), one))
