"""Which message is found to end sessions, and what becomes of it and of all others."""

import pytest

from dsops_controller.server.suspicion import LATER, LEAVE_OUT_S, LONGEST_S, MOST_SUSPECTS, POISONED, Suspicion

TOO_LARGE = 0x95
LOST = 0x80


def test_what_was_on_its_way_goes_alone_until_it_is_acknowledged_and_everything_else_at_full_width() -> None:
    suspicion = Suspicion()
    suspicion.ended({"a", "b"}, LOST, 0.0)
    assert suspicion.may_send("a", ())
    assert not suspicion.may_send("b", ["a"])
    assert not suspicion.may_send("c", ["a"])
    assert not suspicion.may_send("a", ["c"])
    assert suspicion.may_send("c", ["d", "e"]), "who was not there is not suspected"
    suspicion.acknowledged("a")
    suspicion.acknowledged("b")
    assert suspicion.may_send("b", ["a", "c"])


@pytest.mark.parametrize("reason", sorted(LATER))
def test_a_message_that_came_when_the_broker_was_short_of_something_is_sent_again(reason: int) -> None:
    suspicion = Suspicion()
    assert suspicion.ended({"a"}, reason, 0.0) is None
    assert not suspicion.is_left_out("a", 0.0)


@pytest.mark.parametrize("reason", sorted(POISONED))
def test_one_that_ended_a_session_alone_is_left_out_and_tried_again_ever_later(reason: int) -> None:
    suspicion, now_s = Suspicion(), 0.0
    waits = []
    for _ in range(12):
        assert suspicion.ended({"a"}, reason, now_s) == "a"
        assert not suspicion.is_left_out("b", now_s)
        waits.append(next(s for s in range(0, int(LONGEST_S) + 2, 60) if not suspicion.is_left_out("a", now_s + s)))
        now_s += waits[-1]
        assert not suspicion.may_send("a", ["b"]), "it is tried alone"
    assert waits[:3] == [LEAVE_OUT_S, 2 * LEAVE_OUT_S, 4 * LEAVE_OUT_S]
    assert waits[-1] == LONGEST_S


def test_one_that_the_broker_bears_by_now_begins_anew() -> None:
    suspicion = Suspicion()
    suspicion.ended({"a"}, TOO_LARGE, 0.0)
    suspicion.ended({"a"}, TOO_LARGE, LEAVE_OUT_S)
    suspicion.acknowledged("a")
    assert not suspicion.is_left_out("a", LEAVE_OUT_S)
    suspicion.ended({"a"}, TOO_LARGE, LEAVE_OUT_S)
    assert not suspicion.is_left_out("a", 2 * LEAVE_OUT_S)


def test_several_are_suspected_and_none_is_left_out() -> None:
    suspicion = Suspicion()
    assert suspicion.ended({"a", "b"}, TOO_LARGE, 0.0) is None
    assert not suspicion.is_left_out("a", 0.0)
    assert suspicion.ended((), TOO_LARGE, 0.0) is None


def test_memory_is_bounded_and_the_newest_suspects_stay() -> None:
    suspicion = Suspicion()
    for number in range(10 * MOST_SUSPECTS):
        suspicion.ended({f"t{number}"}, LOST, 0.0)
    suspects = [n for n in range(10 * MOST_SUSPECTS) if not suspicion.may_send(f"t{n}", ["other"])]
    assert suspects == list(range(9 * MOST_SUSPECTS, 10 * MOST_SUSPECTS))
