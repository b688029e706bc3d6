"""What the controller knows of drift on each device: a pure fold over the records that devices send."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum

from dsops.api.v1.telemetry_pb2 import Event, ModelInterval


class Level(StrEnum):
    """How far a device's inputs are from the profile."""

    OK = "ok"
    WARNING = "warning"
    DRIFT = "drift"


_LEVEL_OF_EVENT = {"drift_warning": Level.WARNING, "drift_alarm": Level.DRIFT, "drift_cleared": Level.OK}
_SIGNAL = "signal."


@dataclass(frozen=True, slots=True)
class DriftState:
    """Drift of one model on one device.

    Attributes:
        release: The release that the monitor watches.
        level: The newest level.
        score: The newest score of the monitor.
        frames: Frames that the monitor had been fed since it was armed when the level was reached; at level ok, so
            far.
        since_ms: When the level was reached, by the device's clock.
        signals: Score by signal at the newest event.
    """

    release: int
    level: Level
    score: float
    frames: int
    since_ms: int
    signals: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class DriftRow:
    """Drift of one model on one device, as operators see it; ``heard`` is when the controller last heard of it."""

    device: str
    model: str
    release: int
    level: Level
    score: float
    frames: int
    since: datetime
    heard: datetime
    signals: dict[str, float]


def after_interval(state: DriftState | None, interval: ModelInterval, received_ms: int) -> DriftState | None:
    """Return the state after an interval: newer figures, or a fresh start when another release runs.

    An interval that began before the present release's level was reached is a rest of the release before it and changes
    nothing, unless that moment is in the future, which only a clock that was set back explains.
    """
    start_ms = interval.start_us // 1000
    score = interval.drift_score if math.isfinite(interval.drift_score) else 0.0
    if state is not None and state.release == interval.release:
        frames = interval.drift_frames if state.level is Level.OK else state.frames
        return DriftState(state.release, state.level, score, frames, state.since_ms, state.signals)
    if state is not None and start_ms < state.since_ms <= received_ms:
        return state
    if state is None and interval.drift_frames == 0:
        return None
    return DriftState(interval.release, Level.OK, score, interval.drift_frames, start_ms)


def after_intervals(
    state: DriftState | None, intervals: Sequence[ModelInterval], received_ms: int
) -> DriftState | None:
    """Return the state after intervals of one model, each as :func:`after_interval` has it.

    Of those of the state's own release that follow each other only the last is looked at: it overrules the others.
    """
    releases = [*(interval.release for interval in intervals), None]
    for interval, release, following in zip(intervals, releases, releases[1:], strict=False):
        if state is None or state.release != release or following != release:
            state = after_interval(state, interval, received_ms)
    return state


def after_event(state: DriftState | None, event: Event) -> DriftState | None:
    """Return the state after an event; events that are not about drift change nothing."""
    level = _LEVEL_OF_EVENT.get(event.kind)
    if level is None or not event.model:
        return state
    goes_on = state is not None and state.release == event.release and state.level is level
    signals = {
        name.removeprefix(_SIGNAL): value
        for name, value in event.figures.items()
        if name.startswith(_SIGNAL) and math.isfinite(value)
    }
    return DriftState(
        release=event.release,
        level=level,
        score=_finite(event.figures.get("score", 0.0)),
        frames=min(max(0, int(_finite(event.figures.get("frames", 0.0)))), 2**53),
        since_ms=state.since_ms if state is not None and goes_on else event.time_us // 1000,
        signals=signals,
    )


def moment(time_ms: int) -> datetime:
    """Return epoch milliseconds as an aware time."""
    return datetime.fromtimestamp(time_ms / 1000, UTC)


def _finite(value: float) -> float:
    return value if math.isfinite(value) else 0.0
