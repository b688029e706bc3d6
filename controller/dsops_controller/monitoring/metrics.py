"""The figures as metrics: names, units and points that both Prometheus and OpenTelemetry understand."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import Enum

from dsops_controller.dataops.lake.totals import Total
from dsops_controller.monitoring.figures import FleetFigures

Labels = Mapping[str, str]


class Shape(Enum):
    """What a metric's points are."""

    GAUGE = "gauge"
    COUNTER = "counter"
    HISTOGRAM = "histogram"


@dataclass(frozen=True)
class Point:
    """One value.

    Attributes:
        labels: Which.
        value: A number, or a histogram.
        since: Since when a counter or histogram adds up; None when it is not known.
    """

    labels: Labels
    value: float | Total
    since: datetime | None = None


@dataclass(frozen=True)
class Metric:
    """One metric.

    Attributes:
        name: With dots, as OpenTelemetry has it: ``dsops.devices``.
        unit: UCUM code.
        help: What it says.
        shape: What its points are.
        points: No labels are there twice.
    """

    name: str
    unit: str
    help: str
    shape: Shape
    points: tuple[Point, ...]


def metrics(figures: FleetFigures) -> Iterator[Metric]:
    """Yield every metric of the fleet."""
    yield from _fleet(figures)
    yield from _drift(figures)
    yield from _ingest(figures)
    yield from _models(figures)
    yield from _alerts(figures)


def _fleet(figures: FleetFigures) -> Iterator[Metric]:
    states = {("state", state): count for state, count in figures.devices.items()}
    yield _metric("dsops.devices", "{device}", "Devices by state.", Shape.GAUGE, states)
    yield _one("dsops.devices.online", "{device}", "Accepted devices that are connected.", Shape.GAUGE, figures.online)


def _drift(figures: FleetFigures) -> Iterator[Metric]:
    levels = tuple(
        Point({"model": model, "release": str(release), "state": level}, count)
        for (model, release, level), count in sorted(figures.drift.levels.items())
    )
    yield Metric("dsops.drift.devices", "{device}", "Devices by level of drift.", Shape.GAUGE, levels)
    named = {("model", model): len(devices) for model, devices in figures.drift.drifted.items()}
    text = "Devices that have drifted after correction for their number (e-BH)."
    yield _metric("dsops.drift.discoveries", "{device}", text, Shape.GAUGE, named)
    skewed = {("model", model): count for model, count in figures.drift.skewed.items()}
    text = "Devices whose first frames were not those of the profile."
    yield _metric("dsops.skew.devices", "{device}", text, Shape.GAUGE, skewed)


def _ingest(figures: FleetFigures) -> Iterator[Metric]:
    records = {("kind", kind): count for kind, count in figures.records.items()}
    yield _metric(
        "dsops.records.stored", "{record}", "Records that were stored.", Shape.COUNTER, records, figures.since
    )
    text = "Records that devices made, as they say."
    yield _one("dsops.records.produced", "{record}", text, Shape.COUNTER, figures.produced, figures.since)
    lost = tuple(
        Point({"kind": kind, "reason": reason}, count, figures.since)
        for (kind, reason), count in sorted(figures.lost.items())
    )
    yield Metric("dsops.records.lost", "{record}", "Records that devices dropped.", Shape.COUNTER, lost)
    batches, size, oldest_s = figures.waiting
    yield _one("dsops.inbox.batches", "{batch}", "Batches that wait for the lake.", Shape.GAUGE, batches)
    yield _one("dsops.inbox.size", "By", "Bytes that wait for the lake.", Shape.GAUGE, size)
    text = "How long the oldest batch has waited for the lake."
    yield _one("dsops.inbox.lag", "s", text, Shape.GAUGE, oldest_s)
    text = "Bytes of messages over gRPC, both ways, since the start."
    yield _one("dsops.grpc.io", "By", text, Shape.COUNTER, figures.grpc_bytes)
    broker = figures.broker
    yield _one("dsops.mqtt.connected", "1", "Whether the broker is connected.", Shape.GAUGE, int(broker.connected))
    moved = {("direction", "in"): broker.received, ("direction", "out"): broker.published}
    yield _metric("dsops.mqtt.messages", "{message}", "Messages over MQTT since the start.", Shape.COUNTER, moved)


def _models(figures: FleetFigures) -> Iterator[Metric]:
    texts = {
        "answers": ("dsops.inference.requests", "Answered requests."),
        "errors": ("dsops.inference.errors", "Requests that failed."),
        "unobserved": ("dsops.inference.unobserved", "Answered frames that monitor and sampler were not shown."),
    }
    known = [({"model": one.model, "release": str(one.release)}, one) for one in figures.releases]
    for field, (name, text) in texts.items():
        points = tuple(Point(labels, getattr(one, field), one.since) for labels, one in known)
        yield Metric(name, "{request}", text, Shape.COUNTER, points)
    latency = tuple(Point(labels, one.latency, one.since) for labels, one in known)
    yield Metric("dsops.inference.duration", "us", "Time in the interpreter.", Shape.HISTOGRAM, latency)
    confidence = tuple(Point(labels, one.confidence, one.since) for labels, one in known)
    yield Metric("dsops.inference.confidence", "[ppm]", "Largest score of an answer.", Shape.HISTOGRAM, confidence)


def _alerts(figures: FleetFigures) -> Iterator[Metric]:
    kinds = {("kind", kind): count for kind, count in figures.alerts.items()}
    yield _metric("dsops.alerts.open", "{alert}", "Open alerts.", Shape.GAUGE, kinds)
    states = {("state", state): figures.notices.get(state, 0) for state in ("pending", "delivered", "dead")}
    yield _metric("dsops.alerts.notices", "{notice}", "Notices of alerts by state.", Shape.GAUGE, states)


def _one(name: str, unit: str, text: str, shape: Shape, value: float, since: datetime | None = None) -> Metric:
    return Metric(name, unit, text, shape, (Point({}, value, since),))


def _metric(
    name: str,
    unit: str,
    text: str,
    shape: Shape,
    values: Mapping[tuple[str, str], float],
    since: datetime | None = None,
) -> Metric:
    points = tuple(Point({key: which}, value, since) for (key, which), value in sorted(values.items()))
    return Metric(name, unit, text, shape, points)
