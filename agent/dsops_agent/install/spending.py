"""What a device spends of its transfer budget, kept so that neither a restart nor a power cut gives anything back."""

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from typing import Protocol

from dsops.clock import Clock
from dsops.directive import TransferLimits
from dsops_agent.install.budget import BURST_BYTES, Budget, Moment, Today, lowest

LEAST_AHEAD_BYTES = 64 * 1024
RUNNING_S = 600.0
"""Running time is kept so often while a day's allowance is used up."""


class Book(Protocol):
    """Keeps what counts; the journal. Every method raises DeviceError when the disk is at fault."""

    def told_limits(self) -> TransferLimits:
        """Return the limits of the newest accepted directive."""
        ...

    def today(self) -> Today:
        """Return what was fetched, as it was kept last."""
        ...

    def keep_today(self, today: Today) -> None:
        """Keep what was fetched."""
        ...


class Spending:
    """The device's budget over the journal. Single-threaded.

    Bytes are noted ahead of their being asked for, a part of the allowance at a time, so that not every chunk costs a
    write; a power cut costs what was noted and not asked for yet.

    Args:
        own: The device's own limits.
        book: Keeps what counts.
        clock: Time.
        date: Returns date and time, or None while they are doubtful.
    """

    def __init__(self, own: TransferLimits, book: Book, clock: Clock, date: Callable[[], datetime | None]) -> None:
        self._own = own
        self._book = book
        self._clock = clock
        self._date = date
        self._limits = lowest(own, book.told_limits())
        self._kept = book.today()
        self._budget = Budget(self._limits, self._kept, self._now())

    def follow(self) -> None:
        """Heed what the newest directive says, and keep running time."""
        self._limits = lowest(self._own, self._book.told_limits())
        self._budget.limit(self._limits)
        self._budget.turn(self._now())
        today = self._budget.today
        is_due = not self._is_of_today() or today.ran_s - self._kept.ran_s >= RUNNING_S
        if self._limits.bytes_per_day and is_due:
            self._keep(replace(today, fetched_bytes=max(today.fetched_bytes, self._ahead())))

    def take(self, length_bytes: int) -> bool:
        """Return whether so many bytes may be asked for now; if so, they are spent."""
        if not self._budget.take(length_bytes, self._now()):
            return False
        self._note()
        return True

    def spend(self, length_bytes: int) -> None:
        """Spend bytes that are asked for in any case."""
        self._budget.spend(length_bytes, self._now())
        self._note()

    def wait_s(self, length_bytes: int) -> float:
        """Return in how many seconds so many bytes may be asked for at the earliest; 0 for now."""
        return self._budget.wait_s(length_bytes, self._now())

    def explain(self, length_bytes: int) -> str:
        """Return what is waited for if the day's allowance is used up; else an empty text."""
        return self._budget.explain(length_bytes, self._now())

    def _now(self) -> Moment:
        return Moment(self._clock.monotonic_s(), self._date())

    def _ahead(self) -> int:
        """Return the bytes that are kept as fetched today."""
        return self._kept.fetched_bytes if self._is_of_today() else 0

    def _is_of_today(self) -> bool:
        """Return whether what is kept is of the present day; one that ended by running time keeps its date."""
        today = self._budget.today
        return self._kept.day == today.day and self._kept.ran_s <= today.ran_s

    def _note(self) -> None:
        today, most = self._budget.today, self._limits.bytes_per_day
        if most and today.fetched_bytes > self._ahead():
            step = max(LEAST_AHEAD_BYTES, min(BURST_BYTES, most // 16))
            self._keep(replace(today, fetched_bytes=today.fetched_bytes + step))

    def _keep(self, today: Today) -> None:
        self._book.keep_today(today)
        self._kept = today
