"""The repository: what it publishes, what it refuses, and what a crash leaves."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path

import pytest
from tuf.api.metadata import Metadata, Root, Snapshot, TargetFile, Targets

from dsops.chunks import MAX_CHUNK_BYTES
from dsops.errors import Conflict, NoSpace, NotFound, StateDamaged, UntrustedBundle
from dsops.files import write_atomically
from dsops.messages import MAX_MESSAGE_BYTES
from dsops.trust import Director, Policy
from dsops_controller.trust import ceremony, client
from dsops_controller.trust.keys import KeyFolder, OnlineKeys
from dsops_controller.trust.repository import PublishedRole, Repository
from dsops_controller.trust.roles import MAX_ROLE_BYTES, ROLE_FIELD, read_role, sign_role
from dsops_controller.trust.state import advance
from dsops_controller.trust.testing import FoundedFleet, MakeBundle

DAY_S = 86400.0


class PowerCut(BaseException):
    """Ends a writer; no handler of errors sees it."""


class CutAfter:
    """Writes files until a number of writes is done, then is cut off: before the write, or half way through it."""

    def __init__(self, writes: int, *, torn: bool = False) -> None:
        self.left = writes
        self.torn = torn

    def __call__(self, path: Path, data: bytes) -> None:
        if self.left == 0:
            if self.torn:
                path.with_name(f".{path.name}.1.tmp").write_bytes(data[: len(data) // 2])
            raise PowerCut
        self.left -= 1
        write_atomically(path, data)


def device_takes(repository: Repository, folder: Path, now: datetime, model: str = "digits") -> set[str]:
    """Let a TUF client take a model's pack, as a device does, and return which releases it finds."""
    pack = repository.pack(model)
    paths = [f"{model}/{release}.int8.bundle" for release in range(1, 6)]
    return set(client.accept(folder, pack.files(), repository.role("root"), paths, now))


def edited(fleet: FoundedFleet, role: str, path: str) -> Targets:
    signed = Metadata[Targets].from_bytes(fleet.repository.role(role)).signed
    signed.version += 1
    signed.targets[path] = TargetFile.from_data(path, b"bytes", ["sha256"])
    return signed


def test_a_published_release_reaches_a_device(fleet: FoundedFleet, bundle: MakeBundle, tmp_path: Path) -> None:
    fleet.grant("digits")
    assert device_takes(fleet.repository, tmp_path / "device", fleet.clock.now()) == set()
    published = fleet.repository.publish_role(fleet.sign(bundle()))
    assert published == PublishedRole("model-digits", 2)
    assert device_takes(fleet.repository, tmp_path / "device", fleet.clock.now()) == {"digits/1.int8.bundle"}


def test_a_pack_holds_what_one_model_needs_and_no_more(fleet: FoundedFleet) -> None:
    fleet.grant("digits")
    fleet.grant("faces")
    pack = fleet.repository.pack("digits")
    assert set(pack.targets) == {"fleet/director.json", "policy/digits.json"}
    assert not any("faces" in name for name in pack.metadata)
    assert Policy.decode(pack.target_files()["policy/digits.json"]).model == "digits"
    assert Director.decode(pack.target_files()["fleet/director.json"]).fleet == "lab"
    assert len(pack.encode()) < MAX_MESSAGE_BYTES
    with pytest.raises(NotFound):
        fleet.repository.pack("voices")


def test_publishing_the_same_bytes_again_changes_nothing(fleet: FoundedFleet, bundle: MakeBundle) -> None:
    fleet.grant("digits")
    document = fleet.sign(bundle())
    fleet.repository.publish_role(document)
    before = fleet.repository.role("timestamp")
    assert fleet.repository.publish_role(document) == PublishedRole("model-digits", 2)
    assert fleet.repository.role("timestamp") == before


def test_online_keys_cannot_approve_a_bundle(fleet: FoundedFleet) -> None:
    fleet.grant("digits")
    online = OnlineKeys.load(fleet.server / "keys")
    forged = sign_role(edited(fleet, "model-digits", "digits/1.int8.bundle"), [online.snapshot, online.timestamp])
    refused(fleet, forged, "not signed by its owners")


def test_online_keys_cannot_forge_a_state_that_a_device_takes(fleet: FoundedFleet, tmp_path: Path) -> None:
    """A thief of every online key signs a snapshot over a forged role; the device looks at the role's own keys."""
    fleet.grant("digits")
    online = OnlineKeys.load(fleet.server / "keys")
    device_takes(fleet.repository, tmp_path / "device", fleet.clock.now())
    state = fleet.repository.state()
    forged = read_role(sign_role(edited(fleet, "model-digits", "digits/1.int8.bundle"), [online.snapshot]))
    after = advance(state, [forged], online, fleet.clock.now())
    with pytest.raises(UntrustedBundle, match="model-digits"):
        client.accept(
            tmp_path / "device",
            after.files(after.roles),
            state.roots[0],
            ["digits/1.int8.bundle"],
            fleet.clock.now(),
        )


