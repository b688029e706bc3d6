"""Alerts and their notices as values, and a notice as it is handed over."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from dsops import strictjson
from dsops.clock import utc_text
from dsops_controller.alerts.settings import Kind

FIRST_WAIT_S = 5.0
LONGEST_WAIT_S = 3600.0


class AlertState(StrEnum):
    """Whether its cause is still there."""

    OPEN = "open"
    RESOLVED = "resolved"


class Ending(StrEnum):
    """Why an alert is over."""

    OVER = "over"
    """Its cause is gone."""
    LEFT = "left"
    """Its device belongs to the fleet no more, or takes no part in it: suspended, rejected or decommissioned."""
    UNHEARD = "unheard"
    """Nobody reported of it for a week: whether its cause is gone is not known."""
    UNWATCHED = "unwatched"
    """``controller.toml`` does not ask for its kind any more."""


class Notice(StrEnum):
    """What is told of an alert."""

    OPENED = "opened"
    RESOLVED = "resolved"


class NoticeState(StrEnum):
    """How far a notice is with one webhook."""

    PENDING = "pending"
    DELIVERED = "delivered"
    DEAD = "dead"
    """It was tried too often, or refused for good (dead letter). Try again: ``dsops alerts retry``."""


@dataclass(frozen=True, slots=True)
class NoticeRow:
    """How far one notice is with one webhook."""

    notice: Notice
    hook: str
    state: NoticeState
    attempts: int
    next: datetime
    error: str


@dataclass(frozen=True, slots=True)
class Alert:
    """One alert; ``seen`` is when its cause was there last, ``ended`` why it is resolved: None while it is open."""

    id: str
    kind: Kind
    model: str
    device: str
    state: AlertState
    summary: str
    evidence: Mapping[str, Any]
    opened: datetime
    seen: datetime
    resolved: datetime | None
    ended: Ending | None
    notices: tuple[NoticeRow, ...]


@dataclass(frozen=True, slots=True)
class Claimed:
    """A notice to hand over now; one of many alerts has a ``batch``, and ``alert`` is any of them."""

    alert: str
    notice: Notice
    hook: str
    attempts: int
    body: bytes
    batch: str | None

    @property
    def id(self) -> str:
        """What is the same whenever it is handed over."""
        return notice_id(self.batch or self.alert, self.notice)


@dataclass(frozen=True, slots=True)
class Pace:
    """How many notices of one rule (kind and model) a webhook gets.

    Attributes:
        burst: So many after a quiet time, each of one alert.
        every_s: Then one every so many seconds, of one alert or of all that are due.
        named: Devices that one of many names.
        in_all: Notices of all rules together after a quiet time; then so many in the time in which a rule has its
            ``burst`` again.
    """

    burst: int
    every_s: float
    named: int
    in_all: int = 50

    @property
    def of_all_rules(self) -> "Pace":
        """The pace of all rules together."""
        return Pace(self.in_all, self.every_s * self.burst / self.in_all, self.named, self.in_all)


@dataclass(frozen=True, slots=True)
class Many:
    """What a notice of many alerts of one rule says.

    Attributes:
        batch: Its id.
        count: How many alerts.
        devices: The first of their devices, by name.
        opened: When the first of them was opened.
        resolved: When the last of them was over; None when they were opened.
    """

    batch: str
    kind: Kind
    model: str
    count: int
    devices: tuple[str, ...]
    opened: datetime
    resolved: datetime | None


def notice_id(alert: str, notice: Notice) -> str:
    """Return the id of a notice, by which receivers know one that comes twice."""
    return f"{alert}-{notice}"


def envelope(fleet: str, alert: Alert, notice: Notice) -> bytes:
    """Return a notice as CloudEvents 1.0 in JSON (github.com/cloudevents/spec, JSON format 1.0)."""
    facts = {"alert": alert.id, "count": 1, "device": alert.device, "summary": alert.summary}
    rule = {"kind": alert.kind.value, "model": alert.model, "evidence": dict(alert.evidence)}
    is_over = notice is Notice.RESOLVED
    end = {**_times(alert.opened, alert.resolved if is_over else None), "ended": alert.ended if is_over else None}
    return _event(fleet, notice_id(alert.id, notice), notice, alert.device or alert.model, {**facts, **rule, **end})


def envelope_of_many(fleet: str, many: Many, notice: Notice) -> bytes:
    """Return a notice of many alerts in the form of one: it has no alert and no device, but a count and names."""
    more = many.count - len(many.devices)
    names = ", ".join(many.devices) + (f" and {more:,} more" if more else "")
    of_model = f" of {many.model}" if many.model else ""
    summary = f"{many.count:,} alerts ({many.kind}{of_model}): {names}"
    facts = {"alert": "", "count": many.count, "device": "", "summary": summary}
    rule = {"kind": many.kind.value, "model": many.model, "evidence": {"devices": list(many.devices)}}
    times = {**_times(many.opened, many.resolved), "ended": None}
    subject = many.model or many.kind.value
    return _event(fleet, notice_id(many.batch, notice), notice, subject, {**facts, **rule, **times})


def _times(opened: datetime, resolved: datetime | None) -> dict[str, str | None]:
    return {"opened": utc_text(opened), "resolved": utc_text(resolved) if resolved else None}


def _event(fleet: str, named: str, notice: Notice, subject: str, data: Mapping[str, Any]) -> bytes:
    return strictjson.dumps(
        {
            "specversion": "1.0",
            "id": named,
            "source": f"/dsops/{fleet}",
            "type": f"alert.{notice}",
            "subject": subject,
            "time": data["resolved"] or data["opened"],
            "datacontenttype": "application/json",
            "data": data,
        }
    )


def spare_notices(pace: Pace, before: float, since_s: float) -> float:
    """Return how many notices may go out (a token bucket): ``before`` were left ``since_s`` seconds ago."""
    return min(float(pace.burst), before + max(since_s, 0.0) / pace.every_s)


def wait_after(attempts: int, chance: float) -> float:
    """Return seconds to wait after so many attempts: twice as long each time, half of it by chance (0 to 1)."""
    longest = min(LONGEST_WAIT_S, FIRST_WAIT_S * 2.0 ** min(attempts - 1, 20))
    return longest * (0.5 + chance / 2)
