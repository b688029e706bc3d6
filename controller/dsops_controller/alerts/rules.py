"""What is wrong now. Pure: figures in, causes with their evidence out."""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from dsops_controller.alerts.notices import Ending
from dsops_controller.alerts.settings import AlertSettings, Kind
from dsops_controller.dataops.drift.audited_errors import Verdict
from dsops_controller.dataops.drift.device_drift import Level
from dsops_controller.dataops.drift.standing import Beat, Standing
from dsops_controller.dataops.drift.tally import NO_DRIFT, DriftTally

_NAMED = 100
"""Devices that an alert lists."""


@dataclass(frozen=True, slots=True)
class Cause:
    """Something that is wrong.

    Attributes:
        kind: What it is about.
        model: Empty when it is about no model.
        device: Empty when it is about the fleet.
        summary: One sentence for people.
        evidence: The figures behind it; JSON values.
    """

    kind: Kind
    model: str
    device: str
    summary: str
    evidence: Mapping[str, Any]

    @property
    def key(self) -> str:
        """Return what makes it the same cause at the next look."""
        return f"{self.kind}/{self.model}/{self.device}"


@dataclass(frozen=True, slots=True)
class Figures:
    """What is known now.

    Attributes:
        standings: Drift of models on devices, where it alarms.
        drift: Drift of the fleet in numbers.
        beats: Newest heartbeats of devices that take part, where they may be silent.
        lost: Records dropped by device lately: so many more, since this time.
        audits: By model, what its audited labels say.
    """

    standings: Sequence[Standing] = ()
    drift: DriftTally = NO_DRIFT
    beats: Sequence[Beat] = ()
    lost: Mapping[str, tuple[int, datetime]] = field(default_factory=dict)
    audits: Mapping[str, Verdict] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Findings:
    """What a look at the fleet found.

    Attributes:
        causes: Everything that is wrong, of the kinds that are asked for.
        unheard: Keys of causes that were there when they were last heard of, too long ago to say so now.
        models: Those that some device has reported of lately.
        kinds: Those that are asked for.
        unseen: Those that nobody could look at: their alerts stay as they are.
    """

    causes: Sequence[Cause]
    unheard: Collection[str] = ()
    models: Collection[str] = ()
    kinds: Collection[Kind] = tuple(Kind)
    unseen: Collection[Kind] = ()

    def ending(self, kind: Kind, model: str, key: str, *, is_of_fleet: bool) -> Ending:
        """Return why an alert is over whose cause is not there; ``is_of_fleet``: no device, or one that takes part."""
        if kind not in self.kinds:
            return Ending.UNWATCHED
        if not is_of_fleet:
            return Ending.LEFT
        is_unheard = model not in self.models if kind is Kind.FLEET_DRIFT else key in self.unheard
        return Ending.UNHEARD if is_unheard else Ending.OVER


def findings(figures: Figures, settings: AlertSettings, now: datetime, unseen: Collection[Kind] = ()) -> Findings:
    """Return everything that is wrong, and what was when it was last heard of."""
    heard = [one for one in figures.standings if one.counts(now)]
    silent = [one for one in figures.standings if not one.counts(now)]
    every = {
        Kind.DRIFT: lambda: _drift(heard, settings, now),
        Kind.FLEET_DRIFT: lambda: _fleet_drift(figures.drift, settings),
        Kind.SKEW: lambda: _skew(heard, settings, now),
        Kind.LOSSES: lambda: _losses(figures.lost),
        Kind.SILENT: lambda: _silent(figures.beats, settings, now),
        Kind.AUDITED_ERROR: lambda: _audited(figures.audits),
    }
    found = [cause for kind in Kind if kind in settings.kinds for cause in every[kind]()]
    unheard = {cause.key for cause in (*_drift(silent, settings, now), *_skew(silent, settings, now))}
    return Findings(found, unheard, tuple(figures.drift.devices), settings.kinds, unseen)


