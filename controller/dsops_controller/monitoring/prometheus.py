"""The metrics in Prometheus' text format 0.0.4 (prometheus.io/docs/instrumenting/exposition_formats).

Its histograms have fixed limits. A bucket of ours is counted below a limit when its middle is, so a figure is off by
half a bucket of the devices' histograms at most; the exact ones go out by OTLP.
"""

from collections.abc import Iterable, Iterator

from dsops_controller.dataops.lake.totals import Total
from dsops_controller.monitoring.metrics import Labels, Metric, Point, Shape

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)
_UNITS = {
    "us": ("_seconds", 1e6, _SECONDS),
    "[ppm]": ("_ratio", 1e6, _SHARES),
    "By": ("_bytes", 1.0, ()),
    "s": ("_seconds", 1.0, ()),
}
"""By unit: what a name ends with, how many of ours are one of Prometheus', and the limits of histograms."""


def exposition(metrics: Iterable[Metric]) -> str:
    """Return the text of every metric."""
    return "".join(f"{line}\n" for metric in metrics for line in _lines(metric))


def _lines(metric: Metric) -> Iterator[str]:
    name = _name(metric)
    yield f"# HELP {name} {_escaped(metric.help)}"
    yield f"# TYPE {name} {metric.shape.value}"
    for point in metric.points:
        if isinstance(point.value, Total):
            yield from _histogram(name, metric.unit, point, point.value)
        else:
            yield f"{name}{_labels(point.labels)} {_number(point.value)}"


def _histogram(name: str, unit: str, point: Point, total: Total) -> Iterator[str]:
    _, factor, limits = _UNITS[unit]
    count = total.merged.zero + sum(total.merged.buckets.values())
    for limit, seen in zip(limits, total.below(limit * factor for limit in limits), strict=True):
        yield f"{name}_bucket{_labels({**point.labels, 'le': _number(limit)})} {seen}"
    yield f"{name}_bucket{_labels({**point.labels, 'le': '+Inf'})} {count}"
    yield f"{name}_sum{_labels(point.labels)} {_number(total.sum / factor)}"
    yield f"{name}_count{_labels(point.labels)} {count}"


def _name(metric: Metric) -> str:
    ending = _UNITS[metric.unit][0] if metric.unit in _UNITS else ""
    total = "_total" if metric.shape is Shape.COUNTER else ""
    return metric.name.replace(".", "_") + ending + total


def _labels(labels: Labels) -> str:
    inside = ",".join(f'{name}="{_quoted(value)}"' for name, value in labels.items())
    return f"{{{inside}}}" if inside else ""


def _quoted(text: str) -> str:
    return _escaped(text).replace('"', '\\"')


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n")


def _number(value: float) -> str:
    return str(value) if isinstance(value, int) else repr(float(value))
