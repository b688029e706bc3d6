"""A challenger is installed beside the champion, compared, replaced, dropped: the champion never notices."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest

from dsops.directive import Challenger, Directive
from dsops.errors import GoldenMismatch, RuntimeCrashed, UnsupportedModel
from dsops.messages import ChallengerState, ModelState
from dsops.modes import Mode
from dsops.states import Install
from dsops_agent.install.challengers import CRASHES, Endpoint
from dsops_agent.rival import Rival

PLACE = "digits@challenger"


@dataclass
class SimProcesses:
    """The processes of challengers: those that are wanted answer."""

    wanted: dict[str, Mode] = field(default_factory=dict)
    told: list[dict[str, Rival]] = field(default_factory=list)
    pid: int = 100

    def want(self, modes: Mapping[str, Mode]) -> None:
        self.wanted = dict(modes)

    def endpoint(self, model: str) -> Endpoint | None:
        return Endpoint(f"/run/{model}.sock", self.pid) if model in self.wanted else None

    def compare(self, rivals: Mapping[str, Rival]) -> None:
        self.told.append(dict(rivals))


@pytest.fixture
def processes(world: Any) -> SimProcesses:
    made = SimProcesses()
    attach(world, made)
    return made


def attach(world: Any, processes: SimProcesses) -> None:
    world.installer.challengers = processes
    world.installer._challengers.processes = processes


def challenge(world: Any, seq: int, champion: Any, challenger: Any | None, mode: Mode = Mode.SHADOW) -> None:
    """Deliver a directive that wants a challenger, or none any more."""
    now = world.clock.now()
    rival = challenger and Challenger(bundle=world.slot(challenger, f"ch-{challenger.release}"), mode=mode, share=0.2)
    directive = Directive(
        fleet="north",
        device="cam-1",
        seq=seq,
        issued=now,
        expires=now + timedelta(days=1),
        slots={"digits": world.slot(champion, "de-1")},
        challengers={"digits": rival} if rival else {},
    )
    world.installer.on_directive(directive.sign(world.key))


def bring(world: Any, seq: int, champion: Any, challenger: Any) -> None:
    challenge(world, seq, champion, challenger)
    world.settle()


def told(world: Any) -> ChallengerState:
    """Return what the device reports of its challenger."""
    found: ChallengerState | None = world.state().challenger
    assert found is not None
    return found


def bundles_on_disk(world: Any, place: str) -> int:
    return len(list((world.folder / "slots" / place).glob("[ab]/bundle")))


@pytest.fixture
def champion(world: Any, bundle: Any) -> Any:
    made = bundle(1)
    world.install(1, made)
    return made


def test_a_challenger_is_installed_beside_the_champion(
    world: Any, bundle: Any, champion: Any, processes: SimProcesses
) -> None:
    before, two = world.state(), bundle(2)
    world.publish(two)
    challenge(world, 2, champion, two)
    after: ModelState = world.settle()
    assert after.model_copy(update={"challenger": None}) == before, "the champion noticed"
    assert (told(world).install, told(world).active, told(world).release) == (Install.COMMITTED, two.sha256, 2)
    assert world.runtime.serving == {"digits": champion.sha256, PLACE: two.sha256}
    rival = processes.told[-1]["digits"]
    assert (rival.digest, rival.mode, rival.share, rival.salt) == (two.sha256, Mode.SHADOW, 0.2, "ch-2")
    assert ("challenger_committed", "digits", 2, "") in world.events.kept
    world.check_end()


def test_a_challenger_that_is_not_wanted_any_more_leaves_nothing(
    world: Any, bundle: Any, champion: Any, processes: SimProcesses
) -> None:
    two = bundle(2)
    world.publish(two)
    challenge(world, 2, champion, two)
    world.settle()
    challenge(world, 3, champion, None)
    state = world.settle()
    assert state.challenger is None
    assert (state.active, state.install) == (champion.sha256, Install.COMMITTED)
    assert world.runtime.serving == {"digits": champion.sha256}
    assert not (world.folder / "slots" / PLACE).exists()
    assert processes.wanted == {}
    assert processes.told[-1] == {}
    world.check_end()


def test_another_challenger_takes_the_place_of_the_one_before(
    world: Any, bundle: Any, champion: Any, processes: SimProcesses
) -> None:
    two, three = bundle(2), bundle(3)
    world.publish(two, three)
    challenge(world, 2, champion, two)
    world.settle()
    challenge(world, 3, champion, three, Mode.SPLIT)
    for _ in range(200):
        world.step(2.0)
        assert bundles_on_disk(world, PLACE) <= 1, "more than one challenger is stored"
    assert told(world).active == three.sha256
    assert [limits.is_challenger for limits in world.runtime.limits] == [False, True, True]
    assert processes.wanted == {"digits": Mode.SPLIT}
    assert processes.told[-1]["digits"].digest == three.sha256
    world.check_end()


@pytest.mark.parametrize("fault", ["prove_faults", "activate_faults", "check_faults"])
def test_a_challenger_that_fails_is_dropped_and_never_tried_again(
    world: Any, bundle: Any, champion: Any, processes: SimProcesses, fault: str
) -> None:
    two = bundle(2)
    world.publish(two)
    getattr(world.runtime, fault)[two.sha256] = GoldenMismatch("no")
    challenge(world, 2, champion, two)
    state = world.settle()
    world.step(2.0)
    assert (state.active, state.install, state.problem) == (champion.sha256, Install.COMMITTED, None)
    assert state.quarantined == (two.sha256,)
    assert told(world).install in (Install.REJECTED, Install.ROLLED_BACK)
    assert told(world).problem.code == GoldenMismatch.code
    assert not (world.folder / "slots" / PLACE).exists()
    assert world.runtime.serving == {"digits": champion.sha256}
    assert processes.wanted == {}
    getattr(world.runtime, fault).clear()
    challenge(world, 3, champion, two)
    world.settle()
    assert told(world).active is None
    world.check_end()


def test_a_process_that_ends_again_and_again_condemns_the_challenger(
    world: Any, bundle: Any, champion: Any, processes: SimProcesses
) -> None:
    two = bundle(2)
    world.publish(two)
    challenge(world, 2, champion, two)
    world.settle()
    for number in range(CRASHES):
        assert told(world).active == two.sha256
        processes.pid += 1
        world.runtime.serving.pop(PLACE, None)
        world.installer.challenger_started("digits", has_ended=True)
        world.step(1.0)
        if number < CRASHES - 1:
            assert world.runtime.serving[PLACE] == two.sha256, "it is served again"
            assert processes.told[-1]["digits"].pid == processes.pid
    state = world.settle()
    world.step(1.0)
    assert (state.active, state.quarantined) == (champion.sha256, (two.sha256,))
    assert (told(world).active, told(world).install) == (None, Install.REJECTED)
    assert told(world).problem.code == RuntimeCrashed.code
    assert processes.told[-1] == {}
    assert processes.wanted == {}
    world.check_end()


def end(world: Any, processes: SimProcesses) -> None:
    """Let the challenger's process end and start again."""
    processes.pid += 1
    world.runtime.serving.pop(PLACE, None)
    world.installer.challenger_started("digits", has_ended=True)
    world.step(1.0)


