"""Bundles that do not fit are refused, each with its own reason, before any of their bytes is asked for."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from dsops.bundle import sha256_hex
from dsops.chunks import split
from dsops.errors import RuntimeCrashed
from dsops.manifest import Budgets, Compatibility, TensorSpec
from dsops.states import Deployment, Install, deployment_state

CHUNK_BYTES = 512
X = TensorSpec(name="x", datatype="FP32", shape=(1, 2))
KNOWN = ("ADD/1", "CONV_2D/3")


def one_input(**changes: object) -> dict[str, object]:
    return {"inputs": (X.model_copy(update=changes),)}


def needing(**changes: object) -> dict[str, object]:
    return {"compatibility": Compatibility.model_validate(changes)}


UNFIT: dict[str, tuple[str, dict[str, object]]] = {
    "other hardware": ("bundle.wrong_hardware", needing(hardware=("armv7l",))),
    "newer runtime": ("incompatible.runtime", needing(min_litert="2.3.1")),
    "much newer runtime": ("incompatible.runtime", needing(min_litert="10")),
    "newer version of an operator": ("incompatible.operator", needing(operators=("ADD/1", "CONV_2D/4"))),
    "unknown operator": ("incompatible.operator", needing(operators=("ADD/1", "HADAMARD_ROTATION/1"))),
    "custom operator": ("incompatible.operator", needing(operators=("custom:TFLite_Detection_PostProcess/1",))),
    "no such delegate": ("incompatible.delegate", needing(delegates=("edgetpu",), operators=("custom:edgetpu/1",))),
    "other shape": ("incompatible.tensors", one_input(shape=(1, 3))),
    "other rank": ("incompatible.tensors", one_input(shape=(1, 2, 1))),
    "other type": ("incompatible.tensors", one_input(datatype="INT32")),
    "other name of an input": ("incompatible.tensors", one_input(name="y")),
    "one more input": ("incompatible.tensors", {"inputs": (X, X.model_copy(update={"name": "y"}))}),
    "fewer classes": ("incompatible.tensors", {"outputs": (X.model_copy(update={"shape": (1, 5)}),)}),
    "other task": ("incompatible.tensors", {"task": "other"}),
    "over memory": ("incompatible.memory", {"budgets": Budgets(max_memory_bytes=10**9 + 1)}),
}


def bytes_asked_for(world: Any, made: Any) -> set[str]:
    """Return which of a bundle's bytes the device asked anybody for: its chunk index, its chunks."""
    own = {sha256_hex(piece) for piece in split(made.data, CHUNK_BYTES)} | {made.signed().custom["index"]}
    return own & set(world.broker.asked)


@pytest.fixture
def running(world: Any, bundle: Any) -> Any:
    """A device that serves release 1, which fits."""
    first = bundle(1, **needing(operators=KNOWN, hardware=("x86_64",), min_litert="2.3"))
    assert world.install(1, first).install is Install.COMMITTED
    return world


def refused(world: Any, made: Any, code: str) -> None:
    """Assert that a bundle is refused for a reason before its bytes, and that the one before serves on."""
    before = world.state().active
    state = world.install(2, made)
    assert (state.install, state.problem.code) == (Install.REJECTED, code)
    assert state.problem.message
    assert deployment_state(state.install, state.problem.code) is Deployment.INCOMPATIBLE
    assert not bytes_asked_for(world, made)
    assert state.active == before == world.runtime.serving["digits"]
    assert world.events.kept[-1][0] == "refused"
    assert world.events.kept[-1][3] == code
    assert not world.journal.quarantined(made.sha256), "the device may be mended: it is no fault of the bundle"
    world.check_end()


@pytest.mark.parametrize("name", UNFIT)
def test_an_unfit_bundle_is_refused_before_a_chunk_is_asked_for(running: Any, bundle: Any, name: str) -> None:
    code, changes = UNFIT[name]
    refused(running, bundle(2, **changes), code)


def test_what_is_too_large_is_refused_before_a_chunk_is_asked_for(new_world: Callable[[], Any], bundle: Any) -> None:
    two = bundle(2, size=50_000)
    for disk, most in ((40_000, 0), (10**10, 40_000)):
        world = new_world()
        world.install(1, bundle(1))
        world.room.disk = disk
        world.config = replace(world.config, max_bundle_bytes=most)
        world.restart()
        refused(world, two, "incompatible.size")


def test_a_payload_larger_than_memory_is_refused_though_nobody_set_a_budget(running: Any, bundle: Any) -> None:
    running.room.total_bytes = running.room.memory_bytes = 20_000
    refused(running, bundle(2, size=20_001), "incompatible.memory")


def test_what_the_throw_away_process_may_not_have_is_refused(running: Any, bundle: Any) -> None:
    running.config = replace(running.config, prove_memory_bytes=10**6)
    running.restart()
    refused(running, bundle(2, budgets=Budgets(max_memory_bytes=10**6 + 1)), "incompatible.memory")


