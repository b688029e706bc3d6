"""Attacks on trust metadata, each against the device's real store, with real keys, and refused with its own code.

| attack | who | code |
| --- | --- | --- |
| replay of the whole old repository | broker | trust.metadata_rollback |
| the same, after the metadata were wiped or restored from a copy | broker, and who has the disk | the same |
| a role rolled back | thief of both online keys | trust.metadata_rollback |
| freeze: only what has expired is offered | broker | trust.metadata_expired |
| the same, with a clock set back to 1970 | broker | trust.metadata_expired |
| a role, or the snapshot, of another moment | broker | trust.metadata_mismatch |
| a target changed, length kept | broker | trust.metadata_mismatch |
| an endless timestamp, role or target | broker, thief of the policy's key | trust.metadata_endless |
| a role forged | thief of both online keys | trust.metadata_unsigned |
| one of two owners signs; one signs twice | thief of an owner's key | trust.metadata_unsigned |
| the owner of another model signs | thief of that owner's key | the entry does not count |
| one role name under two parents | thief of the policy's and both online keys | trust.metadata_incomplete |
| a stolen timestamp key after its rotation | thief of the old key | trust.metadata_unsigned |
| a root by 1 of 2, or by strangers | thief of one root key, broker | trust.metadata_unsigned |
| a root that leaves one out | broker | trust.metadata_rollback |
| fast-forward to version 2^31 | thief of the timestamp key | accepted; undone by a root with a new key |
| time pushed to 2099 | thief of the timestamp key | bounded by the root; undone by a root with a new key |
| a role hidden by the snapshot | thief of both online keys | trust.metadata_incomplete |
| a document withheld, or named by nobody who may | broker | waited for, never taken for absent |
| nonsense | broker | trust.metadata_malformed |
"""

import json
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from trust_stage import DAY, NEW_BUNDLE, OLD_BUNDLE, START
from tuf.api.metadata import DelegatedRole, Delegations

from dsops.clock import ManualClock
from dsops.errors import (
    EndlessMetadata,
    ExpiredMetadata,
    IncompleteMetadata,
    MalformedMetadata,
    MismatchedMetadata,
    OldMetadata,
    UnsignedMetadata,
)

FAR = 2**31


def release_two(repository: Any) -> None:
    repository.set_bundle(NEW_BUNDLE, b"release two", 2)


def updated(bench: Any) -> Any:
    """Bring the device from one state to the next; return the state before."""
    bench.accept()
    old = bench.repository.copy()
    release_two(bench.repository)
    bench.repository.publish()
    bench.accept()
    return old


def believes_release_two(bench: Any) -> bool:
    return bench.store.target("digits", NEW_BUNDLE) is not None


# Replay, rollback, freeze.


def test_replay_of_the_whole_old_repository(bench: Any) -> None:
    old = updated(bench)
    for _ in range(2):
        with pytest.raises(OldMetadata):
            bench.accept(old)
        bench.reopen()
    assert believes_release_two(bench)


def test_replay_to_one_model_after_another_learnt_of_the_newer_state(bench: Any) -> None:
    bench.accept()
    old = bench.repository.copy()
    bench.repository.publish()
    bench.accept(model="words")
    with pytest.raises(OldMetadata):
        bench.accept(old)


def test_replay_after_the_metadata_were_wiped(bench: Any) -> None:
    old = updated(bench)
    shutil.rmtree(bench.folder / "metadata")
    bench.reopen()
    with pytest.raises(OldMetadata, match="was accepted before"):
        bench.accept(old)
    bench.reopen()
    with pytest.raises(OldMetadata, match="was accepted before"):
        bench.accept(old)
    bench.accept()
    assert believes_release_two(bench)


def test_policy_that_lowers_the_floor_though_its_own_holders_signed_it(bench: Any) -> None:
    """The commands and the controller refuse it; a thief of the policy's keys and the controller uses neither."""
    bench.repository.set_small("policy", "policy/digits.json", '{"model":"digits","floor":3}')
    bench.repository.publish()
    bench.accept()
    for _ in range(2):
        bench.repository.set_small("policy", "policy/digits.json", '{"model":"digits","floor":2}')
        bench.repository.publish()
        with pytest.raises(OldMetadata, match="the floor of digits 2 is offered, 3 was accepted before"):
            bench.accept()
        bench.reopen()
    bench.repository.set_small("policy", "policy/digits.json", '{"model":"digits","floor":3}')
    bench.repository.publish()
    bench.accept()
    assert bench.store.policy("digits").floor == 3


