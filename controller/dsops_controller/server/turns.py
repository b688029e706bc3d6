"""Says whose session is ended next: who was shut out last comes first, however many were shut out before."""

from collections.abc import Iterable
from dataclasses import dataclass

FIRST_S, LONGEST_S = 1.0, 600.0
"""Pauses between evictions of one device: doubled each time, since by then the broker refuses it by its list."""
RETRY_S = 8.0
"""Longest pause after an eviction that failed."""
CALM_PER_S = 10.0
"""Devices for whom there is no hurry are taken at this rate, so that a thousand of them are no storm."""


@dataclass
class _Turn:
    """When a device is evicted next, the pause after that, and since when there is a reason to."""

    at_s: float
    since_s: float
    pause_s: float


class Turns:
    """The order of evictions. Holds no clock: every call says what time it is."""

    def __init__(self) -> None:
        self._turns: dict[str, _Turn] = {}
        self._urgent: frozenset[str] = frozenset()

    def follow(self, urgent: Iterable[str], calm: Iterable[str], now_s: float) -> None:
        """Take in who is to be evicted; who is in neither any more loses the turn.

        Args:
            urgent: Who has a turn at once, and again soon, when new here; of several, the first comes first.
            calm: Who has the first turn some time, spread out, and further ones seldom.
            now_s: Monotonic time.
        """
        turns: dict[str, _Turn] = {}
        for device in urgent:
            turns[device] = self._turns[device] if device in self._urgent else _Turn(now_s, now_s, FIRST_S)
        self._urgent = frozenset(turns)
        newcomers = 0
        for device in calm:
            if device in turns:
                continue
            if device not in self._turns:
                self._turns[device] = _Turn(now_s + newcomers / CALM_PER_S, now_s, LONGEST_S)
                newcomers += 1
            turns[device] = self._turns[device]
        self._turns = turns

    def hear(self, device: str, now_s: float) -> None:
        """Give a device that is to be evicted, and spoke, a turn at once."""
        if device in self._turns:
            self._turns[device] = _Turn(now_s, now_s, FIRST_S)

    def due(self, now_s: float, most: int) -> tuple[str, ...]:
        """Return who is evicted now, most urgent first: with few turns so far, and of those the newest."""
        found = [(turn.pause_s, -turn.since_s, device) for device, turn in self._turns.items() if turn.at_s <= now_s]
        found.sort(key=lambda one: one[:2])  # stable: who was named first stays first
        return tuple(device for _, _, device in found[:most])

    def took(self, device: str, now_s: float, *, is_done: bool) -> None:
        """Note that a device had its turn; one in vain comes back soon, but behind those that had none yet."""
        turn = self._turns[device]
        turn.at_s = now_s + (turn.pause_s if is_done else min(turn.pause_s, RETRY_S))
        turn.pause_s = min(2 * turn.pause_s, LONGEST_S)
