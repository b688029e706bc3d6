"""The watchdog's rule: each loop within its own time, and a rest that was announced is no silence."""

import pytest

from dsops_agent.heartbeats import Heartbeats, Late


@pytest.fixture
def hearts() -> Heartbeats:
    made = Heartbeats()
    made.expect("mqtt", 10.0, now_s=100.0)
    made.expect("installer", 60.0, now_s=100.0)
    return made


def test_nothing_is_late_within_its_time(hearts: Heartbeats) -> None:
    assert hearts.late(110.0) == ()


def test_each_has_a_time_of_its_own_and_the_time_until_the_first_beat_counts(hearts: Heartbeats) -> None:
    assert hearts.late(111.0) == (Late("mqtt", 11.0),)
    assert hearts.late(161.0) == (Late("mqtt", 61.0), Late("installer", 61.0))


def test_a_beat_starts_the_time_again_for_its_own_loop_only(hearts: Heartbeats) -> None:
    hearts.beat("mqtt", 160.0)
    assert hearts.late(165.0) == (Late("installer", 65.0),)


def test_a_rest_that_was_announced_is_no_silence_but_ends(hearts: Heartbeats) -> None:
    hearts.beat("mqtt", 105.0, rest_s=30.0)
    assert hearts.late(145.0) == ()
    assert hearts.late(146.0) == (Late("mqtt", 11.0),)


def test_a_loop_that_came_to_its_end_is_missed_by_nobody_even_if_it_beats_once_more(hearts: Heartbeats) -> None:
    hearts.forget("mqtt")
    hearts.beat("mqtt", 101.0)
    assert hearts.late(155.0) == ()


def test_the_longest_silent_comes_first_and_reads_as_a_sentence(hearts: Heartbeats) -> None:
    hearts.beat("mqtt", 110.0)
    late = hearts.late(170.0)
    assert [one.name for one in late] == ["installer", "mqtt"]
    assert str(late[0]) == "installer has made no progress for 70 s"
