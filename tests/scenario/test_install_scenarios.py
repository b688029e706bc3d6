"""Installs on a simulated device: what ends where, and what is never broken on the way."""

import hashlib
import threading
from typing import Any

import pytest

from dsops.errors import GoldenMismatch, InvalidModel, RuntimeCrashed, RuntimeMissing
from dsops.states import Install
from dsops.trust import Policy
from dsops_agent.install.steps import SLOWEST_READ_BYTES_PER_S

pytestmark = pytest.mark.usefixtures("no_surprise")


def test_first_install_is_committed(world: Any, bundle: Any) -> None:
    one = bundle(1)
    state = world.install(1, one)
    assert (state.install, state.active, state.active_release) == (Install.COMMITTED, one.sha256, 1)
    assert (state.previous, state.progress, state.deployment) == (None, 1.0, "de-1")
    assert world.installer.seq() == 1
    assert world.events.kinds() == ["committed"]
    assert world.listener.changes > 3
    world.check_end()


def test_update_keeps_the_bundle_before(world: Any, bundle: Any) -> None:
    one, two = bundle(1), bundle(2)
    world.install(1, one)
    state = world.install(2, two)
    assert (state.active, state.previous, state.previous_release) == (two.sha256, one.sha256, 1)
    world.check_end()


def test_probation_lasts_and_only_then_commits(world: Any, bundle: Any) -> None:
    one = bundle(1)
    world.publish(one)
    world.direct(1, one)
    world.pack()
    world.steps(20)
    assert world.state().install is Install.PROBATION
    world.step(59)
    assert world.state().install is Install.PROBATION
    world.step(2)
    assert world.state().install is Install.COMMITTED


def test_same_directive_again_does_nothing(world: Any, bundle: Any) -> None:
    one = bundle(1)
    world.install(1, one)
    log = list(world.runtime.log)
    world.direct(1, one)
    world.settle()
    assert world.runtime.log == log
    assert world.installer.refused() is None


def test_new_directive_for_the_active_bundle_takes_its_deployment_over(world: Any, bundle: Any) -> None:
    one = bundle(1)
    world.install(1, one)
    log = list(world.runtime.log)
    world.direct(2, one, deployment="de-other")
    state = world.settle()
    assert (state.install, state.deployment) == (Install.COMMITTED, "de-other")
    assert world.runtime.log == log


def test_old_directive_is_refused_with_one_event(world: Any, bundle: Any) -> None:
    one, two = bundle(1), bundle(2)
    world.install(5, two)
    world.publish(one)
    for _ in range(3):
        world.direct(4, one)
        world.steps(3, 11)
    refused = world.installer.refused()
    assert refused is not None
    assert refused.code == "trust.directive_replayed"
    assert "seq 4, 5 was accepted" in refused.message
    assert world.installer.seq() == 5
    assert world.state().active == two.sha256
    assert world.events.kinds() == ["committed", "refused"]
    world.direct(6, two)
    world.settle()
    assert world.installer.refused() is None


@pytest.mark.parametrize("data", [b"", b"junk", b'{"payload":"e30=","payloadType":"x","signatures":[]}'])
def test_junk_directive_is_refused(world: Any, data: Any) -> None:
    world.installer.on_directive(data)
    world.steps(2)
    assert world.installer.refused() is not None
    assert world.events.kinds() == ["refused"]


def test_forged_directive_is_refused(world: Any, bundle: Any) -> None:
    one = bundle(1)
    world.install(1, one)
    envelope = world.envelope(2, bundle(2)).replace(b'"sig":"', b'"sig":"AAAA')
    world.installer.on_directive(envelope)
    world.steps(8, 2)
    assert world.installer.refused() is not None
    assert world.installer.seq() == 1


def test_refused_trust_metadata_leaves_one_event(world: Any, bundle: Any) -> None:
    world.direct(1, bundle(1))
    for _ in range(3):
        world.installer.on_trust_head(b"bad")
        world.step()
    assert world.events.kinds() == ["refused"]
    assert world.installer.refused().code == "bundle.untrusted"
    world.pack()
    world.step()
    assert world.installer.refused() is None


