"""The transfer's window, pure: what it asks for, when it asks again, when it gives up."""

import heapq
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsops_agent.install.window import LONGEST_S, NEED_LIMIT, STRIKES, TRIES, Action, Kind, Window


def names(count: int) -> list[str]:
    return [f"chunk {number}" for number in range(count)]


def kinds(actions: list[Action]) -> list[Kind]:
    return [action.kind for action in actions]


def test_asks_for_two_first_and_never_for_more_than_the_limit() -> None:
    window = Window(names(100), limit=5, timeout_s=5)
    asked = [a.digests[0] for a in window.fill(0)]
    assert asked == ["chunk 0", "chunk 1"]
    most = 0
    while asked:
        actions = window.arrived(asked.pop(0), good=True, now_s=0.1)
        asked += [a.digests[0] for a in actions if a.kind is Kind.REQUEST]
        most = max(most, window.outstanding)
    assert window.done
    assert most == 5


def test_good_chunk_is_stored_then_cancelled_then_the_next_is_asked_for() -> None:
    window = Window(names(3), limit=2, timeout_s=5)
    window.fill(0)
    assert window.arrived("chunk 0", good=True, now_s=1) == [
        Action(Kind.STORE, ("chunk 0",)),
        Action(Kind.CANCEL, ("chunk 0",)),
        Action(Kind.REQUEST, ("chunk 2",)),
    ]


def test_a_wide_window_asks_for_several_chunks_at_once() -> None:
    window = Window(names(400), limit=16, timeout_s=5)
    asked = [a.digests[0] for a in window.fill(0)]
    at_once: list[int] = []
    while asked:
        requests = [a for a in window.arrived(asked.pop(0), good=True, now_s=0) if a.kind is Kind.REQUEST]
        asked += [a.digests[0] for a in requests]
        at_once.append(len(requests))
    assert window.done
    assert set(at_once[-60:-20]) == {0, 4}, "a quarter of the window"


def test_unasked_and_repeated_chunks_are_ignored() -> None:
    window = Window(names(3), limit=2, timeout_s=5)
    window.fill(0)
    window.arrived("chunk 0", good=True, now_s=1)
    assert window.arrived("chunk 0", good=True, now_s=2) == []
    assert window.arrived("elsewhere", good=False, now_s=2) == []
    assert not window.failed


def test_late_chunk_is_asked_for_again_then_needed_then_given_up() -> None:
    window = Window(names(1), limit=2, timeout_s=5)
    window.fill(0)
    assert window.tick(4.9) == []
    assert kinds(window.tick(5)) == [Kind.REQUEST]
    now_s, later = 5.0, []
    for wait_s in (5, 10, 20, 40):
        assert window.tick(now_s + wait_s - 0.1) == []
        now_s += wait_s
        later.append(kinds(window.tick(now_s)))
    assert later == [[Kind.NEED], [Kind.REQUEST], [Kind.NEED], [Kind.REQUEST]]
    assert kinds(window.tick(now_s + 80)) == [Kind.CANCEL, Kind.FAIL]
    assert window.failed
    assert window.tick(1e9) == []


def test_needed_chunks_share_messages_of_bounded_size() -> None:
    window = Window(names(150), limit=150, timeout_s=1e6)
    asked = [a.digests[0] for a in window.fill(0)]
    for digest in names(30):
        if digest in asked:
            asked += [a.digests[0] for a in window.arrived(digest, good=True, now_s=0) if a.kind is Kind.REQUEST]
    window.tick(1e6)
    needs = [a for a in window.tick(3e6) if a.kind is Kind.NEED]
    assert sum(len(a.digests) for a in needs) == window.outstanding
    assert all(1 <= len(a.digests) <= NEED_LIMIT for a in needs)


def test_window_shrinks_when_chunks_are_late() -> None:
    window = Window(names(100), limit=16, timeout_s=5)
    asked = [a.digests[0] for a in window.fill(0)]
    while window.outstanding < 8:
        asked += [a.digests[0] for a in window.arrived(asked.pop(0), good=True, now_s=0) if a.kind is Kind.REQUEST]
    window.tick(5)
    before = window.outstanding
    for digest in asked[:3]:
        assert Kind.REQUEST not in kinds(window.arrived(digest, good=True, now_s=5))
    assert window.outstanding == before - 3


