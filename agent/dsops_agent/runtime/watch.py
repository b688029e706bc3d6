"""Watches one served bundle: counts what it answers, measures drift, keeps samples, reports changes."""

import logging
import threading
from collections.abc import Callable

import numpy as np

from dsops.api.v1 import samples_pb2, telemetry_pb2
from dsops.clock import Clock
from dsops.signals import measure
from dsops_agent.drift.monitor import DriftMonitor, Level, Verdict
from dsops_agent.drift.sampler import Kept, Sampler
from dsops_agent.runtime.collect import Identity, Interval, micros
from dsops_agent.runtime.engine import DTYPES, Answer, ServedModel
from dsops_agent.runtime.litert import Array
from dsops_agent.runtime.records import Kind
from dsops_agent.runtime.swap import Totals

logger = logging.getLogger(__name__)

MAX_SAMPLE_BYTES = (1 << 20) - (8 << 10)
"""A larger sample is never kept: it would not fit into a batch of 1 MiB on its way to the store."""
_RECORD_BYTES = 256
"""What names, digest and times of a sample take besides its tensors, about."""
_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_EVENTS = {Level.WARNING: "drift_warning", Level.ALARM: "drift_alarm", Level.NONE: "drift_cleared"}
_MEANING = {
    Level.WARNING: "the input may no longer be what the model was built for",
    Level.ALARM: "the input is no longer what the model was built for",
    Level.NONE: "the input is again what the model was built for",
}


class ModelWatch:
    """Watches one served bundle from its activation to its end. Safe to call from several threads.

    Args:
        served: The bundle.
        sampler: Chooses its samples.
        put: Takes each finished record: its kind, its bytes, and whether it is urgent.
        clock: Tells the time.
        drift_enabled: Whether drift is measured.
    """

    def __init__(
        self,
        served: ServedModel,
        sampler: Sampler,
        put: Callable[[Kind, bytes, bool], None],
        clock: Clock,
        *,
        drift_enabled: bool,
    ) -> None:
        self._served = served
        self._sampler = sampler
        self._put = put
        self._clock = clock
        self._identity = Identity(served.name, served.release, served.digest)
        self._monitor = _make_monitor(served) if drift_enabled else None
        self._verdict = Verdict(0.0, Level.NONE, 0)
        self._interval = Interval(self._identity, clock.now(), clock.monotonic_s())
        self._requests = 0
        self._errors = 0
        self._lock = threading.Lock()

    @property
    def totals(self) -> Totals:
        """What happened since the bundle was activated."""
        with self._lock:
            verdict = self._verdict
            return Totals(self._requests, self._errors, verdict.level.name.lower(), verdict.score)

    def answered(self, frames: Array, answer: Answer, request_id: str) -> None:
        """Take note of an answered request: ``frames`` as the caller sent them, [n, ...]."""
        with self._lock:
            self._requests += len(frames)
            self._interval.answered(answer)
            real = self._served.real_frames(frames) if self._monitor else frames
            for row in range(len(frames)):
                if self._monitor:
                    self._feed(self._monitor.feed(measure(real[row], answer.scores[row])))
                self._sample(frames[row : row + 1], answer, row, request_id)

    def failed(self) -> None:
        """Take note of a request that the model could not answer."""
        with self._lock:
            self._errors += 1
            self._interval.failed()

    def end_interval(self) -> bool:
        """Put the record of the interval and begin the next; False when nothing happened in it."""
        with self._lock:
            interval = self._interval
            now_s = self._clock.monotonic_s()
            self._interval = Interval(self._identity, self._clock.now(), now_s)
            if interval.is_empty:
                return False
            self._put(Kind.TELEMETRY, interval.encode(now_s, self._verdict.score, self._verdict.frames), False)
            return True

    def _feed(self, verdict: Verdict) -> None:
        before, self._verdict = self._verdict.level, verdict
        if verdict.level is not before:
            self._put(Kind.TELEMETRY, self._event(verdict), True)

    def _event(self, verdict: Verdict) -> bytes:
        figures = {"score": verdict.score, "frames": float(verdict.frames)}
        figures.update({f"signal.{name}": value for name, value in verdict.signals.items()})
        message = _MEANING[verdict.level]
        if verdict.signals:
            message += f"; the signal that differs most is {next(iter(verdict.signals))}"
        logger.warning("model %s release %d: %s", self._identity.model, self._identity.release, message)
        event = telemetry_pb2.Event(
            time_us=micros(self._clock.now()),
            kind=_EVENTS[verdict.level],
            model=self._identity.model,
            release=self._identity.release,
            digest=self._identity.digest,
            message=message,
            figures=figures,
        )
        return telemetry_pb2.TelemetryRecord(event=event).SerializeToString()

    def _sample(self, frame: Array, answer: Answer, row: int, request_id: str) -> None:
        size_bytes = frame.nbytes + answer.scores.nbytes // len(answer.scores) + _RECORD_BYTES
        if size_bytes > MAX_SAMPLE_BYTES:
            return
        now_s = self._clock.monotonic_s()
        kept = self._sampler.choose(
            now_s, size_bytes, answer.confidences[row], self._verdict.level, self._verdict.score
        )
        if kept is not None:
            self._put(Kind.SAMPLES, self._record(kept, frame, answer, row, request_id), False)

    def _record(self, kept: Kept, frame: Array, answer: Answer, row: int, request_id: str) -> bytes:
        return samples_pb2.SampleRecord(
            time_us=micros(self._clock.now()),
            model=self._identity.model,
            release=self._identity.release,
            digest=self._identity.digest,
            reason=kept.reason.value,
            score=kept.score,
            inclusion=kept.inclusion,
            request_id=request_id,
            input=_tensor(frame),
            output=_tensor(answer.scores[row : row + 1]),
            predicted=self._served.label_of(int(answer.labels[row])),
        ).SerializeToString()


def _make_monitor(served: ServedModel) -> DriftMonitor | None:
    scores = served.manifest.outputs[0].shape
    if int(np.prod(scores[1:])) < 2:
        logger.warning("model %s gives one number a frame: drift is not measured", served.name)
        return None
    return DriftMonitor(served.profile)


def _tensor(values: Array) -> samples_pb2.Tensor:
    """Return a frame's tensor for the wire, its batch axis of 1 included."""
    little = np.ascontiguousarray(values, values.dtype.newbyteorder("<"))
    return samples_pb2.Tensor(datatype=_NAMES[values.dtype], shape=values.shape, data=little.tobytes())
