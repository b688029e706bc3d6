"""Spool to store over real gRPC with mutual TLS: every record exactly once, whatever breaks."""

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import grpc
import pytest

from dsops.api.v1.samples_pb2 import SampleRecord, Tensor
from dsops.api.v1.telemetry_pb2 import Event, Kpi, TelemetryRecord
from dsops.clock import SystemClock
from dsops_agent.backoff import Backoff
from dsops_agent.install.budget import Today
from dsops_agent.telemetry.allowance import Allowance, UploadRules, unlimited
from dsops_agent.telemetry.spool import Delivery, Spool
from dsops_agent.telemetry.upload import Terms, Uploader, encode_samples, encode_telemetry
from dsops_agent.transport.grpc import mutually_authenticated, sample_upload, telemetry_upload

pytestmark = pytest.mark.integration

Eventually = Callable[..., None]
CAP = 4 << 20


def figure(number: int) -> bytes:
    return TelemetryRecord(kpi=Kpi(name="count", time_us=number)).SerializeToString()


def sample(number: int, size: int) -> bytes:
    tensor = Tensor(datatype="UINT8", shape=[size], data=bytes(size))
    return SampleRecord(time_us=number, input=tensor).SerializeToString()


class Upload:
    """Both uploaders of one device, with their threads."""

    def __init__(self, spool: Spool, identity: Any, allowance: Allowance | None = None) -> None:
        self.channel = mutually_authenticated(identity)
        clock = SystemClock()
        self.heard: list[int] = []
        self.compressed: set[bool] = set()
        terms = Terms(Backoff(0.05, 0.2, lambda: 1.0), allowance or unlimited(clock), self.heard.append)
        self.events = Uploader(
            "events",
            spool,
            clock,
            upload=self.noted(telemetry_upload(lambda: self.channel)),
            encode=encode_telemetry,
            terms=terms,
        )
        self.telemetry = Uploader(
            "telemetry",
            spool,
            clock,
            upload=self.noted(telemetry_upload(lambda: self.channel)),
            encode=encode_telemetry,
            terms=terms,
        )
        self.samples = Uploader(
            "samples",
            spool,
            clock,
            upload=sample_upload(lambda: self.channel),
            encode=encode_samples,
            terms=terms,
        )
        self.all = (self.events, self.telemetry, self.samples)
        self.threads = [threading.Thread(target=body) for body in (u.run for u in self.all)]
        for thread in self.threads:
            thread.start()

    def noted(self, upload: Any) -> Any:
        def call(batches: Any, timeout_s: float, compress: bool) -> Any:
            self.compressed.add(compress)
            return upload(batches, timeout_s, compress)

        return call

    def stop(self) -> None:
        for uploader in self.all:
            uploader.stop()
        for thread in self.threads:
            thread.join(20)
        assert not any(thread.is_alive() for thread in self.threads)
        self.channel.close()


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    spool = Spool(tmp_path / "spool", CAP)
    yield spool
    spool.close()


@pytest.fixture
def identity(tmp_path: Path, pki: Any, broker: Any, store: Any) -> Any:
    return pki.identity(tmp_path / "identity", "cam-1", broker.address, store.address)


@pytest.fixture
def upload(spool: Spool, identity: Any) -> Iterator[Upload]:
    upload = Upload(spool, identity)
    yield upload
    upload.stop()


def numbers(store: Any) -> list[int]:
    return sorted(record.kpi.time_us for record in store.telemetry.values())


def test_both_kinds_arrive_and_leave_the_spool(
    spool: Spool, upload: Upload, store: Any, eventually: Eventually
) -> None:
    spool.append_all({"telemetry": [figure(n) for n in range(100)], "samples": [sample(n, 50_000) for n in range(40)]})
    eventually(lambda: spool.counters()["telemetry"].stored == 100 and spool.counters()["samples"].stored == 40)
    assert numbers(store) == list(range(100))
    assert len(store.samples) == 40
    assert all(batch.ByteSize() < 1 << 20 for batch in store.batches)
    assert spool.waiting_bytes == 0


def test_a_lost_acknowledgement_stores_nothing_twice(
    spool: Spool, upload: Upload, store: Any, eventually: Eventually
) -> None:
    store.break_after_commit = 3
    spool.append("telemetry", [figure(n) for n in range(50)])
    eventually(lambda: spool.counters()["telemetry"].pending == 0)
    assert numbers(store) == list(range(50))
    assert len(store.batches) > 3


