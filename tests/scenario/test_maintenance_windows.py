"""Installs that wait for a window, for the host, or for a local program; and what is never held up."""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from dsops.errors import GoldenMismatch
from dsops.states import Install
from dsops_agent.install.gate import Gate
from dsops_agent.install.maintenance import Conditions, Rules, Schedule, parse
from dsops_agent.trust.trusted_time import ClockState

BERLIN = ZoneInfo("Europe/Berlin")
MIDNIGHT = datetime(2026, 5, 1, tzinfo=UTC)  # the world's clock begins here: 02:00 in Berlin
CLOSED, OPEN = "10:00-11:00", "00:00-24:00"


@dataclass
class SimHost:
    """A host whose state is given."""

    now: Conditions = field(default_factory=Conditions)

    def conditions(self) -> Conditions:
        return self.now


@dataclass
class SimVeto:
    """A program that needs one look to answer."""

    answer: str = ""
    asked: list[tuple[str, ...]] = field(default_factory=list)
    runs: bool = False

    def ask(self, question: tuple[str, ...]) -> str | None:
        self.runs = not self.runs
        if self.runs:
            self.asked.append(question)
            return None
        return self.answer


def limit(world: Any, download: str = OPEN, activate: str = OPEN, **more: Any) -> Gate:
    """Start the device anew with maintenance rules."""
    rules = Rules(Schedule(BERLIN, (parse(download),)), Schedule(BERLIN, (parse(activate),)), **more)
    world.gate = Gate(rules)
    world.restart()
    return world.gate  # type: ignore[no-any-return]


def begin(world: Any, seq: int, made: Any) -> None:
    world.publish(made)
    world.direct(seq, made)
    world.pack()
    world.steps(10)


def until(world: Any, berlin: str) -> None:
    """Let time pass until the wall clock shows something, then a little more."""
    hour, minute = map(int, berlin.split(":"))
    target = world.clock.now().astimezone(BERLIN).replace(hour=hour, minute=minute)
    world.step((target - world.clock.now()).total_seconds())
    world.steps(12)


def test_a_download_waits_for_its_window_and_activation_for_another(world: Any, bundle: Any) -> None:
    limit(world, "04:00-05:00", "06:00-07:00")
    begin(world, 1, bundle(1))
    assert world.state().install is Install.FETCHING
    assert world.state().waiting == "download window opens 2026-05-01 04:00 Europe/Berlin"
    assert not world.broker.asked[1:], "only documents of trust were asked for"
    until(world, "04:00")
    assert world.state().install is Install.PROVED
    assert world.state().waiting == "activation window opens 2026-05-01 06:00 Europe/Berlin"
    assert not world.runtime.serving
    until(world, "06:00")
    assert (world.state().install, world.state().waiting) == (Install.PROBATION, "")
    world.step(61)
    assert world.state().install is Install.COMMITTED
    world.check_end()


def test_a_wait_makes_no_reports(world: Any, bundle: Any) -> None:
    limit(world, CLOSED)
    begin(world, 1, bundle(1))
    before = world.listener.changes
    world.steps(50, 5)
    assert world.listener.changes == before


def test_a_window_that_closes_pauses_the_transfer_and_the_next_one_resumes_it(world: Any, bundle: Any) -> None:
    limit(world, "01:00-03:00")
    one = bundle(1, size=20_000)
    world.publish(one)
    late = sorted(set(world.broker.chunks) - {one.signed().custom["index"]})[:3]
    world.broker.lost = set(late)
    begin(world, 1, one)
    world.steps(60)
    progress = world.state().progress
    assert 0 < progress < 1
    assert world.broker.subscribed
    until(world, "03:00")
    assert world.state().waiting == "download window opens 2026-05-02 01:00 Europe/Berlin"
    assert not world.broker.subscribed
    world.restart()
    world.steps(3)
    assert world.state().waiting, "a restart does not open a window"
    world.broker.lost.clear()
    asked = len(world.broker.asked)
    world.step(timedelta(hours=22).total_seconds())
    world.steps(10)
    assert world.state().install is Install.PROBATION
    assert len(world.broker.asked) - asked == len(late), "only what was missing is fetched"


def test_urgent_passes_the_windows_over(world: Any, bundle: Any) -> None:
    limit(world, CLOSED, CLOSED)
    world.urgent = True
    one = bundle(1)
    assert world.install(1, one).active == one.sha256


def test_what_becomes_urgent_goes_on_at_once(world: Any, bundle: Any) -> None:
    limit(world, CLOSED, CLOSED)
    one = bundle(1)
    begin(world, 1, one)
    assert world.state().waiting
    world.urgent = True
    world.direct(2, one)
    assert world.settle().active == one.sha256