def test_one_of_two_targets_keys_is_not_enough(fleet: FoundedFleet) -> None:
    signed = Metadata[Targets].from_bytes(fleet.repository.role("targets")).signed
    signed.version += 1
    refused(fleet, sign_role(signed, [KeyFolder(fleet.keys).signer("targets-1")]), "not signed by its owners")


def test_an_owner_cannot_sign_beyond_its_model(fleet: FoundedFleet) -> None:
    fleet.grant("digits")
    fleet.grant("faces")
    signed = edited(fleet, "model-digits", "faces/1.int8.bundle")
    refused(fleet, sign_role(signed, [KeyFolder(fleet.keys).signer("model-digits")]), "may only sign digits/")


def test_a_role_cannot_be_passed_off_as_another(fleet: FoundedFleet) -> None:
    fleet.grant("digits")
    fleet.grant("faces")
    signed = edited(fleet, "model-digits", "faces/1.int8.bundle")
    signed.unrecognized_fields[ROLE_FIELD] = "model-faces"
    refused(fleet, sign_role(signed, [KeyFolder(fleet.keys).signer("model-digits")]), "not signed by its owners")
    del signed.unrecognized_fields[ROLE_FIELD]
    refused(fleet, sign_role(signed, [KeyFolder(fleet.keys).signer("model-digits")]), "does not say which one")


def test_an_old_version_is_refused(fleet: FoundedFleet, bundle: MakeBundle) -> None:
    fleet.grant("digits")
    old = fleet.sign(bundle(release=1))
    newer = ceremony.sign_bundle(bundle(release=2), fleet.keys, old, fleet.clock)
    fleet.repository.publish_role(newer)
    refused(fleet, old, "is old")


def test_an_expired_role_is_refused(fleet: FoundedFleet, bundle: MakeBundle) -> None:
    fleet.grant("digits")
    document = fleet.sign(bundle())
    fleet.clock.advance(181 * DAY_S)
    refused(fleet, document, "has expired")


def test_a_role_cannot_delegate_further(fleet: FoundedFleet) -> None:
    fleet.grant("digits")
    signed = edited(fleet, "model-digits", "digits/1.int8.bundle")
    signed.delegations = Metadata[Targets].from_bytes(fleet.repository.role("targets")).signed.delegations
    refused(fleet, sign_role(signed, [KeyFolder(fleet.keys).signer("model-digits")]), "delegates further")


def test_an_unknown_role_is_refused(fleet: FoundedFleet) -> None:
    signed = Metadata[Targets].from_bytes(fleet.repository.role("policy")).signed
    signed.unrecognized_fields[ROLE_FIELD] = "model-voices"
    refused(fleet, sign_role(signed, [KeyFolder(fleet.keys).signer("policy")]), "no role model-voices")


def test_online_roles_are_not_taken_from_outside(fleet: FoundedFleet) -> None:
    refused(fleet, fleet.repository.role("timestamp"), "not taken from outside")
    refused(fleet, fleet.repository.role("snapshot"), "not taken from outside")


@pytest.mark.parametrize("data", [b"", b"{}", b"\xff", b"[" * 100_000, b"x" * (MAX_ROLE_BYTES + 1), b'{"signed": 1}'])
def test_bytes_that_are_no_role_are_refused(fleet: FoundedFleet, data: bytes) -> None:
    with pytest.raises(UntrustedBundle):
        fleet.repository.publish_role(data)


def test_a_root_must_follow_and_be_signed_by_the_root_before(fleet: FoundedFleet) -> None:
    signed = Metadata[Root].from_bytes(fleet.repository.newest_root()).signed
    signed.version = 3
    keys = [KeyFolder(fleet.keys).signer(f"root-{number}") for number in (1, 2, 3)]
    refused(fleet, sign_role(signed, keys), "does not follow")
    signed.version = 2
    refused(fleet, sign_role(signed, keys[:1]), "not signed by its owners")


def test_a_root_that_names_other_online_keys_is_refused(fleet: FoundedFleet, tmp_path: Path) -> None:
    signed = Metadata[Root].from_bytes(fleet.repository.newest_root()).signed
    signed.version = 2
    signed.revoke_key(signed.roles["timestamp"].keyids[0], "timestamp")
    signed.add_key(KeyFolder(tmp_path / "new").make("timestamp").public_key, "timestamp")
    keys = [KeyFolder(fleet.keys).signer(f"root-{number}") for number in (1, 2)]
    refused(fleet, sign_role(signed, keys), "does not name this server's keys")