def test_ends_are_counted_though_the_control_process_starts_again_each_time(
    world: Any, bundle: Any, champion: Any, processes: SimProcesses
) -> None:
    two = bundle(2)
    world.publish(two)
    bring(world, 2, champion, two)
    for number in range(CRASHES):
        assert told(world).active == two.sha256, f"after {number} ends"
        world.restart()
        attach(world, processes)
        end(world, processes)
    state = world.settle()
    world.step(1.0)
    assert (state.active, state.quarantined) == (champion.sha256, (two.sha256,))
    assert (told(world).active, told(world).problem.code) == (None, RuntimeCrashed.code)
    assert processes.wanted == {}
    world.restart()
    attach(world, processes)
    world.step(1.0)
    assert processes.wanted == {}, "it is never started again"
    world.check_end()


def test_ends_are_of_one_bundle_and_of_one_start_of_the_host(
    world: Any, bundle: Any, champion: Any, processes: SimProcesses
) -> None:
    two, three = bundle(2), bundle(3)
    world.publish(two, three)
    bring(world, 2, champion, two)
    for _ in range(CRASHES - 1):
        end(world, processes)
    bring(world, 3, champion, three)
    for _ in range(CRASHES - 1):
        end(world, processes)
    assert told(world).active == three.sha256, "those of the one before it are not its own"
    world.boot_id = "another start of the host"
    world.restart()
    attach(world, processes)
    end(world, processes)
    assert told(world).active == three.sha256


