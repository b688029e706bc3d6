"""A device that has a certificate and means ill: refused or bounded, recorded once, and others do not notice."""

import gzip
import math
import queue
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest

from dsops.api.v1.samples_pb2_grpc import SamplesStub
from dsops.api.v1.telemetry_pb2 import Ack, Kpi, TelemetryBatch, TelemetryRecord
from dsops.api.v1.telemetry_pb2_grpc import TelemetryStub
from dsops.clock import SystemClock
from dsops_controller.audit import Audit
from dsops_controller.dataops.lake.columns import LakeTable
from dsops_controller.dataops.lake.lake import read_pending
from dsops_controller.dataops.lake.rows import split
from dsops_controller.dataops.testing import host, interval, sample, sample_batch, telemetry_batch
from dsops_controller.server import gate
from dsops_controller.server.quotas import QuotaRules
from dsops_controller.server.refusals import CODE_KEY, PAUSE_KEY
from dsops_controller.server.upload_trail import ACTION

pytestmark = pytest.mark.integration

A, B = b"a" * 16, b"b" * 16
REPORT = "/dsops.api.v1.Telemetry/Report"
STATUS = grpc.StatusCode


def now_us() -> int:
    return time.time_ns() // 1000


def batch(stream: bytes, first: int, count: int = 1) -> TelemetryBatch:
    seqs = list(range(first, first + count))
    return telemetry_batch(stream, seqs, [host(now_us()) for _ in seqs])


def report(channel: grpc.Channel, *batches: TelemetryBatch) -> list[Ack]:
    return list(TelemetryStub(channel).Report(iter(batches), timeout=20))


def refusal(call: Callable[[], object]) -> tuple[grpc.StatusCode, dict[str, str]]:
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return caught.value.code(), {key: str(value) for key, value in caught.value.trailing_metadata() or ()}


def recorded(site: Any, device: str) -> list[str]:
    """Return the codes of the refusals of a device that the audit trail holds."""
    rows = Audit(site.db, SystemClock()).list(subject=device)
    return [row.detail.partition(":")[0] for row in rows if row.action == ACTION]


@pytest.fixture
def pair(make_site: Callable[..., Any]) -> Callable[..., tuple[Any, grpc.Channel, grpc.Channel]]:
    """Return a server, and the channels of a hostile device and of another."""

    def make(quotas: QuotaRules) -> tuple[Any, grpc.Channel, grpc.Channel]:
        site = make_site(quotas=quotas)
        for name in ("evil", "cam-1"):
            site.add_device(name)
        return site, site.as_device("evil"), site.as_device("cam-1")

    return make


def test_who_exceeds_its_quota_is_told_how_long_to_wait_and_others_go_on(pair: Any) -> None:
    site, evil, good = pair(QuotaRules(records_per_s=1, records_burst=20))
    assert [ack.committed_seq for ack in report(evil, batch(A, 1, 60))] == [60]
    for _ in range(5):
        status, told = refusal(lambda: report(evil, batch(A, 61)))
        assert (status, told[CODE_KEY]) == (STATUS.RESOURCE_EXHAUSTED, "transport.quota_exceeded")
        assert 30_000 < int(told[PAUSE_KEY]) <= 60_000
    assert [ack.committed_seq for ack in report(good, batch(A, 1), batch(A, 2))] == [1, 2]
    assert site.stored() == 62
    assert recorded(site, "evil") == ["transport.quota_exceeded"]
    assert recorded(site, "cam-1") == []


def test_malformed_messages_cost_their_bytes_too(pair: Any) -> None:
    site, evil, good = pair(QuotaRules(bytes_per_s=100, bytes_burst=1000))
    junk = b"\xff" * 600
    codes = [refusal(lambda: list(evil.stream_stream(REPORT)(iter([junk]), timeout=20)))[1][CODE_KEY] for _ in range(4)]
    assert codes == [*["request.invalid_input"] * 2, *["transport.quota_exceeded"] * 2]
    assert sorted(recorded(site, "evil")) == ["request.invalid_input", "transport.quota_exceeded"]
    assert report(good, batch(A, 1))[0].committed_seq == 1


