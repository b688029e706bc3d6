"""How many devices drift, by model: what monitoring asks every few seconds, counted where the rows are.

The rules are those of :mod:`.standing` and :mod:`.fleet_view`, which tell people of each device. Here only groups leave
the database, and the e-values that e-BH could count: at 10,000 devices a twentieth of them while nothing is wrong.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, exists, func, literal, select

from dsops_controller.dataops.drift.fleet_drift import drifted
from dsops_controller.dataops.drift.standing import ACCEPTED, LEVEL_NOW, SAME_MONITOR, heard_since_ms, joined
from dsops_controller.db.tables import drift_newest, drift_state

_REPORT, _TOLD = drift_newest.c, drift_state.c


@dataclass(frozen=True)
class DriftTally:
    """Drift of the accepted devices that were heard of lately, in numbers.

    Attributes:
        levels: Devices by model, release and level.
        skewed: Devices by model whose first frames were not the profile's.
        drifted: Those that have drifted after correction for their number (e-BH), by model, surest first.
        devices: Those that watch, by model.
    """

    levels: Mapping[tuple[str, int, str], int]
    skewed: Mapping[str, int]
    drifted: Mapping[str, tuple[str, ...]]
    devices: Mapping[str, int]


NO_DRIFT = DriftTally({}, {}, {}, {})


def tally(connection: Connection, fdr: float, now: datetime) -> DriftTally:
    """Count devices by how drift stands on them."""
    levels: Counter[tuple[str, int, str]] = Counter()
    skewed: Counter[str] = Counter()
    devices: Counter[str] = Counter()
    since_ms = heard_since_ms(now)
    for statement in _groups(since_ms):
        for model, release, level, skew, count in connection.execute(statement):
            levels[model, release, level] += count
            devices[model] += count
            skewed[model] += count if skew == "skew" else 0
    found = _e_values(connection, fdr, since_ms)
    named = {model: drifted(found.get(model, {}), fdr, of) for model, of in devices.items()}
    return DriftTally(levels, skewed, named, devices)


def _groups(since_ms: int) -> tuple[Select[Any], Select[Any]]:
    """Return the statements for devices that have reported, and for those of which only an event was heard."""
    reports = select(_REPORT.model, _REPORT.release, LEVEL_NOW.label("level"), _REPORT.skew)
    reports = reports.select_from(drift_newest.outerjoin(drift_state, SAME_MONITOR))
    events = select(_TOLD.model, _TOLD.release, _TOLD.level, literal("pending").label("skew"))
    events = events.where(~exists().where(SAME_MONITOR) & _TOLD.device.in_(ACCEPTED) & (_TOLD.heard_ms >= since_ms))
    return _counted(reports.where(_counts(since_ms))), _counted(events)


def _counts(since_ms: int) -> ColumnElement[bool]:
    return _REPORT.device.in_(ACCEPTED) & (_REPORT.heard_ms >= since_ms)


def _counted(rows: Select[Any]) -> Select[Any]:
    one = rows.subquery().c
    groups = (one.model, one.release, one.level, one.skew)
    return select(*groups, func.count()).group_by(*groups)


def _e_values(connection: Connection, fdr: float, since_ms: int) -> Mapping[str, dict[str, float]]:
    """Return by model and device the logarithms of the e-values that reach the lowest limit of all ranks, ``1 / fdr``.

    A mean of two is at most the larger one, so a device without one as large is left in the database.
    """
    least = math.log(1.0 / fdr)
    is_large = (_REPORT.log_e >= least) | (_REPORT.log_e_before >= least)
    found: dict[str, dict[str, float]] = defaultdict(dict)
    query = select(_REPORT.model, _REPORT.device, _REPORT.log_e, _REPORT.log_e_before)
    query = query.where(is_large & _counts(since_ms))
    for model, device, now, before in connection.execute(query.order_by(_REPORT.device)):
        found[model][device] = joined(now, before)
    return found
