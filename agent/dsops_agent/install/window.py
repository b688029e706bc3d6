"""Which chunks to ask for, and when: the window of a transfer. Pure; time comes in as a value, actions go out.

A small window grows by one for each window of good chunks and halves when a chunk is late, because the right size
depends on the link's delay and rate (measured: 5 MB over 300 ms one-way delay takes 47 s with a window of 1 and 3.6 s
with 16). A chunk's timer is four times the smoothed time of a chunk, at least ``timeout_s``.
"""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import StrEnum

FIRST_WINDOW = 2
STRIKES = 3
TRIES = 6
NEED_LIMIT = 64
_SMOOTHING = 0.25
_PATIENCE = 4.0


class Kind(StrEnum):
    """What an action does."""

    REQUEST = "request"  # ask for the retained chunk
    CANCEL = "cancel"  # do not wait for it any more
    NEED = "need"  # ask the controller itself
    STORE = "store"  # the bytes are good and wanted: keep them
    FAIL = "fail"  # give up; the reason says why


@dataclass(frozen=True)
class Action:
    """One thing for the driver to do."""

    kind: Kind
    digests: tuple[str, ...] = ()
    reason: str = ""


@dataclass(frozen=True)
class _Asked:
    """A chunk that was asked for: when, when it is late, how often it was late, how often its bytes were wrong."""

    at_s: float
    late_s: float
    tries: int = 1
    strikes: int = 0


class Window:
    """The window over the missing chunks of one file.

    Args:
        missing: Digests of the chunks to get, in order, each once.
        limit: Most chunks asked for at one time.
        timeout_s: Shortest time before a chunk is asked for again.
    """

    def __init__(self, missing: Iterable[str], *, limit: int, timeout_s: float) -> None:
        self._todo = deque(missing)
        self._asked: dict[str, _Asked] = {}
        self._limit = max(1, limit)
        self._size = min(FIRST_WINDOW, self._limit)
        self._timeout_s = timeout_s
        self._mean_s = 0.0
        self._good = 0
        self._failed = False

    @property
    def done(self) -> bool:
        """Whether every chunk came."""
        return not self._todo and not self._asked

    @property
    def failed(self) -> bool:
        """Whether the transfer was given up."""
        return self._failed

    @property
    def outstanding(self) -> int:
        """Number of chunks that were asked for and have not come."""
        return len(self._asked)

    @property
    def next_s(self) -> float | None:
        """When the next chunk is late."""
        return min((asked.late_s for asked in self._asked.values()), default=None)

    def fill(self, now_s: float) -> list[Action]:
        """Ask for as many chunks as the window allows, once a quarter of it is free: then one packet asks for many."""
        actions: list[Action] = []
        free = self._size - len(self._asked)
        if free < min(self._size // 4, len(self._todo)):
            return actions
        while self._todo and len(self._asked) < self._size and not self._failed:
            digest = self._todo.popleft()
            self._asked[digest] = _Asked(now_s, now_s + self._patience_s)
            actions.append(Action(Kind.REQUEST, (digest,)))
        return actions

    def arrived(self, digest: str, *, good: bool, now_s: float) -> list[Action]:
        """Take one chunk. One that was not asked for, or came already, is ignored."""
        asked = self._asked.get(digest)
        if asked is None or self._failed:
            return []
        if not good:
            return self._strike(digest, asked, now_s)
        del self._asked[digest]
        self._learn(now_s - asked.at_s)
        return [Action(Kind.STORE, (digest,)), Action(Kind.CANCEL, (digest,)), *self.fill(now_s)]

    def lost(self, digest: str, reason: str, now_s: float) -> list[Action]:
        """Ask again for a chunk that a source cannot bring; give up after some tries."""
        asked = self._asked.get(digest)
        if asked is None or self._failed:
            return []
        return self._give_up(reason) if asked.tries >= TRIES else [self._again(digest, asked, now_s)]

    def tick(self, now_s: float) -> list[Action]:
        """Ask again for late chunks: the first time the broker, later the controller; give up after some tries."""
        late = [(digest, asked) for digest, asked in self._asked.items() if asked.late_s <= now_s]
        if not late or self._failed:
            return []
        if any(asked.tries >= TRIES for _, asked in late):
            return self._give_up(f"a chunk did not come after it was asked for {TRIES} times")
        self._size = max(1, self._size // 2)
        actions = [self._again(digest, asked, now_s) for digest, asked in late]
        return _merged(actions)

    def reconnected(self, now_s: float) -> None:
        """Begin to wait anew: whoever carries requests repeats them on a new connection by itself."""
        self._asked = {d: replace(a, at_s=now_s, late_s=now_s + self._patience_s) for d, a in self._asked.items()}

    @property
    def _patience_s(self) -> float:
        return max(self._timeout_s, _PATIENCE * self._mean_s)

    def _learn(self, took_s: float) -> None:
        self._mean_s = took_s if not self._mean_s else (1 - _SMOOTHING) * self._mean_s + _SMOOTHING * took_s
        self._good += 1
        if self._good >= self._size:
            self._good = 0
            self._size = min(self._limit, self._size + 1)

    def _strike(self, digest: str, asked: _Asked, now_s: float) -> list[Action]:
        if asked.strikes + 1 >= STRIKES:
            return self._give_up(f"a chunk came with wrong bytes {STRIKES} times")
        late_s = now_s + self._patience_s
        self._asked[digest] = replace(asked, strikes=asked.strikes + 1, late_s=late_s)
        return [Action(Kind.NEED, (digest,))]

    def _again(self, digest: str, asked: _Asked, now_s: float) -> Action:
        self._asked[digest] = replace(asked, tries=asked.tries + 1, late_s=now_s + self._patience_s)
        return Action(Kind.REQUEST if asked.tries == 1 else Kind.NEED, (digest,))

    def _give_up(self, reason: str) -> list[Action]:
        self._failed = True
        cancels = [Action(Kind.CANCEL, (digest,)) for digest in self._asked]
        return [*cancels, Action(Kind.FAIL, reason=reason)]


def _merged(actions: list[Action]) -> list[Action]:
    """Put the chunks that the controller shall send into messages of at most ``NEED_LIMIT`` digests."""
    kept = [action for action in actions if action.kind is not Kind.NEED]
    needed = [digest for action in actions if action.kind is Kind.NEED for digest in action.digests]
    groups = (tuple(needed[i : i + NEED_LIMIT]) for i in range(0, len(needed), NEED_LIMIT))
    return kept + [Action(Kind.NEED, group) for group in groups]