def test_replay_after_the_metadata_were_restored_from_a_copy(bench: Any, tmp_path: Path) -> None:
    bench.accept()
    shutil.copytree(bench.folder / "metadata", tmp_path / "copy", symlinks=True)
    old = updated(bench)
    shutil.rmtree(bench.folder / "metadata")
    shutil.copytree(tmp_path / "copy", bench.folder / "metadata", symlinks=True)
    bench.reopen()
    with pytest.raises(OldMetadata):
        bench.store.policy("digits")
    with pytest.raises(OldMetadata):
        bench.accept(old)


def test_old_root_after_the_metadata_were_wiped(bench: Any, new_signer: Any) -> None:
    bench.accept()
    old = bench.repository.copy()
    bench.repository.rotate("timestamp", new_signer())
    bench.repository.publish()
    bench.accept()
    shutil.rmtree(bench.folder / "metadata")
    old.publish(version=FAR)
    bench.reopen()
    with pytest.raises(OldMetadata, match="root 1 is offered"):
        bench.accept(old)


def test_role_rolled_back_with_both_online_keys(bench: Any) -> None:
    thief = updated(bench)
    thief.publish(version=9)
    with pytest.raises(OldMetadata):
        bench.accept(thief)


def test_role_rolled_back_with_both_online_keys_after_the_metadata_were_wiped(bench: Any) -> None:
    thief = updated(bench)
    thief.publish(version=9)
    shutil.rmtree(bench.folder / "metadata")
    bench.reopen()
    with pytest.raises(OldMetadata, match="model-digits 1 is offered, 2 was accepted before"):
        bench.accept(thief)


def test_freeze(bench: Any) -> None:
    bench.accept()
    bench.clock.advance(4 * DAY)
    with pytest.raises(ExpiredMetadata):
        bench.accept()
    with pytest.raises(ExpiredMetadata):
        bench.store.target("digits", OLD_BUNDLE)


@pytest.mark.parametrize("year", [1970, 2019])
def test_freeze_of_a_device_whose_clock_was_set_back(bench: Any, year: int) -> None:
    bench.accept()
    bench.clock.advance(2 * DAY)
    fresh = bench.repository.copy()
    fresh.timestamp_expires += timedelta(days=9)
    fresh.retime(issued=START + timedelta(days=4))
    bench.clock.advance(2 * DAY)
    bench.accept(fresh)
    bench.reopen(ManualClock(datetime(year, 1, 1, tzinfo=UTC)))
    old = fresh.copy()
    old.timestamp_expires = START + timedelta(days=3)
    old.retime(issued=START)
    with pytest.raises(ExpiredMetadata):
        bench.accept(old)


# Parts that do not belong together, or do not end.


def test_role_of_another_moment(bench: Any) -> None:
    repository = bench.repository
    old = repository.files["1.model-digits.json"]
    release_two(repository)
    repository.publish()
    repository.files["2.model-digits.json"] = old
    with pytest.raises(MismatchedMetadata):
        bench.accept()


def test_snapshot_of_another_moment(bench: Any) -> None:
    repository = bench.repository
    repository.publish()
    named = json.loads(repository.head)["signed"]["meta"]["snapshot.json"]["hashes"]["sha256"]
    documents = repository.documents() | {named: repository.files["1.snapshot.json"]}
    with pytest.raises(MismatchedMetadata):
        bench.store.accept("digits", repository.head, documents)


@pytest.mark.parametrize(
    ("path", "old", "new"), [("fleet/director.json", b"north", b"south"), ("policy/digits.json", b":1,", b":0,")]
)
def test_target_changed_with_its_length_kept(bench: Any, path: str, old: bytes, new: bytes) -> None:
    before = bench.repository.targets[path]
    bench.repository.targets[path] = before.replace(old, new)
    assert bench.repository.targets[path] != before
    with pytest.raises(MismatchedMetadata):
        bench.accept()
    assert not bench.store.knows("digits")


def test_endless_timestamp(bench: Any) -> None:
    with pytest.raises(EndlessMetadata):
        bench.store.accept("digits", bench.repository.head + b" " * 20_000, bench.repository.documents())


def test_endless_role(bench: Any) -> None:
    bench.repository.files["1.model-digits.json"] += b" " * 600_000
    with pytest.raises(EndlessMetadata):
        bench.accept()


