from hypothesis import given
from hypothesis import strategies as st

from dsops.clock import ManualClock
from dsops_controller.allowance import MAX_NAMES, Allowance


def test_so_many_at_once_then_so_many_a_second() -> None:
    clock = ManualClock()
    allowance = Allowance(clock, 3, 0.5)
    assert [allowance.take("a") for _ in range(5)] == [True] * 3 + [False] * 2
    assert allowance.take("b")
    clock.advance(2)
    assert [allowance.take("a") for _ in range(2)] == [True, False]


@given(st.lists(st.floats(0, 10), max_size=50))
def test_no_pattern_takes_more_than_is_allowed(waits: list[float]) -> None:
    clock = ManualClock()
    allowance = Allowance(clock, 5, 2)
    taken = 0
    for wait in waits:
        clock.advance(wait)
        taken += allowance.take("a")
    assert taken <= 5 + 2 * sum(waits) + 1e-6


def test_a_flood_of_names_costs_no_memory_and_frees_nobody_who_spent() -> None:
    clock = ManualClock()
    allowance = Allowance(clock, 2, 1)
    for number in range(3 * MAX_NAMES):
        allowance.take(f"n{number}")
        clock.advance(0.001)
    assert len(allowance._levels) <= MAX_NAMES
