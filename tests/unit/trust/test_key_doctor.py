"""The doctor: the calendar, and what follows from the theft of keys, computed from what is published."""

from typing import Any

import pytest

from dsops.trust import Policy, Ring
from dsops_controller.trust import drafts, signing
from dsops_controller.trust.bundle_roles import approve
from dsops_controller.trust.doctor import Report, Theft, examine, signers_of, warnings
from dsops_controller.trust.drafts import Group
from dsops_controller.trust.testing import FoundedFleet, MakeBundle

DAY_S = 86400.0


def report(council: Any) -> Report:
    return examine(council.repository.published(), council.clock.now())


def theft(found: Report, *keys: str) -> Theft:
    return next(theft for theft in found.thefts if set(keys) <= set(theft.keys))


def set_policy(council: Any, policy: Policy) -> None:
    edit = council.edit()
    drafts.set_policy(edit, policy)
    council.pass_(edit.event("policy", "", "lab"), "alice", "bob")


def test_the_calendar_says_who_must_act_and_when(council: Any) -> None:
    council.found().grant("digits", "erin")
    days = {day.role: (day.days_left, day.who, day.is_due) for day in report(council).calendar}
    assert days == {
        "timestamp": (3, "the server, by itself", False),
        "snapshot": (14, "the server, by itself", False),
        "policy": (90, "2 of alice, bob, carol", False),
        "fleet": (180, "2 of alice, bob, carol", False),
        "model-digits": (180, "1 of erin", False),
        "root": (365, "2 of alice, bob, carol", False),
        "targets": (365, "2 of alice, bob, carol", False),
    }
    assert not report(council).is_due
    council.clock.advance(2.5 * DAY_S)  # and the server did not renew
    assert [day.role for day in report(council).calendar if day.is_due] == ["timestamp"]
    council.repository.renew()
    assert not report(council).is_due
    council.clock.advance(70 * DAY_S)
    council.repository.renew()
    assert [day.role for day in report(council).calendar if day.is_due] == ["policy"]


def test_one_key_of_two_decides_nothing(council: Any) -> None:
    council.found()
    found = theft(report(council), "alice")
    assert found.roles == ()
    assert found.lines == ("nothing alone; root, targets, fleet, policy with 1 more of bob, carol",)


def test_every_pair_that_reaches_a_threshold_is_found(council: Any) -> None:
    council.found().grant("digits", "erin", "frank")
    found = report(council)
    pair = theft(found, "alice and bob", "alice and carol", "bob and carol")
    assert pair.roles == ("root", "targets", "fleet", "policy")
    assert pair.lines[0].startswith("replace every key of the fleet")
    owners = theft(found, "erin and frank")
    assert owners.roles == ("model-digits",)
    assert (
        "approve any bytes as digits from release 1 on: by the policy, a new release on every device" in owners.lines[0]
    )
    pairs = {name for theft_ in found.thefts for name in theft_.keys if " and " in name}
    assert pairs == {"alice and bob", "alice and carol", "bob and carol", "erin and frank"}


def test_what_a_thief_can_reach_follows_from_the_signed_policy(council: Any, bundle: MakeBundle) -> None:
    council.found().grant("digits", "erin")
    for release in (1, 2, 3):
        current = council.repository.role("model-digits")
        signed = approve(bundle(release=release), current, [council.key("erin")], council.clock.now())
        council.repository.publish_role(signed)
    rings = {"3": Ring(fraction=0.05, salt="a", canary=("cam-1",))}
    set_policy(council, Policy(model="digits", floor=2, default_ring=None, rings=rings))
    found = report(council)
    director = theft(found, "director (server)").lines[0]
    assert "digits: release 2 on no device, release 3 on 5 % of the devices and cam-1" in director
    assert "release 1" not in director
    owner = theft(found, "erin").lines[0]
    assert "a new release on no device; release 3 on 5 % of the devices and cam-1" in owner
    assert "from release 2 on" in owner
    set_policy(council, Policy(model="digits", floor=3, default_ring=None, rings=rings))
    assert "release 2" not in theft(report(council), "director (server)").lines[0]


