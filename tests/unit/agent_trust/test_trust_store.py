"""The device's trust: what honest packs give, and what every attack on them comes to."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from dsops.clock import ManualClock
from dsops.errors import StateDamaged, UntrustedBundle
from dsops.messages import TrustPack
from dsops.trust import Policy
from dsops_agent.trust.store import TrustStore

BUNDLE = "digits/1.int8.bundle"


def test_honest_pack_is_believed(bench: Any) -> None:
    assert not bench.store.knows("digits")
    bench.accept()
    assert bench.store.knows("digits")
    assert bench.store.director().fleet == "north"
    assert bench.store.policy("digits") == Policy(model="digits")
    target = bench.store.target("digits", BUNDLE)
    assert target is not None
    assert (target.length_bytes, target.custom["release"]) == (11, 1)
    assert bench.store.target("digits", "digits/9.int8.bundle") is None


def test_nothing_is_believed_before_a_pack(bench: Any) -> None:
    with pytest.raises(UntrustedBundle, match="not known yet"):
        bench.store.director()
    with pytest.raises(UntrustedBundle, match="not known yet"):
        bench.store.policy("digits")


def test_answers_need_no_network_and_survive_a_restart(bench: Any) -> None:
    bench.accept()
    store = bench.reopen()
    assert store.director().fleet == "north"
    assert store.target("digits", BUNDLE) is not None


def test_same_pack_again_is_accepted(bench: Any) -> None:
    bench.accept()
    bench.accept()
    assert bench.store.target("digits", BUNDLE) is not None


def test_new_release_is_seen(bench: Any) -> None:
    bench.accept()
    bench.repository.set_bundle("digits/2.int8.bundle", b"release two", 2)
    bench.repository.publish()
    bench.accept()
    assert bench.store.target("digits", "digits/2.int8.bundle") is not None


def test_replayed_old_pack_is_refused(bench: Any) -> None:
    old = bench.repository.pack()
    bench.repository.set_bundle("digits/2.int8.bundle", b"release two", 2)
    bench.repository.publish()
    bench.accept()
    store = bench.reopen()
    with pytest.raises(UntrustedBundle, match="BadVersionNumber"):
        store.accept("digits", old)
    assert store.target("digits", "digits/2.int8.bundle") is not None
    assert bench.version("timestamp") == 2


def test_role_rolled_back_with_stolen_online_keys_is_refused(bench: Any) -> None:
    thief = bench.repository.copy()
    bench.repository.set_bundle("digits/2.int8.bundle", b"release two", 2)
    bench.repository.publish()
    bench.accept()
    thief.publish(version=9)
    with pytest.raises(UntrustedBundle, match="BadVersionNumber"):
        bench.store.accept("digits", thief.pack())


def test_frozen_repository_is_refused_once_it_expired(bench: Any) -> None:
    bench.accept()
    bench.clock.advance(4 * 86400)
    with pytest.raises(UntrustedBundle, match="Expired"):
        bench.accept()
    with pytest.raises(UntrustedBundle, match="Expired"):
        bench.store.director()
    with pytest.raises(UntrustedBundle, match="Expired"):
        bench.store.target("digits", BUNDLE)
    bench.repository.timestamp_expires += timedelta(days=9)
    bench.repository.publish()
    bench.accept()
    assert bench.store.target("digits", BUNDLE) is not None


def test_clock_set_back_does_not_revive_expired_metadata(bench: Any) -> None:
    bench.accept()
    old = bench.repository.pack()
    bench.clock.advance(2 * 86400)
    bench.repository.timestamp_expires += timedelta(days=9)
    bench.repository.publish()
    bench.accept()
    trusted = bench.store.now()
    late = TrustStore(bench.folder, bench.repository.first_root, ManualClock(trusted - timedelta(days=5000)))
    assert late.now() == trusted
    with pytest.raises(UntrustedBundle):
        late.accept("digits", old)


def test_clock_that_ran_ahead_moves_no_floor(bench: Any) -> None:
    bench.accept()
    bench.clock.advance(20 * 365 * 86400)
    with pytest.raises(UntrustedBundle, match="Expired"):
        bench.accept()
    bench.clock.advance(-20 * 365 * 86400)
    bench.accept()


def test_role_forged_with_stolen_online_keys_is_refused(bench: Any) -> None:
    repository = bench.repository
    repository.keys["model-digits"] = repository.keys["snapshot"]
    repository.set_bundle("digits/2.int8.bundle", b"evil", 2)
    repository.publish()
    with pytest.raises(UntrustedBundle, match="Unsigned"):
        bench.accept()
    with pytest.raises(UntrustedBundle):
        bench.store.target("digits", "digits/2.int8.bundle")


def test_one_of_two_targets_keys_is_not_enough(bench: Any) -> None:
    bench.repository.sign_role("targets", bench.repository.root_keys[0])
    bench.repository.publish()
    with pytest.raises(UntrustedBundle, match="Unsigned"):
        bench.accept()


def test_forged_root_is_refused(bench: Any, new_signer: Any) -> None:
    repository = bench.repository
    repository.root.version = 2
    repository.root_keys = [repository.root_keys[0], new_signer()]
    repository.publish_root()
    with pytest.raises(UntrustedBundle, match="Unsigned"):
        bench.accept()


def test_rotated_root_replaces_a_stolen_timestamp_key(bench: Any, new_signer: Any) -> None:
    bench.accept()
    repository = bench.repository
    stolen = repository.copy()
    fresh = new_signer()
    repository.root.version = 2
    repository.root.revoke_key(repository.keys["timestamp"].public_key.keyid, "timestamp")
    repository.root.add_key(fresh.public_key, "timestamp")
    repository.keys["timestamp"] = fresh
    repository.publish_root()
    repository.publish()
    bench.accept()
    stolen.files["2.root.json"] = repository.files["2.root.json"]
    stolen.publish(version=99)
    with pytest.raises(UntrustedBundle):
        bench.reopen().accept("digits", stolen.pack())
    assert (bench.folder / "metadata" / "root.json").readlink().name == "2.root.json"


def test_bundle_signed_by_another_role_does_not_count(bench: Any) -> None:
    bench.repository.set_bundle("digits/7.int8.bundle", b"seven", 7, role="policy")
    bench.repository.publish()
    bench.accept()
    assert bench.store.target("digits", "digits/7.int8.bundle") is None


def test_bundle_signed_by_the_top_role_does_not_count(bench: Any) -> None:
    bench.repository.set_bundle("digits/7.int8.bundle", b"seven", 7, role="targets")
    bench.repository.publish()
    bench.accept()
    assert bench.store.target("digits", "digits/7.int8.bundle") is None


def test_target_of_another_model_does_not_count(bench: Any) -> None:
    bench.accept()
    assert bench.store.target("words", BUNDLE) is None


def test_missing_role_file_is_refused(bench: Any) -> None:
    del bench.repository.files["1.model-digits.json"]
    with pytest.raises(UntrustedBundle, match=r"1\.model-digits\.json is not in the pack"):
        bench.accept()


def test_role_hidden_by_the_snapshot_is_refused(bench: Any) -> None:
    bench.accept()
    bench.repository.publish(leave_out="policy")
    with pytest.raises(UntrustedBundle, match="policy"):
        bench.accept()


def test_mixed_role_file_is_refused(bench: Any) -> None:
    repository = bench.repository
    old = repository.files["1.model-digits.json"]
    repository.set_bundle("digits/2.int8.bundle", b"release two", 2)
    repository.publish()
    repository.files["2.model-digits.json"] = old
    with pytest.raises(UntrustedBundle, match="LengthOrHashMismatch"):
        bench.accept()


@pytest.mark.parametrize("path", ["fleet/director.json", "policy/digits.json"])
def test_tampered_small_target_is_refused(bench: Any, path: str) -> None:
    bench.repository.targets[path] = bench.repository.targets[path].replace(b"north", b"south").replace(b"1.0", b"0.9")
    with pytest.raises(UntrustedBundle, match="LengthOrHashMismatch"):
        bench.accept()
    assert not bench.store.knows("digits")


@pytest.mark.parametrize("path", ["fleet/director.json", "policy/digits.json"])
def test_missing_small_target_is_refused(bench: Any, path: str) -> None:
    del bench.repository.targets[path]
    with pytest.raises(UntrustedBundle, match="missing in the trust pack"):
        bench.accept()


def test_signed_nonsense_is_refused(bench: Any) -> None:
    bench.repository.set_small("policy", "policy/digits.json", '{"model":"digits","floor":0}')
    bench.repository.publish()
    with pytest.raises(UntrustedBundle, match="policy"):
        bench.accept()


def test_director_tampered_on_disk_is_not_believed(bench: Any) -> None:
    bench.accept()
    path = bench.folder / "targets" / "digits" / "director.json"
    path.write_bytes(path.read_bytes().replace(b"north", b"south"))
    with pytest.raises(UntrustedBundle, match="out of date"):
        bench.store.director()
    bench.accept()
    assert bench.store.director().fleet == "north"


def test_metadata_tampered_on_disk_is_not_believed(bench: Any) -> None:
    bench.accept()
    path = bench.folder / "metadata" / "model-digits.json"
    path.write_bytes(path.read_bytes().replace(b'"digits"', b'"widgets"'))
    with pytest.raises(UntrustedBundle):
        bench.store.target("digits", BUNDLE)
    bench.accept()
    assert bench.store.target("digits", BUNDLE).custom["release"] == 1


def test_store_of_another_root_is_refused(bench: Any, new_signer: Any) -> None:
    bench.accept()
    foreign = type(bench.repository)()
    with pytest.raises(UntrustedBundle):
        TrustStore(bench.folder, foreign.first_root, bench.clock).director()


@pytest.mark.parametrize(
    "pack",
    [
        TrustPack(metadata={}, targets={}),
        TrustPack(metadata={"timestamp.json": "!"}, targets={}),
        TrustPack(metadata={"timestamp.json": "e30="}, targets={}),
        TrustPack(metadata={"timestamp.json": "bm90IGpzb24="}, targets={}),
    ],
)
def test_hostile_pack_is_refused(bench: Any, pack: Any) -> None:
    with pytest.raises(UntrustedBundle):
        bench.store.accept("digits", pack)


def test_endless_timestamp_is_refused(bench: Any) -> None:
    bench.repository.files["timestamp.json"] += b" " * 20000
    with pytest.raises(UntrustedBundle, match="longer than"):
        bench.accept()


def test_leftovers_are_swept_and_nothing_else(bench: Any) -> None:
    bench.accept()
    metadata = bench.folder / "metadata"
    before = {path.name for path in metadata.iterdir()}
    (metadata / ".timestamp.json.77.tmp").write_bytes(b"half")
    (metadata / "root_history" / ".1.root.json.77.tmp").write_bytes(b"half")
    (metadata / ".root.json.new").symlink_to("nowhere")
    bench.reopen()
    assert {path.name for path in metadata.iterdir()} == before
    assert [path.name for path in (metadata / "root_history").iterdir()] == ["1.root.json"]
    assert bench.store.director().fleet == "north"


def test_missing_root_link_is_made_again(bench: Any) -> None:
    bench.accept()
    (bench.folder / "metadata" / "root.json").unlink()
    assert bench.reopen().director().fleet == "north"


def test_unusable_folder_is_told(bench: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StateDamaged):
        TrustStore(tmp_path / "file" / "trust", bench.repository.first_root, bench.clock)


@pytest.mark.parametrize("kept", range(6))
def test_update_cut_short_at_any_file_is_finished_by_the_next(bench: Any, kept: int) -> None:
    """A kill between two writes leaves the first ``kept`` of the new files; the next refresh completes them."""
    bench.accept()
    metadata = bench.folder / "metadata"
    names = ["timestamp.json", "snapshot.json", "targets.json", "fleet.json", "policy.json", "model-digits.json"]
    old = {name: (metadata / name).read_bytes() for name in names}
    repository = bench.repository
    repository.set_bundle("digits/2.int8.bundle", b"release two", 2)
    repository.publish()
    bench.accept()
    for name in names[kept:]:
        (metadata / name).write_bytes(old[name])
    store = bench.reopen()
    store.accept("digits", repository.pack())
    assert store.target("digits", "digits/2.int8.bundle") is not None


def test_bundle_signed_by_a_later_role_of_the_same_paths_does_not_count(bench: Any) -> None:
    """Were the model's role not terminating, a role after it could answer for what the model's owners left out."""
    repository = bench.repository
    roles = repository.roles["targets"].signed.delegations.roles
    roles["model-digits"].terminating = False
    roles["policy"].paths = ["policy/*", "digits/*"]
    roles["policy"] = roles.pop("policy")
    repository.sign_role("targets", *repository.root_keys[:2])
    repository.set_bundle("digits/7.int8.bundle", b"seven", 7, role="policy")
    repository.publish()
    bench.accept()
    assert bench.store.target("digits", "digits/7.int8.bundle") is None
    assert bench.store.target("digits", BUNDLE) is not None
