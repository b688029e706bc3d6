"""When a model should be trained anew. Pure: figures in, a cause with its evidence out, or nothing."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from dsops_controller.retraining.settings import Cause, RetrainingSettings

ALPHA = 1e-3
"""The audit raises a false alarm after 1 / ALPHA labels on average, or later."""
_PARTS = 0.02, 0.05, 0.1, 0.2, 0.4, 0.7
"""The larger errors that are looked for: so much of the way from the reference to 1."""
_LEAST = 1e-6


@dataclass(frozen=True, slots=True)
class Figures:
    """What is known of a model now.

    Attributes:
        drifted: Devices in alarm, with their scores.
        watched: Devices that watch for drift.
        audit: Whether each audited answer was wrong, oldest first, of the newest release.
        audit_error: Error of the newest release when it was built; None when it is not known.
        new_labels: Samples labelled since the newest data set.
        asked: When a request was made last, of any cause; None before the first.
        released: When the newest release was pushed; None without one.
        is_open: Whether a request waits for its answer.
    """

    drifted: Mapping[str, float] = field(default_factory=dict)
    watched: int = 0
    audit: tuple[bool, ...] = ()
    audit_error: float | None = None
    new_labels: int = 0
    asked: datetime | None = None
    released: datetime | None = None
    is_open: bool = False


@dataclass(frozen=True, slots=True)
class Wanted:
    """A cause, with the figures that speak for it."""

    cause: Cause
    evidence: Mapping[str, Any]


def decide(figures: Figures, settings: RetrainingSettings, now: datetime) -> Wanted | None:
    """Return why a model should be trained anew, the strongest cause first; None when nothing says so.

    Nothing does while a request is open, nor within the cool-down after the last one.
    """
    cooldown = timedelta(hours=settings.cooldown_h)
    if figures.is_open or (figures.asked is not None and now - figures.asked < cooldown):
        return None
    for cause, rule in _RULES.items():
        evidence = rule(figures, settings, now) if cause in settings.causes else None
        if evidence is not None:
            return Wanted(cause, evidence)
    return None


def audit_score(wrong: Iterable[bool], reference: float) -> float:
    """Return the logarithm of the evidence that more answers are wrong than the reference says.

    An e-detector (Shin, Ramdas, Rinaldo, "E-detectors", NEJSDS 2023, sections 2 and 3): the mean of cumulative maxima
    of likelihood ratios, one for each of some larger errors. While no more than the reference is wrong, whatever else
    changes, it reaches ``log(1 / a)`` after ``1 / a`` labels on average, or later.
    """
    if not 0.0 < reference < 1.0:
        reference = min(1.0 - _LEAST, max(_LEAST, reference))
    larger = [reference + (1.0 - reference) * part for part in _PARTS]
    steps = {
        True: [math.log(error / reference) for error in larger],
        False: [math.log((1.0 - error) / (1.0 - reference)) for error in larger],
    }
    scores = [0.0] * len(larger)
    for is_wrong in wrong:
        scores = [max(score, 0.0) + step for score, step in zip(scores, steps[is_wrong], strict=True)]
    top = max(scores)
    return max(0.0, top + math.log(math.fsum(math.exp(score - top) for score in scores) / len(scores)))


def _drift(figures: Figures, settings: RetrainingSettings, _now: datetime) -> dict[str, Any] | None:
    fewest = max(settings.drift_devices, math.ceil(settings.drift_share * figures.watched))
    if len(figures.drifted) < fewest:
        return None
    worst = sorted(figures.drifted.items(), key=lambda item: -item[1])[:100]
    return {"devices_in_alarm": len(figures.drifted), "devices": figures.watched, "scores": dict(worst)}


def _audited_error(figures: Figures, settings: RetrainingSettings, _now: datetime) -> dict[str, Any] | None:
    if figures.audit_error is None:
        return None
    reference = min(1.0, figures.audit_error + settings.error_margin)
    score = audit_score(figures.audit, reference)
    if score < math.log(1 / ALPHA):
        return None
    wrong = sum(figures.audit)
    return {"log_e_value": score, "labels": len(figures.audit), "wrong": wrong, "reference_error": reference}


def _label_count(figures: Figures, settings: RetrainingSettings, _now: datetime) -> dict[str, Any] | None:
    return {"new_labels": figures.new_labels} if figures.new_labels >= settings.new_labels else None


def _schedule(figures: Figures, settings: RetrainingSettings, now: datetime) -> dict[str, Any] | None:
    since = max((moment for moment in (figures.asked, figures.released) if moment is not None), default=None)
    if not settings.schedule_days or since is None or now - since < timedelta(days=settings.schedule_days):
        return None
    return {"days": round((now - since) / timedelta(days=1), 2)}


_RULES = {
    Cause.AUDITED_ERROR: _audited_error,
    Cause.DRIFT: _drift,
    Cause.LABEL_COUNT: _label_count,
    Cause.SCHEDULE: _schedule,
}
