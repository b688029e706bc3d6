"""Signing events: who may sign what, in which order, on top of what; and what a hostile courier or server can do."""

import json
from pathlib import Path
from typing import Any

import pytest
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata, Root, Targets

from dsops.errors import Conflict, InvalidInput, NotFound, StateDamaged, UnsignedMetadata, UntrustedBundle
from dsops.trust import Policy, Ring
from dsops_controller.trust import drafts, events, signing
from dsops_controller.trust.drafts import Edit
from dsops_controller.trust.events import Event
from dsops_controller.trust.keys import OnlineKeys, OnlinePublic
from dsops_controller.trust.published import Published
from dsops_controller.trust.roles import read_role, sign_role
from dsops_controller.trust.state import advance
from dsops_controller.trust.status import check_complete, needs

ROLES = ("root", "targets", "fleet", "policy")


def policy_event(council: Any, floor: int = 2) -> Event:
    edit = council.edit()
    drafts.set_policy(edit, Policy(model="digits", floor=floor))
    event: Event = edit.event("policy", "Policy of digits", "lab")
    return event


def edited(folder: Path, name: str, change: Any) -> None:
    """Change a JSON file of an event, as somebody on its way could."""
    path = folder / name
    document = json.loads(path.read_bytes())
    change(document)
    path.write_text(json.dumps(document))


def test_two_of_three_holders_in_any_order_found_a_fleet(council: Any) -> None:
    event = council.signed(council.first, "carol")
    assert [need.sentence for need in needs(event)] == [
        f"{role} 1/2 signatures, missing: alice, bob" for role in ("root", "targets", "fleet", "policy")
    ]
    with pytest.raises(UnsignedMetadata, match="root 1/2 signatures, missing: alice, bob"):
        check_complete(event)
    council.submit(council.signed(event, "alice"))
    assert council.repository.director().fleet == "lab"


def test_a_key_that_signs_twice_counts_once(council: Any) -> None:
    event = council.signed(council.first, "alice", "alice")
    assert [len(need.signed) for need in needs(event)] == [1, 1, 1, 1]
    with pytest.raises(UnsignedMetadata):
        check_complete(event)
    with pytest.raises(UntrustedBundle, match="1 of 2 signatures; missing: bob, carol"):
        council.repository.submit(list(event.documents.values()), event.small)
    assert not council.repository.is_established


def test_a_key_cannot_count_twice_under_two_ids(council: Any) -> None:
    folder = council.stored(council.first)

    def double(document: dict[str, Any]) -> None:
        keys, role = document["signed"]["keys"], document["signed"]["roles"]["root"]
        keys["f" * 64] = keys[role["keyids"][0]]
        role["keyids"].append("f" * 64)

    edited(folder, "metadata/root.json", double)
    with pytest.raises(UntrustedBundle, match="the id of alice's key is not its own"):
        events.read(folder)


def test_a_stranger_may_sign_nothing(council: Any) -> None:
    with pytest.raises(InvalidInput, match="may sign nothing") as refused:
        council.signed(council.first, "mallory")
    assert "waits for alice, bob, carol" in refused.value.why


def test_an_event_goes_from_holder_to_holder_as_a_folder(council: Any) -> None:
    folder = council.stored(council.first)
    for name in ("bob", "carol"):
        event = events.read(folder)
        signed = council.signed(event, name)
        for role in signed.documents:
            events.save(folder, signed, role)
    event = events.read(folder)
    council.submit(event)
    council.submit(event)  # an interrupted publication is repeated
    published = Published.read(council.server / "trust")
    assert published.director() == council.repository.director()
    assert Published.of(published.documents()) == published


def test_a_published_event_with_one_more_signature_is_still_published(council: Any) -> None:
    event = council.signed(council.first, "alice", "bob")
    council.submit(event)
    before = council.repository.state()
    council.submit(council.signed(event, "carol"))
    assert council.repository.state() == before


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("metadata/root.json", lambda d: d["signed"]["roles"]["root"].update(threshold=1)),
        ("metadata/targets.json", lambda d: d["signed"]["delegations"]["roles"][0].update(threshold=1)),
        ("metadata/policy.json", lambda d: d["signed"].update(expires="2036-01-01T00:00:00Z")),
    ],
)
def test_what_is_changed_after_a_signature_is_found_by_the_next_holder(council: Any, name: str, change: Any) -> None:
    folder = council.stored(council.signed(council.first, "alice"))
    edited(folder, name, change)
    with pytest.raises(UntrustedBundle, match="the signature of alice is not of this"):
        events.read(folder)


