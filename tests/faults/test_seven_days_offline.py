"""Seven days offline, with a kill every hour, a full disk and a clock that jumps: what was not dropped is stored, once.

Time is made; SQLite, its disk, gRPC with mutual TLS and the DataOps store are real.
"""

import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from fault_disks import Small
from fault_reporter import CAP, EVENT_EVERY, PER_TICK, TICK_S
from ingest_site import Site, Sites

from dsops.api.v1.samples_pb2 import SampleBatch
from dsops.api.v1.telemetry_pb2 import TelemetryBatch
from dsops.clock import SystemClock
from dsops_agent.backoff import Backoff
from dsops_agent.telemetry.allowance import unlimited
from dsops_agent.telemetry.spool import Spool
from dsops_agent.telemetry.spool_file import LOG_BYTES, RESERVE_BYTES
from dsops_agent.telemetry.upload import Terms, Uploader, encode_samples, encode_telemetry
from dsops_agent.telemetry.worth import DAY_S, KINDS
from dsops_agent.transport.grpc import sample_upload, telemetry_upload
from dsops_controller.dataops.lake.lake import Lake
from dsops_controller.dataops.store import LakeStore

pytestmark = pytest.mark.faults

HOURS = 7 * 24
TICKS = int(3600 / TICK_S)
FULL = range(30, 40)
"""In these hours another program fills the disk."""
JUMPS = {72: 20 * 365 * DAY_S, 96: -5 * 365 * DAY_S, 120: 0.0}
"""From this hour on, the wall clock is wrong by so much."""


def run_hour(folder: Path, first: int, hour: int, jump_s: float, chance: random.Random) -> int:
    """Let the device report for about an hour, then kill it; return the newest number that it said was durable."""
    reporter = subprocess.Popen(
        [
            sys.executable,
            str(Path(__file__).with_name("fault_reporter.py")),
            str(folder),
            str(first),
            str(hour),
            str(jump_s),
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert reporter.stdout is not None
    newest = first
    for _ in range(TICKS):
        newest = int(reporter.stdout.readline())
    time.sleep(chance.uniform(0.0, 0.01))  # somewhere in the next transaction
    reporter.kill()
    rest = reporter.stdout.read().split("\n")[:-1]
    reporter.wait()
    return max([newest, *map(int, rest)])


def note_sizes(folder: Path, largest: dict[str, int]) -> None:
    for file in folder.iterdir():
        largest[file.name] = max(largest.get(file.name, 0), file.stat().st_size)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    sites = Sites(tmp_path)
    made = sites.make()
    made.add_device("cam-1")
    yield made
    sites.close()


def upload(spool: Spool, channel: grpc.Channel) -> None:
    """Upload everything."""
    clock = SystemClock()
    terms = Terms(Backoff(0.05, 0.5, random.random), unlimited(clock), lambda _server_us: None)
    telemetry = telemetry_upload(lambda: channel)
    uploaders: list[Uploader[TelemetryBatch] | Uploader[SampleBatch]] = [
        Uploader("events", spool, clock, upload=telemetry, encode=encode_telemetry, terms=terms),
        Uploader("telemetry", spool, clock, upload=telemetry, encode=encode_telemetry, terms=terms),
        Uploader("samples", spool, clock, upload=sample_upload(lambda: channel), encode=encode_samples, terms=terms),
    ]
    threads = [threading.Thread(target=uploader.run) for uploader in uploaders]
    for thread in threads:
        thread.start()
    ends_s = time.monotonic() + 300
    while any(spool.batch(kind, 1, 1) for kind in KINDS) and time.monotonic() < ends_s:
        time.sleep(0.2)
    for uploader in uploaders:
        uploader.stop()
    for thread in threads:
        thread.join()
    assert [uploader.problem for uploader in uploaders] == [None] * 3


def test_what_is_stored_is_what_was_produced_less_what_was_dropped(small: Small, site: Site, tmp_path: Path) -> None:
    small.limit(size="64m")
    folder, chance = small.folder / "spool", random.Random(7)
    first, jump_s, said = 0, 0.0, set[int]()
    largest: dict[str, int] = {}
    for hour in range(HOURS):
        jump_s = JUMPS.get(hour, jump_s)
        if hour == FULL.start:
            other = small.fill(0)
        newest = run_hour(folder, first, hour, jump_s, chance)
        said.update(range(-(-first // EVENT_EVERY) * EVENT_EVERY, newest + 1, EVENT_EVERY))
        first = newest + 1 + PER_TICK  # a tick may be durable and was not said: its numbers are not used again
        note_sizes(folder, largest)
        if hour == FULL.stop:
            other.unlink()
    assert largest.pop("spool.db") <= CAP * 1.05, "the cap, and what rounds it up when it is claimed"
    assert largest.pop("spool.db-wal") <= LOG_BYTES
    assert largest.pop("reserve") <= RESERVE_BYTES
    assert largest == {}

    spool = Spool(folder, CAP)
    upload(spool, site.as_device("cam-1"))
    counters = spool.counters()
    spool.close()
    lake = Lake(site.db, tmp_path / "lake")
    lake.open()
    lake.flush()
    store = LakeStore(site.db, lake)
    counts = store.counts()

    produced = sum(counter.produced for counter in counters.values())
    dropped = sum(counter.dropped for counter in counters.values())
    assert produced >= HOURS * TICKS * PER_TICK
    assert dropped > 0
    assert (counts.produced, counts.dropped) == (produced, dropped)
    assert counts.records_stored == produced - dropped
    assert counts.duplicates == 0
    assert sum(loss.count for loss in store.losses()) == dropped
    assert {loss.reason for loss in store.losses()} == {"full"}
    stored = {int(event.message) for event in store.events(limit=1_000_000)}
    assert said <= stored, "an event was lost, though less important records waited"
    assert counters["events"].dropped == 0
