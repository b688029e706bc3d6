"""Drift of one served bundle: the monitor, and what is told of it in events and in reports."""

import logging
from bisect import bisect_right
from collections import deque
from collections.abc import Collection, Iterable, Mapping, Sequence

from dsops.api.v1.telemetry_pb2 import Event, TelemetryRecord
from dsops.clock import Clock
from dsops.profile import Profile
from dsops_agent.drift.cadence import Told, is_due
from dsops_agent.drift.explain import because
from dsops_agent.drift.monitor import DriftMonitor, Level, Verdict
from dsops_agent.drift.oddness import Oddness
from dsops_agent.drift.report import Interval, ReportSettings, Standing, make_report
from dsops_agent.drift.skew import FRAMES as SKEW_FRAMES
from dsops_agent.drift.skew import SkewCheck, State
from dsops_agent.runtime.collect import Identity, micros

logger = logging.getLogger(__name__)

EPOCH_S = 3600.0
"""After so long a new e-process begins; the controller compares those of all devices."""
KEEP_EVERY_S = 60.0
"""How often counts that are not reported yet are kept: so much of them is lost with a process that is killed."""
_EVENTS = {Level.WARNING: "drift_warning", Level.DRIFT: "drift_alarm", Level.OK: "drift_cleared"}
_MEANING = {
    Level.WARNING: "the input may no longer be what the model was built for",
    Level.DRIFT: "the input is no longer what the model was built for",
    Level.OK: "the input is again what the model was built for",
}
_REMEMBERED = 1024
"""Moments, and samples, of which is known to which frame they belong."""