def test_slow_link_stretches_the_timer() -> None:
    window = Window(names(10), limit=1, timeout_s=5)
    window.fill(0)
    window.arrived("chunk 0", good=True, now_s=4)
    assert window.next_s == 4 + 16


def test_after_wrong_bytes_a_chunk_is_asked_for_another_way_until_the_third_strike() -> None:
    window = Window(names(1), limit=1, timeout_s=5)
    window.fill(0)
    assert kinds(window.arrived("chunk 0", good=False, now_s=1)) == [Kind.NEED]
    assert kinds(window.arrived("chunk 0", good=False, now_s=1)) == [Kind.REQUEST]
    *cancels, fail = window.arrived("chunk 0", good=False, now_s=1)
    assert kinds(cancels) == [Kind.CANCEL]
    assert (fail.kind, fail.reason) == (Kind.FAIL, f"chunk chunk 0 came with wrong bytes {STRIKES} times")


def test_when_only_the_controller_brings_chunks_the_rest_is_asked_of_it_at_once() -> None:
    window = Window(names(100), limit=8, timeout_s=5)
    window.fill(0)
    window.tick(5)
    assert kinds(window.tick(10)) == [Kind.NEED]
    actions: list[Action] = []
    for digest in names(2):
        assert window.outstanding
        actions += window.arrived(digest, good=True, now_s=10)
    assert window.had_to_pull
    assert [a for a in actions if a.kind is Kind.NEED] == [Action(Kind.NEED, ("chunk 3",))]
    window.reconnected(11)
    assert not window.had_to_pull, "a new session may be with another broker"


def test_chunks_that_the_broker_brings_end_the_pull() -> None:
    window = Window(names(100), limit=8, timeout_s=5, pull=True)
    assert kinds(window.fill(0)) == [Kind.NEED]
    assert set(kinds(window.tick(5))) == {Kind.REQUEST}, "the controller does not answer"
    assert Kind.REQUEST in kinds(window.arrived("chunk 0", good=True, now_s=6))
    assert not window.had_to_pull


def test_a_source_that_cannot_bring_a_chunk_is_not_waited_for() -> None:
    window = Window(names(100), limit=8, timeout_s=5)
    window.fill(0)
    assert kinds(window.lost("chunk 0", "the broker keeps nothing", 0)) == [Kind.NEED]
    assert kinds(window.lost("chunk 0", "the controller neither", 0)) == [Kind.REQUEST]
    for _ in range(TRIES - 3):
        window.lost("chunk 0", "the broker keeps nothing", 0)
    assert window.lost("chunk 0", "nobody", 0)[-1] == Action(Kind.FAIL, reason="nobody")


def test_after_a_reconnection_the_wait_begins_anew() -> None:
    window = Window(names(5), limit=2, timeout_s=5)
    window.fill(0)
    window.reconnected(100)
    assert window.tick(104) == []
    assert kinds(window.tick(106)) == [Kind.REQUEST, Kind.REQUEST]


@pytest.mark.parametrize("lives_s", [2.0, 3.0, 4.0, 6.0])
def test_over_connections_shorter_than_the_wait_the_controller_is_asked(lives_s: float) -> None:
    window = Window(names(2), limit=2, timeout_s=5)
    window.fill(0)
    needed: list[tuple[str, ...]] = []
    now_s = 0.0
    while not needed:
        now_s += 0.25
        assert now_s < 60
        since_s = now_s % lives_s
        if not since_s:
            window.reconnected(now_s)
        if since_s <= 0.25:
            window.receiving(now_s)  # what is retained comes with the connection, just not this
        needed = [action.digests for action in window.tick(now_s) if action.kind is Kind.NEED]
    assert needed == [("chunk 0", "chunk 1")]


