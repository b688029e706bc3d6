"""The chain of sources: order, failures, lies, back-off; with simulated sources and simulated time."""

import hashlib
from dataclasses import dataclass, field

import pytest

from dsops.clock import ManualClock
from dsops.errors import SourceFailed, SourceLacks, SourceTruncated, SourceUnreachable
from dsops.messages import Problem
from dsops_agent.install.ports import Chunk
from dsops_agent.sources.chain import Chain
from dsops_agent.sources.choice import (
    ASIDE_FIRST_S,
    ASIDE_MOST_S,
    LACKING_FIRST_S,
    MOST_LACKING,
    Choice,
    Setback,
    Standing,
)

FILE = "f" * 64
PROBLEM = {"code": "source", "message": "for the test"}


@dataclass
class SimSource:
    """Keeps what it is asked for."""

    name: str
    is_near: bool = False
    wanted: dict[str, Chunk] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    needed: list[str] = field(default_factory=list)
    is_away: bool = False

    def is_cut_off(self, chunk: Chunk) -> bool:
        return self.is_away

    def request(self, chunk: Chunk) -> None:
        self.wanted[chunk.digest] = chunk
        self.asked.append(chunk.digest)

    def cancel(self, digest: str) -> None:
        self.wanted.pop(digest, None)

    def need(self, chunks: tuple[Chunk, ...]) -> None:
        self.needed += [chunk.digest for chunk in chunks]


@dataclass
class SimEvents:
    kept: list[tuple[str, str, str]] = field(default_factory=list)

    def event(self, kind: str, model: str, release: int, digest: str, code: str, message: str) -> None:
        assert message
        self.kept.append((kind, digest, code))


