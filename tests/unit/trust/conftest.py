from datetime import UTC, datetime
from pathlib import Path

import pytest
from securesystemslib.signer import Key

from dsops.clock import ManualClock
from dsops_controller.trust import drafts, events, signers, signing
from dsops_controller.trust.drafts import Edit, Group
from dsops_controller.trust.events import Event
from dsops_controller.trust.holders import named
from dsops_controller.trust.keys import OnlineKeys, OnlinePublic
from dsops_controller.trust.repository import Repository
from dsops_controller.trust.signers import OpenKey
from dsops_controller.trust.status import check_complete
from dsops_controller.trust.testing import FoundedFleet, MakeBundle, bundle_maker

ROLES = ("root", "targets", "fleet", "policy")


@pytest.fixture
def fleet(tmp_path: Path) -> FoundedFleet:
    return FoundedFleet.create(tmp_path, ManualClock(datetime(2026, 6, 1, 12, tzinfo=UTC)))


@pytest.fixture
def bundle(tmp_path: Path) -> MakeBundle:
    return bundle_maker(tmp_path)


class Council:
    """A fleet whose root, targets, fleet and policy are signed by two of alice, bob and carol, in events."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.clock = ManualClock(datetime(2026, 6, 1, 12, tzinfo=UTC))
        self.server = folder / "server"
        self.online = OnlineKeys.create(self.server / "keys")
        self.repository = Repository(self.server / "trust", self.online, self.clock)
        people = self.group("alice", "bob", "carol")
        edit = Edit(None, self.clock.now())
        drafts.found(edit, "lab", OnlinePublic.read(self.server / "keys"), dict.fromkeys(ROLES, people))
        self.first = edit.event("init", "Found fleet lab", "lab")

    def key(self, name: str) -> OpenKey:
        """The key of a holder, made at first use."""
        path = self.folder / f"{name}.pem"
        if not path.exists():
            signers.make_file(path)
        return signers.open_key(f"file:{path}", lambda _name: "")

    def public(self, name: str) -> Key:
        return named(self.key(name).public, name)

    def group(self, *names: str, threshold: int = 2) -> Group:
        return Group([self.public(name) for name in names], threshold)

    def found(self) -> "Council":
        self.pass_(self.first, "alice", "bob", "carol")
        return self

    def grant(self, model: str, *owners: str) -> None:
        edit = self.edit()
        drafts.grant(edit, model, self.group(*owners, threshold=len(owners)))
        self.pass_(edit.event("grant", model, "lab"), "alice", "bob", "carol", *owners)

    def edit(self) -> Edit:
        return Edit(self.repository.published(), self.clock.now())

    def signed(self, event: Event, *names: str, known_root: bytes | None = None) -> Event:
        for name in names:
            key = self.key(name)
            event = signing.sign(event, key, signing.check(event, key, known_root))
        return event

    def submit(self, event: Event) -> None:
        check_complete(event)
        self.repository.submit(list(event.documents.values()), event.small)

    def pass_(self, event: Event, *names: str) -> None:
        self.submit(self.signed(event, *names))

    def stored(self, event: Event, name: str = "event") -> Path:
        """Write an event to a folder, as it goes from holder to holder."""
        events.write(self.folder / name, event, "checklist")
        return self.folder / name


@pytest.fixture
def council(tmp_path: Path) -> Council:
    return Council(tmp_path)