def test_a_flood_of_calls_is_refused_before_the_database_is_asked(pair: Any) -> None:
    site, evil, good = pair(QuotaRules(calls_per_s=1, calls_burst=20))

    def one(number: int) -> grpc.StatusCode:
        call = evil.stream_stream(REPORT)(iter(()), timeout=60)
        code: grpc.StatusCode = call.code()
        return code

    with ThreadPoolExecutor(8) as threads:
        flood = threads.map(one, range(300))
        assert [ack.committed_seq for ack in report(good, batch(A, 1))] == [1]
        codes = list(flood)
    assert set(codes) == {STATUS.OK, STATUS.RESOURCE_EXHAUSTED}
    assert codes.count(STATUS.OK) < 60
    assert recorded(site, "evil") == ["transport.quota_exceeded"]


def test_a_device_cannot_hold_more_than_its_streams(pair: Any) -> None:
    _, evil, good = pair(QuotaRules(device_streams=3, calls_per_s=1e6, calls_burst=10**6))
    queues: list[queue.Queue[TelemetryBatch | None]] = [queue.Queue() for _ in range(3)]
    held = [TelemetryStub(evil).Report(iter(waiting.get, None), timeout=60) for waiting in queues]
    for number, (waiting, call) in enumerate(zip(queues, held, strict=True)):
        waiting.put(batch(number.to_bytes(16, "big"), 1))
        assert next(call).committed_seq == 1
    probe = evil.stream_stream(REPORT)(iter(()), timeout=20)
    assert (probe.code(), probe.details()[:27]) == (STATUS.RESOURCE_EXHAUSTED, "evil has 3 streams open: it")
    assert report(good, batch(A, 1))[0].committed_seq == 1
    assert all(call.is_active() for call in held)
    for waiting, call in zip(queues, held, strict=True):
        call.cancel()
        waiting.put(None)
    deadline = time.monotonic() + 30
    while (code := evil.stream_stream(REPORT)(iter(()), timeout=20).code()) is not STATUS.OK:
        assert time.monotonic() < deadline, code


def test_old_batches_that_are_replayed_add_nothing(site: Any) -> None:
    site.add_device("evil")
    evil, good = site.as_device("evil"), site.as_device("cam-1")
    first = batch(A, 1, 50)
    report(good, first)
    assert [ack.committed_seq for ack in report(evil, *[batch(A, 1, 10)] * 20)] == [10] * 20
    assert [ack.committed_seq for ack in report(good, first, first)] == [50, 50]
    assert site.stored() == 60


