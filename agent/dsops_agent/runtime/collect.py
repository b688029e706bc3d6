"""Adds up what one bundle does, interval by interval, as telemetry records."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from dsops.api.v1 import telemetry_pb2
from dsops.decision import Decision
from dsops_agent.runtime.histogram import Histogram

MAX_LABELS = 1024
"""Predictions are counted per label up to this many labels; beyond, the counts would outweigh everything else."""
_PPM = 1_000_000


@dataclass(frozen=True)
class Identity:
    """Which bundle a record is about."""

    model: str
    release: int
    digest: str


class Interval:
    """What one bundle did since a moment. Not thread-safe.

    Args:
        identity: The bundle.
        now: Wall-clock time of the start.
        now_s: Monotonic time of the start.
    """

    def __init__(self, identity: Identity, now: datetime, now_s: float) -> None:
        self._identity = identity
        self._start_us = micros(now)
        self._start_s = now_s
        self._latency_us = Histogram()
        self._confidence_ppm = Histogram()
        self._labels: list[int] = []
        self._errors = 0
        self._unobserved = 0

    @property
    def is_empty(self) -> bool:
        """Whether nothing happened."""
        return not (self._latency_us.count or self._errors or self._unobserved)

    def answered(self, latency_us: Sequence[float], decision: Decision, confidences: Sequence[float] | None) -> None:
        """Count the frames of an answer; ``confidences`` has the largest probability of each, if there are such."""
        for taken_us in latency_us:
            self._latency_us.add(taken_us)
        for confidence in confidences or ():
            self._confidence_ppm.add(round(confidence * _PPM) if 0.0 <= confidence <= 1.0 else confidence * _PPM)
        for choice in [] if decision.choices is None else decision.choices.tolist():
            if choice < MAX_LABELS:
                self._labels.extend([0] * (choice + 1 - len(self._labels)))
                self._labels[choice] += 1

    def failed(self) -> None:
        """Count a request that the model could not answer."""
        self._errors += 1

    def shed(self, frames: int) -> None:
        """Count answered frames that drift monitor and sampler are not shown."""
        self._unobserved += frames

    def encode(self, now_s: float, drift_score: float, drift_frames: int) -> bytes:
        """Return the serialized TelemetryRecord of the interval that ends now."""
        record = telemetry_pb2.TelemetryRecord(
            model=telemetry_pb2.ModelInterval(
                start_us=self._start_us,
                interval_ms=round((now_s - self._start_s) * 1000),
                model=self._identity.model,
                release=self._identity.release,
                digest=self._identity.digest,
                count=self._latency_us.count,
                errors=self._errors,
                latency_us=self._latency_us.encode(),
                confidence_ppm=self._confidence_ppm.encode(),
                labels=self._labels,
                drift_score=drift_score,
                drift_frames=drift_frames,
                unobserved=self._unobserved,
            )
        )
        return record.SerializeToString()


def micros(moment: datetime) -> int:
    """Return microseconds since 1970 UTC."""
    return round(moment.timestamp() * 1e6)
