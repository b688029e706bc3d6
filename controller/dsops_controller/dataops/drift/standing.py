"""How drift stands on each device, and when it was heard of: its newest report and heartbeat, in the state database.

A monitor begins its plain e-process anew every epoch, so that it may find a change that comes late. The mean of two
e-values is an e-value, whatever the dependence between them: that of the epoch before counts half, so a device does not
drop out of the fleet's judgement when its epoch ends.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Row, Select, bindparam, case, exists, select

from dsops import states, strictjson
from dsops.api.v1.telemetry_pb2 import DriftReport, Heartbeat
from dsops_controller.dataops.drift.device_drift import Level
from dsops_controller.db.database import Database
from dsops_controller.db.tables import device as devices
from dsops_controller.db.tables import drift_newest, drift_state, heartbeat
from dsops_controller.db.times import from_ms, to_ms
from dsops_controller.db.upsert import upsert

_FIND = select(drift_newest).where(
    (drift_newest.c.device == bindparam("of_device")) & (drift_newest.c.model == bindparam("of_model"))
)
SAME_MONITOR = (drift_state.c.device == drift_newest.c.device) & (drift_state.c.model == drift_newest.c.model)
"""Report and event are of one model on one device."""
ACCEPTED = select(devices.c.id).where(devices.c.state == states.Device.ACCEPTED)
"""Devices that count: who left the fleet, or is kept from it, says nothing any more, and what it said last stays."""
LEVEL_NOW = case(
    (
        (drift_state.c.release == drift_newest.c.release) & (drift_state.c.since_ms >= drift_newest.c.time_ms),
        drift_state.c.level,
    ),
    else_=drift_newest.c.state,
)
"""An event tells of a change before the report of its interval comes; a report tells it again if the event was lost."""
STALE_AFTER = timedelta(days=7)
"""What was not heard of for so long says nothing of the fleet now: it stays in the list, and counts no more."""
_TELLS = drift_state.c.device.in_(ACCEPTED)
_SKEW = frozenset({"pending", "ok", "skew"})
_MOST = 1e9
"""Logarithms beyond this say no more; a database holds them."""


@dataclass(frozen=True, slots=True)
class SkewFound:
    """What a device's check of its first frames found.

    Attributes:
        state: ``pending``, ``ok`` or ``skew``.
        frames: Frames that were looked at.
        p_value: Corrected for the number of signals.
        signals: Those that differ, most first.
    """

    state: str = "pending"
    frames: int = 0
    p_value: float = 1.0
    signals: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SignalStand:
    """One signal: the largest logarithm of its e-CUSUM, and one of how many frames counts as independent."""

    cusum: float
    thinning: int


@dataclass(frozen=True, slots=True)
class Standing:
    """Drift of one model on one device.

    Attributes:
        digest: The bundle's; empty while only an event was heard.
        level: The newest level, of report or event.
        since: When it was reached.
        onset: When the change seems to have begun; None without one.
        score: Logarithm of the mean e-CUSUM.
        frames: Frames that the monitor was fed since it was armed.
        log_e: Logarithm of the e-value against "as the profile", of this epoch and the one before.
        epoch_frames: Frames of this epoch.
        reported: End of the newest report by the device's clock; None without one.
        heard: When the controller took it, or what it last heard instead.
        skew: What the first frames showed.
        signals: Each signal, the most different first.
    """

    device: str
    model: str
    release: int
    digest: str
    level: Level
    since: datetime
    onset: datetime | None
    score: float
    frames: int
    log_e: float
    epoch_frames: int
    reported: datetime | None
    heard: datetime
    skew: SkewFound
    signals: Mapping[str, SignalStand]

    def counts(self, now: datetime) -> bool:
        """Whether it is recent enough to say something of the fleet."""
        return now - self.heard <= STALE_AFTER

    @property
    def p_value(self) -> float:
        """Probability bound of an e-value as large by chance (Markov): ``1 / e``."""
        return math.exp(-self.log_e) if self.log_e > 0.0 else 1.0


@dataclass(frozen=True, slots=True)
class Beat:
    """A device's newest heartbeat.

    Attributes:
        time: By the device's clock.
        received: When the store took it.
        interval_s: Until the next was due.
        waiting: What waited on the device, by kind.
    """

    device: str
    time: datetime
    received: datetime
    interval_s: float
    uptime_s: int
    agent_version: str
    waiting: Mapping[str, Any]


class Standings:
    """Answers from the state database alone, however large the lake is."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def newest(self, model: str | None = None, device: str | None = None) -> list[Standing]:
        """Return how drift stands on accepted devices, or on one whatever it is, the worst first.

        Raises:
            StateDamaged: The database cannot be read.
        """
        newest, told = select(drift_newest), select(drift_state)
        if model is not None:
            newest, told = newest.where(drift_newest.c.model == model), told.where(drift_state.c.model == model)
        if device is not None:
            newest, told = newest.where(drift_newest.c.device == device), told.where(drift_state.c.device == device)
        else:
            newest, told = newest.where(drift_newest.c.device.in_(ACCEPTED)), told.where(_TELLS)
        return self._found(newest, told)

    def alarming(self) -> list[Standing]:
        """Return accepted devices at level ``drift`` or whose first frames were not the profile's, the worst first.

        Raises:
            StateDamaged: The database cannot be read.
        """
        both = drift_newest.outerjoin(drift_state, SAME_MONITOR)
        is_bad = (LEVEL_NOW == Level.DRIFT) | (drift_newest.c.skew == "skew")
        is_only_told = (drift_state.c.level == Level.DRIFT) & ~exists().where(SAME_MONITOR)
        of_report = exists().where(SAME_MONITOR & is_bad)
        return self._found(
            select(drift_newest).select_from(both).where(is_bad & drift_newest.c.device.in_(ACCEPTED)),
            select(drift_state).where((of_report | is_only_told) & _TELLS),
        )

    def _found(self, *statements: Select[Any]) -> list[Standing]:
        """Put what was reported and what was told together; the statements are for these, in this order."""
        with self._db.read() as connection:
            rows, told = (
                {(row.device, row.model): row for row in connection.execute(statement)} for statement in statements
            )
        found = [_standing(key, rows.get(key), told.get(key)) for key in sorted(rows.keys() | told.keys())]
        return sorted(found, key=lambda one: (-_SEVERITY[one.level], -one.log_e, -one.score, one.device, one.model))

    def beats(self, device: str | None = None, before: datetime | None = None) -> list[Beat]:
        """Return the newest heartbeat of each device, the longest silent first; ``before``: only those taken before.

        Raises:
            StateDamaged: The database cannot be read.
        """
        query = select(heartbeat).order_by(heartbeat.c.received_ms, heartbeat.c.device)
        if device is not None:
            query = query.where(heartbeat.c.device == device)
        if before is not None:
            query = query.where(heartbeat.c.received_ms < to_ms(before))
        with self._db.read() as connection:
            return [_beat(row) for row in connection.execute(query)]