def test_small_targets_are_what_is_signed(council: Any) -> None:
    council.found().grant("digits", "erin")
    folder = council.stored(policy_event(council))
    path = folder / "targets" / "policy" / "digits.json"
    honest = path.read_bytes()
    path.write_bytes(honest.replace(b'"floor":2', b'"floor":1'))
    with pytest.raises(UntrustedBundle, match=r"policy/digits\.json is not what was signed"):
        events.read(folder)
    path.unlink()
    with pytest.raises(UntrustedBundle, match="not what was signed"):  # the published one is looked at instead
        events.read(folder)
    path.write_bytes(honest)
    assert events.read(folder).small == {"policy/digits.json": honest}


def test_one_role_cannot_be_passed_off_as_another_or_as_a_later_one(council: Any) -> None:
    council.found()
    folder = council.stored(council.first, "again")
    (folder / "metadata" / "policy.json").write_bytes((folder / "metadata" / "fleet.json").read_bytes())
    with pytest.raises(UntrustedBundle, match=r"policy\.json is fleet"):
        events.read(folder)
    edit = council.edit()
    drafts.renew(edit, ["policy"])
    edit.roles["policy"].version = 7
    with pytest.raises(UntrustedBundle, match="policy 7 does not follow"):
        events.read(council.stored(edit.event("renew", "Renew policy", "lab"), "renew"))


def test_a_damaged_copy_of_what_is_published_is_refused(council: Any) -> None:
    council.found().grant("digits", "erin")
    folder = council.stored(policy_event(council))
    path = folder / "base" / "metadata" / "2.targets.json"
    damaged = path.read_bytes().replace(b'"threshold":2', b'"threshold":1')
    assert damaged != path.read_bytes()
    path.write_bytes(damaged)
    with pytest.raises(StateDamaged, match="damaged"):
        events.read(folder)


def test_what_is_no_event_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="not a signing event"):
        events.read(tmp_path)
    (tmp_path / "event.json").write_text('{"format":"dsops-event-9"}')
    with pytest.raises(InvalidInput):
        events.read(tmp_path)


def test_an_event_folder_is_written_once(council: Any) -> None:
    council.stored(council.first)
    with pytest.raises(Conflict):
        council.stored(council.first)
    with pytest.raises(NotFound):
        events.write(council.folder / "no" / "where", council.first, "")


def forged_base(council: Any, change: Any) -> Published:
    """What a thief of the whole server makes of the published state: targets changed, signed by the online keys."""
    published = council.repository.published()
    role = published.state.signed["targets"]
    signed = Metadata[Targets].from_bytes(role.data).signed
    change(signed)
    signed.version += 1
    online = [CryptoSigner(council.online.all("snapshot")[0])]
    forged = read_role(sign_role(signed, online))
    state = advance(published.state, [forged], council.online, council.clock.now())
    return Published(state, published.targets)


def test_no_key_is_lent_to_a_forged_base(council: Any) -> None:
    """The server shows a changed targets role as published, so that a harmless renewal would sign the change."""
    council.found().grant("digits", "erin")
    edit = Edit(forged_base(council, lambda t: t.delegations.roles["policy"].keyids.pop()), council.clock.now())
    drafts.renew(edit, ["targets"])
    event = events.read(council.stored(edit.event("renew", "Renew targets", "lab")))
    for name in ("alice", "bob", "carol"):
        with pytest.raises(UntrustedBundle, match="targets is not signed by its owners"):
            council.signed(event, name)


def test_no_key_is_lent_to_a_fleet_that_was_made_up(council: Any, tmp_path: Path) -> None:
    """Somebody founds a fleet of their own that names carol, to have her sign on top of it."""
    council.found()
    (tmp_path / "forger").mkdir()
    forger = type(council)(tmp_path / "forger")
    (forger.folder / "carol.pem").write_bytes((council.folder / "carol.pem").read_bytes())
    edit = Edit(None, council.clock.now())
    people = forger.group("mallory", "malcolm", "carol")
    drafts.found(edit, "lab", OnlinePublic.read(forger.server / "keys"), dict.fromkeys(ROLES, people))
    forger.pass_(edit.event("init", "Found fleet lab", "lab"), "mallory", "malcolm")
    edit = forger.edit()
    drafts.renew(edit, ["root"])
    event = edit.event("renew", "Renew root", "lab")
    with pytest.raises(UntrustedBundle, match="nothing that the event calls published is signed by your key"):
        council.signed(event, "carol")
    real = council.repository.role("root")
    with pytest.raises(UntrustedBundle, match="another fleet"):
        council.signed(event, "carol", known_root=real)