def test_directive_waits_for_its_trust_metadata(world: Any, bundle: Any) -> None:
    one = bundle(1)
    world.publish(one)
    world.direct(1, one)
    world.steps(20, 60)
    assert world.installer.seq() == 0
    assert world.installer.refused() is None
    world.pack()
    assert world.settle().install is Install.COMMITTED


def test_trust_documents_that_do_not_come_are_asked_for_without_end(world: Any, bundle: Any) -> None:
    one = bundle(1)
    world.publish(one)
    world.direct(1, one)
    world.installer.on_trust_head(b"good")
    missing = hashlib.sha256(b"digits").hexdigest()
    world.steps(3)
    assert world.broker.asked == [missing]
    asked_of_the_controller = 0
    for _ in range(60):
        world.clock.advance(6)
        world.installer.work(0)
        asked_of_the_controller += world.broker.needed.count(missing)
        world.broker.needed.clear()
    assert asked_of_the_controller > 10
    assert world.broker.asked.count(missing) > 3
    assert world.installer.refused() is None
    assert world.installer.seq() == 0
    world.trust.published.add("digits")
    world.installer.chunk_arrived(missing, b"forged")
    world.steps(2, 6)
    assert world.installer.seq() == 0
    world.installer.chunk_arrived(missing, b"digits")
    assert world.settle().install is Install.COMMITTED
    world.check_end()


def test_time_is_kept_while_the_worker_works_and_at_its_end(world: Any) -> None:
    world.step()
    assert world.trust.kept_at_once is False
    stop = threading.Event()
    stop.set()
    world.installer.run(stop)
    assert world.trust.kept_at_once is True


def test_new_session_with_the_broker_waits_anew_for_documents(world: Any, bundle: Any) -> None:
    world.direct(1, bundle(1))
    world.installer.on_trust_head(b"good")
    world.step()
    world.clock.advance(4)
    world.installer.connected()
    world.step()
    world.step(4)
    assert len(world.broker.asked) == 1


def test_target_that_comes_with_a_newer_pack_is_installed(world: Any, bundle: Any) -> None:
    one, two = bundle(1), bundle(2)
    world.install(1, one)
    world.direct(2, two)
    world.steps(2, 2)
    assert world.state().install is Install.RECEIVED
    world.publish(two)
    world.pack()
    assert world.settle().active == two.sha256


def test_target_that_no_pack_holds_is_rejected_but_may_be_trusted_later(world: Any, bundle: Any) -> None:
    one, two = bundle(1), bundle(2)
    world.install(1, one)
    world.direct(2, two)
    state = world.settle()
    assert (state.install, state.active) == (Install.REJECTED, one.sha256)
    assert state.problem is not None
    assert state.problem.code == "trust.target_unknown"
    assert world.journal.quarantined(two.sha256) is None
    world.publish(two)
    world.direct(3, two)
    assert world.settle().active == two.sha256
    world.check_end()


def test_release_below_the_floor_is_rejected(world: Any, bundle: Any) -> None:
    world.trust.policies["digits"] = Policy(model="digits", floor=3)
    state = world.install(1, bundle(2))
    assert state.install is Install.REJECTED
    assert "floor" in state.problem.message


def test_bundle_for_other_hardware_is_rejected_at_once(world: Any, bundle: Any) -> None:
    one = bundle(1)
    world.publish(one)
    signed = world.trust.signed[one.path]
    world.trust.signed[one.path] = type(signed)(
        signed.path, signed.sha256, signed.length_bytes, {**signed.custom, "hardware": ["armv7l"]}
    )
    world.direct(1, one)
    world.pack()
    world.step()
    assert world.state().install is Install.REJECTED
    assert world.state().problem.code == "bundle.wrong_hardware"


@pytest.mark.parametrize(
    "fault", [GoldenMismatch("row 3 differs"), InvalidModel("no model"), RuntimeCrashed("killed by signal 9")]
)
def test_bundle_that_fails_its_proof_is_rejected_and_never_tried_again(world: Any, bundle: Any, fault: Any) -> None:
    one, two = bundle(1), bundle(2)
    world.install(1, one)
    world.runtime.prove_faults[two.sha256] = fault
    state = world.install(2, two)
    assert (state.install, state.active, state.problem.code) == (Install.REJECTED, one.sha256, fault.code)
    log = list(world.runtime.log)
    asked = list(world.broker.asked)
    world.direct(3, two)
    state = world.settle()
    assert (state.install, state.problem.code) == (Install.REJECTED, fault.code)
    assert (world.runtime.log, world.broker.asked) == (log, asked)
    assert world.events.kinds() == ["committed", "refused", "refused"]
    world.check_end()