def heard_since_ms(now: datetime) -> int:
    """Return since when something must have been heard of to say something of the fleet; as :meth:`Standing.counts`."""
    return to_ms(now - STALE_AFTER)


def save_reports(connection: Connection, device: str, reports: Sequence[DriftReport], received_ms: int) -> None:
    """Fold drift reports into the newest of their models, within the caller's transaction.

    They are taken in the order in which the device made them, whatever its clock said: the last is the newest, and the
    e-value with which an epoch ended is kept.
    """
    present: dict[str, Mapping[str, Any]] = {}
    for report in reports:
        if report.model not in present:
            row = connection.execute(_FIND, {"of_device": device, "of_model": report.model}).one_or_none()
            present[report.model] = {} if row is None else row._asdict()
        present[report.model] = _after(present[report.model], device, report)
    for _, values in sorted(present.items()):
        connection.execute(upsert(connection.dialect.name, drift_newest), {**values, "heard_ms": received_ms})


def save_heartbeat(connection: Connection, device: str, beat: Heartbeat, received_ms: int) -> None:
    """Store the newest heartbeat, within the caller's transaction."""
    waiting = {one.kind: {"records": one.records, "bytes": one.bytes} for one in beat.waiting}
    values = {
        "device": device,
        "time_ms": beat.time_us // 1000,
        "received_ms": received_ms,
        "interval_ms": beat.interval_ms,
        "uptime_s": min(beat.uptime_s, 2**62),
        "agent_version": beat.agent_version[:64],
        "waiting": strictjson.dumps(waiting).decode(),
    }
    connection.execute(upsert(connection.dialect.name, heartbeat), values)


