"""When a model should be trained anew. Pure: figures in, a cause with its evidence out, or nothing."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from dsops_controller.dataops.drift.audited_errors import Verdict
from dsops_controller.retraining.settings import Cause, RetrainingSettings

_NAMED = 100
"""Devices and samples that a request lists."""


@dataclass(frozen=True, slots=True)
class Figures:
    """What is known of a model now.

    Attributes:
        drifted: Devices that have drifted by the test over the fleet, surest first.
        watched: Devices that watch for drift.
        audit: What the labels of the newest release say; None when its error when it was built is not known.
        new_labels: Samples labelled since the newest data set.
        asked: When a request was made last, of any cause; None before the first.
        released: When the newest release was pushed; None without one.
        is_open: Whether a request waits for its answer.
    """

    drifted: tuple[str, ...] = ()
    watched: int = 0
    audit: Verdict | None = None
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


def _drift(figures: Figures, settings: RetrainingSettings, _now: datetime) -> dict[str, Any] | None:
    count = len(figures.drifted)
    if count < max(settings.drift_devices, math.ceil(settings.drift_share * figures.watched)):
        return None
    named = list(figures.drifted[:_NAMED])
    return {"drifted": count, "devices": figures.watched, "fdr": settings.fdr, "named": named}


def _audited_error(figures: Figures, _settings: RetrainingSettings, _now: datetime) -> dict[str, Any] | None:
    verdict = figures.audit
    if verdict is None or verdict.alarm is None:
        return None
    return {
        "labels": verdict.labels,
        "wrong": verdict.wrong,
        "low": verdict.low,
        "high": verdict.high,
        "limit": verdict.limit,
        "since": verdict.alarm.since.isoformat(),
        "samples": list(verdict.alarm.samples[:_NAMED]),
        "labels_wrong": verdict.alarm.labels_wrong,
    }


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
