"""Watches one served bundle: counts what it answers, measures drift, keeps samples, reports changes.

What becomes of the frames that are kept is said in :mod:`dsops_agent.runtime.samples`.
"""

import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice

import numpy as np

from dsops.clock import Clock
from dsops.decision import Decision
from dsops.manifest import Manifest, Task
from dsops.signals import Strips, measure, signals_of, strips, watched_inputs
from dsops_agent.drift.monitor import Level, Verdict
from dsops_agent.drift.report import USUAL_REPORTS, ReportSettings
from dsops_agent.drift.sampler import Frame
from dsops_agent.runtime.answer import Answer, Exchange, named_choice
from dsops_agent.runtime.collect import Identity, Interval
from dsops_agent.runtime.drift_watch import DriftWatch
from dsops_agent.runtime.engine import ServedModel
from dsops_agent.runtime.litert import Array, real_values
from dsops_agent.runtime.records import Kind
from dsops_agent.runtime.samples import SampleKeeper, Sampling, Seen
from dsops_agent.runtime.swap import Totals
from dsops_agent.runtime.unreported import Unreported

logger = logging.getLogger(__name__)

MAX_UNCOUNTED = 128
"""Answered requests that may wait to be added up."""


class ModelWatch:
    """Watches one served bundle from its activation to its end. Safe to call from several threads.

    Args:
        served: The bundle.
        sampling: How samples are kept.
        put: Takes each finished record: its kind, its bytes, and whether it is urgent.
        clock: Tells the time.
        drift_enabled: Whether drift is measured.
        reports: When drift is reported, and what is done to counts before they leave the device.
    """

    def __init__(
        self,
        served: ServedModel,
        sampling: Sampling,
        put: Callable[[Kind, bytes, bool], None],
        clock: Clock,
        *,
        drift_enabled: bool,
        reports: ReportSettings = USUAL_REPORTS,
    ) -> None:
        self._manifest = served.manifest  # not the model: a watch reports for a while after its bundle was replaced,
        self._tensors = served.loaded.inputs  # and the memory of that one's interpreter shall not wait for it
        self._put = put
        self._clock = clock
        self._identity = Identity(served.name, served.release, served.digest)
        self._samples = SampleKeeper(
            served.manifest,
            self._identity,
            sampling,
            lambda record: put(Kind.SAMPLES, record, False),
            clock,
        )
        self._task = served.manifest.task
        self._watched = watched_inputs(served.manifest.inputs)
        known = signals_of(self._task, served.manifest.inputs)
        labels = served.manifest.labels
        self._drift = (
            DriftWatch(served.profile, known, labels, self._identity, clock, reports) if drift_enabled else None
        )
        self._unreported: Unreported | None = None
        self._verdict = Verdict(0.0, Level.OK, 0)
        self._interval = Interval(self._identity, clock.now(), clock.monotonic_s())
        self._uncounted: list[tuple[tuple[float, ...], Decision]] = []
        self._requests = 0
        self._errors = 0
        self._lock = threading.Lock()
        self._drift_lock = threading.Lock()  # its own, so that no request waits for a slice of frames

    def keep_in(self, unreported: Unreported) -> None:
        """Keep from now on what is not reported yet, should the process be killed."""
        self._unreported = unreported

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
        signals = self._measure(exchanges)
        oddness: Sequence[float] = ()
        gap_frames = 1
        if self._drift:
            with self._drift_lock:
                verdicts = self._drift.feed(signals)
                oddness = self._drift.oddness(signals) if any(verdict.level for verdict in verdicts) else ()
                gap_frames = self._drift.gap_frames
        else:
            verdicts = [self._verdict] * sum(exchange.frames for exchange in exchanges)
        for verdict in verdicts:
            self._take(verdict)
        seen = self._seen(exchanges, verdicts, signals, oddness, gap_frames)
        for exchange in exchanges:
            self._note(self._samples.see(exchange, list(islice(seen, exchange.frames))))
        self._note(self._samples.release())

    def disputed(self, exchange: Exchange, distances: Mapping[int, float]) -> None:
        """Keep what the budget allows of the frames that the challenger answered otherwise.

        Args:
            exchange: What the champion was asked and answered.
            distances: How far apart the answers are, by row.
        """
        for row, distance in distances.items():
            self._samples.disputed(exchange, row, distance)

    def wish(self) -> None:
        """Look anew which samples somebody asked for."""
        self._samples.wish()

    def finish(self) -> None:
        """Put what waits, at the end of the process or of the bundle."""
        self._samples.release(is_end=True)
        self._report_drift(is_last=True)

    def shed(self, frames: int) -> None:
        """Count answered frames that were not looked at."""
        with self._lock:
            self._interval.shed(frames)

    def end_interval(self) -> bool:
        """Put the record of the interval and begin the next; False when nothing happened in it."""
        self._note(self._samples.release())
        with self._lock:
            self._count()
            interval = self._interval
            now_s = self._clock.monotonic_s()
            self._interval = Interval(self._identity, self._clock.now(), now_s)
            if not interval.is_empty:
                self._put(Kind.TELEMETRY, interval.encode(now_s, self._verdict.score, self._verdict.frames), False)
        self._report_drift()
        return not interval.is_empty

    def _report_drift(self, *, is_last: bool = False) -> None:
        if self._drift:
            with self._drift_lock:
                report = self._drift.report(self._verdict, is_last=is_last)
                left = self._drift.unreported(self._verdict) if self._unreported and report is None else None
            if self._unreported and report is not None:
                self._unreported.forget()  # before: its frames must not be told twice
            if self._unreported and left is not None:
                self._unreported.keep(left)
            if report is not None:
                self._put(Kind.TELEMETRY, report, False)

    def _count(self) -> None:
        """Count what was answered, all at once, which takes half of what it takes one by one."""
        if not self._uncounted:
            return
        latency_us = [one_us for answered_us, _ in self._uncounted for one_us in answered_us]
        decision = _of_all([decision for _, decision in self._uncounted])
        confidences = confidences_of(self._manifest, decision) if self._task is Task.CLASSIFICATION else None
        self._interval.answered(latency_us, decision, confidences)
        self._uncounted.clear()

    def _measure(self, exchanges: Sequence[Exchange]) -> dict[str, list[float]]:
        answers = [exchange.answer for exchange in exchanges]
        watched = [(at, self._looked_at(exchanges, at)) for at in self._watched]
        scores = None if answers[0].decision.scores is None else _joined([answer.scores for answer in answers])
        return measure(self._task, watched, _joined([answer.outputs[0] for answer in answers]), scores)

    def _looked_at(self, exchanges: Sequence[Exchange], at: int) -> Array | Strips:
        """Return what of one input is measured; only that is joined and made real values, which takes time."""
        given = [exchange.inputs[self._manifest.inputs[at].name] for exchange in exchanges]
        parts = [part.values for frames in given if (part := strips(frames))]
        found = self._real(parts or given, at)
        return Strips(found) if parts else found

    def _real(self, frames: Sequence[Array], at: int) -> Array:
        tensor = self._tensors[at]
        if len({one.dtype for one in frames}) == 1:
            return real_values(_joined(frames), tensor)
        return _joined([real_values(one, tensor) for one in frames])

    def _take(self, verdict: Verdict) -> None:
        before, self._verdict = self._verdict.level, verdict
        if self._drift and verdict.level is not before:
            with self._drift_lock:
                event = self._drift.event(verdict)
            self._put(Kind.TELEMETRY, event, True)

    def _note(self, kept: Sequence[int]) -> None:
        if kept and self._drift:
            with self._drift_lock:
                self._drift.kept(kept)

    def _seen(
        self,
        exchanges: Sequence[Exchange],
        verdicts: Sequence[Verdict],
        signals: Mapping[str, Sequence[float]],
        oddness: Sequence[float],
        gap_frames: int,
    ) -> Iterator[Seen]:
        """Yield what is known of each frame."""
        now_s = self._clock.monotonic_s()
        at = 0
        for exchange in exchanges:
            answer, size_bytes = exchange.answer, self._samples.size_bytes(exchange)
            confidences = confidences_of(self._manifest, answer.decision)
            choices = answer.decision.choices
            for row in range(exchange.frames):
                yield Seen(
                    Frame(
                        now_s,
                        size_bytes,
                        confidences[row] if confidences else None,
                        "" if choices is None else named_choice(self._manifest, int(choices[row])),
                        verdicts[at].level,
                        oddness[at] if oddness else 0.0,
                        gap_frames,
                    ),
                    {name: values[at] for name, values in signals.items()},
                    verdicts[at].frames,
                )
                at += 1


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


def _of_all(decisions: Sequence[Decision]) -> Decision:
    """Return what one model says of all frames; it has scores, and choices, either always or never."""
    scores = [one.scores for one in decisions if one.scores is not None]
    choices = [one.choices for one in decisions if one.choices is not None]
    return Decision(_joined(scores) if scores else None, _joined(choices) if choices else None)


def _joined(arrays: Sequence[Array]) -> Array:
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