def joined(now: float, before: float) -> float:
    """Return the logarithm of the mean of two e-values, by their logarithms."""
    most = max(now, before)
    return most + math.log((math.exp(now - most) + math.exp(before - most)) / 2.0)


def _after(row: Mapping[str, Any], device: str, report: DriftReport) -> dict[str, Any]:
    time_ms = report.start_us // 1000 + report.interval_ms
    of_this = row if row.get("digest") == report.digest else None
    epoch_ms, before = report.epoch_us // 1000, 0.0
    if of_this is not None:
        before = of_this["log_e_before"] if of_this["epoch_ms"] == epoch_ms else of_this["log_e"]
    skew = report.skew
    facts = {"frames": skew.frames, "p_value": _finite(skew.p_value, 1.0), "signals": list(skew.signals)[:64]}
    signals = {one.name[:64]: {"cusum": _finite(one.cusum), "thinning": max(one.thinning, 1)} for one in report.signals}
    return {
        "device": device,
        "model": report.model,
        "release": report.release,
        "digest": report.digest,
        "time_ms": time_ms,
        "state": report.state,
        "since_ms": report.since_us // 1000,
        "onset_ms": report.onset_us // 1000,
        "score": _finite(report.score),
        "frames": min(report.frames, 2**62),
        "log_e": _finite(report.log_e),
        "log_e_before": before,
        "epoch_ms": epoch_ms,
        "epoch_frames": min(report.epoch_frames, 2**62),
        "skew": skew.state if skew.state in _SKEW else "pending",
        "skew_facts": strictjson.dumps(facts).decode(),
        "signals": strictjson.dumps(signals).decode(),
    }


_SEVERITY = {Level.OK: 0, Level.WARNING: 1, Level.DRIFT: 2}


def _standing(key: tuple[str, str], row: Row[Any] | None, told: Row[Any] | None) -> Standing:
    device, model = key
    if row is None:
        assert told is not None
        level, since = Level(told.level), from_ms(told.since_ms)
        figures = sorted(json.loads(told.figures).items(), key=lambda item: -item[1])
        signals = {name: SignalStand(float(value), 1) for name, value in figures}
        rest = (None, told.score, told.frames, 0.0, 0, None, from_ms(told.heard_ms), SkewFound(), signals)
        return Standing(device, model, told.release, "", level, since, *rest)
    # As LEVEL_NOW has it.
    is_told = told is not None and told.release == row.release and told.since_ms >= row.time_ms
    level, since_ms = (told.level, told.since_ms) if told is not None and is_told else (row.state, row.since_ms)
    facts = json.loads(row.skew_facts)
    stands = sorted(json.loads(row.signals).items(), key=lambda item: -item[1]["cusum"])
    return Standing(
        device=device,
        model=model,
        release=row.release,
        digest=row.digest,
        level=Level(level),
        since=from_ms(since_ms or row.epoch_ms),
        onset=from_ms(row.onset_ms) if row.onset_ms else None,
        score=row.score,
        frames=row.frames,
        log_e=joined(row.log_e, row.log_e_before),
        epoch_frames=row.epoch_frames,
        reported=from_ms(row.time_ms),
        heard=from_ms(row.heard_ms),
        skew=SkewFound(row.skew, facts["frames"], facts["p_value"], tuple(facts["signals"])),
        signals={name: SignalStand(one["cusum"], one["thinning"]) for name, one in stands},
    )


def _beat(row: Row[Any]) -> Beat:
    return Beat(
        device=row.device,
        time=from_ms(row.time_ms),
        received=from_ms(row.received_ms),
        interval_s=row.interval_ms / 1000,
        uptime_s=row.uptime_s,
        agent_version=row.agent_version,
        waiting=json.loads(row.waiting),
    )


def _finite(value: float, other: float = 0.0) -> float:
    return min(max(value, -_MOST), _MOST) if math.isfinite(value) else other