def test_without_a_clock_windows_stay_closed_but_urgent_passes(world: Any, bundle: Any) -> None:
    limit(world, OPEN, OPEN)
    world.trust.clock_is = ClockState.BEHIND
    begin(world, 1, bundle(1))
    assert "the clock cannot be trusted" in world.state().waiting
    world.urgent = True
    world.direct(2, bundle(1))
    assert world.settle().install is Install.COMMITTED


def test_probation_and_rollback_are_never_held_up(world: Any, bundle: Any) -> None:
    one, two = bundle(1), bundle(2)
    world.install(1, one)
    gate = limit(world)
    begin(world, 2, two)
    assert world.state().install is Install.PROBATION
    gate.rules = Rules(Schedule(BERLIN, (parse(CLOSED),)), Schedule(BERLIN, (parse(CLOSED),)))
    world.runtime.check_faults[two.sha256] = GoldenMismatch("no")
    world.step(61)
    assert (world.state().install, world.state().active) == (Install.ROLLED_BACK, one.sha256)


def test_what_waits_can_be_cancelled(world: Any, bundle: Any) -> None:
    limit(world, OPEN, CLOSED)
    begin(world, 1, bundle(1))
    assert world.state().install is Install.PROVED
    world.direct(2)
    world.step()
    assert (world.state().install, world.state().waiting) == (Install.REJECTED, "")


def test_a_device_on_battery_waits_and_goes_on_when_it_has_power(world: Any, bundle: Any) -> None:
    gate = limit(world, on_power=True)
    gate.host = host = SimHost(Conditions(on_power=False))
    begin(world, 1, bundle(1))
    assert world.state().waiting == "on battery"
    host.now = Conditions()
    world.steps(10, 5)
    assert world.state().install is Install.PROBATION


def test_a_program_can_hold_an_activation_back_even_if_it_is_urgent(world: Any, bundle: Any) -> None:
    gate = limit(world)
    gate.veto = veto = SimVeto("robot is moving")
    world.urgent = True
    begin(world, 1, bundle(1))
    world.steps(10, 1)
    assert world.state().waiting == "veto: robot is moving"
    before = world.listener.changes
    world.steps(40, 1)
    assert world.listener.changes == before, "the program is asked again and again, and nobody is told"
    veto.answer = ""
    world.steps(30, 1)
    assert world.state().install is Install.PROBATION
    assert set(veto.asked) == {("download", "digits", "1"), ("activate", "digits", "1")}


@pytest.mark.parametrize("download", [OPEN, CLOSED])
def test_a_bundle_on_a_stick_waits_for_no_link_and_no_download_window(
    world: Any, bundle: Any, download: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(world.broker, "has_near", lambda chunk: chunk.file in world.at_hand)
    gate = limit(world, download, CLOSED, metered=("wwan*",))
    gate.host = SimHost(Conditions(links=("wwan0",)))
    one = bundle(1)
    begin(world, 1, one)
    assert world.state().install is Install.FETCHING
    assert ("metered link wwan0" if download == OPEN else "download window") in world.state().waiting
    world.at_hand.add(one.sha256)
    world.steps(10, 1)
    assert world.state().install is Install.PROVED
    assert "activation window" in world.state().waiting, "which is not about the link"


def test_a_stick_that_is_pulled_out_leaves_the_rest_to_the_rules(
    world: Any, bundle: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(world.broker, "has_near", lambda chunk: chunk.file in world.at_hand)
    gate = limit(world, metered=("wwan*",), on_power=True)
    gate.host = host = SimHost(Conditions(links=("wwan0",), on_power=False))
    one = bundle(1, size=20_000)
    world.at_hand.add(one.sha256)
    world.publish(one)
    world.broker.lost = set(sorted(set(world.broker.chunks) - {one.signed().custom["index"]})[:3])
    begin(world, 1, one)
    assert world.state().waiting == "on battery", "the host's own conditions hold for a stick too"
    gate.host = host = SimHost(Conditions(links=("wwan0",)))
    world.steps(20, 1)
    assert 0 < world.state().progress < 1
    world.at_hand.clear()
    world.steps(10, 1)
    assert world.state().waiting == "metered link wwan0"
    assert not world.broker.subscribed
    host.now = Conditions()
    world.broker.lost.clear()
    world.steps(20, 1)
    assert world.state().install is Install.PROBATION


def test_one_install_that_waits_does_not_hold_up_another(world: Any, bundle: Any) -> None:
    limit(world, CLOSED)
    one, other = bundle(1), bundle(1, model="words")
    world.publish(one, other)
    begin(world, 1, one)
    world.urgent = True
    world.direct(2, other)
    world.pack("words")
    world.steps(10)
    assert world.state("words").install is Install.PROBATION
