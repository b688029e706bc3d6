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
    """One alert; ``seen`` is when its cause was there last."""

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
    notices: tuple[NoticeRow, ...]


@dataclass(frozen=True, slots=True)
class Claimed:
    """A notice to hand over now."""

    alert: str
    notice: Notice
    hook: str
    attempts: int
    body: bytes

    @property
    def id(self) -> str:
        """What is the same whenever it is handed over."""
        return notice_id(self.alert, self.notice)


def notice_id(alert: str, notice: Notice) -> str:
    """Return the id of a notice, by which receivers know one that comes twice."""
    return f"{alert}-{notice}"


def envelope(fleet: str, alert: Alert, notice: Notice) -> bytes:
    """Return a notice as CloudEvents 1.0 in JSON (github.com/cloudevents/spec, JSON format 1.0)."""
    moment = alert.resolved if notice is Notice.RESOLVED and alert.resolved is not None else alert.opened
    return strictjson.dumps(
        {
            "specversion": "1.0",
            "id": notice_id(alert.id, notice),
            "source": f"/dsops/{fleet}",
            "type": f"alert.{notice}",
            "subject": alert.device or alert.model,
            "time": utc_text(moment),
            "datacontenttype": "application/json",
            "data": {
                "alert": alert.id,
                "kind": alert.kind.value,
                "model": alert.model,
                "device": alert.device,
                "summary": alert.summary,
                "evidence": dict(alert.evidence),
                "opened": utc_text(alert.opened),
                "resolved": utc_text(alert.resolved) if alert.resolved else None,
            },
        }
    )


def wait_after(attempts: int, chance: float) -> float:
    """Return seconds to wait after so many attempts: twice as long each time, half of it by chance (0 to 1)."""
    longest = min(LONGEST_WAIT_S, FIRST_WAIT_S * 2.0 ** min(attempts - 1, 20))
    return longest * (0.5 + chance / 2)
