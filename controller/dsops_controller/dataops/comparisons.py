"""How champions and challengers compared, added up from the lake's rows."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from dsops.api.v1.telemetry_pb2 import Histogram
from dsops_controller.dataops.histograms import Merged, merged

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_PPM = 1e6


@dataclass(frozen=True, slots=True)
class ComparisonRow:
    """How a champion and its challenger compared on one device.

    Attributes:
        mode: ``shadow`` or ``split``.
        compared: Frames that both answered.
        disagreed: Of those, frames for which they chose differently.
        skipped: Requests that were drawn, and not copied for want of room or of processor time.
        failed: Copies to which the challenger gave no answer.
        answered: Of a split, requests that the challenger answered.
        fallbacks: Of a split, requests of its keys that the champion answered instead.
        reason: Code of why the newest request that the challenger did not answer was not; empty when there is none.
        distance: Mean distance of the answers, 0 to 1; None when nothing was compared.
        p50_us: Median time in the champion's interpreter, microseconds; None when nothing was compared. So are the
            other times.
        confidence: Mean confidence of the champion, 0 to 1; None when it is unknown.
        last: End of the newest interval, by the device's clock.
    """

    device: str
    model: str
    release: int
    challenger_release: int
    digest: str
    challenger_digest: str
    mode: str
    compared: int
    disagreed: int
    skipped: int
    failed: int
    answered: int
    fallbacks: int
    reason: str
    distance: float | None
    p50_us: float | None
    p95_us: float | None
    challenger_p50_us: float | None
    challenger_p95_us: float | None
    confidence: float | None
    challenger_confidence: float | None
    last: datetime


def comparison_rows(
    sums: Iterable[Sequence[Any]], latency: Iterable[Sequence[Any]], challenger_latency: Iterable[Sequence[Any]]
) -> list[ComparisonRow]:
    """Return what the three queries of comparisons found (:mod:`dsops_controller.dataops.queries`)."""
    ours, theirs = _merged(latency), _merged(challenger_latency)
    return [_row(row, ours.get(_key(row), Merged()), theirs.get(_key(row), Merged())) for row in sums]


def _key(row: Sequence[Any]) -> tuple[Any, ...]:
    return row[0], row[4], row[5], row[6]


def _row(row: Sequence[Any], ours: Merged, theirs: Merged) -> ComparisonRow:
    *names, distance, distances, sure, sures, their_sure, their_sures, last_us, reason = row
    device, model, release, challenger_release, digest, challenger_digest, mode, *counts = names
    compared, disagreed, skipped, failed, answered, fallbacks = map(int, counts)
    return ComparisonRow(
        device=device,
        model=model,
        release=release,
        challenger_release=challenger_release,
        digest=digest,
        challenger_digest=challenger_digest,
        mode=mode,
        compared=compared,
        disagreed=disagreed,
        skipped=skipped,
        failed=failed,
        answered=answered,
        fallbacks=fallbacks,
        reason=reason or "",
        distance=_mean(distance, distances),
        p50_us=ours.quantile(0.5),
        p95_us=ours.quantile(0.95),
        challenger_p50_us=theirs.quantile(0.5),
        challenger_p95_us=theirs.quantile(0.95),
        confidence=_mean(sure, sures),
        challenger_confidence=_mean(their_sure, their_sures),
        last=_EPOCH + timedelta(microseconds=last_us),
    )


def _merged(rows: Iterable[Sequence[Any]]) -> dict[tuple[Any, ...], Merged]:
    """Return the histogram of each key: device, both digests and mode."""
    found: dict[tuple[Any, ...], list[Histogram]] = {}
    for device, digest, challenger_digest, mode, scale, zero, count, low, high, offset, counts in rows:
        histogram = Histogram(
            scale=scale, zero=zero, count=count, min=low or 0.0, max=high or 0.0, offset=offset, counts=counts
        )
        found.setdefault((device, digest, challenger_digest, mode), []).append(histogram)
    return {key: merged(histograms) for key, histograms in found.items()}


def _mean(total_ppm: float | None, count: int | None) -> float | None:
    return total_ppm / int(count) / _PPM if total_ppm is not None and count and math.isfinite(total_ppm) else None
