"""Which chunks to ask for, and when: the window of a transfer. Pure; time comes in as a value, actions go out.

The right size of the window depends on the link's delay and rate (measured: 5 MB over 300 ms one-way delay takes 47 s
with a window of 1 and 3.6 s with 16). A small window grows by one for each window of good chunks while these do not
wait for each other; it becomes smaller when they wait long, for whatever else the device shall hear waits behind them,
and halves when a chunk is late.

A chunk's timer is four times the smoothed time of a chunk, at least ``timeout_s``, and doubles from the third time on
that it is asked for. It begins anew when a chunk comes that was asked for before or with it, and while bytes of
something come: on a slow link a chunk that is under way must not be asked for again. While nobody can be asked nothing
is late.

A chunk is asked for as a retained message, twice; then in turns from the controller itself and as a retained message,
which the controller has offered again by then. When chunks come from the controller only, the broker has lost the
retained ones, and the rest is asked of the controller at once.

Sources: RFC 6298 (2011), section 5 (restart and back-off of the timer) and Karn's algorithm; RFC 6817 (2012), section 2
(a window that follows the delay of its own queue).
"""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Protocol

FIRST_WINDOW = 2
STRIKES = 3
TRIES = 6
NEED_LIMIT = 16
PULL_AFTER = 2
"""So many chunks in a row that only the controller brought say that the broker has lost the others, too."""
QUEUE_S = 1.0
"""The window grows while chunks wait for each other no longer than this, and shrinks when it is longer."""
LONGEST_S = 600.0
"""Bytes that trickle in put a chunk's timer off for so long at most."""
LEAST_PATIENCE = 0.3
"""Share of the shortest wait that is left to a chunk which did not come over several connections."""
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
    """A chunk that was asked for: first and last when, how, when it is late, and how often.

    Attributes:
        ended: Connections that ended since it was asked for last; each repeated the request.
        strikes: How often it came with wrong bytes.
    """

    at_s: float
    last_s: float
    late_s: float
    way: Kind
    tries: int = 1
    ended: int = 0
    strikes: int = 0


class Meter(Protocol):
    """Knows who can be asked, and counts chunks that are asked for against a budget."""

    def is_cut_off(self, digest: str) -> bool:
        """Return whether nobody who may have a chunk can be asked at this moment."""
        ...

    def take(self, digest: str) -> bool:
        """Return whether a chunk may and can be asked for now; if so, it counts."""
        ...

    def spend(self, digest: str) -> None:
        """Count a chunk that is asked for again, which is in any case."""
        ...


class Unmetered:
    """No budget, and always somebody to ask."""

    def is_cut_off(self, digest: str) -> bool:
        """Return False."""
        return not digest

    def take(self, digest: str) -> bool:
        """Return True."""
        return bool(digest)

    def spend(self, digest: str) -> None:
        """Count nothing."""


