"""Other keys: those of the server after a theft, and the people behind a role. Devices that were away follow."""

from typing import Any

import pytest
from securesystemslib.signer import CryptoSigner

from dsops import dsse
from dsops.errors import Conflict, InvalidInput, NotFound, UntrustedBundle
from dsops_controller.trust import client, drafts
from dsops_controller.trust.diff import changes
from dsops_controller.trust.director_keys import DirectorKeys
from dsops_controller.trust.holders import holder_of
from dsops_controller.trust.keys import KeyFolder, OnlineKeys
from dsops_controller.trust.repository import Repository
from dsops_controller.trust.roles import read_role
from dsops_controller.trust.state import TrustState, read_timestamp

DAY_S = 86400.0


def device(council: Any, name: str, files: dict[str, bytes] | None = None, root: bytes | None = None) -> None:
    """Let a device, which keeps its state, take what is published (or what somebody made up)."""
    state = council.repository.state()
    first = state.roots[0] if root is None else root
    client.accept(council.folder / name, files or state.files(state.roles), first, [], council.clock.now())


def rotated(council: Any, *roles: str) -> Any:
    edit = council.edit()
    for role in roles:
        drafts.replace_online(edit, role, council.repository.prepare_key(role))
    return edit.event("rotate", "Other keys for the server", "lab")


def fast_forwarded(council: Any, version: int) -> dict[str, bytes]:
    """What a thief of the timestamp's key makes: the published state under a version that nobody reaches."""
    state = council.repository.state()
    document = read_timestamp(state.timestamp)
    document.signed.version = version
    document.signatures.clear()
    document.sign(CryptoSigner(KeyFolder(council.folder / "stolen").private("timestamp")))
    files: dict[str, bytes] = TrustState(state.roots, state.roles, state.snapshot, document.to_bytes()).files(
        state.roles
    )
    return files


def test_after_a_fast_forward_a_new_timestamp_key_brings_devices_back(council: Any) -> None:
    """security.md 1.2: a stolen timestamp key publishes version 2^31; only a root with another key helps."""
    council.found()
    device(council, "device")
    device(council, "device", fast_forwarded(council, 2**31))
    council.clock.advance(2 * DAY_S)
    assert council.repository.renew()
    with pytest.raises(UntrustedBundle, match="must be >= 2147483648"):
        device(council, "device")
    council.pass_(rotated(council, "timestamp"), "alice", "bob")
    device(council, "device")
    device(council, "fresh")
    with pytest.raises(UntrustedBundle):  # the stolen key counts no more
        device(council, "device", fast_forwarded(council, 2**31 + 1))


@pytest.fixture(autouse=True)
def stolen(council: Any) -> None:
    """A thief's copy of the server's first keys."""
    (council.folder / "stolen").mkdir()
    for file in (council.server / "keys").glob("*.pem"):
        (council.folder / "stolen" / file.name).write_bytes(file.read_bytes())


def test_the_server_has_a_working_key_before_and_after_a_rotation(council: Any) -> None:
    council.found().grant("digits", "erin")
    event = rotated(council, "timestamp", "snapshot", "director")
    assert len(list((council.server / "keys").glob("timestamp*.pem"))) == 2
    council.clock.advance(2 * DAY_S)
    assert council.repository.renew()  # with the old keys: the event is not published
    device(council, "device")
    event = council.signed(event, "alice", "bob")
    council.submit(event)
    device(council, "device")
    council.clock.advance(2 * DAY_S)
    assert council.repository.renew()  # with the new ones
    device(council, "device")
    old = {file.read_bytes() for file in (council.folder / "stolen").glob("*.pem")}
    kept = {file.read_bytes() for file in (council.server / "keys").glob("*.pem")}
    assert len(kept) == 3
    assert not old & kept
    council.submit(event)  # the same again changes nothing, and needs no key that is gone


def test_a_key_that_was_made_for_nothing_does_no_harm(council: Any) -> None:
    council.found()
    rotated(council, "timestamp")
    council.pass_(rotated(council, "timestamp"), "bob", "carol")
    device(council, "device")
    again = Repository(council.server / "trust", OnlineKeys.load(council.server / "keys"), council.clock)
    council.clock.advance(2 * DAY_S)
    assert again.renew()
    device(council, "device")


def test_directives_are_signed_by_the_key_that_devices_believe(council: Any) -> None:
    keys = DirectorKeys(council.repository, council.online)
    first = dsse.key_id(keys()[0].public_key())  # before the first ceremony: the only one there is
    council.found()
    event = rotated(council, "director")
    assert [dsse.key_id(key.public_key()) for key in keys()] == [first]
    council.pass_(event, "alice", "carol")
    (second,) = (dsse.key_id(key.public_key()) for key in keys())
    assert second != first
    assert set(council.repository.director().keyring()) == {second}
    for file in (council.server / "keys").glob("director*.pem"):
        file.unlink()
    (council.server / "keys" / "director.pem").write_bytes((council.folder / "stolen" / "director.pem").read_bytes())
    with pytest.raises(Conflict, match="another director's key"):
        DirectorKeys(council.repository, council.online)()


