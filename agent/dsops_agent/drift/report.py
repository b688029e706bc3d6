"""The record of one interval of drift: how every signal stands, in at most 2 KB; those of many devices add up."""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from pydantic import Field, field_validator

from dsops.api.v1.telemetry_pb2 import DriftReport, SignalReport, SkewCheck
from dsops.manifest import Frozen
from dsops_agent.drift.cadence import REPORT_EVERY_S
from dsops_agent.drift.monitor import Level, Watched
from dsops_agent.drift.privacy import noisy, suppressed
from dsops_agent.drift.skew import Skew, State

MAX_BYTES = 2048
MIN_FRAMES = 500
"""Counts are held back until there are so many frames, when small ones are suppressed: else most would be."""
MIN_FRAMES_WITH_NOISE = 1000
"""The same when noise is added: it hides a frame, and a change in fewer frames than this."""
MIN_EPSILON = 0.01
MOST_WITH_NOISE = 8
_REDUNDANT = frozenset({"confidence", "margin"})
_FRAMING = 3
"""Bytes that a signal takes in a report beside its own."""
TOLD_CUSUM = 1.0
"""Smaller CUSUMs are reported as 0."""


class ReportSettings(Frozen):
    """When reports are made, and what is done to their counts before they leave the device.

    Attributes:
        suppress_below: Counts below this are reported as 0; not used together with noise.
        epsilon: Noise makes all histograms of a report together epsilon-differentially private; 0 adds none. At most
            eight histograms are told then. Scores are reported without noise.
        report_every_s: How often a report is made while nothing changes.
    """

    suppress_below: int = Field(default=5, ge=0)
    epsilon: float = Field(default=0.0, ge=0.0, le=100.0)
    report_every_s: float = Field(default=REPORT_EVERY_S, ge=0.0)

    @field_validator("epsilon")
    @classmethod
    def _is_usable(cls, value: float) -> float:
        if 0.0 < value < MIN_EPSILON:
            raise ValueError(f"less than {MIN_EPSILON} leaves nothing but noise; 0 adds none")
        return value

    @property
    def is_noisy(self) -> bool:
        """Whether noise is added."""
        return self.epsilon > 0.0

    @property
    def min_frames(self) -> int:
        """Frames that a window must have before its counts are reported."""
        if self.is_noisy:
            return MIN_FRAMES_WITH_NOISE
        return MIN_FRAMES if self.suppress_below > 1 else 1


USUAL_REPORTS = ReportSettings()


@dataclass(frozen=True)
class Interval:
    """Which stretch of which bundle's frames a report is about; times in microseconds since 1970 UTC."""

    start_us: int
    interval_ms: int
    model: str
    release: int
    digest: str


@dataclass(frozen=True)
class Standing:
    """What the monitor says at the end of an interval.

    Attributes:
        level: Its level.
        score: Its score.
        frames: Frames since it was armed.
        since_us: When the level was reached; 0 for the start.
        onset_us: When the change seems to have begun; 0 for none.
        log_e: Logarithm of the epoch's e-process.
        epoch_us: When the epoch began.
        epoch_frames: Frames of the epoch.
        window_frames: Frames in the counts of the signals; too few for the privacy settings are not reported.
        signals: How each signal stands.
        skew: What the check of the first frames found.
    """

    level: Level
    score: float
    frames: int
    since_us: int
    onset_us: int
    log_e: float
    epoch_us: int
    epoch_frames: int
    window_frames: int
    signals: Sequence[Watched]
    skew: Skew


def make_report(interval: Interval, standing: Standing, reports: ReportSettings) -> DriftReport:
    """Return the record; the signals that differ least are left out when it would be larger than 2 KB."""
    report = DriftReport(
        start_us=interval.start_us,
        interval_ms=interval.interval_ms,
        model=interval.model,
        release=interval.release,
        digest=interval.digest,
        state=standing.level.name.lower(),
        score=standing.score,
        frames=standing.frames,
        since_us=standing.since_us,
        onset_us=standing.onset_us,
        log_e=standing.log_e,
        epoch_us=standing.epoch_us,
        epoch_frames=standing.epoch_frames,
        suppressed_below=0 if reports.is_noisy else reports.suppress_below,
        epsilon=reports.epsilon,
        skew=_skew(standing.skew),
    )
    told = _told(standing, reports, MAX_BYTES - report.ByteSize())
    share = Fraction(reports.epsilon).limit_denominator(1000) / max(len(told), 1)
    for one, signal in told:
        if signal.counts and reports.is_noisy:
            signal.counts[:] = noisy(one.counts, share)
        report.signals.append(signal)
    return report


def _told(standing: Standing, reports: ReportSettings, left: int) -> list[tuple[Watched, SignalReport]]:
    """Return the signals for which there is room, in the order of the profile; their counts are without noise yet.

    With noise the choice must not depend on the frames, and the fewer histograms share epsilon, the better: the first
    eight, without those that hardly tell anything that entropy does not tell.
    """
    wanted = sorted(standing.signals, key=lambda one: -one.cusum)
    if reports.is_noisy:
        names = {one.signal.name for one in standing.signals}
        redundant = _REDUNDANT if "entropy" in names else frozenset()
        wanted = [one for one in standing.signals if one.signal.name not in redundant][:MOST_WITH_NOISE]
    has_counts = standing.window_frames >= reports.min_frames
    made = {}
    for one in wanted:
        signal = _signal(one, reports, has_counts=has_counts)
        left -= signal.ByteSize() + _FRAMING + (len(one.counts) if reports.is_noisy else 0)
        if left < 0:
            break
        made[one.signal.name] = signal
    return [(one, made[one.signal.name]) for one in standing.signals if one.signal.name in made]


def _signal(one: Watched, reports: ReportSettings, *, has_counts: bool) -> SignalReport:
    # A signal that is as usual is not worth the bytes of a CUSUM near zero and of a thinning of 1.
    cusum, thinning = (one.cusum if one.cusum >= TOLD_CUSUM else 0.0), (one.thinning if one.thinning > 1 else 0)
    below = 0 if reports.is_noisy else reports.suppress_below
    counts = suppressed(one.counts, below) if has_counts else []
    return SignalReport(name=one.signal.name, cusum=cusum, counts=counts, thinning=thinning)


def _skew(skew: Skew) -> SkewCheck:
    if skew.state is State.PENDING:
        return SkewCheck(state=skew.state.value, frames=skew.frames)
    return SkewCheck(state=skew.state.value, frames=skew.frames, p_value=skew.p_value, signals=skew.signals[:8])
