"""The installer over the real trust store: signed directive in, committed bundle out; and what becomes of the rest."""

from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from device_stage import PowerCut, Stage, make_bundle

from dsops.states import Install


def test_signed_directives_become_committed_bundles(stage: Stage) -> None:
    one, two = make_bundle(1), make_bundle(2)
    stage.sign(one)
    stage.order(1, one)
    assert (stage.state().install, stage.state().active_release) == (Install.COMMITTED, 1)
    assert stage.around.serving == {"digits": one.sha256}
    stage.sign(two)
    stage.order(2, two)
    state = stage.state()
    assert (state.install, state.active_release, state.previous_release) == (Install.COMMITTED, 2, 1)
    assert stage.refusals() == []


def test_the_retained_directive_again_is_no_refusal_even_when_it_has_expired_or_its_key_went(stage: Stage) -> None:
    one = make_bundle(1)
    stage.sign(one)
    retained = stage.directive(1, one.slot()).sign(stage.key)
    for _ in range(2):
        stage.send(retained, 120.0)
    stage.restart()
    stage.bench.clock.advance(2 * 86_400)
    stage.send(retained)
    stage.appoint(Ed25519PrivateKey.generate())
    stage.send(retained)
    assert (stage.refused(), stage.refusals()) == ("", [])
    assert [kind for kind, *_ in stage.around.events] == ["committed"]
    assert stage.installer.seq() == 1


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_power_cut_around_the_acceptance_neither_loses_nor_repeats_the_directive(stage: Stage, moment: str) -> None:
    one = make_bundle(1)
    stage.sign(one)
    retained = stage.directive(1, one.slot()).sign(stage.key)
    stage.metadata()
    stage.installer.on_directive(retained)
    stage.cut_at = moment
    with pytest.raises(PowerCut):
        stage.pass_time(15)
    stage.restart()
    assert stage.installer.seq() == (0 if moment == "before" else 1)
    assert bool(stage.journal.directive_digest()) is (moment == "after")
    stage.send(retained, 120.0)
    assert stage.state().install is Install.COMMITTED
    assert stage.refusals() == []


def test_a_refusal_is_told_once_stands_in_reports_and_goes_with_the_next_acceptance(stage: Stage) -> None:
    one, two = make_bundle(1), make_bundle(2)
    stage.sign(one)
    stage.sign(two)
    stage.order(1, one)
    misrouted = stage.directive(2, two.slot(), device="cam-2").sign(stage.key)
    for _ in range(3):
        stage.send(misrouted)
    stage.restart()
    assert stage.refused() == "trust.wrong_device"
    for _ in range(3):
        stage.send(misrouted)
    assert stage.refusals() == ["trust.wrong_device"]
    stage.order(2, two)
    assert stage.refused() == ""
    stage.restart()
    assert stage.refused() == ""
    assert stage.state().active == two.sha256


def test_the_retained_directive_clears_what_a_forgery_left(stage: Stage) -> None:
    one = make_bundle(1)
    stage.sign(one)
    retained = stage.directive(1, one.slot()).sign(stage.key)
    stage.send(retained, 120.0)
    stage.send(stage.directive(1, one.slot(), device="cam-2").sign(stage.key))
    assert stage.refused() == "trust.wrong_device"
    stage.send(retained)
    assert stage.refused() == ""


def test_a_forgery_that_is_replaced_at_once_is_told_all_the_same(stage: Stage) -> None:
    """A device waits for newer metadata before it refuses a signature; who overwrites his forgery leaves a trace."""
    one = make_bundle(1)
    stage.sign(one)
    retained = stage.directive(1, one.slot()).sign(stage.key)
    stage.send(retained, 120.0)
    stage.installer.on_directive(stage.directive(2, one.slot()).sign(Ed25519PrivateKey.generate()))
    stage.installer.work(0)
    stage.installer.on_directive(retained)
    stage.installer.work(0)
    assert stage.refusals() == ["trust.directive_unsigned"]
    assert stage.refused() == ""


def test_thousands_of_forgeries_are_counted_not_kept(stage: Stage) -> None:
    one = make_bundle(1)
    stage.sign(one)
    stage.order(1, one)
    for number in range(300):
        stage.installer.on_directive(stage.directive(2 + number, one.slot(), device="cam-2").sign(stage.key))
        stage.installer.work(0)
    assert stage.refusals() == ["trust.wrong_device"] * 20
    assert (len(stage.journal.refusals()), stage.journal.untold()) == (1, [])
    stage.bench.clock.advance(3600)
    stage.installer.work(0)
    _, code, message = stage.around.events[-1]
    assert (code, message) == ("trust.wrong_device", "280 more messages were refused and not told one by one")
    assert len(stage.refusals()) == 21
    stage.bench.clock.advance(3600)
    stage.installer.work(0)
    assert len(stage.refusals()) == 21


def test_forged_names_of_models_leave_nothing_behind(stage: Stage) -> None:
    one, two = make_bundle(1), make_bundle(2)
    stage.sign(one)
    stage.order(1, one)
    for number in range(200):
        forged = stage.directive(2, one.slot(), slots={f"m{number}": one.slot().model_dump()})
        stage.installer.on_directive(forged.sign(Ed25519PrivateKey.generate()))
        stage.installer.work(0)
    assert len(stage.refusals()) == 20
    assert len(stage.journal.refusals()) <= 32
    stage.bench.clock.advance(3600)
    stage.sign(two)
    stage.order(2, two)
    assert stage.state().active == two.sha256
    assert len(stage.refusals()) == 20 + 1 + 1, "how many were left out, and of the last name that was forged"


def test_metadata_that_is_refused_for_the_same_reason_makes_one_event(stage: Stage, bench: Any) -> None:
    one = make_bundle(1)
    stage.sign(one)
    stage.order(1, one)
    stage.bench.clock.advance(30 * 86_400)
    for _ in range(3):
        stage.metadata()
        stage.pass_time(15)
    assert len(stage.refusals()) == 1
    assert stage.installer.refused() is not None
    bench.repository.timestamp_expires = bench.clock.now() + (bench.repository.expires - bench.clock.now()) / 2
    bench.repository.publish()
    stage.metadata()
    stage.pass_time(15)
    assert stage.refused() == ""
