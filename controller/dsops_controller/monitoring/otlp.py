"""Sends the fleet's figures by OTLP: HTTP with JSON (opentelemetry.io/docs/specs/otlp, "OTLP/HTTP", "JSON Protobuf").

The JSON form needs no library: names in lowerCamelCase, 64-bit integers as text, enums as numbers. All sums are
cumulative, so an export that fails loses resolution and no count; the next one has newer figures, and nothing is kept
to be sent again. Histograms go out with the very buckets of the devices.
"""

import json
import logging
import random
import ssl
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import httpx

import dsops
from dsops.clock import Clock
from dsops.errors import DsopsError
from dsops_controller.dataops.lake.totals import Total
from dsops_controller.monitoring.figures import Monitoring
from dsops_controller.monitoring.metrics import Labels, Metric, Point, Shape, metrics
from dsops_controller.monitoring.settings import OtlpSettings

log = logging.getLogger(__name__)

MAX_BUCKETS = 160
"""What an OpenTelemetry SDK has by default; receivers expect no more."""
_CUMULATIVE = 2
_INT64 = 2**63 - 1
_MOST_IN_BUCKET = 2**53
"""Buckets of so much do not add up to more than a receiver holds, which would refuse every metric with them."""
_LATER = frozenset({429, 502, 503, 504})
_FIRST_WAIT_S, _LONGEST_WAIT_S, _MOST_WAIT_S = 5.0, 300.0, 3600.0
_JITTER = random.SystemRandom()
_EPOCH = datetime.fromisoformat("1970-01-01T00:00:00+00:00")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of an export.

    Attributes:
        is_taken: Whether the receiver has it.
        why: What it said otherwise, or of points that it did not take.
        rejected: Points that it did not take though it took the rest (partial success).
        is_later: Whether to try again soon.
        wait_s: After how long it wants to be asked again; 0 when it does not say.
    """

    is_taken: bool
    why: str = ""
    rejected: int = 0
    is_later: bool = False
    wait_s: float = 0.0


class OtlpExporter:
    """Sends figures until it is stopped.

    Args:
        settings: Whereto.
        folder: The server's folder.
        fleet: Name of the fleet.
        monitoring: Reads the figures.
        clock: Tells the time.
        draw: Gives a number from 0 to 1.
    """

    def __init__(
        self,
        settings: OtlpSettings,
        folder: Path,
        fleet: str,
        monitoring: Monitoring,
        clock: Clock,
        draw: Callable[[], float] = _JITTER.random,
    ) -> None:
        self._settings = settings
        self._folder = folder
        self._fleet = fleet
        self._monitoring = monitoring
        self._clock = clock
        self._draw = draw
        self._started = clock.now()
        self._failures = 0
        self._pause_s = settings.interval_s

    def run(self, stop: threading.Event) -> None:
        """Export every interval until ``stop`` is set; without an endpoint only wait for that."""
        if not self._settings.endpoint:
            stop.wait()
            return
        told = ""
        while not stop.wait(self.pause_s):
            outcome = self.export()
            if outcome.why and outcome.why != told:
                log.warning("otlp: %s", outcome.why)
            told = outcome.why

    @property
    def pause_s(self) -> float:
        """Seconds until the next export."""
        return self._pause_s if self._failures else self._settings.interval_s

    def export(self) -> Outcome:
        """Send the figures as they are now."""
        try:
            found = self._monitoring.figures()
        except DsopsError as error:
            return self._noted(Outcome(is_taken=False, why=str(error), is_later=True))
        body = request(metrics(found), self._fleet, found.time, self._started)
        return self._noted(self._post(json.dumps(body).encode()))

    def _noted(self, outcome: Outcome) -> Outcome:
        self._failures = self._failures + 1 if outcome.is_later else 0
        longest = min(_FIRST_WAIT_S * 2.0 ** min(self._failures - 1, 10), _LONGEST_WAIT_S)
        self._pause_s = max(outcome.wait_s, longest * (0.5 + self._draw() / 2))
        return outcome

    def _post(self, body: bytes) -> Outcome:
        url = f"{self._settings.endpoint}/v1/metrics"
        headers = {
            **self._settings.headers,
            "Content-Type": "application/json",
            "User-Agent": f"dsops/{dsops.__version__}",
        }
        try:
            timeout = self._settings.timeout_s
            with httpx.Client(timeout=timeout, trust_env=False, follow_redirects=False, verify=self._trust()) as client:
                answer = client.post(url, content=body, headers=headers)
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            return Outcome(is_taken=False, why=f"no answer from {url}: {error}", is_later=True)
        if answer.is_success:
            return _partial(answer)
        why = f"{url} answered {answer.status_code}: {answer.text[:100]}"
        is_later = answer.status_code in _LATER
        return Outcome(is_taken=False, why=why, is_later=is_later, wait_s=_asked_s(answer) if is_later else 0.0)

    def _trust(self) -> ssl.SSLContext:
        file = self._settings.ca_file
        return ssl.create_default_context(cafile=str(self._folder / file) if file else None)


def request(found: Iterable[Metric], fleet: str, time: datetime, started: datetime) -> dict[str, Any]:
    """Return an ``ExportMetricsServiceRequest`` in its JSON form.

    Args:
        found: The metrics.
        fleet: Name of the fleet.
        time: When the figures were read.
        started: Since when counters add up whose points do not say.
    """
    resource = _attributes(
        {"service.name": "dsops-controller", "service.namespace": fleet, "service.version": dsops.__version__}
    )
    made = [_metric(metric, time, started) for metric in found if metric.points]
    scope = {"scope": {"name": "dsops", "version": dsops.__version__}, "metrics": made}
    return {"resourceMetrics": [{"resource": {"attributes": resource}, "scopeMetrics": [scope]}]}


def _metric(metric: Metric, time: datetime, started: datetime) -> dict[str, Any]:
    points = [_point(point, metric.shape, time, started) for point in metric.points]
    about = {"name": metric.name, "unit": metric.unit, "description": metric.help}
    if metric.shape is Shape.GAUGE:
        return about | {"gauge": {"dataPoints": points}}
    data: dict[str, Any] = {"dataPoints": points, "aggregationTemporality": _CUMULATIVE}
    if metric.shape is Shape.COUNTER:
        return about | {"sum": data | {"isMonotonic": True}}
    return about | {"exponentialHistogram": data}


def _point(point: Point, shape: Shape, time: datetime, started: datetime) -> dict[str, Any]:
    made: dict[str, Any] = {"attributes": _attributes(point.labels), "timeUnixNano": _nanos(time)}
    if shape is not Shape.GAUGE:
        made["startTimeUnixNano"] = _nanos(min(point.since or started, time))
    value = point.value
    if isinstance(value, Total):
        return made | _histogram(value)
    return made | ({"asInt": str(min(value, _INT64))} if isinstance(value, int) else {"asDouble": value})


def _histogram(total: Total) -> dict[str, Any]:
    bounded = Total()
    bounded.pour(total)
    bounded.bound(MAX_BUCKETS)
    merged = bounded.merged
    low, high = (min(merged.buckets), max(merged.buckets)) if merged.buckets else (0, -1)
    counts = [min(merged.buckets.get(at, 0), _MOST_IN_BUCKET) for at in range(low, high + 1)]
    zero = min(merged.zero, _MOST_IN_BUCKET)
    made: dict[str, Any] = {
        "count": str(zero + sum(counts)),
        "sum": total.sum,
        "scale": merged.scale or 0,
        "zeroCount": str(zero),
        "positive": {"offset": low, "bucketCounts": [str(count) for count in counts]},
    }
    return made | ({"min": merged.low, "max": merged.high} if total.count else {})


def _attributes(labels: Labels) -> list[dict[str, Any]]:
    return [{"key": key, "value": {"stringValue": value}} for key, value in labels.items()]


def _nanos(time: datetime) -> str:
    return str((time - _EPOCH) // timedelta(microseconds=1) * 1000)


def _partial(answer: httpx.Response) -> Outcome:
    """Return what an answer of success says of points that were not taken."""
    try:
        said = answer.json() if answer.content else {}
    except ValueError:
        return Outcome(is_taken=True)
    partial = said.get("partialSuccess") if isinstance(said, Mapping) else None
    if not isinstance(partial, Mapping):
        return Outcome(is_taken=True)
    rejected, message = _whole(partial.get("rejectedDataPoints", 0)), str(partial.get("errorMessage", ""))[:200]
    why = f"the receiver did not take {rejected} points: {message}" if rejected else message
    return Outcome(is_taken=True, why=why, rejected=rejected)


def _asked_s(answer: httpx.Response) -> float:
    text = answer.headers.get("Retry-After", "")
    return min(float(text), _MOST_WAIT_S) if text.isascii() and text.isdecimal() else 0.0


def _whole(value: object) -> int:
    text = str(value)
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 19 else 0
