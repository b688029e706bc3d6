"""Which frames do not come back. Pure: what runs and the time in, what hangs out.

A frame hangs by the time during which somebody watched it run, not by the clock since it began: after a host, a
container or a virtual machine was halted, the clock may have gone on, and no frame has. Between two looks no more is
counted than :data:`MOST_GAP_S`, so that a halt costs a frame that much of its patience at most.
"""

from collections.abc import Iterable, Mapping

from dsops_agent.runtime.flight import InFlight

MOST_GAP_S = 2.0
"""Looks are a second apart; a watcher that was away for longer has not seen whether the frame had the processor."""


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

    def look(self, running: Iterable[InFlight], now_s: float) -> tuple[InFlight, ...]:
        """Return the frames that were seen running for longer than they may, longest first.

        Args:
            running: The frames that run at this moment.
            now_s: This moment.
        """
        gap_s = min(now_s - self._looked_s, MOST_GAP_S)
        self._looked_s = now_s
        self._seen_s = {one: self._seen_s.get(one, 0.0) + min(one.for_s, gap_s) for one in running}
        stuck = [one for one, seen_s in self._seen_s.items() if seen_s > min(self._most_s, one.most_s)]
        return tuple(sorted(stuck, key=lambda one: -one.for_s))