def test_a_store_that_was_away_gets_everything_and_the_counters(
    spool: Spool, upload: Upload, store: Any, eventually: Eventually
) -> None:
    store.stop()
    spool.append("telemetry", [figure(n) for n in range(30)])
    eventually(lambda: upload.telemetry.problem is not None)
    store.start()
    eventually(lambda: spool.counters()["telemetry"].pending == 0, 60)
    assert numbers(store) == list(range(30))
    assert store.batches[-1].produced == 30
    eventually(lambda: upload.telemetry.problem is None)


def test_a_batch_that_is_refused_is_split_and_a_poison_record_is_dropped(
    spool: Spool, upload: Upload, store: Any, eventually: Eventually
) -> None:
    store.refuse = grpc.StatusCode.INVALID_ARGUMENT
    spool.append("telemetry", [figure(n) for n in range(5)])
    eventually(lambda: spool.counters()["telemetry"].dropped >= 1)
    store.refuse = None
    eventually(lambda: spool.counters()["telemetry"].pending == 0)
    counters = spool.counters()["telemetry"]
    assert counters.stored + counters.dropped == 5
    assert len(store.telemetry) == counters.stored


def test_a_store_that_is_busy_costs_no_record(spool: Spool, upload: Upload, store: Any, eventually: Eventually) -> None:
    store.refuse = grpc.StatusCode.RESOURCE_EXHAUSTED
    spool.append("telemetry", [figure(1)])
    eventually(lambda: upload.telemetry.problem is not None)
    store.refuse = None
    eventually(lambda: spool.counters()["telemetry"].stored == 1)
    assert spool.counters()["telemetry"].dropped == 0


def test_who_is_told_how_long_to_wait_waits_at_least_so_long_and_sends_the_same_batch(
    spool: Spool, upload: Upload, store: Any, eventually: Eventually
) -> None:
    store.refuse, store.pushback_ms = grpc.StatusCode.RESOURCE_EXHAUSTED, 700
    spool.append("telemetry", [figure(n) for n in range(5)])
    eventually(lambda: len(store.refused_s) >= 3)
    store.refuse = None
    eventually(lambda: spool.counters()["telemetry"].stored == 5)
    assert all(later - before >= 0.7 for before, later in pairwise(store.refused_s))  # alone it would wait 0.2 s
    assert [len(batch.seqs) for batch in store.batches] == [5]
    assert spool.counters()["telemetry"].dropped == 0


def test_bytes_that_are_no_record_are_dropped_and_do_not_stay(
    spool: Spool, upload: Upload, store: Any, eventually: Eventually
) -> None:
    spool.append("telemetry", [b"\xff\xff\xff", figure(1), b"\xff"])
    eventually(lambda: spool.counters()["telemetry"].pending == 0)
    assert spool.counters()["telemetry"].dropped == 2
    assert numbers(store) == [1]


def test_what_was_dropped_is_told_by_kind_and_reason_even_alone(
    spool: Spool, upload: Upload, store: Any, eventually: Eventually
) -> None:
    spool.take(Delivery({}, {"samples": {"unredacted": 3}}))
    eventually(lambda: any(batch.losses for batch in store.batches))
    told = [batch for batch in store.batches if batch.losses][-1]
    assert [(loss.kind, loss.reason, loss.count) for loss in told.losses] == [("sample", "unredacted", 3)]
    assert (told.dropped, told.produced, list(told.seqs)) == (3, 3, [])
    eventually(lambda: spool.batch("samples", 1, 1) is None)
    assert upload.samples.problem is None


def test_over_a_metered_link_samples_wait_and_telemetry_is_compressed(
    spool: Spool, identity: Any, store: Any, eventually: Eventually
) -> None:
    clock, kept = SystemClock(), list[Today]()
    rules = UploadRules(bytes_per_day=1 << 20, metered_every_s=3600.0)
    upload = Upload(spool, identity, Allowance(rules, clock, lambda: True, Today(), kept.append))
    spool.append_all({"telemetry": [figure(1)], "samples": [sample(1, 5000)]})
    eventually(lambda: numbers(store) == [1])
    spool.append("telemetry", [figure(2)])
    spool.append("events", [TelemetryRecord(event=Event(kind="install", time_us=9)).SerializeToString()])
    eventually(lambda: spool.counters()["events"].stored == 1)
    counters = spool.counters()
    upload.stop()
    assert (counters["telemetry"].pending, counters["samples"].pending) == (1, 1)
    assert upload.compressed == {True}
    assert kept[-1].fetched_bytes > 0


