"""When a report of drift is due."""

import pytest

from dsops_agent.drift.cadence import Told, is_due
from dsops_agent.drift.monitor import Level

EVERY_S = 900.0


def told(level: Level = Level.OK, log_e: float = 0.0, at_s: float = 0.0) -> Told:
    return Told(level, log_e, at_s)


def test_the_first_is_due_and_the_next_when_its_time_has_come() -> None:
    assert is_due(None, told(), EVERY_S)
    assert not is_due(told(), told(at_s=899.9), EVERY_S)
    assert is_due(told(), told(at_s=900.0), EVERY_S)


@pytest.mark.parametrize(("before", "after"), [(a, b) for a in Level for b in Level if a is not b])
def test_every_change_of_level_is_due_at_once(before: Level, after: Level) -> None:
    assert is_due(told(before), told(after), EVERY_S)


def test_a_warning_is_watched_closely_and_drift_that_stays_is_not() -> None:
    assert not is_due(told(Level.WARNING), told(Level.WARNING, at_s=59.9), EVERY_S)
    assert is_due(told(Level.WARNING), told(Level.WARNING, at_s=60.0), EVERY_S)
    assert is_due(told(Level.WARNING), told(Level.WARNING, at_s=10.0), 10.0)
    assert not is_due(told(Level.DRIFT), told(Level.DRIFT, at_s=1.0), EVERY_S)


@pytest.mark.parametrize(
    ("before", "after", "is_wanted"),
    [
        (0.0, 3.0, False),  # below what any fleet looks at
        (-30.0, 3.5, False),
        (-30.0, 4.0, True),
        (4.0, 4.9, False),
        (4.0, 5.0, True),
        (5.0, 4.0, True),  # what fell must not count on
        (9.0, -5.0, True),
        (17.0, 40.0, False),  # above what any fleet needs
        (float("inf"), 3.0, True),
    ],
)
def test_an_e_process_that_moved_is_told(before: float, after: float, *, is_wanted: bool) -> None:
    assert is_due(told(log_e=before), told(log_e=after), EVERY_S) is is_wanted
