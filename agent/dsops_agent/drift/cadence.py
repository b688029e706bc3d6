"""When a report of drift is worth its bytes: at once when something changed, else now and then. Pure."""

from dataclasses import dataclass

from dsops_agent.drift.monitor import Level

REPORT_EVERY_S = 900.0
WARNING_EVERY_S = 60.0
"""Seconds between reports while the level stays a warning."""
LEAST_LOG_E, MOST_LOG_E, STEP_LOG_E = 3.0, 16.0, 1.0
"""E-BH at 5 % names no device below the first (ln 20), and of 400,000 devices every one above the second."""


@dataclass(frozen=True, slots=True)
class Told:
    """What a report says, as far as the next one depends on it.

    Attributes:
        level: The monitor's.
        log_e: Logarithm of the epoch's e-process.
        at_s: When it was made, on a clock that only goes forward.
    """

    level: Level
    log_e: float
    at_s: float


def is_due(told: Told | None, now: Told, every_s: float) -> bool:
    """Return whether a report is due.

    It is when none was made, when the level changed, when the e-process moved so far that a test over the fleet may
    come out otherwise, and after ``every_s`` in any case; while the level is a warning after a minute. The e-process
    that was told last is therefore above the present one by a step at most, so which devices a fleet's test names
    hardly depends on when they report.
    """
    if told is None or now.level is not told.level:
        return True
    at_most_s = min(every_s, WARNING_EVERY_S) if now.level is Level.WARNING else every_s
    before, after = (min(max(one, LEAST_LOG_E), MOST_LOG_E) for one in (told.log_e, now.log_e))
    return abs(after - before) >= STEP_LOG_E or now.at_s - told.at_s >= at_most_s
