"""The fleet's figures: totals that never fall, in Prometheus' text and as OTLP, read by others' parsers."""

import gzip
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from dsops.api.v1.telemetry_pb2 import Loss
from dsops.clock import ManualClock
from dsops_controller.alerts.alerts import Alerts
from dsops_controller.dataops.inbox import Inbox
from dsops_controller.dataops.lake.lake import Lake
from dsops_controller.dataops.lake.totals import MAX_BUCKETS, Total, totals
from dsops_controller.dataops.testing import accept, drift_report, interval, received, telemetry_batch
from dsops_controller.db.database import Database
from dsops_controller.db.tables import audit, device, metadata
from dsops_controller.monitoring.figures import Monitoring
from dsops_controller.monitoring.metrics import Metric, Point, Shape, metrics
from dsops_controller.monitoring.otlp import MAX_BUCKETS as MOST_SENT
from dsops_controller.monitoring.otlp import OtlpExporter, request
from dsops_controller.monitoring.prometheus import exposition
from dsops_controller.monitoring.settings import OtlpSettings
from dsops_controller.server.broker import BrokerFigures

START = datetime(2026, 1, 1, 12, tzinfo=UTC)
SAMPLE = re.compile(r'^[a-z_]+(\{([a-z_]+="(\\.|[^"\\])*",?)*\})? (\d+(\.\d+)?(e[-+]?\d+)?)$')
BROKER = BrokerFigures(
    connected=True, connections=1, published=7, received=9, refused=0, foreign=0, overwritten=0, bytes_in=1, bytes_out=2
)


def us(seconds: float = 0.0) -> int:
    return round((START + timedelta(seconds=seconds)).timestamp() * 1_000_000)


class Killed(Exception):
    """The process ends here."""