class Stage:
    """A chain over two sources and the broker."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.events = SimEvents()
        self.came: list[tuple[str, bytes]] = []
        self.lost: list[str] = []
        self.wasted: list[str] = []
        self.chain = Chain(
            self._came,
            lambda digest, _problem: self.lost.append(digest),
            self.wasted.append,
            self.events,
            self.clock,
        )
        self.site, self.http, self.broker = SimSource("site", is_near=True), SimSource("http"), SimSource("broker")
        self.chain.use((self.site, self.http), self.broker)

    def _came(self, digest: str, data: bytes) -> None:
        self.came.append((digest, data))

    def ask(self, text: str, file: str = FILE, *, near: bool = False) -> str:
        digest = hashlib.sha256(text.encode()).hexdigest()
        self.chain.request(Chunk(digest, file, near=near))
        return digest

    def where(self, digest: str) -> list[str]:
        return [source.name for source in (self.site, self.http, self.broker) if digest in source.wanted]

    def fail(self, source: SimSource, *digests: str, error: SourceFailed | None = None) -> None:
        self.chain.lost(source.name, digests, error or SourceUnreachable("no answer"))

    def aside(self) -> dict[str, float]:
        return {state.name: state.aside_s for state in self.chain.states() if state.aside_s}


@pytest.fixture
def stage() -> Stage:
    return Stage()


def test_a_chunk_is_asked_for_at_the_first_source_and_comes_once(stage: Stage) -> None:
    digest = stage.ask("a")
    assert stage.where(digest) == ["site"]
    stage.chain.came("site", digest, b"a")
    stage.chain.cancel(digest)
    stage.chain.came("site", digest, b"a")
    assert stage.came == [(digest, b"a")]
    assert stage.where(digest) == []
    assert next((s.name, s.chunks, s.total_bytes) for s in stage.chain.states()) == ("site", 1, 1)


def test_asked_again_lost_or_wrong_a_chunk_goes_to_the_next_source_and_in_the_end_round_again(stage: Stage) -> None:
    digest = stage.ask("a")
    stage.ask("a")
    assert stage.where(digest) == ["http"]
    stage.fail(stage.http, digest)
    assert stage.where(digest) == ["broker"]
    stage.ask("a")
    assert stage.where(digest) == ["site"]
    stage.chain.came("site", digest, b"forged")
    assert stage.where(digest) == ["http"]
    assert stage.came == []


def test_a_lying_source_never_reaches_the_transfer_and_is_set_aside_with_one_event(stage: Stage) -> None:
    digests = [stage.ask(text) for text in "abcdef"]
    for digest in digests:
        stage.chain.came("site", digest, b"forged")
    assert stage.came == []
    assert stage.aside() == {"site": ASIDE_FIRST_S}
    assert all(stage.where(digest) == ["http"] for digest in digests)
    assert stage.events.kept == [("source_failed", FILE, "source.lies")]
    assert stage.where(stage.ask("g")) == ["http"]


def test_what_is_too_long_is_a_lie_although_its_hash_is_right(stage: Stage) -> None:
    data = b"x" * (64 * 1024)
    digest = hashlib.sha256(data).hexdigest()
    stage.chain.request(Chunk(digest, FILE))
    stage.chain.came("site", digest, data)
    assert stage.came == []
    assert stage.where(digest) == ["http"]


def test_what_the_broker_brings_is_the_transfers_to_check(stage: Stage) -> None:
    stage.chain.came("broker", "a" * 64, b"forged")
    assert stage.came == [("a" * 64, b"forged")]


def test_a_late_chunk_of_a_source_that_was_passed_over_still_counts(stage: Stage) -> None:
    digest = stage.ask("a")
    stage.ask("a")
    stage.chain.came("site", digest, b"a")
    assert stage.came == [(digest, b"a")]


def test_one_failure_of_many_chunks_counts_once(stage: Stage) -> None:
    digests = [stage.ask(text) for text in "abcdef"]
    stage.fail(stage.site, *digests, error=SourceTruncated("cut short"))
    assert stage.aside() == {}
    assert all(stage.where(digest) == ["http"] for digest in digests)


def test_a_source_that_is_set_aside_comes_back_and_goes_for_longer_after_one_more_failure(stage: Stage) -> None:
    for text in "abc":
        stage.fail(stage.site, stage.ask(text))
    assert stage.aside() == {"site": ASIDE_FIRST_S}
    stage.clock.advance(ASIDE_FIRST_S)
    digest = stage.ask("d")
    assert stage.where(digest) == ["site"]
    stage.fail(stage.site, digest)
    assert stage.aside() == {"site": 2 * ASIDE_FIRST_S}
    stage.clock.advance(2 * ASIDE_FIRST_S)
    digest = stage.ask("e")
    stage.chain.came("site", digest, b"e")
    for text in "fg":
        stage.fail(stage.site, stage.ask(text))
    assert stage.aside() == {}


def test_silence_counts_as_failure_and_everything_outstanding_moves_at_once(stage: Stage) -> None:
    digests = [stage.ask(text) for text in "abcd"]
    for text in "abc":
        stage.ask(text)
    assert stage.aside() == {"site": ASIDE_FIRST_S}
    assert all(stage.where(digest) == ["http"] for digest in digests)


def test_the_pause_is_bounded() -> None:
    standing, now_s = Standing(), 0.0
    for _ in range(40):
        standing.bad(Setback.FAILS, FILE, problem(), now_s)
        now_s += standing.aside_s(now_s)
    standing.bad(Setback.FAILS, FILE, problem(), now_s)
    assert standing.aside_s(now_s) == ASIDE_MOST_S


def problem() -> Problem:
    return Problem(**PROBLEM)


def test_a_source_that_lacks_a_file_is_asked_for_others_and_later_again(stage: Stage) -> None:
    for text in "abcde":
        stage.fail(stage.site, stage.ask(text), error=SourceLacks("not here"))
    assert stage.aside() == {}
    assert len(stage.site.asked) == 1
    assert stage.where(stage.ask("x", "e" * 64)) == ["site"]
    stage.clock.advance(LACKING_FIRST_S)
    assert stage.where(stage.ask("y")) == ["site"]
    assert stage.events.kept == []


def test_what_is_remembered_of_files_is_bounded() -> None:
    standing = Standing()
    for number in range(2 * MOST_LACKING):
        standing.bad(Setback.LACKS, str(number), problem(), 0.0)
    assert not standing.has(str(2 * MOST_LACKING - 1), 0.0)
    assert standing.has("0", 0.0)


def test_the_last_source_is_never_set_aside() -> None:
    choice = Choice(["broker"])
    assert choice.pick(FILE, {"broker"}, 0.0) == "broker"
    assert choice.last == "broker"


def test_the_controller_is_asked_through_the_last_source_and_the_others_are_not_waited_for(stage: Stage) -> None:
    digests = tuple(stage.ask(text) for text in "ab")
    stage.chain.need(tuple(Chunk(digest, FILE) for digest in digests))
    assert stage.broker.needed == list(digests)
    assert all(stage.where(digest) == [] for digest in digests)  # the answer comes without a subscription
    stage.chain.came("broker", digests[0], b"a")
    assert stage.came == [(digests[0], b"a")]


def test_a_source_with_something_new_is_asked_for_everything(stage: Stage) -> None:
    for text in "abc":
        stage.fail(stage.site, stage.ask(text))
    stage.chain.renewed("site")
    assert stage.aside() == {}
    assert len(stage.site.wanted) == 3
    assert not stage.http.wanted


def test_who_asks_near_by_only_is_told_when_nobody_there_has_it(stage: Stage) -> None:
    chunk = Chunk("0" * 64, FILE)
    assert stage.chain.has_near(chunk)
    one, two, far = stage.ask("one", near=True), stage.ask("two", near=True), stage.ask("far")
    assert stage.where(one) == stage.where(two) == ["site"]
    stage.fail(stage.site, one, error=SourceLacks("not here"))
    assert (stage.lost, stage.where(one)) == ([one], [])
    assert not stage.chain.has_near(chunk)
    assert stage.chain.has_near(Chunk("0" * 64, "e" * 64)), "it may have other files"
    stage.ask("two", near=True)  # it is late
    assert (stage.lost, stage.where(two)) == ([one, two], [])
    assert stage.where(far) == ["site"]
    three = stage.ask("three", near=True)
    assert stage.lost == [one, two, three]
    assert stage.where(stage.ask("one")) == ["http"], "asked anew, from anywhere"
    stage.clock.advance(LACKING_FIRST_S)
    assert stage.chain.has_near(chunk)


def test_a_device_is_cut_off_when_only_the_broker_is_left_and_is_away(stage: Stage) -> None:
    digest = stage.ask("a")
    chunk = Chunk(digest, FILE)
    assert not stage.chain.is_cut_off(chunk)
    stage.broker.is_away = True
    assert not stage.chain.is_cut_off(chunk), "the others are asked"
    for source in (stage.site, stage.http):
        stage.fail(source, digest, error=SourceLacks("not here"))
    assert stage.where(digest) == ["broker"]
    assert stage.chain.is_cut_off(chunk)
    stage.clock.advance(LACKING_FIRST_S)
    assert not stage.chain.is_cut_off(chunk), "it may be there by now"
    stage.ask("a")
    assert stage.where(digest) == ["site"]


def test_bytes_that_came_from_afar_for_nothing_are_told_of_once(stage: Stage) -> None:
    near, wrong, cut, absent = (stage.ask(text) for text in ("near", "wrong", "cut", "absent"))
    stage.chain.came("site", near, b"forged")
    assert stage.wasted == [], "it cost the link nothing"
    for digest in (wrong, cut, absent):
        stage.fail(stage.site, digest, error=SourceLacks("not here"))
    stage.chain.came("http", wrong, b"forged")
    stage.fail(stage.http, cut, near, error=SourceTruncated("broke off"))
    assert stage.wasted == [wrong, cut]
    stage.fail(stage.http, absent, error=SourceLacks("not here"))
    assert stage.wasted == [wrong, cut], "no byte of it came"


def test_near_by_is_not_far_when_it_is_withdrawn_or_the_controller_is_asked(stage: Stage) -> None:
    one, two = stage.ask("one", near=True), stage.ask("two", near=True)
    stage.chain.need((Chunk(one, FILE),))
    assert (stage.where(one), stage.broker.needed) == ([], [one])
    stage.chain.withdrawn("site")
    assert stage.lost == [two]
    stage.fail(stage.http, one)
    assert not stage.http.asked