@pytest.mark.parametrize(
    ("said", "text"),
    [
        (b"{}", "not valid"),
        (b"[", "not strict JSON"),
        (b" " * 50_000, "too long"),
        ("contradiction", "contradicts what was signed"),
    ],
)
def test_a_hostile_document_of_needs_is_refused(running: Any, bundle: Any, said: bytes | str, text: str) -> None:
    honest = bundle(2)
    harmless = bundle(3, **needing(operators=KNOWN)).needs
    made = replace(honest, said=harmless if isinstance(said, str) else said)
    before = running.state().active
    state = running.install(2, made)
    assert (state.install, state.problem.code) == (Install.REJECTED, "bundle.malformed")
    assert text in state.problem.message
    assert bool(bytes_asked_for(running, made)) is isinstance(said, str)
    assert state.active == before == running.runtime.serving["digits"]
    assert running.slots.holding("digits", made.sha256) is None, "a lying bundle took a slot"
    running.check_end()


FIT: dict[str, dict[str, object]] = {
    "says nothing": {},
    "knows its operators": needing(operators=KNOWN, hardware=("aarch64", "x86_64"), min_litert="2.3.0"),
    "stored in another type": one_input(datatype="INT8", scale=0.1),
    "one more output": {"outputs": (X, X.model_copy(update={"name": "more"}))},
    "all the memory": {"budgets": Budgets(max_memory_bytes=10**9)},
    "other names of its own": {"outputs": (X.model_copy(update={"name": "logits"}),)},
}


@pytest.mark.parametrize("name", FIT)
def test_a_fit_bundle_is_installed(running: Any, bundle: Any, name: str) -> None:
    two = bundle(2, **FIT[name])
    state = running.install(2, two)
    assert (state.install, state.active, state.problem) == (Install.COMMITTED, two.sha256, None)
    running.check_end()


def test_another_contract_is_installed_when_it_is_meant_and_when_nothing_is_served(world: Any, bundle: Any) -> None:
    other = bundle(2, **one_input(shape=(1, 3)))
    assert world.install(1, bundle(1)).install is Install.COMMITTED
    assert world.install(2, other).problem.code == "incompatible.tensors"
    world.changes_contract = True
    world.direct(3, other)
    assert world.settle().active == other.sha256
    world.changes_contract = False
    world.direct(4, bundle(1))
    state = world.settle()
    assert state.problem.code == "incompatible.tensors", "going back is a change of contract, too"
    assert state.active == other.sha256


def test_the_document_is_asked_for_once_and_kept_while_the_disk_is_full(running: Any, bundle: Any) -> None:
    two = bundle(2)
    running.publish(two)
    running.free_bytes = 100
    running.direct(2, two)
    running.steps(30, 10)
    state = running.state()
    assert (state.install, state.problem.code) == (Install.TRUSTED, "device.no_space")
    assert running.broker.asked.count(sha256_hex(two.needs)) == 1
    assert not bytes_asked_for(running, two)
    running.free_bytes = 10**9
    assert running.settle(10).active == two.sha256


def test_short_memory_and_a_silent_runtime_are_waited_for(running: Any, bundle: Any) -> None:
    two = bundle(2, budgets=Budgets(max_memory_bytes=10_000))
    running.room.memory_bytes = 9_999
    running.publish(two)
    running.direct(2, two)
    running.steps(5, 2)
    assert running.state().problem.code == "device.no_memory"
    running.room.memory_bytes = 10_000
    running.runtime.support_faults = [RuntimeCrashed("it said nothing")] * 2
    running.steps(4, 5)
    assert running.state().problem.code == "device.runtime_crashed"
    assert not bytes_asked_for(running, two)
    assert running.settle(10).active == two.sha256


def test_a_document_that_does_not_come_is_said_and_asked_for_again(running: Any, bundle: Any) -> None:
    two = bundle(2)
    running.publish(two)
    running.broker.lost.add(sha256_hex(two.needs))
    running.direct(2, two)
    running.steps(40, 2)
    state = running.state()
    assert (state.install, state.problem.code) == (Install.TRUSTED, "transport.transfer_failed")
    assert not bytes_asked_for(running, two)
    running.restart()
    running.broker.lost.clear()
    assert running.settle(5).active == two.sha256
    running.check_end()


def test_another_document_under_the_signed_digest_is_not_believed(running: Any, bundle: Any) -> None:
    """A hostile broker cannot talk a device out of a bundle, or into one."""
    fit, unfit = bundle(2), bundle(2, **needing(min_litert="9"))
    for seq, (made, told) in enumerate(((unfit, fit), (fit, unfit)), 2):
        running.publish(made)
        running.broker.chunks[sha256_hex(made.needs)] = told.needs
        running.direct(seq, made)
        running.pack()
        running.steps(20, 2)
        assert running.state().install is Install.TRUSTED
        assert not bytes_asked_for(running, made)
    running.broker.chunks[sha256_hex(fit.needs)] = fit.needs
    assert running.settle(5).active == fit.sha256


def test_a_newer_directive_ends_the_wait_for_a_document(running: Any, bundle: Any) -> None:
    two, three = bundle(2), bundle(3)
    running.publish(two, three)
    running.broker.lost.add(sha256_hex(two.needs))
    running.direct(2, two)
    running.steps(5, 1)
    assert sha256_hex(two.needs) in running.broker.subscribed
    running.direct(3, three)
    assert running.settle().active == three.sha256
    running.check_end()
