"""Adds up how a champion and its challenger compare, interval by interval, as telemetry records."""

from datetime import datetime

from dsops.api.v1 import telemetry_pb2
from dsops.manifest import Manifest
from dsops_agent.rival import Rival
from dsops_agent.runtime.collect import micros
from dsops_agent.runtime.compare import Difference
from dsops_agent.runtime.histogram import Histogram

_PPM = 1_000_000


class Comparison:
    """How one champion and its challenger compared since a moment. Not thread-safe.

    Args:
        manifest: The champion's.
        digest: The champion's bundle.
        rival: The challenger.
        now: Wall-clock time of the start.
        now_s: Monotonic time of the start.
    """

    def __init__(self, manifest: Manifest, digest: str, rival: Rival, now: datetime, now_s: float) -> None:
        self._manifest = manifest
        self._rival = rival
        self.digest = digest
        self._start_us = micros(now)
        self._start_s = now_s
        self._compared = self._disagreed = 0
        self.skipped = self.failed = self.answered = self.fallbacks = 0
        self.reason = ""
        """Code of why the newest request without an answer of the challenger's had none."""
        self._distance_ppm = Histogram()
        self._latency_us, self._their_latency_us = Histogram(), Histogram()
        self._confidence_ppm, self._their_confidence_ppm = Histogram(), Histogram()

    @property
    def is_empty(self) -> bool:
        """Whether nothing happened."""
        return not (self._compared or self.skipped or self.failed or self.answered or self.fallbacks)

    def add(
        self,
        found: Difference,
        latency_us: tuple[list[float], list[float]],
        confidence: tuple[list[float] | None, list[float] | None],
    ) -> None:
        """Count frames that both answered; of each pair the first is the champion's."""
        self._compared += len(found.distance)
        self._disagreed += len(found.distance) - sum(found.agree) if found.agree is not None else 0
        for distance in found.distance:
            self._distance_ppm.add(round(distance * _PPM))
        _fill((self._latency_us, self._their_latency_us), latency_us, 1)
        _fill((self._confidence_ppm, self._their_confidence_ppm), confidence, _PPM)

    def encode(self, now_s: float) -> bytes:
        """Return the TelemetryRecord of the interval that ends now."""
        rival = self._rival
        record = telemetry_pb2.TelemetryRecord(
            comparison=telemetry_pb2.ComparisonInterval(
                start_us=self._start_us,
                interval_ms=round((now_s - self._start_s) * 1000),
                model=self._manifest.model,
                release=self._manifest.release,
                digest=self.digest,
                challenger_release=rival.release,
                challenger_digest=rival.digest,
                mode=rival.mode.value,
                compared=self._compared,
                disagreed=self._disagreed,
                skipped=self.skipped,
                failed=self.failed,
                answered=self.answered,
                fallbacks=self.fallbacks,
                reason=self.reason,
                distance_ppm=self._distance_ppm.encode(),
                latency_us=self._latency_us.encode(),
                challenger_latency_us=self._their_latency_us.encode(),
                confidence_ppm=self._confidence_ppm.encode(),
                challenger_confidence_ppm=self._their_confidence_ppm.encode(),
            )
        )
        return record.SerializeToString()


def _fill(
    histograms: tuple[Histogram, Histogram], values: tuple[list[float] | None, list[float] | None], factor: int
) -> None:
    for histogram, found in zip(histograms, values, strict=True):
        for value in found or ():
            histogram.add(value * factor)