def test_a_device_that_knows_only_the_first_root_follows_every_rotation(council: Any) -> None:
    council.found()
    device(council, "away")
    first = council.repository.role("root")
    for joins, leaves, signers in (
        ("dave", "alice", ("alice", "bob", "dave")),
        ("erin", "bob", ("bob", "carol", "dave", "erin")),
        ("frank", "carol", ("carol", "dave", "erin", "frank")),
    ):
        edit = council.edit()
        drafts.replace_people(edit, "root", [council.public(joins)], [leaves], None)
        event = edit.event("rotate", "root", "lab")
        for name in signers:
            event = council.signed(event, name, known_root=council.repository.newest_root())
        council.submit(event)
    device(council, "away")
    for number, root in enumerate(council.repository.state().roots, start=1):
        device(council, f"shipped-{number}", root=root)
    assert first == council.repository.state().roots[0]
    holders = {holder_of(key) for key in read_role(council.repository.newest_root()).root.keys.values()}
    assert {"dave", "erin", "frank"} <= holders


def test_the_new_holders_alone_cannot_take_a_root_over(council: Any) -> None:
    council.found()
    edit = council.edit()
    joining = [council.public("mallory"), council.public("malcolm")]
    drafts.replace_people(edit, "root", joining, ["alice", "bob"], None)
    event = edit.event("rotate", "root", "lab")
    for name in ("mallory", "malcolm"):
        event = council.signed(event, name, known_root=council.repository.role("root"))
    with pytest.raises(UntrustedBundle, match="root is not signed by its owners"):
        council.repository.submit(list(event.documents.values()), event.small)
    event = council.signed(event, "alice")
    with pytest.raises(UntrustedBundle, match="1 of 2 signatures; missing: bob, carol"):
        council.repository.submit(list(event.documents.values()), event.small)
    council.pass_(event, "carol")


@pytest.mark.parametrize("role", ["targets", "policy", "fleet", "model-digits"])
def test_people_behind_every_role_can_change(council: Any, role: str) -> None:
    council.found().grant("digits", "erin")
    leaves = "erin" if role == "model-digits" else "alice"
    edit = council.edit()
    drafts.replace_people(edit, role, [council.public("dave")], [leaves], None)
    event = council.signed(edit.event("rotate", role, "lab"), "bob", "carol")
    event = council.signed(event, "dave", known_root=council.repository.role("root"))
    council.submit(event)
    state = council.repository.state()
    by = state.root if role == "targets" else state.targets
    assert leaves not in {holder_of(by.get_key(keyid)) for keyid in by.get_delegated_role(role).keyids}
    device(council, "device")
    drafts.renew(edit := council.edit(), [role])
    event = edit.event("renew", role, "lab")
    with pytest.raises(InvalidInput, match="may sign nothing"):
        council.signed(event, leaves)


def test_a_role_is_not_left_without_the_signatures_that_it_needs(council: Any) -> None:
    """Targets hands a model to others, but the model's role is not signed again: its devices would be stuck."""
    council.found().grant("digits", "erin")
    edit = council.edit()
    drafts.replace_people(edit, "model-digits", [council.public("dave")], ["erin"], None)
    event = edit.event("rotate", "model-digits", "lab")
    alone = type(event)(event.info, event.base, {"targets": event.documents["targets"]}, {})
    with pytest.raises(UntrustedBundle, match="model-digits is not signed by its owners"):
        council.pass_(alone, "alice", "bob")


def test_a_threshold_can_rise_only_as_far_as_there_are_keys(council: Any) -> None:
    council.found()
    with pytest.raises(InvalidInput, match="4 of 3 keys cannot be"):
        drafts.replace_people(council.edit(), "root", [], [], 4)
    with pytest.raises(InvalidInput, match="nothing would change"):
        drafts.replace_people(council.edit(), "root", [], [], None)
    with pytest.raises(NotFound, match="no key of 'mallory'") as missing:
        drafts.replace_people(council.edit(), "root", [], ["mallory"], None)
    assert "alice" in missing.value.why
    with pytest.raises(NotFound, match="no role model-digits"):
        drafts.replace_people(council.edit(), "model-digits", [], ["erin"], None)
    edit = council.edit()
    drafts.replace_people(edit, "root", [], [], 3)
    event = council.signed(edit.event("rotate", "root", "lab"), "alice", "bob")
    with pytest.raises(UntrustedBundle, match="2 of 3 signatures; missing: carol"):
        council.repository.submit(list(event.documents.values()), event.small)
    council.pass_(event, "carol")


def test_only_keys_of_the_server_are_made_by_the_server(council: Any) -> None:
    council.found()
    with pytest.raises(InvalidInput, match="not a role of the server"):
        council.repository.prepare_key("root")
    assert not list((council.server / "keys").glob("root*"))


def test_a_rotation_shows_all_that_a_role_says_for_it_may_be_a_thiefs(council: Any) -> None:
    council.found().grant("digits", "erin")
    edit = council.edit()
    drafts.replace_people(edit, "policy", [council.public("dave")], ["alice"], None)
    found = {change.role: change.lines for change in changes(edit.event("rotate", "", "lab"), council.clock.now())}
    assert "digits: no release below 1" in found["policy"]
    drafts.renew(edit := council.edit(), ["policy"])
    (renewed,) = changes(edit.event("renew", "", "lab"), council.clock.now())
    assert renewed.lines[0] == "nothing but its life"
