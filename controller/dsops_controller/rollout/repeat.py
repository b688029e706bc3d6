"""When a directive that a device has not acknowledged is said again. Pure: every call says what time it is.

The broker retains directives, so repeating heals only what a broker or a device has lost. Each device is reminded ever
less often, and the whole fleet at a bounded rate: ten thousand silent devices are no storm, and one that lost something
waits seconds.
"""

from collections.abc import Sequence
from dataclasses import dataclass

FIRST_S, LONGEST_S = 5.0, 600.0
"""Pause before the first reminder, doubled after each, and the longest one."""
PER_S = 50.0
"""Reminders a second over the fleet; as many at once after a quiet time."""


@dataclass(frozen=True)
class Unheard:
    """A connected device whose report does not show its newest directive.

    Attributes:
        device: Its name.
        seq: The directive's number.
        connection: What tells one connection from the next.
        is_awaited: Whether a rollout waits for it.
    """

    device: str
    seq: int
    connection: tuple[str, int]
    is_awaited: bool = False


@dataclass
class _Turn:
    about: tuple[int, tuple[str, int]]
    due_s: float
    pause_s: float = FIRST_S


class Repeats:
    """The pauses of the devices that have not acknowledged; a new directive or a new connection begins them anew."""

    def __init__(self, per_s: float = PER_S) -> None:
        self._per_s = per_s
        self._allowed = per_s
        self._asked_s = 0.0
        self._turns: dict[str, _Turn] = {}

    def due(self, unheard: Sequence[Unheard], now_s: float) -> list[str]:
        """Return who is reminded now: those that a rollout waits for first, then those that have waited longest.

        Args:
            unheard: Everybody who has not acknowledged; whoever is not among them is forgotten.
            now_s: The time, in seconds; never falls.
        """
        self._turns = {each.device: self._turn(each, now_s) for each in unheard}
        self._allowed = min(self._per_s, self._allowed + (now_s - self._asked_s) * self._per_s)
        self._asked_s = now_s
        waiting = [each for each in unheard if self._turns[each.device].due_s <= now_s]
        waiting.sort(key=lambda each: (not each.is_awaited, self._turns[each.device].due_s, each.device))
        chosen = [each.device for each in waiting[: int(self._allowed)]]
        self._allowed -= len(chosen)
        for device in chosen:
            turn = self._turns[device]
            turn.pause_s = min(2 * turn.pause_s, LONGEST_S)
            turn.due_s = now_s + turn.pause_s
        return chosen

    def _turn(self, each: Unheard, now_s: float) -> _Turn:
        about = (each.seq, each.connection)
        known = self._turns.get(each.device)
        return known if known and known.about == about else _Turn(about, now_s + FIRST_S)