def test_a_device_without_runtime_does_not_condemn_the_bundle(world: Any, bundle: Any) -> None:
    one = bundle(1)
    world.runtime.prove_faults[one.sha256] = RuntimeMissing("no TFLite runtime")
    assert world.install(1, one).install is Install.REJECTED
    world.runtime.prove_faults.clear()
    world.direct(2, one)
    assert world.settle().install is Install.COMMITTED


def test_failed_activation_goes_back(world: Any, bundle: Any) -> None:
    one, two = bundle(1), bundle(2)
    world.install(1, one)
    world.runtime.activate_faults[two.sha256] = InvalidModel("no")
    state = world.install(2, two)
    assert (state.install, state.active, state.previous) == (Install.ROLLED_BACK, one.sha256, None)
    assert state.problem.code == InvalidModel.code
    assert world.journal.quarantined(two.sha256) is not None
    world.check_end()


def test_failed_first_activation_ends_with_no_model(world: Any, bundle: Any) -> None:
    one = bundle(1)
    world.runtime.activate_faults[one.sha256] = InvalidModel("no")
    state = world.install(1, one)
    assert (state.install, state.active) == (Install.ROLLED_BACK, None)
    world.check_end()


def test_wrong_answers_in_probation_go_back_offline(world: Any, bundle: Any) -> None:
    one, two = bundle(1), bundle(2)
    world.install(1, one)
    world.publish(two)
    world.direct(2, two)
    world.steps(20)
    assert world.state().install is Install.PROBATION
    world.trust.known.clear()
    world.runtime.check_faults[two.sha256] = GoldenMismatch("row 1 differs")
    world.step(61)
    state = world.state()
    assert (state.install, state.active) == (Install.ROLLED_BACK, one.sha256)
    assert world.runtime.serving == {"digits": one.sha256}
    assert world.events.kinds() == ["committed", "rolled_back"]
    world.check_end()


def test_broken_bundle_before_ends_failed_without_flapping(world: Any, bundle: Any) -> None:
    one, two = bundle(1), bundle(2)
    world.install(1, one)
    world.runtime.check_faults[two.sha256] = GoldenMismatch("no")
    world.runtime.activate_faults[one.sha256] = InvalidModel("no")
    state = world.install(2, two)
    assert state.install is Install.FAILED
    log = list(world.runtime.log)
    world.steps(20, 60)
    assert world.runtime.log == log
    assert world.events.kinds() == ["committed", "failed"]


def test_newer_directive_replaces_an_unfinished_install(world: Any, bundle: Any) -> None:
    one, two = bundle(1, size=20000), bundle(2)
    world.publish(one, two)
    world.direct(1, one)
    world.pack()
    world.steps(4)
    assert world.state().install is Install.FETCHING
    world.direct(2, two)
    state = world.settle()
    assert (state.active, state.deployment) == (two.sha256, "de-2")
    assert "prove " + one.sha256[:8] not in world.runtime.log
    world.check_end()


def test_directive_in_probation_waits_for_its_end(world: Any, bundle: Any) -> None:
    one, two, three = bundle(1), bundle(2), bundle(3)
    world.install(1, one)
    world.publish(two, three)
    world.direct(2, two)
    world.steps(20)
    world.direct(3, three)
    world.steps(20)
    assert (world.state().install, world.state().active) == (Install.PROBATION, two.sha256)
    state = world.settle()
    assert (state.install, state.active, state.previous) == (Install.COMMITTED, three.sha256, two.sha256)


def test_directive_back_to_the_bundle_before_ends_probation_at_once(world: Any, bundle: Any) -> None:
    one, two = bundle(1), bundle(2)
    world.install(1, one)
    world.publish(two)
    world.direct(2, two)
    world.steps(20)
    world.direct(3, one)
    world.steps(2)
    state = world.state()
    assert (state.install, state.active, state.deployment) == (Install.COMMITTED, one.sha256, "de-3")
    assert world.journal.quarantined(two.sha256) is None
    world.check_end()


