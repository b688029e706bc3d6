"""Sealed bundles on a simulated device: whose key opens them, how long it is kept, and what a wrong one costs."""

import logging
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from dsops.errors import ContentSealed, GoldenMismatch
from dsops.sealing import ContentKey
from dsops.states import Install

SECRET = bytes(range(32))


@pytest.fixture(autouse=True)
def no_surprise(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Fail when the worker met an error that nobody expected, or a key stands in a log."""
    caplog.set_level(logging.DEBUG)
    yield
    assert not [r for r in caplog.records if r.levelno >= logging.ERROR and r.name.startswith("dsops_agent")]


def kept(world: Any, made: Any) -> int:
    return len(world.journal.wrapped_keys(made.sha256))


def without_keys(world: Any, made: Any) -> Any:
    """Let directives name a bundle as if it were not sealed."""
    return replace(made, key=None)


def test_a_sealed_bundle_is_installed_and_served_again_after_every_restart(world: Any, bundle: Any) -> None:
    one = bundle(1, secret=SECRET)
    assert world.install(1, one).install is Install.COMMITTED
    world.runtime.serving.clear()
    world.installer.runtime_restarted()
    world.settle()
    assert world.runtime.serving == {"digits": one.sha256}
    world.runtime.serving.clear()
    world.restart()
    assert world.runtime.serving == {"digits": one.sha256}
    world.check_end()
    assert kept(world, one) == 1


def test_a_device_goes_back_to_a_sealed_bundle_offline(world: Any, bundle: Any) -> None:
    one, two = bundle(1, secret=SECRET), bundle(2, secret=SECRET)
    world.install(1, one)
    world.runtime.check_faults[two.sha256] = GoldenMismatch("other answers")
    state = world.install(2, two)
    assert (state.install, state.active) == (Install.ROLLED_BACK, one.sha256)
    assert world.runtime.serving == {"digits": one.sha256}
    world.runtime.serving.clear()
    world.restart()
    assert world.runtime.serving == {"digits": one.sha256}
    assert world.journal.quarantined(two.sha256).code == "bundle.golden_mismatch"


def test_a_damaged_active_bundle_falls_back_to_a_sealed_one(world: Any, bundle: Any) -> None:
    one, two = bundle(1, secret=SECRET), bundle(2, secret=SECRET)
    world.install(1, one)
    world.install(2, two)
    path = world.slots.active("digits").path
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    world.runtime.serving.clear()
    world.restart()
    assert world.runtime.serving == {"digits": one.sha256}


def test_keys_live_as_long_as_their_bundles(world: Any, bundle: Any) -> None:
    made = [bundle(n, secret=SECRET) for n in (1, 2, 3)]
    for seq, one in enumerate(made, 1):
        world.install(seq, one)
    assert [kept(world, one) for one in made] == [0, 1, 1]
    world.install(4, bundle(4))
    assert [kept(world, one) for one in made] == [0, 0, 1]


def refused(world: Any, made: Any, state: Any) -> None:
    assert (state.install, state.problem.code) == (Install.REJECTED, "bundle.sealed")
    assert world.journal.quarantined(made.sha256) is None
    assert world.events.kinds()[-1] == "refused"


def test_without_a_key_the_bundle_before_stays_and_the_next_directive_mends_it(world: Any, bundle: Any) -> None:
    zero, one, two = bundle(1), bundle(2, secret=SECRET), bundle(3, secret=SECRET)
    world.install(1, zero)
    world.install(2, one)
    world.brings_keys = False
    state = world.install(3, two)
    refused(world, two, state)
    assert (state.active, state.previous) == (one.sha256, zero.sha256)
    assert "no content key came" in state.problem.message
    world.check_end()
    world.brings_keys = True
    world.direct(4, two)
    state = world.settle()
    assert (state.install, state.active, state.previous) == (Install.COMMITTED, two.sha256, one.sha256)


@pytest.mark.parametrize("wrong", ["device", "bundle", "key"])
def test_a_key_that_is_not_for_this_device_and_bundle_opens_nothing(world: Any, bundle: Any, wrong: str) -> None:
    own, one = world.content_key, bundle(1, secret=SECRET)
    given = replace(one, key=ContentKey(bytes(32))) if wrong == "key" else one
    if wrong == "device":
        world.content_key = X25519PrivateKey.generate()
    world.publish(one)
    envelope = world.envelope(1, given)
    if wrong == "bundle":
        other = world.slot(bundle(2, secret=SECRET), "de-1").content_key
        slot = one.slot("de-1").model_copy(update={"content_key": other})
        world.slot = lambda made, deployment: slot
        envelope = world.envelope(1, one)
    world.content_key = own
    world.installer.on_directive(envelope)
    world.pack()
    state = world.settle()
    refused(world, one, state)
    reason = "not that of" if wrong == "key" else "another device, another key or another bundle"
    assert reason in state.problem.message
    vars(world).pop("slot", None)
    world.direct(2, one)
    assert world.settle().install is Install.COMMITTED


def test_a_later_wrong_key_does_not_lock_a_device_out_of_what_it_runs(world: Any, bundle: Any) -> None:
    one = bundle(1, secret=SECRET)
    world.install(1, one)
    world.direct(2, replace(one, key=ContentKey(bytes(32))))
    world.settle()
    assert kept(world, one) == 2
    world.runtime.serving.clear()
    world.restart()
    assert world.runtime.serving == {"digits": one.sha256}


def test_a_device_with_a_new_key_of_its_own_is_mended_by_the_next_directive(world: Any, bundle: Any) -> None:
    one = bundle(1, secret=SECRET)
    world.install(1, one)
    world.content_key = X25519PrivateKey.generate()
    world.runtime.serving.clear()
    world.restart()
    assert world.runtime.serving == {}
    assert world.events.kept[-1] == ("refused", "digits", 0, "bundle.sealed")
    world.direct(2, one, deployment="de-1")
    world.settle()
    assert world.runtime.serving == {"digits": one.sha256}
    world.runtime.serving.clear()
    world.restart()
    assert world.runtime.serving == {"digits": one.sha256}
    assert kept(world, one) == 1


def test_a_directive_that_only_wraps_the_key_anew_changes_nothing(world: Any, bundle: Any) -> None:
    one = bundle(1, secret=SECRET)
    world.install(1, one)
    log, told = list(world.runtime.log), world.events.kinds()
    world.direct(2, one, deployment="de-1")
    world.settle()
    assert (world.runtime.log, world.events.kinds()) == (log, told)
    assert world.installer.seq() == 2


def test_a_release_that_was_rolled_back_stays_so_when_its_key_is_wrapped_anew(world: Any, bundle: Any) -> None:
    one, two = bundle(1, secret=SECRET), bundle(2, secret=SECRET)
    world.install(1, one)
    world.runtime.check_faults[two.sha256] = GoldenMismatch("other answers")
    world.install(2, two)
    told = world.events.kinds()
    world.direct(3, two, deployment="de-2")
    assert world.settle().install is Install.ROLLED_BACK
    assert world.events.kinds() == told


def test_a_key_that_is_gone_when_the_runtime_asks_condemns_nothing(world: Any, bundle: Any) -> None:
    one, two = bundle(1, secret=SECRET), bundle(2, secret=SECRET)
    world.install(1, one)
    world.runtime.activate_faults[two.sha256] = ContentSealed("no key")
    state = world.install(2, two)
    assert (state.install, state.problem.code) == (Install.ROLLED_BACK, "bundle.sealed")
    assert world.journal.quarantined(two.sha256) is None
    world.runtime.activate_faults.clear()
    world.direct(3, two)
    assert world.settle().install is Install.COMMITTED


def test_neither_secret_nor_plaintext_nor_key_is_on_the_disk(world: Any, bundle: Any) -> None:
    one, two = bundle(1, secret=SECRET), bundle(2, secret=SECRET)
    clear = bundle(2).data
    world.install(1, one)
    world.install(2, two)
    for path in world.folder.rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            assert one.key.data not in data, path
            assert two.key.data not in data, path
            assert SECRET not in data, path
            assert clear[-800:-700] not in data, path
