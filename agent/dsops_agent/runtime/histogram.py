"""A histogram of positive numbers with bounded relative error, in the OpenTelemetry exponential layout.

OTLP 1.x data model, section "ExponentialHistogram": bucket ``i`` holds values in ``(base^i, base^(i+1)]`` with
``base = 2^(2^-scale)``. Scale 4 keeps a value within 4.4 %; when more than 160 buckets would be needed the scale falls
by one, which merges pairs of buckets.
"""

import math

from dsops.api.v1 import telemetry_pb2

START_SCALE = 4
MAX_BUCKETS = 160


class Histogram:
    """Counts of values since it was made. ``count`` includes zeros; negative values and NaN count as zero."""

    def __init__(self) -> None:
        self.scale = START_SCALE
        self.count = 0
        self.total = 0.0
        self.zero = 0
        self._min = math.inf
        self._max = -math.inf
        self._buckets: dict[int, int] = {}

    def add(self, value: float) -> None:
        """Count one value."""
        value = max(value, 0.0) if value < math.inf else 0.0  # NaN fails the comparison too
        self.count += 1
        self.total += value
        self._min = min(self._min, value)
        self._max = max(self._max, value)
        if value == 0.0:
            self.zero += 1
            return
        index = bucket_index(value, self.scale)
        if index in self._buckets:
            self._buckets[index] += 1
        else:
            self._open_bucket(index)

    def encode(self) -> telemetry_pb2.Histogram:
        """Return the wire form."""
        message = telemetry_pb2.Histogram(scale=self.scale, zero=self.zero, sum=self.total, count=self.count)
        if self.count:
            message.min, message.max = self._min, self._max
        if self._buckets:
            low, high = min(self._buckets), max(self._buckets)
            message.offset = low
            message.counts.extend(self._buckets.get(index, 0) for index in range(low, high + 1))
        return message

    def _open_bucket(self, index: int) -> None:
        self._buckets[index] = 1
        while max(self._buckets) - min(self._buckets) >= MAX_BUCKETS:
            self.scale -= 1
            merged: dict[int, int] = {}
            for old, count in self._buckets.items():
                merged[old >> 1] = merged.get(old >> 1, 0) + count
            self._buckets = merged


def bucket_index(value: float, scale: int) -> int:
    """Return the bucket of a positive value. Powers of two, where the logarithm may round either way, are exact."""
    fraction, exponent = math.frexp(value)  # value = fraction * 2^exponent, 0.5 <= fraction < 1
    is_power = fraction == 0.5
    if scale <= 0:
        return (exponent - 2 if is_power else exponent - 1) >> -scale
    if is_power:
        return ((exponent - 1) << scale) - 1
    return math.ceil(math.ldexp(math.log2(value), scale)) - 1
