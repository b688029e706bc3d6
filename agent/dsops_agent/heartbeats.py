"""Which of the main loops make progress: a heart for each, which must beat within its own time. Pure; thread-safe."""

import threading
from collections.abc import Callable
from dataclasses import dataclass

Seconds = float
Beat = Callable[[Seconds], None]
"""A loop calls it for each round, with how long it is about to rest on purpose."""


def unwatched(rest_s: Seconds) -> None:
    """Do nothing: the beat of a loop that nobody watches."""


@dataclass(frozen=True)
class Late:
    """A loop that has made no progress for longer than it may."""

    name: str
    silent_s: Seconds

    def __str__(self) -> str:
        return f"{self.name} has made no progress for {self.silent_s:.0f} s"


@dataclass
class _Heart:
    within_s: Seconds
    beat_s: Seconds


class Heartbeats:
    """The hearts of a process. Times are of a clock that never goes back."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._hearts: dict[str, _Heart] = {}

    def expect(self, name: str, within_s: Seconds, now_s: Seconds) -> None:
        """From now on, let ``name`` beat at least every ``within_s`` seconds; the time until the first counts too."""
        with self._lock:
            self._hearts[name] = _Heart(within_s, now_s)

    def beat(self, name: str, now_s: Seconds, rest_s: Seconds = 0.0) -> None:
        """Take note of progress, and of how long the loop now rests on purpose.

        One that nobody expects (any more) changes nothing: its last beat may come after it was forgotten.
        """
        with self._lock:
            if name in self._hearts:
                self._hearts[name].beat_s = now_s + rest_s

    @property
    def is_any(self) -> bool:
        """Whether any loop is watched."""
        with self._lock:
            return bool(self._hearts)

    def forget(self, name: str) -> None:
        """Expect ``name`` no more: its loop came to its end in order."""
        with self._lock:
            self._hearts.pop(name, None)

    def late(self, now_s: Seconds) -> tuple[Late, ...]:
        """Return the loops that are over their time, the longest silent first."""
        with self._lock:
            silent = [(now_s - heart.beat_s, name) for name, heart in self._hearts.items() if _is_over(heart, now_s)]
        return tuple(Late(name, silent_s) for silent_s, name in sorted(silent, reverse=True))


def _is_over(heart: _Heart, now_s: Seconds) -> bool:
    return now_s - heart.beat_s > heart.within_s
