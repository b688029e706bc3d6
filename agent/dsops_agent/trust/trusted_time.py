"""Trusted time: what a device may believe about time although its clock may be wrong. Pure; values in, values out.

Trusted time is the latest of the host's clock, the time at which this program was built, and what signed metadata bears
out: when the newest accepted timestamp was signed, and the newest reading of the host's clock that lay within that
timestamp's life. It is moved by signed documents only, never beyond the expiry of the trusted root, and what the keys
of an earlier root contributed is forgotten (as TUF 1.0.33, 5.3.11 does with versions): else one stolen online key could
push a device to 2099 for good. A clock that runs ahead is believed while it does, and is never kept.
"""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from enum import StrEnum

from pydantic import AwareDatetime

from dsops.manifest import Frozen
from dsops_agent.trust.floors import Keys, stands

BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)
KEEP_EVERY = timedelta(hours=1)
TOLERANCE = timedelta(minutes=1)
"""A clock this far behind what is certain is not called wrong: clocks of two honest machines differ."""


class ClockState(StrEnum):
    """What to think of the host's clock."""

    PLAUSIBLE = "plausible"  # nothing that was signed contradicts it
    BEHIND = "behind"  # it is before a moment that has certainly passed
    AHEAD = "ahead"  # it is beyond the expiry of everything that was ever accepted


class TimeRecord(Frozen):
    """What signed metadata bears out about time.

    Attributes:
        issued: When the newest accepted timestamp was signed, by its own word, and never after it or the root expires.
        until: When that timestamp, or the root, expires: so far it bears out the host's clock.
        latest: The last expiry of anything that was accepted with it.
        good: The newest reading of the host's clock that it bore out.
        keys: The keys that could sign the timestamp.
    """

    issued: AwareDatetime
    until: AwareDatetime
    latest: AwareDatetime
    good: AwareDatetime
    keys: tuple[str, ...]

    @property
    def floor(self) -> datetime:
        """A moment that has certainly passed."""
        return max(self.issued, self.good)

    def bears_out(self, system: datetime) -> bool:
        """Return whether a reading of the host's clock fits what was signed."""
        return self.issued <= system < self.until

    def seen(self, system: datetime) -> "TimeRecord":
        """Return the record after the host's clock was read: it rises only to what the timestamp bears out."""
        return self.model_copy(update={"good": system}) if self.bears_out(system) and system > self.good else self


def record(issued: datetime | None, expiries: Iterable[datetime], latest: datetime, keys: Keys) -> TimeRecord:
    """Return what an accepted timestamp says about time.

    Args:
        issued: When it was signed, if it says so.
        expiries: When the timestamp and the trusted root expire.
        latest: The last expiry of everything that was accepted with it.
        keys: Who may sign timestamps.
    """
    until = min(expiries)
    moment = min(issued, until) if issued else BEGINNING
    return TimeRecord(issued=moment, until=until, latest=latest, good=moment, keys=tuple(sorted(keys.ids)))


def merged(old: TimeRecord | None, new: TimeRecord, threshold: int) -> TimeRecord:
    """Return the record after a newer timestamp; what a timestamp of other keys bore out is forgotten."""
    if old is None or not stands(old.keys, Keys(frozenset(new.keys), threshold)):
        return new
    good = max(new.issued, min(old.floor, new.until))
    return new.model_copy(update={"good": good})


def still_valid(known: TimeRecord | None, keys: Keys) -> TimeRecord | None:
    """Return the record if a timestamp of the keys that are trusted now could have made it."""
    return known if known and stands(known.keys, keys) else None


def trusted_time(system: datetime, built: datetime, known: TimeRecord | None) -> datetime:
    """Return trusted time: never before a moment that has certainly passed."""
    return max(system, built, known.floor if known else built)


def clock_state(system: datetime, built: datetime, known: TimeRecord | None, latest: datetime) -> ClockState:
    """Return what to think of the host's clock.

    Args:
        system: Its reading.
        built: When this program was built.
        known: What signed metadata bears out, if any was accepted.
        latest: Expiry of the embedded root, for a device that has accepted nothing yet.
    """
    if system + TOLERANCE < max(built, known.floor if known else built):
        return ClockState.BEHIND
    return ClockState.AHEAD if system >= (known.latest if known else latest) else ClockState.PLAUSIBLE
