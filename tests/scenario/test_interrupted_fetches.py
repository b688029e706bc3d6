"""Fetches on a simulated device that are held back or cut: by a full disk, lost chunks, an allowance, a restart."""

from dataclasses import replace
from typing import Any

import pytest

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
