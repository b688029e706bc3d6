"""The ceremony: what people with offline keys can do, and what a hostile server cannot make them do."""

import shutil
import stat
from pathlib import Path

import pytest
from tuf.api.metadata import Metadata, TargetFile, Targets

from dsops.clock import ManualClock, SystemClock
from dsops.errors import Conflict, InvalidInput, MalformedBundle, NotFound, UntrustedBundle
from dsops.trust import Policy, Ring, TargetFacts
from dsops_controller.trust import ceremony
from dsops_controller.trust.keys import KeyFolder, OnlineKeys, OnlinePublic
from dsops_controller.trust.repository import Repository
from dsops_controller.trust.roles import read_role, sign_role
from dsops_controller.trust.testing import FoundedFleet, MakeBundle

DAY_S = 86400.0


def test_init_founds_a_fleet_and_keeps_every_key_private(fleet: FoundedFleet) -> None:
    names = {file.name for file in fleet.keys.iterdir()}
    assert names == {*(f"{r}-{n}.pem" for r in ("root", "targets") for n in (1, 2, 3)), "fleet.pem", "policy.pem"}
    assert {stat.S_IMODE(file.stat().st_mode) for file in fleet.keys.iterdir()} == {0o600}
    assert stat.S_IMODE(fleet.keys.stat().st_mode) == 0o700
    director = fleet.repository.director()
    assert (director.fleet, director.keys) == ("lab", (OnlinePublic.read(fleet.server / "keys").director,))
    root = read_role(fleet.repository.role("root")).root
    assert root.roles["root"].threshold == 2
    assert len(root.roles["root"].keyids) == 3
    assert root.consistent_snapshot is True


def test_no_offline_key_reaches_the_server(fleet: FoundedFleet) -> None:
    fleet.grant("digits")
    secrets = [file.read_bytes() for file in fleet.keys.iterdir()]
    on_server = b"".join(file.read_bytes() for file in fleet.server.rglob("*") if file.is_file())
    assert not any(secret in on_server for secret in secrets)


def test_a_fleet_is_founded_once(fleet: FoundedFleet) -> None:
    with pytest.raises(Conflict, match="lab"):
        ceremony.init(fleet.keys, fleet.server, fleet="other", clock=fleet.clock)


@pytest.mark.parametrize(("keys", "threshold"), [(0, 0), (2, 3), (3, 0), (10, 2)])
def test_a_threshold_must_be_possible(tmp_path: Path, keys: int, threshold: int) -> None:
    with pytest.raises(InvalidInput):
        ceremony.init(tmp_path / "k", tmp_path / "s", fleet="lab", root_keys=keys, threshold=threshold)
    assert not (tmp_path / "k").exists()