def test_ends_that_are_far_apart_condemn_nobody(
    world: Any, bundle: Any, champion: Any, processes: SimProcesses
) -> None:
    two = bundle(2)
    world.publish(two)
    challenge(world, 2, champion, two)
    world.settle()
    for _ in range(2 * CRASHES):
        world.installer.challenger_started("digits", has_ended=True)
        world.step(400.0)
    assert told(world).active == two.sha256
    assert processes.wanted == {"digits": Mode.SHADOW}


def test_a_new_runtime_of_the_champions_is_told_again(
    world: Any, bundle: Any, champion: Any, processes: SimProcesses
) -> None:
    two = bundle(2)
    world.publish(two)
    challenge(world, 2, champion, two)
    world.settle()
    count, activations = len(processes.told), world.runtime.log.count(f"activate {two.sha256[:8]}")
    world.installer.runtime_restarted()
    world.step()
    assert processes.told[count:] == [processes.told[-1]]
    assert world.runtime.log.count(f"activate {two.sha256[:8]}") == activations, "the challenger has its own process"


def test_a_challenger_that_does_not_fit_is_refused(
    world: Any, bundle: Any, champion: Any, processes: SimProcesses
) -> None:
    two = bundle(2)
    world.publish(two)
    world.runtime.prove_faults[two.sha256] = UnsupportedModel("no")
    challenge(world, 2, champion, two)
    world.settle()
    assert told(world).install is Install.REJECTED
    assert processes.told in ([], [{}])
    assert world.runtime.serving == {"digits": champion.sha256}


@pytest.mark.parametrize("seconds", [0.0, 2.0, 30.0])
def test_a_challenger_that_is_withdrawn_on_its_way_leaves_nothing(
    world: Any, bundle: Any, champion: Any, processes: SimProcesses, seconds: float
) -> None:
    two = bundle(2)
    world.publish(two)
    challenge(world, 2, champion, two)
    world.steps(4, seconds)
    challenge(world, 3, champion, None)
    state = world.settle()
    assert state.challenger is None
    assert state.active == champion.sha256
    assert state.quarantined == ()
    world.check_end()


def test_a_killed_agent_goes_on_with_the_challenger(world: Any, bundle: Any, crash: Any) -> None:
    one, two = bundle(1), bundle(2)
    world.install(1, one)
    world.publish(two)
    for seq in (2, 4):  # the second time is as all that follow
        world.fuse.count = 0
        challenge(world, seq, one, two)
        world.settle()
        steps = world.fuse.count
        challenge(world, seq + 1, one, None)
        world.settle()
    assert steps > 30
    for at in range(1, steps + 1, max(1, steps // 25)):
        seq = world.journal.seq() + 1
        world.fuse.count, world.fuse.at = 0, at
        with pytest.raises(crash):
            bring(world, seq, one, two)
        world.fuse.at = 0
        world.restart()
        world.pack()
        world.check_invariants()
        challenge(world, seq + 1, one, two)
        world.settle()
        world.steps(3, 2.0)
        assert told(world).active == two.sha256, f"killed at {at}"
        assert world.state().active == one.sha256
        assert bundles_on_disk(world, PLACE) == 1
        challenge(world, seq + 2, one, None)
        world.settle()
        world.steps(2, 2.0)
        world.check_end()


def test_a_challenger_that_becomes_the_champion_stays_until_its_chunks_were_copied(
    world: Any, bundle: Any, champion: Any, processes: SimProcesses
) -> None:
    two = bundle(2)
    world.publish(two)
    challenge(world, 2, champion, two)
    world.settle()
    world.direct(3, two)
    seen = set()
    for _ in range(100):
        world.step(0.1)
        install = world.state().install
        if install in (Install.TRUSTED, Install.FETCHING):
            seen.add(install)
            assert bundles_on_disk(world, PLACE) == 1, "nothing is left to copy its chunks from"
    assert Install.FETCHING in seen
    state = world.settle()
    world.steps(2, 2.0)
    assert (state.active, state.previous) == (two.sha256, champion.sha256)
    assert world.state().challenger is None
    assert not (world.folder / "slots" / PLACE).exists()
    assert world.runtime.serving == {"digits": two.sha256}
    world.check_end()


def test_a_runtime_that_was_taken_over_is_told_that_no_challenger_is_wanted(
    world: Any, processes: SimProcesses
) -> None:
    world.steps(3, 1.0)
    assert processes.told == [{}], "it may still be told of one that was withdrawn while nobody ran the agent"
