"""Whose fault the deaths of the inference process are."""

from hypothesis import given
from hypothesis import strategies as st

from dsops_agent.install.ports import Death, Suspect
from dsops_agent.install.strikes import HUNG_S, Strikes

OLD, NEW = Suspect("digits", "a" * 64), Suspect("faces", "b" * 64)


def newness(suspect: Suspect) -> int:
    return {OLD: 1, NEW: 7}[suspect]


def add(strikes: Strikes, death: Death, at_s: float, *, is_last: bool = False) -> Suspect | None:
    return strikes.add(death, at_s, newness, is_last=lambda _: is_last)


def test_the_third_death_of_one_model_is_too_many_and_nobody_elses() -> None:
    strikes = Strikes(3, 600)
    found = [add(strikes, Death("x", (NEW,)), at_s) for at_s in (0.0, 1.0, 2.0)]
    assert found == [None, None, NEW]


def test_a_bundle_that_was_in_flight_twice_gets_one_strike() -> None:
    strikes = Strikes(3, 600)
    assert add(strikes, Death("x", (NEW, NEW, OLD, NEW)), 0.0) is None
    assert strikes.times == {NEW: [0.0], OLD: [0.0]}


def test_deaths_long_ago_do_not_count() -> None:
    strikes = Strikes(3, 600)
    found = [add(strikes, Death("x", (NEW,)), at_s) for at_s in (0.0, 300.0, 700.0, 800.0)]
    assert found == [None, None, None, NEW]


def test_deaths_of_a_trial_count_however_far_apart_and_the_newer_goes_first() -> None:
    strikes, trials = Strikes(3, 600), {OLD: 3, NEW: 3}
    found = [
        strikes.add(Death("x", suspects), at_s, newness, is_last=lambda _: False, on_trial=trials.__getitem__)
        for at_s, suspects in ((0.0, (OLD,)), (10_000.0, (OLD, NEW)))
    ]
    assert found == [OLD, NEW]


def test_a_death_with_nothing_in_flight_is_nobodys() -> None:
    strikes = Strikes(1, 600)
    assert add(strikes, Death("killed"), 0.0) is None


def test_of_two_that_always_ran_the_newer_goes_first_and_then_the_other() -> None:
    strikes = Strikes(3, 600)
    found = [add(strikes, Death("x", (OLD, NEW)), at_s) for at_s in (0.0, 1.0, 2.0)]
    assert found == [None, None, NEW]
    assert add(strikes, Death("x", (OLD, NEW)), 3.0) == NEW, "it is in service still"
    strikes.forget(NEW)
    assert add(strikes, Death("x", (OLD,)), 4.0) == OLD


def test_one_that_ran_each_time_goes_before_one_that_ran_twice() -> None:
    strikes = Strikes(3, 600)
    deaths = [(OLD,), (OLD, NEW), (OLD, NEW)]
    assert [add(strikes, Death("x", one), 0.0) for one in deaths] == [None, None, OLD]


def test_hangs_are_too_many_by_how_long_they_kept_callers_waiting() -> None:
    for hung_s, deaths in ((0.1, 3), (HUNG_S / 2 + 0.5, 2), (HUNG_S, 1), (4 * HUNG_S, 1)):
        for most in (1, 3, 100):
            strikes, hang = Strikes(most, 600), Death("x", (NEW,), hung_s=hung_s)
            found = [add(strikes, hang, float(at_s)) for at_s in range(deaths)]
            if most > 1 and (hung_s > 1 or most == 3):
                assert found == [None] * (deaths - 1) + [NEW], (most, hung_s)
            assert max(len(times) for times in strikes.times.values()) <= deaths * most


def test_a_hang_counts_once_where_there_is_nothing_to_go_back_to() -> None:
    strikes, hang = Strikes(3, 600), Death("x", (NEW,), hung_s=4 * HUNG_S)
    assert [add(strikes, hang, at_s, is_last=True) for at_s in (0.0, 30.0, 60.0)] == [None, None, NEW]


def test_a_hang_and_crashes_are_counted_together() -> None:
    strikes = Strikes(3, 600)
    assert add(strikes, Death("x", (NEW,), hung_s=5.5), 0.0) is None
    assert add(strikes, Death("x", (NEW,)), 1.0) == NEW


@given(st.lists(st.tuples(st.floats(0, 50), st.sets(st.sampled_from([OLD, NEW]))), max_size=60), st.integers(1, 5))
def test_who_is_taken_had_so_many_strikes_in_time(deaths: list[tuple[float, set[Suspect]]], most: int) -> None:
    strikes, now_s = Strikes(most, 100.0), 0.0
    counted: list[tuple[float, Suspect]] = []
    for after_s, suspects in deaths:
        now_s += after_s
        counted += [(now_s, suspect) for suspect in suspects]
        taken = add(strikes, Death("x", tuple(suspects)), now_s)
        if taken:
            assert taken in suspects
            assert sum(at_s > now_s - 100.0 and suspect == taken for at_s, suspect in counted) >= most
            counted = [one for one in counted if one[1] != taken]
            strikes.forget(taken)
        else:
            for suspect in suspects:
                assert sum(at_s > now_s - 100.0 and one == suspect for at_s, one in counted) < most