def test_init_needs_a_server_and_a_name(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no keys yet"):
        ceremony.init(tmp_path / "k", tmp_path / "s", fleet="lab")
    OnlineKeys.create(tmp_path / "s" / "keys")
    for name in (None, " ", "x" * 65):
        with pytest.raises(InvalidInput):
            ceremony.init(tmp_path / "k", tmp_path / "s", fleet=name)
    assert not (tmp_path / "k").exists()


def test_the_fleets_name_is_the_servers(tmp_path: Path) -> None:
    online = OnlineKeys.create(tmp_path / "s" / "keys")
    (tmp_path / "s" / "controller.toml").write_text('fleet = "plant"\n')
    with pytest.raises(InvalidInput, match="says 'plant'"):
        ceremony.init(tmp_path / "k", tmp_path / "s", fleet="other")
    ceremony.init(tmp_path / "k", tmp_path / "s")
    assert Repository(tmp_path / "s" / "trust", online, SystemClock()).director().fleet == "plant"


def test_an_interrupted_init_uses_the_keys_that_are_there(tmp_path: Path) -> None:
    KeyFolder(tmp_path / "k").make("root-1")
    before = (tmp_path / "k" / "root-1.pem").read_bytes()
    OnlineKeys.create(tmp_path / "s" / "keys")
    ceremony.init(tmp_path / "k", tmp_path / "s", fleet="lab")
    assert (tmp_path / "k" / "root-1.pem").read_bytes() == before


def test_grant_delegates_exactly_the_models_paths(fleet: FoundedFleet) -> None:
    fleet.grant("digits", floor=3)
    targets = read_role(fleet.repository.role("targets")).targets
    assert targets.delegations is not None
    assert targets.delegations.roles is not None
    role = targets.delegations.roles["model-digits"]
    assert role.paths == ["digits/*"]
    assert role.is_delegated_path("digits/1.int8.bundle")
    assert not role.is_delegated_path("faces/1.int8.bundle")
    assert fleet.repository.policy("digits") == Policy(model="digits", floor=3)
    assert fleet.repository.models() == ("digits",)


def test_grant_refuses_a_second_owner_and_a_bad_name(fleet: FoundedFleet) -> None:
    fleet.grant("digits")
    with pytest.raises(Conflict):
        fleet.grant("digits")
    with pytest.raises(InvalidInput):
        fleet.grant("../etc")


def test_grant_needs_enough_offline_keys(fleet: FoundedFleet, tmp_path: Path) -> None:
    few = tmp_path / "few"
    few.mkdir()
    for name in ("targets-1", "policy"):
        shutil.copy(fleet.keys / f"{name}.pem", few)
    with pytest.raises(NotFound, match="targets needs 2 of its keys"):
        ceremony.grant(few, fleet.server, "digits", clock=fleet.clock)
    shutil.copy(fleet.keys / "targets-2.pem", few)
    ceremony.grant(few, fleet.server, "digits", clock=fleet.clock)
    assert fleet.repository.models() == ("digits",)


def test_a_signed_bundle_is_named_with_its_facts(fleet: FoundedFleet, bundle: MakeBundle) -> None:
    fleet.grant("digits")
    document = fleet.sign(bundle(release=4))
    role = read_role(document)
    target = role.targets.targets["digits/4.int8.bundle"]
    facts = TargetFacts.model_validate(target.custom)
    assert (role.name, role.version) == ("model-digits", 2)
    assert (facts.model, facts.release, facts.variant) == ("digits", 4, "int8")


def test_signing_twice_changes_nothing(fleet: FoundedFleet, bundle: MakeBundle) -> None:
    fleet.grant("digits")
    fleet.repository.publish_role(fleet.sign(bundle()))
    assert fleet.sign(bundle()) == fleet.repository.role("model-digits")


def test_a_release_is_signed_with_one_content_only(fleet: FoundedFleet, bundle: MakeBundle) -> None:
    fleet.grant("digits")
    fleet.repository.publish_role(fleet.sign(bundle(release=2)))
    with pytest.raises(Conflict, match="other bytes"):
        fleet.sign(bundle(release=2, payload=b"other weights"))
    with pytest.raises(Conflict, match="is old"):
        fleet.sign(bundle(release=1))
    fleet.repository.publish_role(fleet.sign(bundle(release=2, variant="fp32")))
    assert len(read_role(fleet.repository.role("model-digits")).targets.targets) == 2


def test_a_bundle_of_another_model_or_a_damaged_one_is_not_signed(fleet: FoundedFleet, bundle: MakeBundle) -> None:
    fleet.grant("digits")
    fleet.grant("faces")
    with pytest.raises(UntrustedBundle, match="not the role of faces"):
        fleet.sign(bundle(model="faces"))
    damaged = bundle()
    damaged.write_bytes(damaged.read_bytes()[:-1])
    with pytest.raises(MalformedBundle):
        fleet.sign(damaged)


def test_an_owner_does_not_sign_what_the_server_slipped_in(fleet: FoundedFleet, bundle: MakeBundle) -> None:
    fleet.grant("digits")
    document = Metadata[Targets].from_bytes(fleet.repository.role("model-digits"))
    evil = TargetFile.from_data("digits/9.int8.bundle", b"evil", ["sha256"])
    document.signed.targets[evil.path] = evil
    with pytest.raises(UntrustedBundle, match="not signed by your key"):
        ceremony.sign_bundle(bundle(), fleet.keys, document.to_bytes(), fleet.clock)
    stolen = sign_role(document.signed, [fleet.online("snapshot")])
    with pytest.raises(UntrustedBundle, match="not signed by your key"):
        ceremony.sign_bundle(bundle(), fleet.keys, stolen, fleet.clock)


def test_a_policy_is_replaced_and_its_floor_never_falls(fleet: FoundedFleet) -> None:
    fleet.grant("digits", floor=2)
    ring = Ring(fraction=0.05, salt="a", canary=("cam-1",))
    ceremony.set_policy(fleet.keys, fleet.server, Policy(model="digits", floor=2, rings={"3": ring}), clock=fleet.clock)
    assert fleet.repository.policy("digits").rings["3"] == ring
    with pytest.raises(Conflict, match="floor"):
        ceremony.set_policy(fleet.keys, fleet.server, Policy(model="digits", floor=1), clock=fleet.clock)
    with pytest.raises(NotFound):
        ceremony.set_policy(fleet.keys, fleet.server, Policy(model="faces"), clock=fleet.clock)


def test_every_role_can_be_signed_again_after_all_have_expired(fleet: FoundedFleet) -> None:
    fleet.grant("digits")
    fleet.clock.advance(400 * DAY_S)
    with pytest.raises(UntrustedBundle):
        ceremony.renew(fleet.keys, fleet.server, ["policy"], fleet.clock)
    roles = ["root", "targets", "fleet", "policy", "model-digits"]
    ceremony.renew(fleet.keys, fleet.server, roles, fleet.clock)
    assert min(fleet.repository.expiries().values()) > fleet.clock.now()
    assert read_role(fleet.repository.newest_root()).version == 2
    assert read_role(fleet.repository.role("root")).version == 1
    assert sorted(fleet.repository.pack("digits").metadata)[:2] == ["1.root.json", "2.fleet.json"]


def test_prune_drops_old_releases_but_never_the_newest(fleet: FoundedFleet, bundle: MakeBundle) -> None:
    fleet.grant("digits")
    for release in (1, 2, 3):
        fleet.repository.publish_role(fleet.sign(bundle(release=release)))
    current = fleet.repository.role("model-digits")
    kept = read_role(ceremony.prune(fleet.keys, current, "digits", 3, fleet.clock)).targets.targets
    assert list(kept) == ["digits/3.int8.bundle"]
    kept = read_role(ceremony.prune(fleet.keys, current, "digits", 99, fleet.clock)).targets.targets
    assert list(kept) == ["digits/3.int8.bundle"]


@pytest.mark.parametrize("content", [b"", b"-----BEGIN PRIVATE KEY-----\n", b"\xff\xfe"])
def test_a_damaged_key_file_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "policy.pem").write_bytes(content)
    with pytest.raises(InvalidInput, match=r"policy\.pem"):
        KeyFolder(tmp_path).signer("policy")


def test_a_key_name_cannot_leave_its_folder(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput):
        KeyFolder(tmp_path).make("../root-1")


def test_server_keys_are_made_once(tmp_path: Path) -> None:
    first = OnlineKeys.create(tmp_path)
    again = OnlineKeys.create(tmp_path)
    assert first.all("snapshot")[0].private_bytes_raw() == again.all("snapshot")[0].private_bytes_raw()
    assert {stat.S_IMODE(file.stat().st_mode) for file in tmp_path.iterdir()} == {0o600}


def test_signing_uses_the_time_that_is_passed_in(fleet: FoundedFleet, bundle: MakeBundle) -> None:
    fleet.grant("digits")
    later = ManualClock(fleet.clock.now())
    later.advance(10 * DAY_S)
    role = read_role(ceremony.sign_bundle(bundle(), fleet.keys, fleet.repository.role("model-digits"), later))
    assert (role.signed.expires - later.now()).days == 180
