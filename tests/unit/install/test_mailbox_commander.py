"""From MQTT messages to the worker: routing, and a mailbox that stays small."""

import threading
from dataclasses import dataclass, field

import pytest

from dsops.topics import Topics
from dsops_agent.commander import Commander
from dsops_agent.install.mailbox import ChunkCame, Connected, DirectiveCame, HeadCame, Mailbox, RuntimeRestarted

TOPICS = Topics("site/dsops/v1")
DIGEST = "ab" * 32


@dataclass
class Inbox:
    """Remembers calls."""

    calls: list[tuple[str, ...]] = field(default_factory=list)

    def on_directive(self, data: bytes) -> None:
        self.calls.append(("directive", data.decode()))

    def on_trust_head(self, data: bytes) -> None:
        self.calls.append(("head", data.decode()))

    def chunk_arrived(self, digest: str, data: bytes) -> None:
        self.calls.append(("chunk", digest, data.decode()))


@pytest.mark.parametrize(
    ("topic", "payload", "call"),
    [
        (TOPICS.desired("cam-1"), b"d", ("directive", "d")),
        (TOPICS.trust(), b"h", ("head", "h")),
        (TOPICS.chunk(DIGEST), b"c", ("chunk", DIGEST, "c")),
        (TOPICS.chunk_answer("cam-1"), bytes.fromhex(DIGEST) + b"c", ("chunk", DIGEST, "c")),
        (TOPICS.chunk_answer("cam-1"), b"ab", ("chunk", "6162", "")),
    ],
)
def test_message_goes_to_the_installer(topic: str, payload: bytes, call: tuple[str, ...]) -> None:
    inbox = Inbox()
    assert Commander(TOPICS, "cam-1", inbox, inbox.chunk_arrived).on_message(topic, payload)
    assert inbox.calls == [call]


def test_removed_retained_messages_say_nothing() -> None:
    inbox = Inbox()
    commander = Commander(TOPICS, "cam-1", inbox, inbox.chunk_arrived)
    assert commander.on_message(TOPICS.desired("cam-1"), b"")
    assert commander.on_message(TOPICS.chunk(DIGEST), b"")
    assert commander.on_message(TOPICS.trust(), b"")
    assert inbox.calls == []


def test_other_topics_are_not_the_installers() -> None:
    inbox = Inbox()
    commander = Commander(TOPICS, "cam-1", inbox, inbox.chunk_arrived)
    assert not commander.on_message(TOPICS.desired("cam-2"), b"d")
    assert not commander.on_message(TOPICS.command("cam-1"), b"d")
    assert not commander.on_message(TOPICS.controller(), b"")
    assert inbox.calls == []


def test_newest_directive_and_head_count() -> None:
    box = Mailbox()
    for data in (b"1", b"2"):
        box.put(DirectiveCame(data))
        box.put(HeadCame(data))
        box.put(Connected())
    assert box.take(0) == [Connected(), DirectiveCame(b"2"), HeadCame(b"2")]
    assert box.take(0) == []


def test_flood_is_dropped() -> None:
    box = Mailbox()
    kept = [box.put(ChunkCame(DIGEST, b"x")) for _ in range(1000)]
    assert all(box.put(HeadCame(b"x")) for _ in range(1000))
    assert 1 < sum(kept) < 200
    assert box.put(RuntimeRestarted())
    assert len(box.take(0)) == sum(kept) + 2


def test_message_wakes_the_worker() -> None:
    box = Mailbox()
    sender = threading.Timer(0.05, box.put, (Connected(),))
    sender.start()
    assert box.take(30) == [Connected()]
    sender.join()


def test_chunks_that_nobody_takes_hold_a_bounded_number_of_bytes() -> None:
    """A broker may send what it likes, as large as a packet may be."""
    box = Mailbox()
    largest = bytes(128 * 1024)
    kept = sum(box.put(ChunkCame(f"{number:064x}", largest)) for number in range(200))
    assert kept * len(largest) <= 1024 * 1024
    taken = box.take(0)
    assert len(taken) == kept
    assert box.put(ChunkCame("ab" * 32, largest)), "there is room again"