def test_who_signed_nothing_before_brings_a_root_along(council: Any) -> None:
    council.pass_(council.first, "alice", "bob")
    edit = council.edit()
    drafts.renew(edit, ["fleet"])
    event = edit.event("renew", "Renew fleet", "lab")
    with pytest.raises(UntrustedBundle) as refused:
        council.signed(event, "carol")
    assert "--known-root" in refused.value.hint
    council.submit(council.signed(event, "carol", "bob", known_root=council.repository.role("root")))
    assert read_role(council.repository.role("fleet")).version == 2
    drafts.renew(edit := council.edit(), ["fleet"])
    council.pass_(edit.event("renew", "Renew fleet", "lab"), "carol", "alice")  # carol signed what is published now


def test_an_event_on_a_state_that_has_passed_is_refused(council: Any) -> None:
    council.found().grant("digits", "erin")
    early, late = policy_event(council, floor=2), policy_event(council, floor=3)
    council.pass_(late, "alice", "bob")
    with pytest.raises(UntrustedBundle, match="policy 3 is old"):
        council.pass_(early, "alice", "bob")
    assert council.repository.policy("digits").floor == 3


def test_an_event_is_published_whole_or_not_at_all(council: Any) -> None:
    council.found()
    edit = council.edit()
    drafts.grant(edit, "digits", council.group("erin", "frank"))
    event = council.signed(edit.event("grant", "Owners of digits", "lab"), "alice", "bob", "erin")
    with pytest.raises(UnsignedMetadata, match="model-digits 1/2 signatures, missing: frank"):
        check_complete(event)
    with pytest.raises(UntrustedBundle, match="model-digits is not signed"):
        council.repository.submit(list(event.documents.values()), event.small)
    assert council.repository.models() == ()
    council.submit(council.signed(event, "frank"))
    assert council.repository.models() == ("digits",)


def test_a_floor_never_falls_not_even_with_every_signature(council: Any) -> None:
    council.found().grant("digits", "erin")
    council.pass_(policy_event(council, floor=4), "alice", "bob")
    with pytest.raises(Conflict, match="the floor of digits would fall"):
        policy_event(council, floor=3)
    edit = council.edit()
    edit.put("policy", "policy/digits.json", Policy(model="digits", floor=3, rings={"3": Ring()}))
    with pytest.raises(Conflict, match="the floor of digits would fall"):
        council.pass_(edit.event("policy", "", "lab"), "alice", "bob", "carol")
    del edit.targets("policy").targets["policy/digits.json"]
    with pytest.raises(Conflict, match="would vanish"):
        council.pass_(edit.event("policy", "", "lab"), "alice", "bob", "carol")
    assert council.repository.policy("digits").floor == 4


def test_publication_is_refused_when_the_client_of_any_shipped_root_would_refuse(council: Any) -> None:
    """The second root on disk lacks a signature: devices with the third one would not mind, those with the first do."""
    council.found()
    for _ in range(2):
        drafts.renew(edit := council.edit(), ["root"])
        council.pass_(edit.event("renew", "Renew root", "lab"), "alice", "bob")
    state = council.repository.state()
    second = Metadata[Root].from_bytes(state.roots[1])
    second.signatures.popitem()
    broken = type(state)(
        (state.roots[0], second.to_bytes(), state.roots[2]), state.roles, state.snapshot, state.timestamp
    )
    Published(advance(broken, [], council.online, council.clock.now()), council.repository.published().targets).write(
        council.server / "trust"
    )
    drafts.renew(edit := council.edit(), ["policy"])
    event = council.signed(edit.event("renew", "Renew policy", "lab"), "alice", "bob")
    before = council.repository.state()
    with pytest.raises(UntrustedBundle, match="a device would refuse this metadata"):
        council.submit(event)
    assert council.repository.state() == before


