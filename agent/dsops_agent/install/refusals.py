"""Refused messages: each is journalled and told once, and whoever sends many different ones cannot fill a disk."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field

from dsops.clock import Clock
from dsops.errors import UntrustedBundle
from dsops.messages import Problem
from dsops_agent.install.journal import Journal, RefusalRow, Tidings
from dsops_agent.install.steps import problem_of

logger = logging.getLogger(__name__)

PER_HOUR = 20
"""Refusals that are told one by one in an hour; the others are counted."""
MOST_STANDING = 32
"""Sources of which a refusal is remembered: a hostile broker can name any number of models."""
_HOUR_S = 3600.0


@dataclass
class Refusals:
    """The refusals that stand, by source: the newest of each, until something of that source is accepted.

    Beyond ``per_hour`` nothing is written for a refusal: it is counted in memory, and the count is told when the hour
    ends or the agent stops. One thread.

    Attributes:
        journal: Keeps them across restarts, so that a retained message is not refused anew after each.
        clock: Time.
        per_hour: How many are told one by one.
    """

    journal: Journal
    clock: Clock
    per_hour: int = PER_HOUR
    _standing: dict[str, RefusalRow] = field(init=False)
    _hour_began_s: float = field(init=False)
    _told: int = field(init=False, default=0)
    _left_out: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        """Read what stands."""
        self._standing = {row.source: row for row in self.journal.refusals()}
        self._hour_began_s = self.clock.monotonic_s()

    @property
    def newest(self) -> Problem | None:
        """Why the message that was refused last was refused, if it still stands."""
        row = next(reversed(self._standing.values()), None)
        return row.problem if row else None

    def attempt(self, source: str, action: Callable[[], bool], digest: str = "") -> bool:
        """Let a message in: its refusal is kept, and what stood before goes when the message is believed.

        Args:
            source: What kind of message, and of which model.
            action: Takes the message in; returns whether it is believed now, raises what refuses it.
            digest: As for :meth:`refuse`.

        Returns:
            Whether what stands has changed.
        """
        try:
            is_believed = action()
        except UntrustedBundle as error:
            return self.refuse(source, error, digest)
        return is_believed and self.accepted(source)

    def refuse(self, source: str, error: UntrustedBundle, digest: str = "") -> bool:
        """Keep and tell a refusal; return whether it is news. The same one again, as a broker brings it, is none.

        Args:
            source: What kind of message, and of which model.
            error: Why it is refused.
            digest: SHA-256 of the message, if another message that is refused for the same reason is news.
        """
        row = RefusalRow(source, digest, problem_of(error))
        if _is_same(self._standing.get(source), row):
            return False
        self.turn()
        if self._told >= self.per_hour:
            self._left_out += 1
            return False
        with self.journal.transaction():
            self.journal.put_refusal(row, MOST_STANDING)
            self.journal.tell(Tidings("refused", "", 0, "", row.problem.code, row.problem.message))
        self._told += 1
        self._standing.pop(source, None)
        self._standing[source] = row
        for oldest in list(self._standing)[:-MOST_STANDING]:
            del self._standing[oldest]
        logger.warning("%s: %s", row.problem.code, row.problem.message)
        return True

    def accepted(self, source: str) -> bool:
        """Forget what stands against a source, for its newest message is believed; return whether anything did."""
        if source not in self._standing:
            return False
        self.journal.clear_refusal(source)
        del self._standing[source]
        return True

    def turn(self) -> bool:
        """Begin a new hour when it is time; return whether there is something to tell."""
        if self.clock.monotonic_s() - self._hour_began_s < _HOUR_S:
            return False
        self._hour_began_s, self._told = self.clock.monotonic_s(), 0
        return self.tell_left_out()

    def tell_left_out(self) -> bool:
        """Tell how many refusals were only counted; return whether there were any."""
        count = self._left_out
        if not count:
            return False
        code = self.newest.code if self.newest else UntrustedBundle.code
        text = f"{count} more messages were refused and not told one by one"
        self.journal.tell(Tidings("refused", "", 0, "", code, text))
        self._left_out = 0
        return True


def _is_same(standing: RefusalRow | None, row: RefusalRow) -> bool:
    """Return whether a refusal stands already; the text counts only where no digest tells messages apart."""
    if standing is None or (standing.digest, standing.problem.code) != (row.digest, row.problem.code):
        return False
    return bool(row.digest) or standing.problem.message == row.problem.message
