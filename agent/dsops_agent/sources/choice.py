"""Which source to ask for a chunk. Pure; time comes in as a value.

Sources are asked in their order. What a source lacks it is not asked for again for a while. One that fails or lies
several times in a row is set aside, for longer each time; afterwards a single failure sets it aside again. The last
source is always in use: there is nobody to ask instead.

Source: M. Nygard, "Release It!", 2nd edition, 2018, section 5.2 ("circuit breaker").
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from dsops.messages import Problem

PATIENCE = 3
"""Failures, or lies, in a row that set a source aside."""
ASIDE_FIRST_S = 10.0
ASIDE_MOST_S = 600.0
LACKING_FIRST_S = 2.0
LACKING_MOST_S = 60.0
MOST_LACKING = 256


class Setback(StrEnum):
    """How a source disappoints."""

    LACKS = "lacks"  # it does not have the file, and may well have others
    FAILS = "fails"  # it does not answer, answers wrongly, or takes too long
    LIES = "lies"  # it brings other bytes


@dataclass(frozen=True)
class _Pause:
    until_s: float
    length_s: float

    def longer(self, now_s: float, most_s: float) -> "_Pause":
        length_s = min(2 * self.length_s, most_s)
        return _Pause(now_s + length_s, length_s)


@dataclass
class Standing:
    """What is known of one source.

    Attributes:
        problem: Why it failed last; None once it brought something.
        chunks: Number of chunks that it brought.
        total_bytes: Their bytes.
        is_empty: Whether it has nothing at all, and is not asked.
    """

    problem: Problem | None = None
    chunks: int = 0
    total_bytes: int = 0
    is_empty: bool = False
    _in_a_row: dict[Setback, int] = field(default_factory=dict)
    _aside: _Pause | None = None
    _lacking: dict[str, _Pause] = field(default_factory=dict)

    def aside_s(self, now_s: float) -> float:
        """Return for how many seconds more the source is set aside; 0 when it is in use."""
        return max(0.0, self._aside.until_s - now_s) if self._aside else 0.0

    def has(self, file: str, now_s: float) -> bool:
        """Return whether the source may have a file, as far as is known."""
        lack = self._lacking.get(file)
        return lack is None or lack.until_s <= now_s

    def good(self, file: str, size_bytes: int) -> None:
        """Note a chunk with the right bytes."""
        self.problem, self._aside = None, None
        self._in_a_row.clear()
        self._lacking.pop(file, None)
        self.chunks += 1
        self.total_bytes += size_bytes

    def bad(self, setback: Setback, file: str, problem: Problem, now_s: float) -> bool:
        """Note a setback; return whether it sets the source aside now."""
        self.problem = problem
        if setback is Setback.LACKS:
            self._note_lack(file, now_s)
            return False
        count = self._in_a_row[setback] = self._in_a_row.get(setback, 0) + 1
        if self.aside_s(now_s) or (count < PATIENCE and self._aside is None):
            return False
        before = self._aside
        self._aside = before.longer(now_s, ASIDE_MOST_S) if before else _Pause(now_s + ASIDE_FIRST_S, ASIDE_FIRST_S)
        return True

    def forgive(self) -> None:
        """Forget every setback: the source has something new."""
        self.is_empty = False
        self.problem, self._aside = None, None
        self._in_a_row.clear()
        self._lacking.clear()

    def _note_lack(self, file: str, now_s: float) -> None:
        if not self.has(file, now_s):
            return
        before = self._lacking.pop(file, None)
        first = _Pause(now_s + LACKING_FIRST_S, LACKING_FIRST_S)
        self._lacking[file] = before.longer(now_s, LACKING_MOST_S) if before else first
        if len(self._lacking) > MOST_LACKING:
            del self._lacking[next(iter(self._lacking))]


class Choice:
    """The sources in the order in which they are asked, and how each of them stands."""

    def __init__(self, names: Sequence[str]) -> None:
        assert names, "there is at least one source"
        assert len(set(names)) == len(names), "names tell sources apart"
        self.standings = {name: Standing() for name in names}

    @property
    def last(self) -> str:
        """The source that is always in use."""
        return next(reversed(self.standings))

    def pick(self, file: str, tried: Collection[str], now_s: float) -> str:
        """Return the source to ask for a chunk of a file: the first in use that was not tried, else the first in use.

        Args:
            file: SHA-256 of the file; of the chunk itself when that is a file of its own.
            tried: Sources that were asked for the chunk already.
            now_s: The time.
        """
        able = [name for name in self.standings if self._is_able(name, file, now_s)]
        return next((name for name in able if name not in tried), able[0])

    def _is_able(self, name: str, file: str, now_s: float) -> bool:
        standing = self.standings[name]
        is_able = not standing.is_empty and not standing.aside_s(now_s) and standing.has(file, now_s)
        return is_able or name == self.last