def test_a_wrong_answer_of_a_key_is_never_stored(council: Any) -> None:
    """A token that gives a signature of something else: found at once, not by the devices."""
    key = council.key("alice")

    class Broken(CryptoSigner):
        def sign(self, payload: bytes) -> Any:
            return super().sign(payload + b" ")

    broken = type(key)(key.uri, Broken(key.signer._private_key))
    with pytest.raises(InvalidInput, match="cannot be used"):
        signing.sign(council.first, broken, ["root"])


def test_online_keys_of_the_server_are_not_taken_for_people(council: Any) -> None:
    council.found()
    drafts.renew(edit := council.edit(), ["root"])
    event = edit.event("renew", "Renew root", "lab")
    online = OnlineKeys.load(council.server / "keys")
    thief = type(council.key("alice"))("online", CryptoSigner(online.all("timestamp")[0]))
    with pytest.raises(InvalidInput, match="may sign nothing"):
        signing.check(event, thief)


@pytest.mark.parametrize("path", ["/etc/passwd", "policy/../../x", "fleet/.hidden", "x", "model/a.json", "policy/a/b"])
def test_a_path_that_leads_elsewhere_is_refused(council: Any, path: str) -> None:
    folder = council.stored(council.first)

    def lead(document: dict[str, Any]) -> None:
        document["signed"]["targets"][path] = {"length": 1, "hashes": {"sha256": "0" * 64}}

    edited(folder, "metadata/policy.json", lead)
    with pytest.raises(UntrustedBundle, match="not the path of a small target"):
        events.read(folder)


def test_a_hostile_server_cannot_name_files_on_the_holders_machine(council: Any) -> None:
    """Role names in a snapshot become names of files in base/."""
    published = council.found().repository.published()
    state = published.state
    roles = {**state.roles, "../../../evil": state.roles["policy"]}
    forged = advance(
        type(state)(state.roots, roles, state.snapshot, state.timestamp), [], council.online, council.clock.now()
    )
    documents = Published(forged, published.targets).documents()
    with pytest.raises(StateDamaged, match="not complete"):
        Published.of(documents)


def test_no_key_is_lent_to_a_root_that_does_not_follow(council: Any) -> None:
    """A server shows, after the first root that alice signed, a root of its own, and asks for a harmless renewal."""
    council.found()
    published = council.repository.published()
    mallory = council.public("mallory")
    own = Metadata[Root].from_bytes(published.state.roots[0]).signed
    own.version = 2
    for keyid in list(own.roles["targets"].keyids):
        own.revoke_key(keyid, "targets")
    own.add_key(mallory, "targets")
    own.roles["targets"].threshold = 1
    targets = Metadata[Targets].from_bytes(published.state.roles["targets"]).signed
    targets.version = 2
    root = read_role(sign_role(own, [council.key("mallory").signer]))
    evil = read_role(sign_role(targets, [council.key("mallory").signer]))
    state = advance(published.state, [root, evil], council.online, council.clock.now())
    edit = Edit(Published(state, published.targets), council.clock.now())
    edit.take("fleet")
    edit.take("targets")
    edit.targets().delegations.roles["fleet"].keyids.append(council.public("dave").keyid)
    edit.targets().delegations.keys[council.public("dave").keyid] = council.public("dave")
    event = edit.event("renew", "Renew fleet", "lab")
    first = published.state.roots[0]
    with pytest.raises(UntrustedBundle, match="root is not signed by its owners"):
        council.signed(event, "dave", known_root=first)
    council.signed(event, "mallory", known_root=root.data)  # who believes that root is not held up


def test_only_a_role_that_is_new_may_be_signed_without_knowing_what_it_builds_upon(council: Any) -> None:
    """A stranger to a role may sign its first, empty version; a later version that is empty is another thing."""
    council.found().grant("digits", "erin")
    edit = council.edit()
    joins = council.public("dave")
    drafts.replace_people(edit, "model-digits", [joins], [], None)
    assert edit.targets("model-digits").targets == {}
    with pytest.raises(UntrustedBundle, match="nothing that the event calls published is signed by your key"):
        council.signed(edit.event("rotate", "model-digits", "lab"), "dave")
    edit = council.edit()
    drafts.grant(edit, "faces", council.group("dave", threshold=1))
    assert [need.signed for need in needs(council.signed(edit.event("grant", "faces", "lab"), "dave"))][1] == ("dave",)
