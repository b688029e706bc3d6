"""Watches one served bundle: counts what it answers, measures drift, keeps samples, reports changes.

A sample record has one input and one output. It holds the first input as the caller sent it, and the probabilities of a
classification or else the first output.
"""

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from itertools import islice

import numpy as np

from dsops.api.v1 import samples_pb2
from dsops.clock import Clock
from dsops.decision import Decision
from dsops.manifest import Manifest, Task
from dsops.signals import measure, signals_of, watched_inputs
from dsops_agent.drift.monitor import Level, Verdict
from dsops_agent.drift.report import USUAL_PRIVACY, PrivacySettings
from dsops_agent.drift.sampler import Kept, Sampler
from dsops_agent.runtime.answer import Answer, Exchange, named_choice
from dsops_agent.runtime.collect import Identity, Interval, micros
from dsops_agent.runtime.drift_watch import DriftWatch
from dsops_agent.runtime.engine import DTYPES, ServedModel
from dsops_agent.runtime.litert import Array, real_values
from dsops_agent.runtime.records import Kind
from dsops_agent.runtime.swap import Totals

logger = logging.getLogger(__name__)

MAX_SAMPLE_BYTES = (1 << 20) - (8 << 10)
"""A larger sample is never kept: it would not fit into a batch of 1 MiB on its way to the store."""
MAX_UNCOUNTED = 128
"""Answered requests that may wait to be added up."""
_RECORD_BYTES = 256
"""What names, digest and times of a sample take besides its tensors, about."""
_NAMES = {dtype: name for name, dtype in DTYPES.items()}