def test_the_server_as_a_whole_is_worth_more_than_its_keys(council: Any) -> None:
    council.found().grant("digits", "erin")
    found = report(council)
    assert theft(found, "snapshot (server)").lines == ("nothing: a snapshot counts only under a timestamp",)
    assert "hold devices at what is published now, until 2026-06-15" in theft(found, "timestamp (server)").lines[0]
    whole = theft(found, "the whole server")
    assert whole.roles == ("snapshot", "timestamp", "director")
    assert any("hide new versions" in line for line in whole.lines)
    assert not any("approve any bytes" in line for line in whole.lines)


def test_a_good_ceremony_has_no_weakness(council: Any) -> None:
    council.found()
    assert report(council).warnings == ()


def test_every_weakness_is_named(fleet: FoundedFleet) -> None:
    found = warnings(signers_of(fleet.repository.published()))
    assert found == [
        "fleet: one key alone signs it",
        (
            "fleet: the loss of one key stops it until 2 of targets-1, targets-2, targets-3 name other keys "
            "(dsops trust rotate fleet)"
        ),
        "policy: one key alone signs it",
        (
            "policy: the loss of one key stops it until 2 of targets-1, targets-2, targets-3 name other keys "
            "(dsops trust rotate policy)"
        ),
    ]


def test_a_root_that_one_loss_destroys_is_named(council: Any) -> None:
    council.found()
    edit = council.edit()
    drafts.replace_people(edit, "root", [], ["carol"], None)
    council.pass_(edit.event("rotate", "", "lab"), "alice", "bob")
    (warning,) = report(council).warnings
    assert warning.startswith("root: the loss of one key is fatal")


def test_one_holder_on_both_sides_of_a_threshold_is_named(council: Any) -> None:
    council.found()
    edit = council.edit()
    second = type(council.public("alice")).from_dict(
        council.public("dave").keyid, council.public("dave").to_dict() | {"x-dsops-holder": "alice"}
    )
    drafts.replace_people(edit, "root", [second], [], None)
    council.pass_(edit.event("rotate", "", "lab"), "alice", "bob")
    found = report(council)
    assert found.warnings == ("root: alice holds keys enough to sign it alone, whatever the threshold says",)
    names = {name for theft_ in found.thefts for name in theft_.keys}
    assert sum(name.startswith("alice [") and " and " not in name for name in names) == 2  # told apart


def test_a_key_of_the_server_in_an_offline_role_is_named(council: Any) -> None:
    council.found()
    timestamp = next(iter(council.repository.state().root.roles["timestamp"].keyids))
    edit = council.edit()
    drafts.replace_people(edit, "policy", [council.repository.state().root.keys[timestamp]], [], 1)
    event = council.signed(edit.event("rotate", "", "lab"), "alice", "bob")
    council.submit(event)
    assert "policy: the server is a key of the server: whoever has the server has it" in report(council).warnings
    assert theft(report(council), "timestamp (server)").roles == ("timestamp", "policy")


@pytest.mark.parametrize("threshold", [1, 3])
def test_thresholds_are_reported_as_they_are(council: Any, threshold: int) -> None:
    people = council.group("alice", "bob", "carol", threshold=threshold)
    assert isinstance(people, Group)
    council.found()
    edit = council.edit()
    drafts.replace_people(edit, "root", [], [], threshold)
    event = edit.event("rotate", "", "lab")
    for name in ("alice", "bob", "carol"):
        key = council.key(name)
        event = signing.sign(event, key, signing.check(event, key))
    council.submit(event)
    pair = theft(report(council), "alice and bob")
    assert ("root" in pair.roles) is False  # with 1 alone they had it, with 3 two do not
    assert ("root" in theft(report(council), "alice").roles) is (threshold == 1)