def _drift(standings: Iterable[Standing], settings: AlertSettings, now: datetime) -> Iterable[Cause]:
    for one in standings:
        if one.level is Level.DRIFT:
            signals = [name for name, stand in one.signals.items() if stand.cusum > 0][:3]
            because = f" because of {', '.join(signals)}" if signals else ""
            evidence = {
                "release": one.release,
                "since": one.since.isoformat(),
                "onset": one.onset.isoformat() if one.onset else None,
                "score": one.score,
                "log_e_value": one.log_e,
                "frames": one.frames,
                "signals": {name: stand.cusum for name, stand in one.signals.items()},
            }
            summary = f"{one.model} on {one.device} has drifted{because}{_silence(one, settings, now)}"
            yield Cause(Kind.DRIFT, one.model, one.device, summary, evidence)


def _fleet_drift(drift: DriftTally, settings: AlertSettings) -> Iterable[Cause]:
    for model, drifted in sorted(drift.drifted.items()):
        devices = drift.devices[model]
        if len(drifted) >= max(settings.fleet_devices, math.ceil(settings.fleet_share * devices)):
            named = list(drifted[:_NAMED])
            evidence = {"drifted": len(drifted), "devices": devices, "fdr": settings.fdr, "named": named}
            summary = f"{len(drifted)} of {devices} devices with {model} have drifted"
            yield Cause(Kind.FLEET_DRIFT, model, "", summary, evidence)


def _skew(standings: Iterable[Standing], settings: AlertSettings, now: datetime) -> Iterable[Cause]:
    for one in standings:
        if one.skew.state == "skew":
            skew = one.skew
            evidence = {
                "release": one.release,
                "frames": skew.frames,
                "p_value": skew.p_value,
                "signals": list(skew.signals),
            }
            where = f" ({', '.join(skew.signals)})" if skew.signals else ""
            summary = f"the first frames of {one.model} on {one.device} are not those that it was built for{where}"
            summary += _silence(one, settings, now)
            yield Cause(Kind.SKEW, one.model, one.device, summary, evidence)


def _silence(one: Standing, settings: AlertSettings, now: datetime) -> str:
    """Return what to add to a sentence about a device of which nothing was heard for as long as makes one silent."""
    is_silent = now - one.heard > timedelta(seconds=settings.silent_s)
    return f"; no report since {one.heard:%Y-%m-%d %H:%M:%SZ}" if is_silent else ""


def _losses(lost: Mapping[str, tuple[int, datetime]]) -> Iterable[Cause]:
    for device, (count, since) in sorted(lost.items()):
        evidence = {"dropped": count, "since": since.isoformat()}
        yield Cause(Kind.LOSSES, "", device, f"{device} dropped {count} records", evidence)


def _silent(beats: Iterable[Beat], settings: AlertSettings, now: datetime) -> Iterable[Cause]:
    for beat in beats:
        limit = timedelta(seconds=max(settings.silent_s, 3 * beat.interval_s))
        if now - beat.received > limit:
            evidence = {"since": beat.received.isoformat(), "agent_version": beat.agent_version}
            summary = f"{beat.device} is silent since {beat.received:%Y-%m-%d %H:%M:%SZ}"
            yield Cause(Kind.SILENT, "", beat.device, summary, evidence)


def _audited(audits: Mapping[str, Verdict]) -> Iterable[Cause]:
    for model, verdict in sorted(audits.items()):
        if verdict.alarm is not None:
            evidence = {
                "labels": verdict.labels,
                "wrong": verdict.wrong,
                "low": verdict.low,
                "high": verdict.high,
                "limit": verdict.limit,
                "since": verdict.alarm.since.isoformat(),
                "samples": list(verdict.alarm.samples[:_NAMED]),
                "labels_wrong": dict(verdict.alarm.labels_wrong),
            }
            summary = (
                f"{model} errs more often than it did: {verdict.wrong} of {verdict.labels} audited answers are wrong"
            )
            yield Cause(Kind.AUDITED_ERROR, model, "", summary, evidence)