def test_a_policy_that_devices_could_not_read_is_refused(fleet: FoundedFleet) -> None:
    fleet.grant("digits")
    data = b'{"model":"digits","floor":0}'
    signed = Metadata[Targets].from_bytes(fleet.repository.role("policy")).signed
    signed.version += 1
    signed.targets["policy/digits.json"] = TargetFile.from_data("policy/digits.json", data, ["sha256"])
    document = sign_role(signed, [KeyFolder(fleet.keys).signer("policy")])
    with pytest.raises(UntrustedBundle, match="policy is not valid"):
        fleet.repository.publish_role(document, {"policy/digits.json": data})
    with pytest.raises(UntrustedBundle, match="signed but absent"):
        fleet.repository.publish_role(document)
    assert fleet.repository.policy("digits") == Policy(model="digits")


def test_a_role_that_would_not_fit_one_message_is_refused(fleet: FoundedFleet) -> None:
    fleet.grant("digits")
    signed = Metadata[Targets].from_bytes(fleet.repository.role("model-digits")).signed
    signed.version += 1
    release = 0
    while len(Metadata(signed).to_bytes()) <= MAX_CHUNK_BYTES:
        for _ in range(10):
            release += 1
            path = f"digits/{release}.int8.bundle"
            signed.targets[path] = TargetFile.from_data(path, b"bytes", ["sha256"])
    before = fleet.repository.state()
    with pytest.raises(Conflict, match="too long for one message") as error:
        fleet.repository.publish_role(sign_role(signed, [KeyFolder(fleet.keys).signer("model-digits")]))
    assert "prune" in error.value.hint
    assert fleet.repository.state() == before


def test_an_abandoned_model_does_not_hold_up_the_others(fleet: FoundedFleet, bundle: MakeBundle) -> None:
    fleet.grant("abandoned")
    fleet.clock.advance(100 * DAY_S)
    ceremony.renew(fleet.keys, fleet.server, ["policy"], fleet.clock)
    fleet.grant("digits")
    fleet.clock.advance(85 * DAY_S)  # the abandoned model's role has expired now
    ceremony.renew(fleet.keys, fleet.server, ["fleet", "policy"], fleet.clock)
    fleet.repository.publish_role(fleet.sign(bundle()))
    assert fleet.repository.target("digits/1.int8.bundle") is not None


def test_timestamp_and_snapshot_are_renewed_at_half_of_their_lives(fleet: FoundedFleet, tmp_path: Path) -> None:
    fleet.grant("digits")
    assert fleet.repository.renew() is False
    fleet.clock.advance(1.5 * DAY_S)
    snapshot = fleet.repository.role("snapshot")
    assert fleet.repository.renew() is True
    assert fleet.repository.role("snapshot") == snapshot
    fleet.clock.advance(6 * DAY_S)  # the timestamp has expired: the server was down
    assert fleet.repository.renew() is True
    assert fleet.repository.role("snapshot") != snapshot
    assert fleet.repository.renew() is False
    device_takes(fleet.repository, tmp_path / "device", fleet.clock.now())


def test_roles_that_people_must_sign_soon_are_named(fleet: FoundedFleet) -> None:
    assert fleet.repository.due() == {}
    fleet.clock.advance(70 * DAY_S)
    assert set(fleet.repository.due()) == {"policy"}


def test_old_versions_are_forgotten_but_no_root(fleet: FoundedFleet) -> None:
    for _ in range(6):
        ceremony.renew(fleet.keys, fleet.server, ["root", "policy"], fleet.clock)
    names = {file.name for file in (fleet.server / "trust" / "metadata").iterdir()}
    assert {name for name in names if name.endswith("root.json")} == {f"{n}.root.json" for n in range(1, 8)}
    assert {name for name in names if name.endswith("policy.json")} == {
        "5.policy.json",
        "6.policy.json",
        "7.policy.json",
    }