class Site:
    """A store with its figures."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.clock = ManualClock(START + timedelta(minutes=2))
        self.db = Database(f"sqlite:///{folder}/state.db")
        with self.db.write() as connection:
            metadata.create_all(connection)
            connection.execute(
                audit.insert().values(time_ms=us() // 1000, actor="a", action="b", subject="c", detail="")
            )
        self.kill_at = ""
        self.lake = Lake(self.db, folder / "lake", self._step)
        self.lake.open()
        self.inbox = Inbox(self.db, self.clock)
        self.inbox.start()
        self.monitoring = Monitoring(
            self.db, Alerts("north", self.db, self.clock), self.clock, lambda: BROKER, lambda: 5, 0.05
        )

    def put(self, number: int, latencies: list[float], *, model: str = "digits", dropped: int = 0) -> None:
        records = [interval(us(), latencies, model=model), drift_report(us())]
        losses = [Loss(kind="sample", reason="full", count=dropped)] if dropped else []
        message = telemetry_batch(bytes([number]) * 16, (1, 2), records, produced=10, losses=losses)
        self.inbox.put(f"cam-{number}", received(message))

    def text(self) -> str:
        return exposition(metrics(self.monitoring.figures()))

    def _step(self, name: str) -> None:
        if name == self.kill_at:
            raise Killed(name)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    yield made
    made.inbox.stop()
    made.db.close()


def test_totals_add_each_record_once_also_over_a_crash(site: Site) -> None:
    site.put(1, [100.0] * 10)
    for step in ("appended telemetry", "appended minutes"):
        site.kill_at = step
        with pytest.raises(Killed):
            site.lake.flush()
        assert totals(site.db) == []
    site.kill_at = "deleted"
    with pytest.raises(Killed):
        site.lake.flush()
    site.kill_at = ""
    site.lake.flush()
    site.put(2, [100.0] * 5 + [1000.0] * 5)
    site.lake.flush()
    site.lake.flush()
    (one,) = totals(site.db)
    assert (one.model, one.answers, one.errors, one.latency.count) == ("digits", 20, 2, 20)
    assert one.latency.sum == pytest.approx(15 * 100 + 5 * 1000)
    assert one.latency.merged.quantile(0.99) == pytest.approx(1000, rel=0.05)
    assert one.since == site.clock.now()


def test_a_total_becomes_coarser_and_not_larger() -> None:
    total = Total()
    for exponent in range(40):
        other = Total(count=1, sum=1.0)
        other.merged.add(8, {256 * exponent: 1})
        total.pour(other)
    assert max(total.merged.buckets) - min(total.merged.buckets) < MAX_BUCKETS
    assert sum(total.merged.buckets.values()) == total.count == 40
    again = Total.decode(total.encode())
    assert (again.merged.buckets, again.count, again.sum) == (total.merged.buckets, 40, 40.0)


def test_every_line_of_the_text_is_of_the_format(site: Site) -> None:
    with site.db.write() as connection:
        accept(connection, ["cam-1", "cam-2"])
        connection.execute(device.update().where(device.c.id == "cam-1").values(online=True))
    site.put(1, [100.0, 2000.0, 30_000.0], dropped=3)
    site.lake.flush()
    site.put(2, [100.0])
    lines = site.text().splitlines()
    names = [line.split()[2] for line in lines if line.startswith("# TYPE")]
    assert len(names) == len(set(names))
    assert [line for line in lines if not line.startswith("# ") and not SAMPLE.match(line.replace("+Inf", "Inf"))] == []
    for wanted in (
        'dsops_devices{state="accepted"} 2',
        "dsops_devices_online 1",
        'dsops_drift_devices{model="digits",release="1",state="ok"} 2',
        'dsops_records_lost_total{kind="sample",reason="full"} 3',
        'dsops_records_stored_total{kind="telemetry"} 4',
        "dsops_inbox_batches 1",
        'dsops_inference_requests_total{model="digits",release="1"} 3',
        'dsops_inference_duration_seconds_bucket{model="digits",release="1",le="0.0005"} 1',
        'dsops_inference_duration_seconds_bucket{model="digits",release="1",le="0.0025"} 2',
        'dsops_inference_duration_seconds_bucket{model="digits",release="1",le="+Inf"} 3',
        'dsops_inference_duration_seconds_count{model="digits",release="1"} 3',
        'dsops_mqtt_messages_total{direction="out"} 7',
    ):
        assert wanted in lines


def test_the_oldest_batch_says_how_late_the_lake_is(site: Site) -> None:
    assert "dsops_inbox_lag_seconds 0.0" in site.text()
    site.put(1, [100.0])
    site.clock.advance(42)
    assert "dsops_inbox_lag_seconds 42.0" in site.text()
    site.lake.flush()
    assert "dsops_inbox_lag_seconds 0.0" in site.text()


def test_names_that_devices_choose_are_escaped() -> None:
    point = Point({"model": 'a"b\\c\nd'}, 1)
    assert exposition([Metric("x", "1", "h", Shape.GAUGE, (point,))]).endswith('x{model="a\\"b\\\\c\\nd"} 1\n')


def test_prometheus_own_parser_reads_the_text(site: Site) -> None:
    parser = pytest.importorskip("prometheus_client.parser", reason="prometheus-client is not installed")
    site.put(1, [100.0, 2000.0])
    site.lake.flush()
    families = {family.name: family for family in parser.text_string_to_metric_families(site.text())}
    duration = families["dsops_inference_duration_seconds"]
    assert duration.type == "histogram"
    buckets = [sample.value for sample in duration.samples if sample.name.endswith("_bucket")]
    assert buckets == sorted(buckets)
    assert families["dsops_inference_requests"].samples[0].value == 2.0


@dataclass
class Receiver:
    """An OTLP/HTTP receiver that holds requests to the specification's rules for JSON, and answers as it is told."""

    answers: list[tuple[int, dict[str, str], bytes]] = field(default_factory=list)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    url: str = ""


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            is_right = self.path == "/v1/metrics" and self.headers["Content-Type"] == "application/json"
            made.headers.append({name.lower(): value for name, value in self.headers.items()})
            made.bodies.append(json.loads(body))
            status, headers, answer = (404, {}, b"") if not is_right else (200, {}, b"{}")
            if is_right and made.answers:
                status, headers, answer = made.answers.pop(0)
            self.send_response(status)
            for name, value in {"Content-Type": "application/json", **headers}.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_args: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    made.url = f"http://127.0.0.1:{server.server_port}"
    yield made
    server.shutdown()
    server.server_close()
    thread.join()


def exporter(site: Site, receiver: Receiver, **more: Any) -> OtlpExporter:
    settings = OtlpSettings(endpoint=receiver.url, headers={"api-key": "k"}, **more)
    return OtlpExporter(settings, site.folder, "north", site.monitoring, site.clock, lambda: 1.0)


def by_name(body: dict[str, Any]) -> dict[str, dict[str, Any]]:
    (resource,) = body["resourceMetrics"]
    (scope,) = resource["scopeMetrics"]
    return {metric["name"]: metric for metric in scope["metrics"]}