def test_going_back_to_the_bundle_before_fetches_nothing(world: Any, bundle: Any) -> None:
    one, two = bundle(1), bundle(2)
    world.install(1, one)
    world.install(2, two)
    world.broker.asked.clear()
    world.direct(3, one)
    state = world.settle()
    assert (state.active, state.previous) == (one.sha256, two.sha256)
    assert not world.broker.asked


def test_two_models_are_fetched_one_after_the_other(world: Any, bundle: Any) -> None:
    one, other = bundle(1), bundle(1, model="words")
    world.publish(one, other)
    world.direct(1, one, other)
    world.pack()
    world.pack("words")
    world.settle()
    assert world.state().active == one.sha256
    assert world.state("words").active == other.sha256
    world.check_end()


def test_model_that_a_directive_does_not_name_stays(world: Any, bundle: Any) -> None:
    one, other = bundle(1), bundle(1, model="words")
    world.install(1, one)
    world.publish(other)
    world.direct(2, other)
    world.pack("words")
    world.settle()
    assert world.state().active == one.sha256
    assert world.state("words").active == other.sha256


def test_damaged_active_slot_falls_back_offline_and_is_fetched_again(world: Any, bundle: Any) -> None:
    one, two = bundle(1), bundle(2)
    world.install(1, one)
    world.install(2, two)
    path = world.slots.active("digits").path
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    known, world.trust.known = world.trust.known, set()
    world.runtime.serving.clear()
    world.restart()
    assert world.runtime.serving == {"digits": one.sha256}
    assert world.state().active == one.sha256
    world.check_invariants()
    world.trust.known = known
    world.pack()
    assert world.settle().active == two.sha256
    assert "slot_damaged" in world.events.kinds()


def test_damaged_files_are_mended_at_the_start_and_the_model_keeps_answering(world: Any, bundle: Any) -> None:
    one, two = bundle(1), bundle(2)
    world.install(1, one)
    world.install(2, two)
    (world.slots.files("digits") / "camera.toml").write_bytes(b"release = 9")
    world.restart()
    assert world.state().active == two.sha256
    assert world.runtime.serving == {"digits": two.sha256}
    world.check_end()
    assert world.events.kinds().count("slot_damaged") == 1
    world.restart()
    world.check_end()
    assert world.events.kinds().count("slot_damaged") == 1


def test_a_rollback_brings_the_files_back(world: Any, bundle: Any) -> None:
    one, two = bundle(1), bundle(2)
    world.install(1, one)
    (world.slots.files("digits") / "camera.toml").unlink()
    world.runtime.check_faults[two.sha256] = GoldenMismatch("no")
    assert world.install(2, two).install is Install.ROLLED_BACK
    assert (world.slots.files("digits") / "camera.toml").read_bytes() == b"release = 1"
    world.check_end()


def test_device_that_starts_offline_waits_for_a_pack_before_it_rejects(world: Any, bundle: Any) -> None:
    one, two = bundle(1), bundle(2)
    world.install(1, one)
    world.direct(2, two)
    world.steps(2)
    world.restart()
    world.steps(20, 60)
    assert world.state().install is Install.RECEIVED
    world.publish(two)
    world.pack()
    assert world.settle().active == two.sha256


def test_a_recovery_tells_of_each_model_that_it_makes_progress(world: Any, bundle: Any) -> None:
    made = [bundle(1), bundle(1, model="words"), bundle(1, model="faces")]
    world.publish(*made)
    for one in made:
        world.pack(one.model)
    world.direct(1, *made)
    world.settle()
    served: list[int] = []
    world.runtime.log.clear()
    world.beat = lambda _rest_s: served.append(len(world.runtime.log))
    world.restart()
    assert len(world.runtime.log) == 3
    assert served == [0, 1, 2]


def test_a_proof_has_time_to_read_what_it_tries_and_the_champion(world: Any, bundle: Any) -> None:
    one, two = bundle(1), bundle(2)
    world.install(1, one)
    world.install(2, two)
    first, second = (limits.timeout_s - world.config.prove_timeout_s for limits in world.runtime.limits)
    assert first == pytest.approx(len(one.data) / SLOWEST_READ_BYTES_PER_S)
    assert second == pytest.approx((len(one.data) + len(two.data)) / SLOWEST_READ_BYTES_PER_S)
