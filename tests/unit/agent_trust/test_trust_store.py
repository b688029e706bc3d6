"""The device's trust: what honest packs give, and what every attack on them comes to."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from dsops.bundle import sha256_hex
from dsops.clock import ManualClock
from dsops.errors import (
    AlreadyRunning,
    EndlessMetadata,
    IncompleteMetadata,
    MalformedMetadata,
    OldMetadata,
    StateDamaged,
    UnsignedMetadata,
    UntrustedBundle,
)
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
    old = bench.repository.copy()
    bench.repository.set_bundle("digits/2.int8.bundle", b"release two", 2)
    bench.repository.publish()
    bench.accept()
    store = bench.reopen()
    with pytest.raises(OldMetadata):
        bench.accept(old)
    assert store.target("digits", "digits/2.int8.bundle") is not None
    assert bench.version("timestamp") == 2


def test_role_rolled_back_with_stolen_online_keys_is_refused(bench: Any) -> None:
    thief = bench.repository.copy()
    bench.repository.set_bundle("digits/2.int8.bundle", b"release two", 2)
    bench.repository.publish()
    bench.accept()
    thief.publish(version=9)
    with pytest.raises(OldMetadata):
        bench.accept(thief)


def test_frozen_repository_is_refused_once_it_expired(bench: Any) -> None:
    bench.accept()
    bench.clock.advance(4 * 86400)
    with pytest.raises(UntrustedBundle, match="Expired"):
        bench.accept()
    with pytest.raises(UntrustedBundle, match="Expired"):
        bench.store.director()
    with pytest.raises(UntrustedBundle, match="Expired"):
        bench.store.target("digits", BUNDLE)
    bench.reopen()  # nothing is known by heart any more: the same head is verified from the start
    with pytest.raises(UntrustedBundle, match="Expired"):
        bench.accept()
    bench.repository.timestamp_expires += timedelta(days=9)
    bench.repository.publish()
    bench.accept()
    assert bench.store.target("digits", BUNDLE) is not None


def test_clock_set_back_does_not_revive_expired_metadata(bench: Any) -> None:
    bench.accept()
    old = bench.repository.copy()
    bench.clock.advance(2 * 86400)
    bench.repository.timestamp_expires += timedelta(days=9)
    bench.repository.publish()
    bench.accept()
    trusted = bench.store.now()
    late = bench.reopen(ManualClock(trusted - timedelta(days=5000)))
    assert late.now() == trusted
    with pytest.raises(OldMetadata):
        bench.accept(old)


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
    repository.retime()
    with pytest.raises(UnsignedMetadata):
        bench.accept()


def test_rotated_root_replaces_a_stolen_timestamp_key(bench: Any, new_signer: Any) -> None:
    bench.accept()
    repository = bench.repository
    stolen = repository.copy()
    repository.rotate("timestamp", new_signer())
    repository.publish()
    bench.accept()
    stolen.files["2.root.json"] = repository.files["2.root.json"]
    stolen.publish(version=99)
    bench.reopen()
    with pytest.raises(UnsignedMetadata):
        bench.accept(stolen)
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
    with pytest.raises(IncompleteMetadata):
        bench.store.target("words", BUNDLE)


def test_missing_role_file_is_waited_for(bench: Any) -> None:
    repository = bench.repository
    data = repository.files.pop("1.model-digits.json")
    for _ in range(2):
        assert bench.store.accept("digits", repository.head, repository.documents()) == (sha256_hex(data),)
    assert not bench.store.knows("digits")
    with pytest.raises(IncompleteMetadata):
        bench.store.target("digits", BUNDLE)


def test_documents_are_asked_for_in_few_rounds_and_only_when_they_are_not_here(bench: Any) -> None:
    documents = bench.repository.documents()
    held: dict[str, bytes] = {}
    asked: list[int] = []
    while missing := bench.store.accept("digits", bench.repository.head, held):
        asked.append(len(missing))
        held |= {digest: documents[digest] for digest in missing}
    assert asked == [1, 4, 2]  # snapshot, roles, small targets
    bench.reopen()
    bench.repository.publish()
    assert len(bench.store.accept("digits", bench.repository.head, {})) == 1  # the snapshot
    bench.accept()
    bench.repository.set_bundle("digits/2.int8.bundle", b"release two", 2)
    bench.repository.publish()
    snapshot = bench.store.accept("digits", bench.repository.head, {})
    held = {digest: bench.repository.documents()[digest] for digest in snapshot}
    assert bench.store.accept("digits", bench.repository.head, held) == (
        sha256_hex(bench.repository.files["2.model-digits.json"]),
    )


def test_new_timestamp_alone_needs_nothing_else(bench: Any) -> None:
    bench.accept()
    before = bench.repository.head
    bench.repository.retime()
    assert bench.repository.head != before
    assert bench.reopen().accept("digits", bench.repository.head, {}) == ()


def test_root_that_did_not_come_is_no_root_that_does_not_exist(bench: Any, new_signer: Any) -> None:
    bench.accept()
    repository = bench.repository
    repository.rotate("timestamp", new_signer())
    repository.publish()
    missing = bench.store.accept("digits", repository.head, {})
    assert missing == (sha256_hex(repository.files["2.root.json"]),)
    assert bench.version("root") == 1
    bench.accept()
    assert bench.version("root") == 2


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
def test_missing_small_target_is_waited_for(bench: Any, path: str) -> None:
    data = bench.repository.targets.pop(path)
    missing = bench.store.accept("digits", bench.repository.head, bench.repository.documents())
    assert missing == (sha256_hex(data),)
    assert not bench.store.knows("digits")


def test_signed_nonsense_is_refused(bench: Any) -> None:
    bench.repository.set_small("policy", "policy/digits.json", '{"model":"digits","floor":0}')
    bench.repository.publish()
    with pytest.raises(UntrustedBundle, match="policy"):
        bench.accept()


@pytest.mark.parametrize(
    "name", ["targets/fleet/director.json", "targets/policy/digits.json", "metadata/model-digits.json"]
)
def test_what_was_tampered_with_on_disk_is_not_believed(bench: Any, name: str) -> None:
    bench.accept()
    path = bench.folder / name
    path.write_bytes(path.read_bytes().replace(b"digits", b"widget").replace(b"north", b"south"))
    store = bench.reopen()
    with pytest.raises(IncompleteMetadata):
        store.policy("digits")
    with pytest.raises(IncompleteMetadata):
        store.director()
    bench.accept()
    assert store.director().fleet == "north"
    assert store.target("digits", BUNDLE).custom["release"] == 1


def test_store_of_another_root_is_refused(bench: Any) -> None:
    bench.accept()
    foreign = type(bench.repository)()
    bench.store.close()
    bench.store = TrustStore(bench.folder, foreign.first_root, bench.clock)
    with pytest.raises(UnsignedMetadata):
        bench.accept()
    with pytest.raises(UntrustedBundle):
        bench.store.director()


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"{}",
        b"not json",
        b'{"signed":[]}',
        b'{"signed":{"dsops-roots":[]}}',
        b'{"signed":{"dsops-roots":["xx"]}}',
        b'{"signed":{"dsops-roots":[7]}}',
        b'{"signed":{"dsops-roots":["' + b'","'.join([b"0" * 64] * 257) + b'"]}}',
        b'{"signed":{"dsops-roots":["' + b"0" * 64 + b'"]}}',
    ],
)
def test_hostile_head_is_refused(bench: Any, head: bytes) -> None:
    with pytest.raises((MalformedMetadata, EndlessMetadata)):
        bench.store.accept("digits", head, {})


def test_endless_timestamp_is_refused(bench: Any) -> None:
    bench.repository.files["timestamp.json"] += b" " * 20000
    with pytest.raises(EndlessMetadata, match="longer than"):
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


def test_folder_has_one_user_at_a_time(bench: Any) -> None:
    with pytest.raises(AlreadyRunning):
        TrustStore(bench.folder, bench.repository.first_root, bench.clock)
    bench.store.close()
    TrustStore(bench.folder, bench.repository.first_root, bench.clock).close()


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
    bench.accept()
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