def test_endless_target_that_is_signed(bench: Any) -> None:
    bench.repository.set_small("policy", "policy/digits.json", '{"model":"digits"}' + " " * 70_000)
    bench.repository.publish()
    with pytest.raises(EndlessMetadata):
        bench.accept()


# Signatures.


def test_role_forged_with_both_online_keys(bench: Any) -> None:
    repository = bench.repository
    repository.roles["model-digits"].signed.version += 1
    repository.sign_role("model-digits", repository.keys["snapshot"], repository.keys["timestamp"])
    repository.publish()
    with pytest.raises(UnsignedMetadata, match="0/2"):
        bench.accept()


def test_one_of_two_owners_signs(bench: Any) -> None:
    repository = bench.repository
    repository.sign_role("model-digits", repository.keys["model-digits"])
    repository.publish()
    with pytest.raises(UnsignedMetadata, match="1/2"):
        bench.accept()


def test_one_owner_signs_twice(bench: Any) -> None:
    repository = bench.repository
    owner = repository.keys["model-digits"]
    repository.sign_role("model-digits", owner)
    document = json.loads(repository.files["2.model-digits.json"])
    document["signatures"] += [dict(document["signatures"][0])]
    repository.files["2.model-digits.json"] = json.dumps(document).encode()
    repository.publish()
    with pytest.raises(MalformedMetadata):
        bench.accept()
    document["signatures"][1]["keyid"] = repository.keys["policy"].public_key.keyid
    repository.files["2.model-digits.json"] = json.dumps(document).encode()
    repository.publish()
    with pytest.raises(UnsignedMetadata, match="1/2"):
        bench.accept()


def test_one_of_two_targets_keys_signs(bench: Any) -> None:
    bench.repository.sign_role("targets", bench.repository.root_keys[0])
    bench.repository.publish()
    with pytest.raises(UnsignedMetadata, match="1/2"):
        bench.accept()


def test_owner_of_another_model_signs_a_path_of_this_one(bench: Any) -> None:
    bench.repository.set_bundle(NEW_BUNDLE, b"release two", 2, role="model-words")
    bench.repository.publish()
    bench.accept()
    bench.accept(model="words")
    assert not believes_release_two(bench)
    assert bench.store.target("words", NEW_BUNDLE) is None


def test_role_name_of_another_parent(bench: Any, new_signer: Any) -> None:
    """The policy's owner delegates, with a key of his own, to a role that has the name of the model's."""
    repository = bench.repository
    thief = new_signer()
    key = thief.public_key
    fake = DelegatedRole("model-digits", [key.keyid], 1, terminating=True, paths=["digits/*"])
    repository.roles["policy"].signed.delegations = Delegations({key.keyid: key}, {"model-digits": fake})
    repository.sign_role("policy")
    roles = repository.roles["targets"].signed.delegations.roles
    roles["policy"].paths = ["policy/*", "digits/*"]
    repository.sign_role("targets")
    repository.roles["model-digits"].signed.version += 1
    repository.sign_role("model-digits", thief)
    repository.publish()
    with pytest.raises(IncompleteMetadata, match="no owner"):
        bench.accept()


# Roots.


def test_stolen_timestamp_key_after_its_rotation(bench: Any, new_signer: Any) -> None:
    bench.accept()
    repository = bench.repository
    stolen = repository.keys["timestamp"]
    repository.root.revoke_key(repository.root_keys[2].public_key.keyid, "root")
    repository.root_keys[2] = new_signer()
    repository.root.add_key(repository.root_keys[2].public_key, "root")
    repository.rotate("timestamp", new_signer())
    repository.publish()
    bench.accept()
    assert bench.version("root") == 2
    thief = repository.copy()
    thief.keys["timestamp"] = stolen
    thief.publish(version=99)
    for _ in range(2):
        with pytest.raises(UnsignedMetadata):
            bench.accept(thief)
        bench.reopen()
    bench.accept()


def test_root_forged_by_one_of_two(bench: Any, new_signer: Any) -> None:
    bench.accept()
    thief = bench.repository.copy()
    thief.root.version = 2
    thief.root_keys = [thief.root_keys[0], new_signer()]
    thief.publish_root()
    thief.retime()
    with pytest.raises(UnsignedMetadata):
        bench.accept(thief)
    assert bench.version("root") == 1


