"""Expiry gates what is taken in, never what runs: with every TUF role expired and no broker a device goes on."""

from datetime import timedelta

import pytest
from device_stage import Stage, make_bundle

from dsops.errors import GoldenMismatch, UntrustedBundle
from dsops.states import Install

ONE, TWO, THREE = make_bundle(1), make_bundle(2), make_bundle(3)


@pytest.fixture
def alone(stage: Stage) -> Stage:
    """A device with release 1 committed and release 2 on probation, cut off; everything expires before that ends."""
    stage.sign(ONE)
    stage.sign(TWO)
    stage.order(1, ONE)
    stage.send(stage.directive(2, TWO.slot()).sign(stage.key), 5.0)
    assert stage.state().install is Install.PROBATION
    stage.lost = True
    stage.bench.clock.advance(timedelta(days=400).total_seconds() - 30)
    assert_everything_has_expired(stage)
    return stage


def assert_everything_has_expired(stage: Stage) -> None:
    now = stage.bench.store.now()
    repository = stage.bench.repository
    assert all(role.signed.expires < now for role in repository.roles.values())
    assert repository.root.expires < now
    assert repository.timestamp_expires < now
    for question in (stage.bench.store.director, lambda: stage.bench.store.policy("digits")):
        with pytest.raises(UntrustedBundle):
            question()


def test_probation_ends_well_offline(alone: Stage) -> None:
    alone.pass_time(60)
    assert (alone.state().install, alone.state().active) == (Install.COMMITTED, TWO.sha256)


def test_a_failed_probation_rolls_back_offline(alone: Stage) -> None:
    alone.around.faults[TWO.sha256] = GoldenMismatch("row 3 differs")
    alone.pass_time(60)
    assert (alone.state().install, alone.state().active) == (Install.ROLLED_BACK, ONE.sha256)
    assert alone.around.serving == {"digits": ONE.sha256}
    assert alone.journal.quarantined(TWO.sha256) is not None


def test_a_restart_serves_offline_and_a_second_one_too(alone: Stage) -> None:
    alone.pass_time(60)
    for _ in range(2):
        alone.around.serving.clear()
        alone.restart()
        assert alone.around.serving == {"digits": TWO.sha256}
    assert (alone.state().active, alone.state().previous) == (TWO.sha256, ONE.sha256)


def test_a_restart_in_the_middle_of_a_rollback_finishes_it_offline(alone: Stage) -> None:
    alone.around.faults[TWO.sha256] = GoldenMismatch("row 3 differs")
    alone.around.is_alive = False
    alone.pass_time(60)
    alone.around.is_alive = True
    alone.around.serving.clear()
    alone.restart()
    alone.pass_time(120)
    assert (alone.state().install, alone.state().active) == (Install.ROLLED_BACK, ONE.sha256)
    assert alone.around.serving == {"digits": ONE.sha256}


def test_a_crash_of_the_inference_process_is_recovered_from_offline(alone: Stage) -> None:
    alone.pass_time(60)
    alone.around.serving.clear()
    alone.installer.runtime_restarted()
    alone.pass_time(1)
    assert alone.around.serving == {"digits": TWO.sha256}


def test_a_damaged_active_slot_falls_back_to_the_other_offline(alone: Stage) -> None:
    alone.pass_time(60)
    active = alone.slots.active("digits")
    assert active is not None
    active.path.write_bytes(active.path.read_bytes()[:-1] + b"?")
    alone.around.serving.clear()
    alone.restart()
    assert alone.around.serving == {"digits": ONE.sha256}


def test_what_is_new_is_not_accepted_until_the_metadata_are_fresh_again(alone: Stage) -> None:
    alone.pass_time(60)
    alone.sign(THREE)
    alone.lost = False
    alone.order(3, THREE)
    assert alone.state().active == TWO.sha256
    assert alone.installer.seq() == 2
    assert alone.refused() != ""
    assert alone.around.serving == {"digits": TWO.sha256}
