"""Keeps what is known of the broker: tried out after the start, after each new session, and when an operator asks."""

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from dsops.clock import Clock
from dsops.errors import BrokerUnreachable
from dsops_controller.server.limits import Finding, Level, Limits, Measured, judge

log = logging.getLogger(__name__)

LOOK_S = 1.0
PATIENCE_S = 5.0
"""So long after the start the broker is tried out even if there is no session with it: that may be the reason."""
AGAIN_S = 60.0
_LEVELS = {Level.WARNING: logging.WARNING, Level.ERROR: logging.ERROR}


@dataclass(frozen=True)
class Check:
    """What was found, and when.

    Attributes:
        checked: The time.
        limits: What the broker allows; None if it was not reached.
        measured: What was tried.
        findings: What follows.
    """

    checked: datetime
    limits: Limits | None
    measured: Measured
    findings: tuple[Finding, ...]


class Checkup:
    """Tries the broker out and keeps the newest result. Safe for several threads.

    Args:
        probe: Tries it out; raises BrokerUnreachable.
        sessions: Returns how many sessions the controller had, and whether there is one.
        clock: Tells the time.
    """

    def __init__(
        self, probe: Callable[[], tuple[Limits, Measured]], sessions: Callable[[], tuple[int, bool]], clock: Clock
    ) -> None:
        self._probe = probe
        self._sessions = sessions
        self._clock = clock
        self._probing = threading.Lock()
        self._told: tuple[Finding, ...] = ()
        self.last: Check | None = None
        """The newest result; None before the first."""

    def run(self, stop: threading.Event) -> None:
        """Try the broker out when there is a reason to, until ``stop`` is set."""
        seen, due_s = 0, self._clock.monotonic_s() + PATIENCE_S
        while not stop.wait(LOOK_S):
            sessions, is_open = self._sessions()
            now_s = self._clock.monotonic_s()
            is_new = is_open and sessions != seen and (seen == 0 or now_s >= due_s)
            if is_new or (not is_open and now_s >= due_s):
                seen = sessions
                self.check()
                due_s = self._clock.monotonic_s() + AGAIN_S

    def check(self) -> Check:
        """Try the broker out now; takes some seconds."""
        with self._probing:
            now = self._clock.now()
            try:
                limits, measured = self._probe()
                made = Check(now, limits, measured, judge(limits, measured))
            except BrokerUnreachable as error:
                finding = Finding("reached", Level.ERROR, str(error), error.hint)
                made = Check(now, None, Measured(refusal=str(error)), (finding,))
            self.last = made
            self._tell(made)
            return made

    def _tell(self, check: Check) -> None:
        """Log what is not in order, unless that very thing was logged last."""
        bad = tuple(finding for finding in check.findings if finding.level is not Level.OK)
        named = [(finding.name, finding.level) for finding in bad]
        if named != [(finding.name, finding.level) for finding in self._told]:
            for finding in bad:
                advice = f"; {finding.advice}" if finding.advice else ""
                log.log(_LEVELS[finding.level], "the broker: %s%s", finding.text, advice)
        self._told = bad