def test_what_waits_is_flushed_after_the_stop(spool: Spool, identity: Any, store: Any) -> None:
    with mutually_authenticated(identity) as channel:
        uploader = Uploader(
            "telemetry",
            spool,
            SystemClock(),
            upload=telemetry_upload(lambda: channel),
            encode=encode_telemetry,
            terms=Terms(Backoff(0.05, 0.2, lambda: 1.0), unlimited(SystemClock()), lambda _server_us: None),
        )
        uploader.stop()
        spool.append("telemetry", [figure(7)])
        uploader.run()
    assert numbers(store) == [7]
    assert spool.counters()["telemetry"].stored == 1


def test_a_store_of_another_authority_gets_nothing(
    tmp_path: Path, spool: Spool, pki: Any, store: Any, broker: Any, eventually: Eventually
) -> None:
    identity = pki.identity(tmp_path / "other", "cam-1", broker.address, store.address)
    stranger = pki.issue("another authority", identity.key.public_key(), ca=True)
    identity.ca_path.write_bytes(stranger)
    spool.append("telemetry", [figure(1)])
    upload = Upload(spool, identity)
    eventually(lambda: upload.telemetry.problem is not None)
    upload.stop()
    assert store.batches == []
    assert spool.counters()["telemetry"].pending == 1


PRODUCER = """
import random, sys, threading
from pathlib import Path
from dsops.api.v1.telemetry_pb2 import Event, Kpi, TelemetryRecord
from dsops.clock import SystemClock
from dsops_agent.backoff import Backoff
from dsops_agent.identity import IdentityFolder
from dsops_agent.telemetry.spool import Spool
from dsops_agent.telemetry.allowance import unlimited
from dsops_agent.telemetry.upload import Terms, Uploader, encode_telemetry
from dsops_agent.transport.grpc import mutually_authenticated, telemetry_upload

folder, number = Path(sys.argv[1]), int(sys.argv[2])
identity = IdentityFolder(folder / "identity").load("cam-1")
spool = Spool(folder / "spool", 4 << 20)
channel = mutually_authenticated(identity)
terms = Terms(Backoff(0.02, 0.1, random.random), unlimited(SystemClock()), lambda _server_us: None)
uploader = Uploader("telemetry", spool, SystemClock(), upload=telemetry_upload(lambda: channel),
                    encode=encode_telemetry, terms=terms)
threading.Thread(target=uploader.run, daemon=True).start()
while True:
    spool.append("telemetry", [TelemetryRecord(kpi=Kpi(name="count", time_us=number)).SerializeToString()])
    sys.stdout.write(f"{number}\\n")
    sys.stdout.flush()
    number += 1
"""


def test_exactly_once_through_kills_of_the_device_and_restarts_of_the_store(
    tmp_path: Path, identity: Any, store: Any, eventually: Eventually
) -> None:
    said: set[int] = set()
    number = 0
    for round_number in range(5):
        producer = subprocess.Popen(
            [sys.executable, "-c", PRODUCER, str(tmp_path), str(number)], stdout=subprocess.PIPE, text=True
        )
        assert producer.stdout is not None
        for line in range(60):
            said.add(int(producer.stdout.readline()))
            if line == 30 and round_number % 2:
                store.stop()
                store.start()
            if line == 45:
                store.break_after_commit = 1
        producer.kill()
        said.update(int(line) for line in producer.stdout.read().split("\n")[:-1])
        producer.wait()
        number = max(said) + 10  # what was stored but not said any more stays a gap of its own
    store.break_after_commit = 0
    spool = Spool(tmp_path / "spool", CAP)
    upload = Upload(spool, identity)
    eventually(lambda: spool.counters()["telemetry"].pending == 0, 60)
    counters = spool.counters()["telemetry"]
    upload.stop()
    spool.close()
    found = numbers(store)
    assert len(found) == len(set(found))
    assert said <= set(found)
    assert len(found) == counters.produced
    assert counters.dropped == 0