def test_root_that_the_broker_makes_up(bench: Any, new_signer: Any) -> None:
    """The hint where roots are is not signed before they are; what it leads to is."""
    bench.accept()
    thief = bench.repository.copy()
    thief.root_keys = [new_signer(), new_signer()]
    thief.root.version = 2
    thief.publish_root()
    thief.keys["timestamp"] = new_signer()
    thief.retime()
    with pytest.raises(UnsignedMetadata):
        bench.accept(thief)


def test_root_that_leaves_one_out(bench: Any) -> None:
    bench.accept()
    repository = bench.repository
    repository.root.version = 3
    repository.publish_root()
    repository.files["2.root.json"] = repository.files["3.root.json"]
    repository.retime()
    with pytest.raises(OldMetadata):
        bench.accept()


def test_fast_forward_is_undone_by_a_root_with_a_new_key(bench: Any, new_signer: Any) -> None:
    bench.accept()
    thief = bench.repository.copy()
    thief.retime(version=FAR)
    bench.accept(thief)
    bench.repository.retime()
    with pytest.raises(OldMetadata):
        bench.accept()
    bench.repository.rotate("timestamp", new_signer())
    bench.repository.publish()
    bench.accept()
    assert bench.version("timestamp") == bench.repository.version
    bench.reopen()
    bench.accept()


def test_time_pushed_ahead_is_undone_by_a_root_with_a_new_key(bench: Any, new_signer: Any) -> None:
    bench.accept()
    thief = bench.repository.copy()
    thief.timestamp_expires = datetime(2199, 1, 1, tzinfo=UTC)
    thief.retime(issued=datetime(2099, 1, 1, tzinfo=UTC))
    bench.accept(thief)
    assert bench.store.now() == bench.repository.expires, "not beyond the root"
    bench.reopen()
    with pytest.raises(ExpiredMetadata):
        bench.accept()
    bench.repository.rotate("timestamp", new_signer())
    bench.repository.publish()
    bench.accept()
    assert bench.store.now() == bench.clock.now()
    assert bench.store.director().fleet == "north"


# What is missing, and what is nonsense.


def test_role_hidden_by_the_snapshot(bench: Any) -> None:
    bench.accept()
    bench.repository.publish(leave_out="model-digits")
    with pytest.raises(IncompleteMetadata):
        bench.accept()
    bench.reopen()
    with pytest.raises(IncompleteMetadata):
        bench.accept()


def test_role_hidden_by_the_snapshot_from_a_new_device(bench: Any) -> None:
    bench.repository.publish(leave_out="policy")
    with pytest.raises(IncompleteMetadata):
        bench.accept()
    assert not bench.store.knows("digits")


@pytest.mark.parametrize("kind", ["2.root.json", "snapshot", "model-digits", "policy/digits.json"])
def test_document_that_is_withheld_is_waited_for(bench: Any, new_signer: Any, kind: str) -> None:
    bench.accept()
    repository = bench.repository
    repository.rotate("timestamp", new_signer())
    release_two(repository)
    repository.set_small("policy", "policy/digits.json", '{"model":"digits","floor":2}')
    repository.publish()
    withheld = [name for name in repository.files if kind in name][-1:]
    data = repository.targets[kind] if kind in repository.targets else repository.files[withheld[0]]
    documents = {digest: found for digest, found in repository.documents().items() if found != data}
    assert len(bench.store.accept("digits", repository.head, documents)) == 1
    assert not believes_release_two(bench), "the old state stays until the new one is whole"
    assert bench.store.policy("digits").floor == 1
    bench.accept()
    assert bench.store.policy("digits").floor == 2


@pytest.mark.parametrize(
    "change", [lambda d: d[:-9], lambda d: b"[]", lambda d: d.replace(b'"timestamp"', b'"snapshot"')]
)
def test_nonsense(bench: Any, change: Any) -> None:
    with pytest.raises(MalformedMetadata):
        bench.store.accept("digits", change(bench.repository.head), bench.repository.documents())


def test_role_in_the_place_of_another(bench: Any) -> None:
    """Signed by the right key, but a snapshot where a timestamp should be."""
    repository = bench.repository
    repository.keys["timestamp"] = repository.keys["snapshot"]
    snapshot = json.loads(repository.files["1.snapshot.json"])
    snapshot["signed"] |= {"dsops-roots": json.loads(repository.head)["signed"]["dsops-roots"]}
    with pytest.raises(MalformedMetadata):
        bench.store.accept("digits", json.dumps(snapshot).encode(), repository.documents())