class SlowLink:
    """A lossless link in simulated time: chunks come one after the other, in the order in which they were asked for.

    While one comes the window is told so, as the session does.
    """

    def __init__(self, bytes_per_s: float, delay_s: float, chunk_bytes: int = 32 * 1024) -> None:
        self._takes_s, self._delay_s = chunk_bytes / bytes_per_s, delay_s
        self.asked: list[str] = []
        self.waits: list[float] = []
        """How long a message that the broker sends at that moment waits for the chunks before it."""
        self._free_s = 0.0
        self._events: list[tuple[float, str]] = []

    def carry(self, window: Window) -> float:
        """Bring everything that the window asks for; return when the last chunk came."""
        now_s = 0.0
        self._take(window.fill(now_s), now_s)
        while not window.done:
            assert not window.failed
            now_s, digest = heapq.heappop(self._events)
            if digest:
                self._take(window.arrived(digest, good=True, now_s=now_s), now_s)
            else:
                window.receiving(now_s)
            self._take(window.tick(now_s), now_s)
        return now_s

    def _take(self, actions: list[Action], now_s: float) -> None:
        for digest in (d for a in actions if a.kind in (Kind.REQUEST, Kind.NEED) for d in a.digests):
            self.asked.append(digest)
            begins_s = max(self._free_s, now_s + self._delay_s)
            self._free_s = begins_s + self._takes_s
            for second in range(1, int(self._takes_s) + 1):
                heapq.heappush(self._events, (begins_s + self._delay_s + second, ""))
            heapq.heappush(self._events, (self._free_s + self._delay_s, digest))
        self.waits.append(self._free_s - now_s)


@pytest.mark.parametrize("bytes_per_s", [100, 500, 2_000, 5_000, 12_000, 30_000, 100_000])
@pytest.mark.parametrize("delay_s", [0.02, 0.6])
def test_on_a_slow_link_nothing_is_asked_for_twice(bytes_per_s: float, delay_s: float) -> None:
    link = SlowLink(bytes_per_s, delay_s)
    took_s = link.carry(Window(names(60), limit=16, timeout_s=5))
    assert link.asked == names(60)
    assert took_s < 1.4 * 60 * 32 * 1024 / bytes_per_s + 10, "the link is used"


@pytest.mark.parametrize("bytes_per_s", [20_000, 30_000, 60_000, 200_000])
@pytest.mark.parametrize("delay_s", [0.02, 0.6])
def test_on_a_slow_link_a_cancel_does_not_wait_behind_a_full_window(bytes_per_s: float, delay_s: float) -> None:
    link = SlowLink(bytes_per_s, delay_s)
    link.carry(Window(names(200), limit=16, timeout_s=5))
    assert max(link.waits) < 5


def test_on_a_long_link_the_window_opens() -> None:
    window = Window(names(153), limit=16, timeout_s=5)
    took_s = SlowLink(10e6, 0.3).carry(window)
    assert took_s < 12, "5 MB: ten windows of 16 chunks, and those before"


def test_a_link_that_becomes_slow_makes_the_window_small() -> None:
    window = Window(names(1000), limit=16, timeout_s=5)
    asked = [a.digests[0] for a in window.fill(0)]
    now_s, most = 0.0, 0
    for number in range(400):
        now_s += 0.001 if number < 200 else 1.6
        window.receiving(now_s)
        assert window.tick(now_s) == []
        actions = window.arrived(asked.pop(0), good=True, now_s=now_s)
        asked += [a.digests[0] for a in actions if a.kind is Kind.REQUEST]
        most = max(most, window.outstanding)
    assert most == 16
    assert window.outstanding <= 3


@pytest.mark.parametrize("round_trip_s", [1.5, 2.5])
def test_after_a_source_near_by_a_window_opens_on_a_long_link_too(round_trip_s: float) -> None:
    window = Window(names(200), limit=16, timeout_s=5)
    due = [(0.005, a.digests[0]) for a in window.fill(0)]
    now_s, most = 0.0, 0
    while due:
        now_s, digest = due.pop(0)
        takes_s = 0.005 if int(digest.split()[1]) < 6 else round_trip_s  # the stick is drawn
        actions = window.arrived(digest, good=True, now_s=now_s)
        due += [(now_s + takes_s, d) for a in actions if a.kind is Kind.REQUEST for d in a.digests]
        due.sort()
        most = max(most, window.outstanding) if int(digest.split()[1]) > 50 else 0
    assert window.done
    assert most == 16