class DriftWatch:
    """Watches the frames of one bundle. Not thread-safe.

    Args:
        profile: What they are compared with.
        known: Names of the signals that are measured.
        labels: Names of the classes.
        identity: The bundle.
        clock: Tells the time.
        reports: When they are made, and what is done to counts before they leave the device.
    """

    def __init__(
        self,
        profile: Profile,
        known: Collection[str],
        labels: Sequence[str],
        identity: Identity,
        clock: Clock,
        reports: ReportSettings,
    ) -> None:
        self._monitor = DriftMonitor(profile, known)
        self._oddness = Oddness(profile, known)
        self._labels = labels
        self._identity = identity
        self._clock = clock
        self._reports = reports
        self._told: Told | None = None
        self._skew = SkewCheck()
        self._since_us = 0
        self._window_us = self._epoch_us = micros(clock.now())
        self._epoch_s = self._window_s = clock.monotonic_s()
        self._reported_frames = self._kept_frames = 0
        self._kept_s = self._window_s
        self._moments: deque[tuple[int, int]] = deque([(0, self._window_us)], _REMEMBERED)
        self._samples: deque[int] = deque(maxlen=_REMEMBERED)

    def feed(self, signals: Mapping[str, Sequence[float]]) -> list[Verdict]:
        """Take the signals of some frames and return the verdict after each."""
        verdicts = self._monitor.feed(signals)
        self._moments.append((self._monitor.frames, micros(self._clock.now())))
        return verdicts

    @property
    def gap_frames(self) -> int:
        """How many consecutive frames resemble each other, by the signal that changes most slowly."""
        return max(self._monitor.thin, default=1)

    def oddness(self, signals: Mapping[str, Sequence[float]]) -> list[float]:
        """Return how little each frame fits the profile."""
        return self._oddness.of(signals)

    def kept(self, frames: Iterable[int]) -> None:
        """Note that frames, by their verdicts' numbers, were kept as samples."""
        self._samples.extend(frames)

    def event(self, verdict: Verdict) -> bytes:
        """Return the serialized record of a change of level, which it also logs."""
        self._since_us = micros(self._clock.now())
        identity, onset = self._identity, self._monitor.onset
        figures = {"score": verdict.score, "frames": float(verdict.frames)}
        if verdict.level and onset is not None:
            figures |= {"onset_us": float(self._time_of(onset)), "samples": float(self._samples_since(onset))}
        figures |= {f"signal.{name}": value for name, value in verdict.signals.items()}
        message = _MEANING[verdict.level] + self._why(verdict)
        logger.warning("model %s release %d: %s", identity.model, identity.release, message)
        event = Event(
            time_us=self._since_us,
            kind=_EVENTS[verdict.level],
            model=identity.model,
            release=identity.release,
            digest=identity.digest,
            message=message,
            figures=figures,
        )
        return TelemetryRecord(event=event).SerializeToString()

    def report(self, verdict: Verdict, *, is_last: bool = False) -> bytes | None:
        """Return the serialized report since the one before, or None when none is due or no frame came.

        A report has counts when there are enough frames for the privacy settings, and begins a new window; until then
        the window grows.

        Args:
            verdict: The newest.
            is_last: Whether there is no other after it, so that it is due in any case.
        """
        monitor, reports = self._monitor, self._reports
        told = Told(verdict.level, monitor.log_e, self._clock.monotonic_s())
        if monitor.frames == self._reported_frames or not (is_last or self._is_due(told)):
            return None
        self._reported_frames, self._told, self._kept_s = monitor.frames, told, told.at_s
        is_whole = self._is_whole
        if is_whole:
            self._skew.add(monitor.window_frames, monitor.stand())
        record = TelemetryRecord(drift=make_report(self._interval(), self._standing(verdict), reports))
        self._begin(is_whole=is_whole)
        return record.SerializeToString()

    def unreported(self, verdict: Verdict) -> bytes | None:
        """Return what a report would be now, for the case that there is none any more; None when it is not worth it.

        It has counts that no report has had, it changes nothing, and is made every :data:`KEEP_EVERY_S` seconds.
        """
        monitor, now_s = self._monitor, self._clock.monotonic_s()
        is_new = monitor.frames not in (self._reported_frames, self._kept_frames)
        if not (is_new and self._is_whole and now_s - self._kept_s >= KEEP_EVERY_S):
            return None
        self._kept_frames, self._kept_s = monitor.frames, now_s
        record = TelemetryRecord(drift=make_report(self._interval(), self._standing(verdict), self._reports))
        return record.SerializeToString()

    def _is_due(self, told: Told) -> bool:
        """Whether a report is due: also at the end of an epoch, whose e-value counts, and for the verdict on skew."""
        skew, window = self._skew.found, self._monitor.window_frames
        is_skew_known = skew.state is State.PENDING and skew.frames + window >= SKEW_FRAMES and self._is_whole
        is_epoch_over = told.at_s - self._epoch_s >= EPOCH_S
        return is_skew_known or is_epoch_over or is_due(self._told, told, self._reports.report_every_s)

    @property
    def _is_whole(self) -> bool:
        """Whether the window has enough frames for its counts to be told."""
        return self._monitor.window_frames >= self._reports.min_frames

    def _interval(self) -> Interval:
        identity = self._identity
        taken_ms = round((self._clock.monotonic_s() - self._window_s) * 1000)
        return Interval(self._window_us, taken_ms, identity.model, identity.release, identity.digest)

    def _standing(self, verdict: Verdict) -> Standing:
        monitor, onset = self._monitor, self._monitor.onset
        return Standing(
            level=verdict.level,
            score=verdict.score,
            frames=verdict.frames,
            since_us=self._since_us,
            onset_us=0 if onset is None else self._time_of(onset),
            log_e=monitor.log_e,
            epoch_us=self._epoch_us,
            epoch_frames=monitor.epoch_frames,
            window_frames=monitor.window_frames,
            signals=monitor.stand(),
            skew=self._skew.found,
        )

    def _begin(self, *, is_whole: bool) -> None:
        now_us, now_s = micros(self._clock.now()), self._clock.monotonic_s()
        if is_whole:
            self._monitor.begin_window()
            self._window_us, self._window_s = now_us, now_s
        if now_s - self._epoch_s >= EPOCH_S:
            self._monitor.begin_epoch()
            self._epoch_us, self._epoch_s = now_us, now_s

    def _why(self, verdict: Verdict) -> str:
        if not verdict.signals:
            return ""
        stand = {one.signal.name: one for one in self._monitor.stand()}
        first = next(iter(verdict.signals))
        detail = "" if self._reports.is_noisy else because(stand[first], self._labels)  # shares are counts, too
        return f"; the signal that differs most is {first}" + (f" ({detail})" if detail else "")

    def _time_of(self, frame: int) -> int:
        """Return when a frame was seen, about; the earliest that is remembered for those before."""
        at = bisect_right(self._moments, frame, key=lambda moment: moment[0])
        return self._moments[max(at - 1, 0)][1]

    def _samples_since(self, frame: int) -> int:
        return sum(kept > frame for kept in self._samples)