def test_a_batch_of_another_device_is_filed_under_the_certificate(site: Any) -> None:
    """No message names a device: who replays what it overheard writes into streams of its own."""
    site.add_device("evil")
    overheard = batch(A, 7, 3)
    report(site.as_device("evil"), overheard)
    assert [ack.committed_seq for ack in report(site.as_device("cam-1"), batch(A, 1, 2))] == [2]
    with site.db.read() as connection:
        filed = {row.device: len(row.seqs) // 8 for row in read_pending(connection)}
    assert filed == {"evil": 3, "cam-1": 2}


BOMBER = """
import sys, grpc
port, ca, key, certificate = sys.argv[1], *(open(path, "rb").read() for path in sys.argv[2:])
options = [("grpc.max_send_message_length", -1)]
credentials = grpc.ssl_channel_credentials(ca, key, certificate)
call = grpc.secure_channel(f"localhost:{port}", credentials, options).stream_stream("/dsops.api.v1.Telemetry/Report")
for size, compression in ((5 << 20, grpc.Compression.NoCompression), (400 << 20, grpc.Compression.Gzip)):
    try:
        list(call(iter([bytes(size)]), timeout=60, compression=compression))
    except grpc.RpcError as error:
        print(error.code().name, error.details())
"""


def peak_kb() -> int:
    """Return the most memory that this process had since the peak was forgotten."""
    return next(int(line.split()[1]) for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line)


def test_giant_messages_and_compressed_bombs_cost_the_server_no_memory(site: Any, tmp_path: Path) -> None:
    site.add_device("evil")
    certificate, key = site.certify("evil")
    for name, text in (("ca", site.authority.certificate_pem), ("key", key), ("crt", certificate)):
        (tmp_path / name).write_bytes(text)
    files = [str(tmp_path / name) for name in ("ca", "key", "crt")]
    good = site.as_device("cam-1")
    report(good, batch(A, 1))
    Path("/proc/self/clear_refs").write_text("5")
    before_kb = peak_kb()
    command = [sys.executable, "-c", BOMBER, str(site.ports[0]), *files]
    told = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout.splitlines()
    assert [line.split()[0] for line in told] == ["RESOURCE_EXHAUSTED"] * 2
    assert all("larger than max" in line for line in told)  # what the uploader knows it by
    assert peak_kb() - before_kb < 64 << 10
    assert report(good, batch(A, 2))[0].committed_seq == 2
    assert site.stored() == 2


def test_figures_that_are_no_numbers_are_stored_as_unknown(site: Any) -> None:
    channel = site.as_device("cam-1")
    hostile = [math.nan, math.inf, -math.inf, 1e308]
    kpis = [TelemetryRecord(kpi=Kpi(time_us=now_us(), name="parts", value=value)) for value in hostile]
    odd = interval(now_us())
    odd.model.drift_score, odd.model.latency_us.sum, odd.model.confidence_ppm.max = math.nan, math.inf, -math.inf
    report(channel, telemetry_batch(A, [1, 2, 3, 4, 5], [*kpis, odd]))
    with site.db.read() as connection:
        rows = split(read_pending(connection))
    assert rows.above(LakeTable.KPIS, -1)["value"].to_pylist() == [None, None, None, 1e308]
    odd_row = rows.above(LakeTable.TELEMETRY, -1)
    assert [odd_row[name].to_pylist() for name in ("drift_score", "latency_sum", "confidence_max")] == [[None]] * 3


GIANTS = {
    "a text": lambda record: setattr(record.model, "digest", "x" * 5000),
    "buckets": lambda record: record.model.latency_us.counts.extend([1] * 5000),
    "an exponent": lambda record: setattr(record.model.latency_us, "offset", 2**30),
    "labels": lambda record: record.model.labels.extend([1] * 100_001),
    "a count": lambda record: setattr(record.model, "count", 2**64 - 1),
    "a time": lambda record: setattr(record.model, "start_us", 2**63),
    "a name": lambda record: setattr(record.model, "model", "../" * 9),
    "a boot": lambda record: setattr(record.moment, "boot", b"x" * 17),
}


@pytest.mark.parametrize("name", GIANTS)
def test_giant_and_malformed_records_are_refused_by_name(site: Any, name: str) -> None:
    record = interval(now_us())
    GIANTS[name](record)
    status, told = refusal(lambda: report(site.as_device("cam-1"), telemetry_batch(A, [1], [record])))
    assert (status, told[CODE_KEY]) == (STATUS.INVALID_ARGUMENT, "request.invalid_input")
    assert site.stored() == 0
    assert recorded(site, "cam-1") == ["request.invalid_input"]


def test_a_gzip_that_is_sent_as_a_message_is_just_bytes(site: Any) -> None:
    raw = site.as_device("cam-1").stream_stream(REPORT)
    status, _ = refusal(lambda: list(raw(iter([gzip.compress(bytes(1 << 20))]), timeout=20)))
    assert status is STATUS.INVALID_ARGUMENT


def test_a_sample_whose_shape_promises_more_than_it_holds_is_refused(site: Any) -> None:
    lying = sample_batch(B, [1], [sample(now_us(), [1.0])])
    lying.samples[0].input.shape[:] = [2**31 - 1, 2**31 - 1]
    status, _ = refusal(lambda: list(SamplesStub(site.as_device("cam-1")).Upload(iter([lying]), timeout=20)))
    assert status is STATUS.INVALID_ARGUMENT


def test_a_stream_that_brings_nothing_is_ended(site: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "IDLE_S", 0.1)
    waiting: queue.Queue[TelemetryBatch | None] = queue.Queue()
    waiting.put(batch(A, 1))
    call = TelemetryStub(site.as_device("cam-1")).Report(iter(waiting.get, None), timeout=30)
    assert [ack.committed_seq for ack in call] == [1]  # the device never ends it
    waiting.put(None)
    assert call.code() is STATUS.OK