def test_bytes_that_trickle_in_put_a_chunk_off_for_a_while_only() -> None:
    window = Window(names(1), limit=1, timeout_s=5)
    window.fill(0)
    late_s = next(s for s in range(10_000) if window.receiving(s) or window.tick(s))
    assert LONGEST_S <= late_s <= LONGEST_S + 10


def test_what_others_have_overtaken_is_late_though_bytes_come() -> None:
    window = Window(names(100), limit=4, timeout_s=5)
    asked = [a.digests[0] for a in window.fill(0)]
    lost, now_s, again = asked.pop(0), 0.0, 0.0
    while not again:
        now_s += 0.1
        window.receiving(now_s)
        actions = window.arrived(asked.pop(0), good=True, now_s=now_s) + window.tick(now_s)
        requests = [a.digests[0] for a in actions if a.kind is Kind.REQUEST]
        again = now_s if lost in requests else 0.0
        asked += requests
    assert 5 <= again < 6


class Cut:
    """No budget, and nobody to ask while ``is_cut`` is set."""

    def __init__(self) -> None:
        self.is_cut = True
        self.spent = 0

    def is_cut_off(self, digest: str) -> bool:
        assert digest
        return self.is_cut

    def take(self, digest: str) -> bool:
        return not self.is_cut_off(digest)

    def spend(self, digest: str) -> None:
        assert digest
        self.spent += 1


def test_while_nobody_can_be_asked_nothing_is_asked_for_and_nothing_late() -> None:
    meter = Cut()
    window = Window(names(10), limit=4, timeout_s=5, meter=meter)
    assert window.fill(0) == window.tick(100) == []
    meter.is_cut = False
    assert kinds(window.tick(101)) == [Kind.REQUEST] * 2
    meter.is_cut = True
    assert [window.tick(float(s)) for s in range(102, 9000, 3)] == [[]] * len(range(102, 9000, 3))
    meter.is_cut = False
    window.reconnected(9000)
    assert window.tick(9004) == []
    assert meter.spent == 0
    assert kinds(window.tick(9006)) == [Kind.REQUEST] * 2
    assert meter.spent == 2


def test_nothing_missing_is_done() -> None:
    assert Window((), limit=2, timeout_s=5).done


@settings(deadline=None)
@given(
    count=st.integers(1, 40),
    limit=st.integers(1, 16),
    fate=st.lists(st.sampled_from(["good", "lost", "twice", "wrong", "reconnect"]), max_size=60),
    rest=st.sampled_from(["good", "lost", "wrong"]),
)
def test_any_network_ends_in_every_chunk_or_a_failure(count: int, limit: int, fate: list[str], rest: str) -> None:
    """Each request meets the next fate; when the list is used up, all meet ``rest``."""
    window = Window(names(count), limit=limit, timeout_s=5)
    stored: list[str] = []
    fates = iter(fate)
    now_s = 0.0
    todo = window.fill(now_s)
    for _ in range(5000):
        if (window.done or window.failed) and not todo:
            break
        action = todo.pop(0) if todo else None
        if action is None:
            assert window.next_s is not None, "the window is stuck"
            now_s = max(now_s, window.next_s)
            todo = window.tick(now_s)
        else:
            todo += _meet(window, action, next(fates, rest), now_s, stored)
        assert window.outstanding <= limit
    assert window.done or window.failed
    assert len(stored) == len(set(stored))
    if window.done:
        assert sorted(stored) == sorted(names(count))
    if rest == "good" and not {"wrong", "lost"} & set(fate):
        assert window.done


def _meet(window: Window, action: Action, fate: str, now_s: float, stored: list[str]) -> list[Any]:
    if action.kind is Kind.STORE:
        stored += action.digests
    if action.kind not in (Kind.REQUEST, Kind.NEED) or fate == "lost":
        return []
    if fate == "reconnect":
        window.reconnected(now_s)
        return list(window.arrived(action.digests[0], good=True, now_s=now_s))
    actions: list[Action] = []
    for digest in action.digests * (2 if fate == "twice" else 1):
        actions += window.arrived(digest, good=fate != "wrong", now_s=now_s)
    return actions
