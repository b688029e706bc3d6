"""The difference that a signer reads: it leaves nothing out, whoever drew it up."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dsops_controller.trust import drafts, events
from dsops_controller.trust.checklist import checklist
from dsops_controller.trust.diff import changes
from dsops_controller.trust.events import Event
from dsops_controller.trust.holders import fingerprint, spoken

Doc = dict[str, Any]


def lines(council: Any, event: Event, role: str) -> str:
    found = {change.role: change for change in changes(event, council.clock.now())}
    return "\n".join(found[role].lines)


@pytest.fixture
def renewal(council: Any) -> Callable[[], Event]:
    """Return what draws up a renewal of every role of a fleet with one model."""
    council.found().grant("digits", "erin")

    def make() -> Event:
        edit = council.edit()
        drafts.renew(edit, ["root", "targets", "fleet", "policy", "model-digits"])
        event: Event = edit.event("renew", "Renew all", "lab")
        return event

    return make


def test_a_renewal_changes_nothing_but_lives(council: Any, renewal: Callable[[], Event]) -> None:
    for change in changes(renewal(), council.clock.now()):
        assert len(change.lines) == 2, change
        assert change.lines[0] == "nothing but its life"
        assert change.after == change.before + 1


TAMPERINGS: list[tuple[str, Callable[[Doc], object], str]] = [
    ("root", lambda d: d["roles"]["root"].update(threshold=1), "root is signed by 1 of 3 (now 2 of 3)"),
    ("root", lambda d: d["roles"]["targets"]["keyids"].pop(), "targets: carol leaves"),
    ("root", lambda d: d.update(consistent_snapshot=False), "field consistent_snapshot becomes False"),
    ("root", lambda d: d.update({"x-extra": "evil"}), "field x-extra becomes 'evil'"),
    ("root", lambda d: d["roles"]["root"].update({"x-role": 1}), "x-role"),
    ("root", lambda d: next(iter(d["keys"].values())).update({"x-dsops-holder": "zoe"}), "is said to be zoe's"),
    ("root", lambda d: next(iter(d["keys"].values())).update({"x-note": "n"}), "field x-note"),
    ("targets", lambda d: d["delegations"]["roles"][0].update(paths=["*"]), "MAY SIGN ['*']"),
    ("targets", lambda d: d["delegations"]["roles"][0].update(terminating=False), "terminating: False"),
    ("targets", lambda d: d["delegations"]["roles"].pop(), "model-digits is taken away"),
    ("targets", lambda d: d["delegations"]["roles"].reverse(), "the order in which roles are asked changes"),
    ("targets", lambda d: d["targets"].update({"x/1": {"length": 1, "hashes": {"sha256": "0" * 64}}}), "x/1"),
    ("model-digits", lambda d: d["targets"].update({"digits/1.x": {"length": 1, "hashes": {"sha256": "0" * 64}}}),
     "digits/1.x: WITHOUT VALID FACTS"),
    ("model-digits", lambda d: d.update({"\x1b[2J": 1}), "\\x1b[2J"),
]  # fmt: skip


@pytest.mark.parametrize(("role", "change", "told"), TAMPERINGS)
def test_every_change_is_told(
    council: Any, renewal: Callable[[], Event], role: str, change: Callable[[Doc], object], told: str
) -> None:
    event = renewal()
    document = json.loads(event.documents[role])
    change(document["signed"])
    changed = Event(event.info, event.base, {**event.documents, role: json.dumps(document).encode()}, event.small)
    found = lines(council, changed, role)
    assert told in found
    assert "nothing but its life" not in found
    assert found.isprintable() or "\n" in found
    assert "\x1b" not in found


def test_a_fields_of_a_role_that_nobody_knows_is_told(council: Any, renewal: Callable[[], Event]) -> None:
    event = renewal()
    document = json.loads(event.documents["root"])
    document["signed"]["roles"]["timestamp"]["x-unknown"] = "y"
    changed = Event(event.info, event.base, {**event.documents, "root": json.dumps(document).encode()}, event.small)
    assert "x-unknown" in lines(council, changed, "root")


def test_another_director_is_told(council: Any) -> None:
    council.found()
    edit = council.edit()
    drafts.replace_online(edit, "director", council.repository.prepare_key("director"))
    found = lines(council, edit.event("rotate", "", "lab"), "fleet")
    assert "directives may be signed by the server's key" in found
    assert "count no more" in found


def test_a_first_event_shows_every_key_to_be_read_aloud(council: Any) -> None:
    found = lines(council, council.first, "root")
    for name in ("alice", "bob", "carol"):
        assert f"{name}: ed25519 key {spoken(fingerprint(council.public(name)))}" in found


def test_what_is_read_aloud_does_not_depend_on_who_signed(council: Any) -> None:
    before = [change.digest for change in changes(council.first, council.clock.now())]
    after = [change.digest for change in changes(council.signed(council.first, "bob"), council.clock.now())]
    assert before == after


def test_the_checklist_names_holders_and_digests(council: Any) -> None:
    text = checklist(council.first, council.clock.now())
    assert "- [ ] alice\n- [ ] bob\n- [ ] carol" in text
    assert "- **root**: 2 of alice, bob, carol" in text
    for change in changes(council.first, council.clock.now()):
        assert spoken(change.digest) in text


def test_the_event_says_the_same_from_the_folder(council: Any, renewal: Callable[[], Event], tmp_path: Path) -> None:
    event = renewal()
    events.write(tmp_path / "renewal", event, "")
    assert changes(events.read(tmp_path / "renewal"), council.clock.now()) == changes(event, council.clock.now())