class Window:
    """The window over the missing chunks of one file.

    Args:
        missing: Digests of the chunks to get, in order, each once.
        limit: Most chunks asked for at one time.
        timeout_s: Shortest time before a chunk is asked for again.
        pull: Whether to ask the controller from the beginning.
        meter: Knows the budget.
        backs_off: Whether the timer doubles; what is small may be asked for at the same pace.
    """

    def __init__(
        self,
        missing: Iterable[str],
        *,
        limit: int,
        timeout_s: float,
        pull: bool = False,
        meter: Meter | None = None,
        backs_off: bool = True,
    ) -> None:
        self._todo = deque(missing)
        self._asked: dict[str, _Asked] = {}
        self._limit = max(1, limit)
        self._size = min(FIRST_WINDOW, self._limit)
        self._timeout_s = timeout_s
        self._meter = meter or Unmetered()
        self._backs_off = backs_off
        self._pulled = PULL_AFTER if pull else 0
        self._mean_s = 0.0
        self._flow_s = 0.0
        self._best_s = float("inf")
        self._newest_s = float("-inf")
        """When the newest chunk of those that came was asked for; what was asked for before should have come."""
        self._begun_anew_s = float("-inf")
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
    def has_room(self) -> bool:
        """Whether more would be asked for, were it not for the budget."""
        return bool(self._todo) and len(self._asked) < self._size and not self._failed

    @property
    def coming(self) -> str:
        """The chunk that is asked for next; empty when none is left."""
        return self._todo[0] if self._todo else ""

    @property
    def had_to_pull(self) -> bool:
        """Whether only the controller could bring what came last."""
        return self._pulled > 0

    @property
    def next_s(self) -> float | None:
        """When the next chunk is late."""
        return min((asked.late_s for asked in self._asked.values()), default=None)

    def fill(self, now_s: float) -> list[Action]:
        """Ask for as many chunks as the window allows, once a part of it is free: then one packet asks for many."""
        actions: list[Action] = []
        way = Kind.NEED if self._pulled >= PULL_AFTER else Kind.REQUEST
        part = self._size // (2 if way is Kind.NEED else 4)
        if self._size - len(self._asked) < min(part, len(self._todo)):
            return actions
        while self.has_room and self._meter.take(self._todo[0]):
            digest = self._todo.popleft()
            self._asked[digest] = _Asked(now_s, now_s, now_s + self._patience_s, way)
            actions.append(Action(way, (digest,)))
        return _merged(actions)

    def arrived(self, digest: str, *, good: bool, now_s: float) -> list[Action]:
        """Take one chunk. One that was not asked for, or came already, is ignored."""
        asked = self._asked.get(digest)
        if asked is None or self._failed:
            return []
        if not good:
            return self._strike(digest, asked, now_s)
        del self._asked[digest]
        self._learn(asked, now_s - asked.at_s)
        self._newest_s = max(self._newest_s, asked.last_s)
        self.receiving(now_s)
        return [Action(Kind.STORE, (digest,)), Action(Kind.CANCEL, (digest,)), *self.fill(now_s)]

    def lost(self, digest: str, reason: str, now_s: float) -> list[Action]:
        """Ask another way for a chunk that a source cannot bring; give up after some tries."""
        asked = self._asked.get(digest)
        if asked is None or self._failed:
            return []
        if asked.tries >= TRIES:
            return self._give_up(reason)
        return [self._ask(digest, replace(asked, tries=asked.tries + 1, way=_other(asked.way)), now_s)]

    def put_back(self, digest: str, now_s: float) -> list[Action]:
        """Ask for a chunk anew, as for one that was never asked for, within the budget."""
        if self._failed or self._asked.pop(digest, None) is None:
            return []
        self._todo.appendleft(digest)
        return [Action(Kind.CANCEL, (digest,)), *self.fill(now_s)]

    def tick(self, now_s: float) -> list[Action]:
        """Ask again for late chunks, give up after some tries; ask for more if the budget allows it by now."""
        if self._failed:
            return []
        late = [(digest, asked) for digest, asked in self._asked.items() if asked.late_s <= now_s]
        for digest, asked in [one for one in late if self._meter.is_cut_off(one[0])]:
            late.remove((digest, asked))
            self._asked[digest] = replace(asked, late_s=now_s + self._patience_s)
        if any(asked.tries >= TRIES for _, asked in late):
            return self._give_up(f"a chunk did not come after it was asked for {TRIES} times")
        if not late:
            return self.fill(now_s)
        self._size = max(1, self._size // 2)
        return _merged([self._again(digest, asked, now_s) for digest, asked in late])

    def reconnected(self, now_s: float) -> None:
        """Begin to wait anew, and not as long each time: whoever carries requests repeats them on a new connection."""
        self._pulled = 0  # the broker may have everything again
        for digest, asked in self._asked.items():
            again = replace(asked, at_s=now_s, last_s=now_s, ended=asked.ended + 1)
            self._asked[digest] = replace(again, late_s=now_s + self._waits_s(again))

    def receiving(self, now_s: float) -> None:
        """Note that bytes come: what may be behind them is not late yet. What others have overtaken is."""
        if now_s - self._begun_anew_s < self._timeout_s / 5:  # not for each of many chunks that come at once
            return
        self._begun_anew_s = now_s
        for digest, asked in self._asked.items():
            if asked.last_s >= self._newest_s and now_s - asked.last_s < LONGEST_S:
                self._asked[digest] = replace(asked, late_s=max(asked.late_s, now_s + self._waits_s(asked)))

    @property
    def _patience_s(self) -> float:
        return max(self._timeout_s, _PATIENCE * self._mean_s)

    def _waits_s(self, asked: _Asked) -> float:
        """Return how long a chunk is waited for after it was asked for so often, over so many connections.

        Connections may all be shorter than the patience with one of them; what none of them brought is late at last.
        """
        wait_s = self._patience_s * float(2 ** max(0, asked.tries - 2) if self._backs_off else 1)
        return max(LEAST_PATIENCE * self._timeout_s, wait_s / 2.0 ** max(0, asked.ended - 1))

    def _learn(self, asked: _Asked, took_s: float) -> None:
        self._pulled = self._pulled + 1 if asked.way is Kind.NEED else 0
        self._mean_s = _smoothed(self._mean_s, took_s / asked.tries)  # which of the requests brought it nobody knows
        if asked.tries == 1:
            self._best_s = took_s if self._size == 1 else min(self._best_s, took_s)  # alone, no chunk waits for others
            self._flow_s = max(took_s, _smoothed(self._flow_s, took_s))
        self._good += 1
        if self._good >= self._size:
            self._good = 0
            self._size = min(self._limit, max(1, self._size + self._growth()))

    def _growth(self) -> int:
        """Return by how much the window changes after a window of good chunks."""
        queue_s = self._flow_s - self._best_s
        return 1 if queue_s <= QUEUE_S else -1

    def _strike(self, digest: str, asked: _Asked, now_s: float) -> list[Action]:
        if asked.strikes + 1 >= STRIKES:
            return self._give_up(f"chunk {digest} came with wrong bytes {STRIKES} times")
        struck = replace(asked, strikes=asked.strikes + 1, way=_other(asked.way))
        return [self._ask(digest, struck, now_s)]

    def _again(self, digest: str, asked: _Asked, now_s: float) -> Action:
        is_first = asked.tries == 1 and asked.way is Kind.REQUEST and asked.ended < 2
        way = Kind.REQUEST if is_first else _other(asked.way)
        return self._ask(digest, replace(asked, tries=asked.tries + 1, way=way), now_s)

    def _ask(self, digest: str, asked: _Asked, now_s: float) -> Action:
        self._meter.spend(digest)
        asked = replace(asked, last_s=now_s, ended=0)
        self._asked[digest] = replace(asked, late_s=now_s + self._waits_s(asked))
        return Action(asked.way, (digest,))

    def _give_up(self, reason: str) -> list[Action]:
        self._failed = True
        cancels = [Action(Kind.CANCEL, (digest,)) for digest in self._asked]
        return [*cancels, Action(Kind.FAIL, reason=reason)]


def _smoothed(mean_s: float, sample_s: float) -> float:
    return sample_s if not mean_s else (1 - _SMOOTHING) * mean_s + _SMOOTHING * sample_s


def _other(way: Kind) -> Kind:
    return Kind.REQUEST if way is Kind.NEED else Kind.NEED


def _merged(actions: list[Action]) -> list[Action]:
    """Put the chunks that the controller shall send into messages of at most ``NEED_LIMIT`` digests."""
    kept = [action for action in actions if action.kind is not Kind.NEED]
    needed = [digest for action in actions if action.kind is Kind.NEED for digest in action.digests]
    groups = (tuple(needed[i : i + NEED_LIMIT]) for i in range(0, len(needed), NEED_LIMIT))
    return kept + [Action(Kind.NEED, group) for group in groups]
