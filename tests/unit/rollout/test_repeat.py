"""Reminders of directives: ever less often for one device, at a bounded rate for ten thousand."""

from collections import Counter
from itertools import pairwise

from dsops_controller.rollout.repeat import FIRST_S, LONGEST_S, PER_S, Repeats, Unheard


def one(seq: int = 1, conn_seq: int = 1) -> list[Unheard]:
    return [Unheard("cam-1", seq, ("boot", conn_seq))]


def times(repeats: Repeats, unheard: list[Unheard], from_s: int, to_s: int) -> list[int]:
    return [second for second in range(from_s, to_s) if repeats.due(unheard, second)]


def test_a_device_is_reminded_ever_less_often() -> None:
    said = times(Repeats(), one(), 0, 4000)
    pauses = [after - before for before, after in pairwise(said)]
    assert said[0] == FIRST_S
    assert pauses == [10, 20, 40, 80, 160, 320, *[LONGEST_S] * (len(pauses) - 6)]
    assert len(pauses) > 8


def test_a_new_directive_or_a_new_connection_begins_anew() -> None:
    repeats = Repeats()
    times(repeats, one(), 0, 1000)
    for again in (one(seq=2), one(seq=2, conn_seq=2)):
        began = 1000 if again == one(seq=2) else 2000
        assert times(repeats, again, began, began + 16) == [began + 5, began + 15]


def test_who_has_acknowledged_is_forgotten() -> None:
    repeats = Repeats()
    times(repeats, one(), 0, 1000)
    assert repeats.due([], 1000) == []
    assert times(repeats, one(), 1001, 1010) == [1006]


def test_ten_thousand_silent_devices_are_no_storm_and_each_has_its_turn() -> None:
    fleet = [Unheard(f"cam-{number}", 1, ("boot", 1), is_awaited=number >= 9_900) for number in range(10_000)]
    repeats = Repeats()
    rounds = [repeats.due(fleet, float(second)) for second in range(240)]
    assert max(map(len, rounds)) <= PER_S
    assert {device for each in rounds[:7] for device in each} == {f"cam-{number}" for number in range(9_900, 10_000)}, (
        "whom a rollout waits for comes first"
    )
    counted = Counter(device for each in rounds for device in each)
    assert len(counted) == 10_000
    assert max(counted.values()) - min(counted.values()) <= 5
