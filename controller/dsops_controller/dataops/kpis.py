"""Figures that programs on devices reported, as operators see them."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

KPIS = """
select device, name, value, unit, model, release, digest, tags, epoch_us(time), clock, epoch_us(received)
from kpis
where ($model is null or model = $model) and ($device is null or device = $device)
  and ($name is null or name = $name)
  and time >= $since and cast(day as date) >= cast($since as date)
order by time desc, device, stream, seq desc
limit $limit
"""
"""The SQL that finds them; see :mod:`dsops_controller.dataops.queries`."""


@dataclass(frozen=True, slots=True)
class KpiRow:
    """One figure.

    Attributes:
        value: None when it was no finite number.
        model: What it is about; empty for none, then ``release`` is 0 and ``digest`` empty.
        release: What served the model when the figure was reported.
        time: When, by the device's clock.
        clock: What that time is worth: ``synchronised``, ``checked``, ``free`` or ``unknown``.
        received: When the store took it.
    """

    device: str
    name: str
    value: float | None
    unit: str
    model: str
    release: int
    digest: str
    tags: Mapping[str, str]
    time: datetime
    clock: str
    received: datetime


def row(found: Sequence[Any]) -> KpiRow:
    """Return a row of :data:`KPIS`."""
    device, name, value, unit, model, release, digest, tags, time_us, clock, received_us = found
    when, received = _time(time_us), _time(received_us)
    return KpiRow(device, name, value, unit, model, release, digest, json.loads(tags), when, clock, received)


def _time(time_us: int) -> datetime:
    return _EPOCH + timedelta(microseconds=time_us)
