"""What somebody asked for: samples of models, whichever bundle serves them. Survives a change of bundle."""

import threading
from collections.abc import Sequence
from datetime import UTC, datetime

from pydantic import AwareDatetime, Field

from dsops.clock import Clock
from dsops.manifest import Frozen, Name
from dsops_agent.drift.sampler import Wish


class SampleWish(Frozen):
    """A request for samples, as the control process passes it on."""

    id: str = Field(min_length=1, max_length=64)
    model: Name
    count: int = Field(ge=1)
    until: AwareDatetime


class Wishes:
    """Knows which requests are open, and how many frames each still wants. Safe to call from several threads."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._open: tuple[SampleWish, ...] = ()
        self._left: dict[str, int] = {}

    def follow(self, wanted: Sequence[SampleWish]) -> None:
        """Follow these requests, and no others; of those that are known already the count goes on."""
        with self._lock:
            self._open = tuple(wanted)
            self._left = {wish.id: self._left.get(wish.id, wish.count) for wish in wanted}

    def of(self, model: str) -> tuple[Wish, ...]:
        """Return what is still wanted of a model."""
        now, now_s = self._clock.now(), self._clock.monotonic_s()
        with self._lock:
            return tuple(
                Wish(wish.id, self._left[wish.id], now_s + _seconds(wish.until, now))
                for wish in self._open
                if wish.model == model and self._left[wish.id] > 0 and wish.until > now
            )

    def served(self, wish: str) -> None:
        """Count a frame that was kept for a request."""
        with self._lock:
            if wish in self._left:
                self._left[wish] -= 1


def _seconds(until: datetime, now: datetime) -> float:
    return (until.astimezone(UTC) - now).total_seconds()
