"""Which frames do not come back, and whether a process is silent for too long. Pure: what was seen in, what hangs out.

A frame hangs by the time during which somebody watched it run, not by the clock since it began: after a host, a
container or a virtual machine was halted, the clock may have gone on, and no frame has. Between two looks no more is
counted than :data:`MOST_GAP_S`, so that a halt costs a frame that much of its patience at most; nor more than its
process was able to run, which may have been suspended, or have had no processor. Silence is counted in the same way.
"""

import math
from collections.abc import Iterable, Mapping

from dsops_agent.runtime.flight import LEAST_HANG_S, InFlight

MOST_GAP_S = 2.0
"""Looks are a second apart; a watcher that was away for longer has not seen whether the frame had the processor."""
QUIET_S = LEAST_HANG_S
"""How long a process may leave a question unanswered while nothing of it may take longer: as long as a short frame."""


class HangWatch:
    """Watches the frames of one process.

    Args:
        most_s: How long any frame may take, whatever its own limit.
        now_s: When the watch begins.
    """

    def __init__(self, most_s: float, now_s: float) -> None:
        self._most_s = most_s
        self._looked_s = now_s
        self._seen_s: Mapping[InFlight, float] = {}

    def look(self, running: Iterable[InFlight], now_s: float, able_s: float = math.inf) -> tuple[InFlight, ...]:
        """Return the frames that were seen running for longer than they may, longest first.

        Args:
            running: The frames that run at this moment.
            now_s: This moment.
            able_s: For how long since the look before the process was able to run.
        """
        gap_s = min(now_s - self._looked_s, MOST_GAP_S, able_s)
        self._looked_s = now_s
        self._seen_s = {one: self._seen_s.get(one, 0.0) + min(one.for_s, gap_s) for one in running}
        stuck = [one for one, seen_s in self._seen_s.items() if seen_s > min(self._most_s, one.most_s)]
        return tuple(sorted(stuck, key=lambda one: -one.for_s))


class Silence:
    """How long a process has left a question unanswered, as far as it was able to answer.

    Args:
        now_s: When it was asked.
    """

    def __init__(self, now_s: float) -> None:
        self._looked_s = now_s
        self.seen_s = 0.0

    def look(self, now_s: float, able_s: float) -> float:
        """Return for how long by now.

        Args:
            now_s: This moment.
            able_s: For how long since the look before the process was able to run.
        """
        self.seen_s += min(now_s - self._looked_s, MOST_GAP_S, able_s)
        self._looked_s = now_s
        return self.seen_s


def may_be_silent_s(
    running: Iterable[InFlight], most_frame_s: float, most_s: float, quiet_s: float, *, is_at_work: bool
) -> float:
    """Return for how long a process may leave a question unanswered: foreign code may hold Python's lock.

    Args:
        running: The frames that run at this moment; it may be silent for as long as one of them may take.
        most_frame_s: How long any frame may take.
        most_s: How long it may be silent whatever it does.
        quiet_s: How long while nothing of it may take longer.
        is_at_work: Whether it was told to load a model, say, which may take long.
    """
    if is_at_work:
        return most_s
    return min(most_s, max([quiet_s, *(min(one.most_s, most_frame_s) for one in running)]))
