from dsops.messages import Need
from dsops_controller.server.answers import Answer
from dsops_controller.server.inbox import PER_TOPIC, Inbox
from dsops_controller.server.outbox import Desired, Outbox, Resync, Retire, Seed, Trust


def test_small_notes_come_before_answers_and_bulk() -> None:
    outbox = Outbox()
    outbox.resync()
    outbox.answer("cam-1", Need(digests=("a" * 64,)))
    outbox.seed("b", "digits")
    outbox.retire("old")
    outbox.publish_desired("cam-1", b"envelope")
    taken = [outbox.take(0) for _ in range(7)]
    assert taken == [
        Trust(), Desired("cam-1"), Answer("cam-1", "a" * 64), Resync(), Seed("b"), Retire("old"), None,
    ]  # fmt: skip


def test_the_same_note_is_kept_once() -> None:
    outbox = Outbox()
    for _ in range(3):
        outbox.publish_desired("cam-1", b"envelope")
    assert [outbox.take(0), outbox.take(0)] == [Desired("cam-1"), None]


def test_a_flooding_device_overwrites_only_itself() -> None:
    inbox = Inbox()
    inbox.put("quiet", b"q")
    for number in range(PER_TOPIC + 3):
        inbox.put("loud", b"%d" % number)
    assert inbox.take(0) == ("quiet", (b"q",))
    assert inbox.take(0) == ("loud", (b"3", b"4", b"5", b"6"))
    assert inbox.take(0) is None
    assert inbox.overwritten == 3


def test_a_topic_that_was_served_waits_behind_the_others() -> None:
    inbox = Inbox()
    inbox.put("a", b"1")
    inbox.put("b", b"1")
    inbox.take(0)
    inbox.put("a", b"2")
    assert [inbox.take(0), inbox.take(0)] == [("b", (b"1",)), ("a", (b"2",))]


def test_topics_are_bounded() -> None:
    inbox = Inbox(topics=1)
    inbox.put("a", b"1")
    inbox.put("b", b"1")
    assert [inbox.take(0), inbox.take(0)] == [("a", (b"1",)), None]
    assert inbox.overwritten == 1


def test_what_is_put_back_comes_before_what_came_meanwhile() -> None:
    inbox = Inbox()
    inbox.put("a", b"1")
    inbox.put("a", b"2")
    assert inbox.take(0) == ("a", (b"1", b"2"))
    inbox.put("a", b"3")
    inbox.put_back("a", (b"2",))
    assert inbox.take(0) == ("a", (b"2", b"3"))