@pytest.mark.parametrize("torn", [False, True])
@pytest.mark.parametrize("step", range(10))
def test_killed_at_any_write_the_state_before_or_after_is_served(
    fleet: FoundedFleet, bundle: MakeBundle, tmp_path: Path, step: int, torn: bool
) -> None:
    """One batch of root, policy (with its file) and model role: 6 writes in a fixed order, cut before each of them."""
    fleet.grant("digits")
    now = fleet.clock.now()
    keys = KeyFolder(fleet.keys)
    root = Metadata[Root].from_bytes(fleet.repository.newest_root()).signed
    root.version += 1
    policy = b'{"model":"digits","floor":2}'
    policies = edited(fleet, "policy", "policy/digits.json")
    policies.targets["policy/digits.json"] = TargetFile.from_data("policy/digits.json", policy, ["sha256"])
    batch = [
        sign_role(root, [keys.signer("root-1"), keys.signer("root-2")]),
        sign_role(policies, [keys.signer("policy")]),
        fleet.sign(bundle(release=2)),
    ]
    before = fleet.repository.state()
    device_takes(fleet.repository, tmp_path / "device", now)
    cut = Repository(
        fleet.server / "trust", OnlineKeys.load(fleet.server / "keys"), fleet.clock, CutAfter(step, torn=torn)
    )
    completed = False
    try:
        cut.publish(batch, {"policy/digits.json": policy})
        completed = True
    except PowerCut:
        assert fleet.repository.state() == before
    assert completed == (step >= 6)
    found = device_takes(fleet.repository, tmp_path / "device", now)
    assert found == ({"digits/2.int8.bundle"} if completed else set())
    fleet.repository.publish(batch, {"policy/digits.json": policy})
    assert device_takes(fleet.repository, tmp_path / "device", now) == {"digits/2.int8.bundle"}
    assert fleet.repository.policy("digits").floor == 2
    assert not list((fleet.server / "trust").rglob(".*.tmp"))


def test_other_bytes_may_follow_an_unfinished_publication(
    fleet: FoundedFleet, bundle: MakeBundle, tmp_path: Path
) -> None:
    fleet.grant("digits")
    cut = Repository(fleet.server / "trust", OnlineKeys.load(fleet.server / "keys"), fleet.clock, CutAfter(2))
    with pytest.raises(PowerCut):
        cut.publish_role(fleet.sign(bundle(release=1)))
    fleet.repository.publish_role(fleet.sign(bundle(release=2)))
    assert device_takes(fleet.repository, tmp_path / "device", fleet.clock.now()) == {"digits/2.int8.bundle"}


def test_publications_from_several_threads_all_take_effect(
    fleet: FoundedFleet, bundle: MakeBundle, tmp_path: Path
) -> None:
    models = [f"model{number}" for number in range(4)]
    for model in models:
        fleet.grant(model)
    documents = [fleet.sign(bundle(model=model), model) for model in models]

    def publish(document: bytes) -> PublishedRole:
        online = OnlineKeys.load(fleet.server / "keys")
        return Repository(fleet.server / "trust", online, fleet.clock).publish_role(document)

    with ThreadPoolExecutor(4) as pool:
        assert {done.version for done in pool.map(publish, documents)} == {2}
    for model in models:
        found = device_takes(fleet.repository, tmp_path / model, fleet.clock.now(), model)
        assert found == {f"{model}/1.int8.bundle"}


def test_a_full_disk_changes_nothing(fleet: FoundedFleet, bundle: MakeBundle) -> None:
    fleet.grant("digits")
    before = fleet.repository.state()

    def full(path: Path, _data: bytes) -> None:
        raise NoSpace(f"cannot write {path.name}")

    repository = Repository(fleet.server / "trust", OnlineKeys.load(fleet.server / "keys"), fleet.clock, full)
    with pytest.raises(NoSpace):
        repository.publish_role(fleet.sign(bundle()))
    assert fleet.repository.state() == before


@pytest.mark.parametrize("name", ["1.root.json", "timestamp.json", "2.targets.json", "2.snapshot.json"])
@pytest.mark.parametrize(
    "damage", [lambda data: b"", lambda data: data[:-9], lambda data: data.replace(b"sig", b"gis", 1)]
)
def test_damaged_files_are_reported_not_served(
    fleet: FoundedFleet, name: str, damage: Callable[[bytes], bytes]
) -> None:
    fleet.grant("digits")
    path = fleet.server / "trust" / "metadata" / name
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(StateDamaged):
        fleet.repository.pack("digits")


def test_without_a_ceremony_there_is_nothing(tmp_path: Path, fleet: FoundedFleet) -> None:
    empty = Repository(tmp_path / "none", OnlineKeys.load(fleet.server / "keys"), fleet.clock)
    with pytest.raises(NotFound, match="no trust metadata yet"):
        empty.pack("digits")
    with pytest.raises(UntrustedBundle, match="not complete"):
        empty.establish([fleet.repository.role("targets")], {})


def test_unknown_roles_are_not_found(fleet: FoundedFleet) -> None:
    with pytest.raises(NotFound):
        fleet.repository.role("model-none")
    assert isinstance(Metadata.from_bytes(fleet.repository.role("snapshot")).signed, Snapshot)


def refused(fleet: FoundedFleet, document: bytes, why: str) -> None:
    """Check that a document is refused for a reason and that nothing changed."""
    before = fleet.repository.state()
    with pytest.raises(UntrustedBundle, match=why):
        fleet.repository.publish_role(document)
    with pytest.raises(UntrustedBundle, match=why):
        fleet.repository.check([document])
    assert fleet.repository.state() == before
