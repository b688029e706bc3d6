"""Fetches on a simulated device that are held back or cut: by a full disk, lost chunks, an allowance, a restart."""

from dataclasses import replace
from typing import Any

import pytest

from dsops.bundle import sha256_hex
from dsops.directive import TransferLimits
from dsops.states import Install

pytestmark = pytest.mark.usefixtures("no_surprise")


def test_full_disk_waits_and_goes_on_when_there_is_room(world: Any, bundle: Any) -> None:
    one, two = bundle(1), bundle(2)
    world.install(1, one)
    world.free_bytes = 100
    world.publish(two)
    world.direct(2, two)
    world.steps(10, 1)
    state = world.state()
    assert (state.install, state.active) == (Install.TRUSTED, one.sha256)
    assert state.problem.code == "device.no_space"
    index = two.signed().custom["index"]
    assert index not in world.broker.asked, "it was asked for before there was room"
    world.free_bytes = 10**9
    assert world.settle(10).active == two.sha256
    assert world.state().problem is None


def test_lost_chunks_are_asked_for_again_and_fetched_ones_are_kept(world: Any, bundle: Any) -> None:
    one = bundle(1)
    world.publish(one)
    held_back = [d for d in world.broker.chunks if d != one.signed().custom["index"]][-2:]
    world.broker.lost |= set(held_back)
    world.direct(1, one)
    world.pack()
    world.steps(60, 2)
    state = world.state()
    assert state.install is Install.FETCHING
    assert 0 < state.progress < 1 or state.problem.code == "transport.transfer_failed"
    first = [d for d in world.broker.asked if d not in held_back]
    assert len(first) == len(set(first)), "a chunk that had come was asked for twice"
    world.broker.lost.clear()
    assert world.settle(20).install is Install.COMMITTED


def test_transfer_goes_on_at_once_after_a_reconnect(world: Any, bundle: Any) -> None:
    one = bundle(1)
    world.publish(one)
    world.broker.lost |= set(world.broker.chunks)
    world.direct(1, one)
    world.pack()
    world.steps(40, 5)
    assert world.state().problem.code == "transport.transfer_failed"
    world.broker.lost.clear()
    world.installer.connected()
    world.steps(20)
    assert world.state().install is Install.PROBATION


def test_a_days_allowance_holds_a_transfer_back_and_the_state_says_so(world: Any, bundle: Any) -> None:
    one = bundle(1)
    world.config = replace(world.config, transfer=TransferLimits(bytes_per_day=len(one.data) // 2 + 1024))
    world.restart()
    world.publish(one)
    world.direct(1, one)
    world.pack()
    world.steps(40, 2)
    state = world.state()
    assert state.install is Install.FETCHING
    assert state.waiting.startswith("the day's ")
    asked = len(world.broker.asked)
    world.restart()
    world.steps(20, 2)
    assert len(world.broker.asked) == asked, "a restart gives nothing back"
    assert world.state().waiting == state.waiting
    for _ in range(4):
        world.clock.advance(86_400)
        world.steps(40, 2)
    assert world.settle().install is Install.COMMITTED
    assert world.state().waiting == ""


def test_restart_resumes_at_the_missing_chunks(world: Any, bundle: Any) -> None:
    one = bundle(1, size=20000)
    world.publish(one)
    world.direct(1, one)
    world.pack()
    world.steps(6)
    before = set(world.broker.asked) - set(world.broker.subscribed)
    assert 3 < len(before) < 30
    world.broker.asked.clear()
    world.restart()
    world.settle()
    assert not before & set(world.broker.asked)
    assert world.state().install is Install.COMMITTED


def test_while_bytes_come_nothing_is_asked_for_again(world: Any, bundle: Any) -> None:
    one = bundle(1)
    world.publish(one)
    world.broker.lost |= {digest for digest in world.broker.chunks if digest != sha256_hex(one.needs)}
    world.direct(1, one)
    world.pack()
    world.steps(5)
    asked = list(world.broker.asked)
    assert world.state().install is Install.FETCHING
    for _ in range(60):
        world.installer.receiving()
        world.step(4)
    assert (world.broker.asked, world.broker.needed) == (asked, [])
    world.steps(5, 4)
    assert len(world.broker.asked) > len(asked)


def test_without_a_broker_a_transfer_waits_says_so_and_goes_on(world: Any, bundle: Any) -> None:
    one = bundle(1)
    world.publish(one)
    world.direct(1, one)
    world.pack()
    world.steps(4)
    world.broker.is_away = True
    world.broker.lost |= set(world.broker.chunks)
    world.steps(5)
    asked = list(world.broker.asked)
    world.steps(200, 30)
    state = world.state()
    assert (state.install, state.problem) == (Install.FETCHING, None)
    assert state.waiting == "there is no connection to the broker"
    assert (world.broker.asked, world.broker.needed) == (asked, [])
    world.broker.is_away = False
    world.broker.lost.clear()
    world.installer.connected()
    assert world.settle().install is Install.COMMITTED
    assert world.state().waiting == ""


def test_documents_are_not_asked_for_again_and_again_without_a_broker(world: Any, bundle: Any) -> None:
    """Else a device that was away for long would send all those requests at once when it is back."""
    one = bundle(1)
    world.publish(one)
    world.broker.is_away = True
    world.direct(1, one)
    world.pack()
    world.steps(200, 30)
    assert (world.broker.asked, world.broker.needed) == ([], [])
    world.broker.is_away = False
    world.installer.connected()
    assert world.settle().install is Install.COMMITTED


def test_bytes_that_came_for_nothing_count_against_the_day(world: Any, bundle: Any) -> None:
    one = bundle(1)
    world.config = replace(world.config, transfer=TransferLimits(bytes_per_day=1_000_000))
    world.restart()
    world.publish(one)
    world.broker.lost |= {digest for digest in world.broker.chunks if digest != sha256_hex(one.needs)}
    world.direct(1, one)
    world.pack()
    world.steps(5)
    before = world.journal.today().fetched_bytes
    world.steps(5)
    assert world.journal.today().fetched_bytes == before
    for _ in range(100):  # more than what is noted ahead
        world.installer.chunk_wasted(one.signed().custom["index"])
        world.step()
    assert world.journal.today().fetched_bytes > before