class ModelWatch:
    """Watches one served bundle from its activation to its end. Safe to call from several threads.

    Args:
        served: The bundle.
        sampler: Chooses its samples.
        put: Takes each finished record: its kind, its bytes, and whether it is urgent.
        clock: Tells the time.
        drift_enabled: Whether drift is measured.
        privacy: What is done to counts before they leave the device.
    """

    def __init__(
        self,
        served: ServedModel,
        sampler: Sampler,
        put: Callable[[Kind, bytes, bool], None],
        clock: Clock,
        *,
        drift_enabled: bool,
        privacy: PrivacySettings = USUAL_PRIVACY,
    ) -> None:
        self._manifest = served.manifest  # not the model: a watch reports for a while after its bundle was replaced,
        self._tensors = served.loaded.inputs  # and the memory of that one's interpreter shall not wait for it
        self._sampler = sampler
        self._put = put
        self._clock = clock
        self._identity = Identity(served.name, served.release, served.digest)
        self._task = served.manifest.task
        self._watched = watched_inputs(served.manifest.inputs)
        known = signals_of(self._task, served.manifest.inputs)
        labels = served.manifest.labels
        self._drift = (
            DriftWatch(served.profile, known, labels, self._identity, clock, privacy) if drift_enabled else None
        )
        self._verdict = Verdict(0.0, Level.OK, 0)
        self._interval = Interval(self._identity, clock.now(), clock.monotonic_s())
        self._uncounted: list[tuple[tuple[float, ...], Decision]] = []
        self._requests = 0
        self._errors = 0
        self._lock = threading.Lock()
        self._sampling = threading.Lock()
        self._drift_lock = threading.Lock()  # its own, so that no request waits for a slice of frames

    @property
    def totals(self) -> Totals:
        """What happened since the bundle was activated."""
        with self._lock:
            verdict = self._verdict
            return Totals(self._requests, self._errors, verdict.level.name.lower(), verdict.score)

    def answered(self, answer: Answer) -> None:
        """Take note of an answered request; its caller waits, so that what can be counted later is."""
        with self._lock:
            self._requests += len(answer.latency_us)
            self._uncounted.append((answer.latency_us, answer.decision))
            if len(self._uncounted) >= MAX_UNCOUNTED:
                self._count()

    def failed(self) -> None:
        """Count a request that the model could not answer."""
        with self._lock:
            self._errors += 1
            self._interval.failed()

    def observe(self, exchanges: Sequence[Exchange]) -> None:
        """Measure drift and keep samples; one thread at a time. What is shown together costs less."""
        with self._lock:
            self._count()
        if self._drift:
            signals = self._measure(exchanges)
            with self._drift_lock:
                verdicts = self._drift.feed(signals)
        else:
            verdicts = [self._verdict] * sum(exchange.frames for exchange in exchanges)
        for verdict in verdicts:
            self._take(verdict)
        following = iter(verdicts)
        for exchange in exchanges:
            self._sample(exchange, list(islice(following, exchange.frames)))

    def disputed(self, exchange: Exchange, distances: Mapping[int, float]) -> None:
        """Keep what the budget allows of the frames that the challenger answered otherwise.

        Args:
            exchange: What the champion was asked and answered.
            distances: How far apart the answers are, by row.
        """
        answer, now_s = exchange.answer, self._clock.monotonic_s()
        frames, size_bytes = self._sampled(exchange)
        if size_bytes > MAX_SAMPLE_BYTES:
            return
        for row, distance in distances.items():
            with self._sampling:
                kept = self._sampler.choose_disputed(now_s, size_bytes, distance)
            if kept is not None:
                record = self._record(kept, frames[row : row + 1], answer, row, exchange.request_id)
                self._put(Kind.SAMPLES, record, False)

    def shed(self, frames: int) -> None:
        """Count answered frames that were not looked at."""
        with self._lock:
            self._interval.shed(frames)

    def end_interval(self) -> bool:
        """Put the record of the interval and begin the next; False when nothing happened in it."""
        with self._lock:
            self._count()
            interval = self._interval
            now_s = self._clock.monotonic_s()
            self._interval = Interval(self._identity, self._clock.now(), now_s)
            if interval.is_empty:
                return False
            self._put(Kind.TELEMETRY, interval.encode(now_s, self._verdict.score, self._verdict.frames), False)
        if self._drift:
            with self._drift_lock:
                report = self._drift.report(self._verdict)
            if report is not None:
                self._put(Kind.TELEMETRY, report, False)
        return True

    def _count(self) -> None:
        is_sure = self._task is Task.CLASSIFICATION
        for latency_us, decision in self._uncounted:
            confidences = confidences_of(self._manifest, decision) if is_sure else None
            self._interval.answered(latency_us, decision, confidences)
        self._uncounted.clear()

    def _measure(self, exchanges: Sequence[Exchange]) -> dict[str, list[float]]:
        answers = [exchange.answer for exchange in exchanges]
        watched = []
        for at in self._watched:
            name, tensor = self._manifest.inputs[at].name, self._tensors[at]
            watched.append((at, _joined([real_values(exchange.inputs[name], tensor) for exchange in exchanges])))
        scores = None if answers[0].decision.scores is None else _joined([answer.scores for answer in answers])
        return measure(self._task, watched, _joined([answer.outputs[0] for answer in answers]), scores)

    def _take(self, verdict: Verdict) -> None:
        before, self._verdict = self._verdict.level, verdict
        if self._drift and verdict.level is not before:
            with self._drift_lock:
                event = self._drift.event(verdict)
            self._put(Kind.TELEMETRY, event, True)

    def _sample(self, exchange: Exchange, verdicts: Sequence[Verdict]) -> None:
        answer, now_s = exchange.answer, self._clock.monotonic_s()
        first, size_bytes = self._sampled(exchange)
        if size_bytes > MAX_SAMPLE_BYTES:
            return
        confidences = confidences_of(self._manifest, answer.decision)
        for row, verdict in enumerate(verdicts):
            confidence = confidences[row] if confidences else None
            with self._sampling:
                kept = self._sampler.choose(now_s, size_bytes, confidence, verdict.level, verdict.score)
            if kept is not None:
                record = self._record(kept, first[row : row + 1], answer, row, exchange.request_id)
                self._put(Kind.SAMPLES, record, False)
                if self._drift:
                    with self._drift_lock:
                        self._drift.kept(verdict)

    def _sampled(self, exchange: Exchange) -> tuple[Array, int]:
        """Return the frames that samples are of, and the size of a sample."""
        first = exchange.inputs[self._manifest.inputs[0].name]
        return first, first[:1].nbytes + self._kept_output(exchange.answer)[:1].nbytes + _RECORD_BYTES

    def _kept_output(self, answer: Answer) -> Array:
        return answer.scores if self._task is Task.CLASSIFICATION else answer.outputs[0]

    def _record(self, kept: Kept, frame: Array, answer: Answer, row: int, request_id: str) -> bytes:
        choices = answer.decision.choices
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
            output=_tensor(self._kept_output(answer)[row : row + 1]),
            predicted="" if choices is None else named_choice(self._manifest, int(choices[row])),
        ).SerializeToString()


def confidences_of(manifest: Manifest, decision: Decision) -> list[float] | None:
    """Return how sure a model is of each frame, from 0 to 1, or nothing when it does not say.

    Of a classification that is the largest probability. Of a reconstruction it is how sure the frame is a usual one,
    ``threshold / (threshold + score)``: 1 for a perfect reconstruction, 0.5 at the threshold, less for an anomaly.
    """
    if manifest.task is Task.CLASSIFICATION and decision.scores is not None:
        largest: list[float] = decision.scores.max(axis=1).tolist()
        return largest
    threshold = manifest.postprocessing.threshold
    if manifest.task is Task.RECONSTRUCTION and threshold is not None and decision.scores is not None:
        return [threshold / (threshold + score) if threshold > 0 else 0.0 for score in decision.scores.tolist()]
    return None


def _joined(arrays: Sequence[Array]) -> Array:
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


def _tensor(values: Array) -> samples_pb2.Tensor:
    """Return a frame's tensor for the wire, its batch axis of 1 included."""
    little = np.ascontiguousarray(values, values.dtype.newbyteorder("<"))
    return samples_pb2.Tensor(datatype=_NAMES[values.dtype], shape=values.shape, data=little.tobytes())
