"""What is wrong now. Pure: figures in, causes with their evidence out."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

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


def causes(figures: Figures, settings: AlertSettings, now: datetime) -> list[Cause]:
    """Return everything that is wrong, of the kinds that are asked for."""
    every = {
        Kind.DRIFT: lambda: _drift(figures.standings),
        Kind.FLEET_DRIFT: lambda: _fleet_drift(figures.drift, settings),
        Kind.SKEW: lambda: _skew(figures.standings),
        Kind.LOSSES: lambda: _losses(figures.lost),
        Kind.SILENT: lambda: _silent(figures.beats, settings, now),
        Kind.AUDITED_ERROR: lambda: _audited(figures.audits),
    }
    return [cause for kind in Kind if kind in settings.kinds for cause in every[kind]()]


def _drift(standings: Iterable[Standing]) -> Iterable[Cause]:
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
            summary = f"{one.model} on {one.device} has drifted{because}"
            yield Cause(Kind.DRIFT, one.model, one.device, summary, evidence)


def _fleet_drift(drift: DriftTally, settings: AlertSettings) -> Iterable[Cause]:
    for model, drifted in sorted(drift.drifted.items()):
        devices = drift.devices[model]
        if len(drifted) >= max(settings.fleet_devices, math.ceil(settings.fleet_share * devices)):
            named = list(drifted[:_NAMED])
            evidence = {"drifted": len(drifted), "devices": devices, "fdr": settings.fdr, "named": named}
            summary = f"{len(drifted)} of {devices} devices with {model} have drifted"
            yield Cause(Kind.FLEET_DRIFT, model, "", summary, evidence)


def _skew(standings: Iterable[Standing]) -> Iterable[Cause]:
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
            yield Cause(Kind.SKEW, one.model, one.device, summary, evidence)


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
