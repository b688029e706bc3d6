"""What could not be done is tried again, ever more seldom."""

from dsops_agent.install.retries import Retries


def test_pauses_grow_up_to_the_longest() -> None:
    retries, found = Retries(5.0, 100.0), []
    retries.later("digits", 0.0)
    for _ in range(5):
        assert retries.next_s is not None
        found.append(retries.next_s)
        assert retries.take(retries.next_s) == ["digits"]
    assert found == [5.0, 25.0, 105.0, 205.0, 305.0]


def test_one_that_waits_already_does_not_begin_anew() -> None:
    retries = Retries(5.0, 100.0)
    retries.later("digits", 0.0)
    assert retries.take(4.9) == []
    assert retries.take(5.0) == ["digits"]
    retries.later("digits", 6.0)
    assert retries.take(24.9) == []
    assert retries.take(25.0) == ["digits"]


def test_one_that_is_done_with_is_not_tried_again_and_begins_anew() -> None:
    retries = Retries(5.0, 100.0)
    retries.later("digits", 0.0)
    retries.take(5.0)
    assert retries.done("digits")
    assert not retries.done("digits")
    assert (retries.next_s, retries.take(1000.0)) == (None, [])
    retries.later("digits", 1000.0)
    assert retries.next_s == 1005.0
