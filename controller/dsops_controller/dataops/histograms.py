"""Exponential histograms: exact merge and quantiles.

The layout is OpenTelemetry's (OTLP data model, "ExponentialHistogram"): bucket ``i`` holds values in
``(base^i, base^(i+1)]`` with ``base = 2^(2^-scale)``. Two histograms of one scale merge by adding counts; halving the
resolution moves bucket ``i`` to ``i >> 1``, so merging loses nothing beyond the coarsest scale given.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from dsops.api.v1.telemetry_pb2 import Histogram


@dataclass(slots=True)
class Merged:
    """A sum of histograms.

    Attributes:
        scale: Resolution of ``buckets``; ``None`` while nothing was added.
        buckets: Count by absolute bucket index.
        zero: Values of zero or too small for a bucket.
        low: Smallest value but 0 that was recorded, where known; limits the lowest quantiles.
        high: Largest value that was recorded, where known.
    """

    scale: int | None = None
    buckets: dict[int, int] = field(default_factory=dict)
    zero: int = 0
    low: float = 0.0
    high: float = 0.0

    def add(self, scale: int, buckets: Mapping[int, int]) -> None:
        """Add counts by absolute bucket index, at their own resolution."""
        common = scale if self.scale is None else min(scale, self.scale)
        if self.scale is not None and common < self.scale:
            old, self.buckets = self.buckets, {}
            _pour(self.buckets, old.items(), self.scale - common)
        _pour(self.buckets, buckets.items(), scale - common)
        self.scale = common

    def widen(self, low: float | None, high: float | None) -> None:
        """Have the limits cover those of a histogram that is added; one whose limits are not known changes nothing.

        A low of 0 is of values that are in no bucket, and limits none.
        """
        if low is not None and high is not None and math.isfinite(low) and math.isfinite(high):
            if low:
                self.low = min(self.low, low) if self.low else low
            self.high = max(self.high, high)

    def quantile(self, q: float) -> float | None:
        """Return the value of rank ``ceil(q * n)``, within ``sqrt(base)`` of the true one; None if empty."""
        total = self.zero + sum(self.buckets.values())
        if total == 0:
            return None
        rank = max(1, -int(-q * total // 1))
        seen = self.zero
        if rank <= seen or self.scale is None:
            return 0.0
        for index in sorted(self.buckets):
            seen += self.buckets[index]
            if seen >= rank:
                return self._within(2.0 ** ((index + 0.5) / 2.0**self.scale))
        return self.high

    def _within(self, value: float) -> float:
        if self.high > 0.0:
            value = min(value, self.high)
        return max(value, self.low) if self.low > 0.0 else value


def merged(histograms: Iterable[Histogram]) -> Merged:
    """Merge histograms as they came from devices."""
    result = Merged()
    for histogram in histograms:
        result.add(histogram.scale, {histogram.offset + i: c for i, c in enumerate(histogram.counts) if c})
        result.zero += histogram.zero
        if histogram.count:
            result.widen(histogram.min, histogram.max)
    return result


def _pour(into: dict[int, int], counts: Iterable[tuple[int, int]], shift: int) -> None:
    for index, count in counts:
        moved = index >> shift
        into[moved] = into.get(moved, 0) + count