def test_figures_go_out_with_the_devices_own_buckets(site: Site, receiver: Receiver) -> None:
    site.put(1, [100.0, 100.0, 2000.0])
    site.lake.flush()
    assert exporter(site, receiver).export().is_taken
    assert receiver.headers[0]["api-key"] == "k"
    found = by_name(receiver.bodies[0])
    duration = found["dsops.inference.duration"]
    assert (duration["unit"], duration["exponentialHistogram"]["aggregationTemporality"]) == ("us", 2)
    (point,) = duration["exponentialHistogram"]["dataPoints"]
    (total,) = totals(site.db)
    low = point["positive"]["offset"]
    sent = {low + at: int(count) for at, count in enumerate(point["positive"]["bucketCounts"]) if int(count)}
    assert (point["scale"], sent) == (total.latency.merged.scale, total.latency.merged.buckets)
    assert (point["count"], point["sum"], point["max"]) == ("3", pytest.approx(2200.0), 2000.0)
    assert int(point["startTimeUnixNano"]) < int(point["timeUnixNano"]) or site.clock.now() == total.since
    requests = found["dsops.inference.requests"]["sum"]
    assert (requests["isMonotonic"], requests["dataPoints"][0]["asInt"]) == (True, "3")
    stored = found["dsops.records.stored"]["sum"]["dataPoints"][0]
    assert stored["startTimeUnixNano"] == str(us() * 1000)  # the same after a restart: nothing counts twice
    attributes = {one["key"]: one["value"] for one in point["attributes"]}
    assert attributes == {"model": {"stringValue": "digits"}, "release": {"stringValue": "1"}}


def test_the_own_classes_of_opentelemetry_read_what_is_sent(site: Site) -> None:
    service = pytest.importorskip(
        "opentelemetry.proto.collector.metrics.v1.metrics_service_pb2", reason="opentelemetry-proto is not installed"
    )
    json_format = pytest.importorskip("google.protobuf.json_format")
    site.put(1, [100.0, 2000.0], dropped=1)
    site.lake.flush()
    body = request(metrics(site.monitoring.figures()), "north", site.clock.now(), START)
    read = json_format.Parse(json.dumps(body), service.ExportMetricsServiceRequest())  # refuses unknown names
    known = {metric.name: metric for metric in read.resource_metrics[0].scope_metrics[0].metrics}
    (point,) = known["dsops.inference.duration"].exponential_histogram.data_points
    assert point.count == point.zero_count + sum(point.positive.bucket_counts) == 2


def test_a_wide_histogram_is_sent_with_fewer_buckets_and_the_same_count() -> None:
    total = Total()
    for index in (0, 500):
        other = Total(count=1, sum=1.0)
        other.merged.add(3, {index: 1})
        total.pour(other)
    body = request([Metric("x", "us", "h", Shape.HISTOGRAM, (Point({}, total),))], "north", START, START)
    point = by_name(body)["x"]["exponentialHistogram"]["dataPoints"][0]
    assert len(point["positive"]["bucketCounts"]) <= MOST_SENT
    assert (point["count"], point["scale"]) == ("2", 1)


def test_what_the_receiver_says_is_honoured(site: Site, receiver: Receiver) -> None:
    partial = json.dumps({"partialSuccess": {"rejectedDataPoints": "2", "errorMessage": "too old"}}).encode()
    receiver.answers = [
        (503, {"Retry-After": "77"}, b""), (429, {}, b""), (400, {}, b"no"), (200, {}, partial), (200, {}, b"{}"),
    ]  # fmt: skip
    sender = exporter(site, receiver, interval_s=60)
    assert sender.pause_s == 60
    first = sender.export()
    assert (first.is_taken, first.is_later, sender.pause_s) == (False, True, 77.0)
    sender.export()
    assert sender.pause_s == 10.0  # the second failure in a row
    third = sender.export()
    assert (third.is_taken, third.is_later, sender.pause_s) == (False, False, 60)
    assert "answered 400: no" in third.why
    fourth = sender.export()
    assert (fourth.is_taken, fourth.rejected, "too old" in fourth.why) == (True, 2, True)
    assert sender.export().why == ""


def test_a_receiver_that_is_not_there_is_asked_again_soon(site: Site, receiver: Receiver) -> None:
    settings = OtlpSettings(endpoint="http://127.0.0.1:9", timeout_s=1)
    sender = OtlpExporter(settings, site.folder, "north", site.monitoring, site.clock, lambda: 1.0)
    outcome = sender.export()
    assert (outcome.is_taken, outcome.is_later, sender.pause_s) == (False, True, 5.0)


def test_counts_above_64_bits_are_sent_as_the_largest_that_a_receiver_holds() -> None:
    much = Total(count=2**70)
    much.merged.zero = 2**70
    much.merged.add(0, dict.fromkeys(range(MOST_SENT), 2**70))
    sums = Metric("requests", "1", "", Shape.COUNTER, (Point({}, 2**64),))
    spread = Metric("latency", "us", "", Shape.HISTOGRAM, (Point({}, much),))
    found = by_name(request([sums, spread], "north", START, START))
    assert found["requests"]["sum"]["dataPoints"][0]["asInt"] == str(2**63 - 1)
    point = found["latency"]["exponentialHistogram"]["dataPoints"][0]
    counts = [int(point["zeroCount"]), *map(int, point["positive"]["bucketCounts"])]
    assert int(point["count"]) == sum(counts) < 2**63
