"""Trust documents on their way: asked for, checked by their digest, held until they are judged."""

import hashlib
from dataclasses import dataclass, field

from dsops_agent.install.documents import MAX_HELD_BYTES, Documents
from dsops_agent.install.fetch import Pace
from dsops_agent.install.ports import Chunk

ONE, TWO = (hashlib.sha256(data).hexdigest() for data in (b"one", b"two"))


@dataclass
class Source:
    """Remembers what it was asked."""

    log: list[str] = field(default_factory=list)

    def request(self, chunk: Chunk) -> None:
        self.log.append(f"request {chunk.digest[:2]}")

    def cancel(self, digest: str) -> None:
        self.log.append(f"cancel {digest[:2]}")

    def has_near(self, chunk: Chunk) -> bool:
        return False

    def is_cut_off(self, chunk: Chunk) -> bool:
        return False

    def need(self, chunks: tuple[Chunk, ...]) -> None:
        self.log.append(f"need {chunks[0].digest[:2]}")


def documents(window: int = 8) -> tuple[Documents, Source]:
    source = Source()
    return Documents(source, Pace(window, 5.0)), source


def test_what_is_wanted_is_asked_for_and_held_until_nothing_is() -> None:
    made, source = documents()
    made.want([ONE, TWO], 0.0)
    assert source.log == [f"request {ONE[:2]}", f"request {TWO[:2]}"]
    assert not made.arrived(ONE, b"one", 1.0)
    assert made.arrived(TWO, b"two", 1.0)
    assert dict(made.held) == {ONE: b"one", TWO: b"two"}
    made.want([], 1.0)
    assert not made.held
    assert made.next_s is None


def test_other_bytes_are_not_held_and_asked_for_again() -> None:
    made, source = documents()
    made.want([ONE], 0.0)
    assert not made.arrived(ONE, b"forged", 1.0)
    assert made.wants(ONE)
    assert not made.held
    assert source.log[-1] == f"need {ONE[:2]}"
    assert made.arrived(ONE, b"one", 2.0)


def test_who_sends_other_bytes_without_end_is_not_asked_without_end() -> None:
    made, source = documents()
    made.want([ONE], 0.0)
    for _ in range(100):
        made.arrived(ONE, b"forged", 1.0)
    assert len(source.log) < 10
    assert made.next_s == 6.0
    made.tick(6.0)
    assert source.log[-1] == f"request {ONE[:2]}"
    assert made.arrived(ONE, b"one", 6.5)


def test_a_newer_head_changes_what_is_wanted() -> None:
    made, source = documents()
    made.want([ONE], 0.0)
    made.want([ONE], 1.0)
    assert len(source.log) == 1
    made.want([TWO], 1.0)
    assert source.log[1:] == [f"cancel {ONE[:2]}", f"request {TWO[:2]}"]
    assert not made.wants(ONE)


def test_heads_that_change_without_end_fill_no_memory() -> None:
    made, _ = documents()
    for number in range(200):
        data = bytes([number]) * 50_000
        made.want([hashlib.sha256(data).hexdigest()], 0.0)
        made.arrived(hashlib.sha256(data).hexdigest(), data, 0.0)
        assert sum(map(len, made.held.values())) <= MAX_HELD_BYTES + 50_000
