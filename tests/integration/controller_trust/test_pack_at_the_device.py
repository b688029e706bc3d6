"""What the repository publishes, the device's own trust store takes; and a real directive is approved with it."""

from datetime import timedelta
from pathlib import Path

import pytest

from dsops.clock import ManualClock
from dsops.directive import Directive, Recipient, check_directive
from dsops.errors import BelowFloor, UntrustedBundle
from dsops.messages import TrustPack, decode
from dsops.trust import Policy, approve
from dsops_agent.trust.store import TrustStore
from dsops_controller.bundles import Bundles
from dsops_controller.db.database import Database
from dsops_controller.trust import ceremony
from dsops_controller.trust.keys import OnlineKeys
from dsops_controller.trust.testing import FoundedFleet, MakeBundle

pytestmark = pytest.mark.integration

DAY_S = 86400.0


def take(store: TrustStore, model: str, pack: TrustPack) -> None:
    assert store.accept(model, pack.head, pack.documents()) == ()


def test_a_device_approves_what_owner_policy_and_director_say(
    fleet: FoundedFleet, bundle: MakeBundle, db: Database, tmp_path: Path, clock: ManualClock
) -> None:
    path = bundle()
    record = Bundles(db, tmp_path / "bundles", fleet.repository, clock).push(path.read_bytes(), fleet.sign(path))
    device = TrustStore(tmp_path / "device", fleet.repository.role("root"), clock)
    take(device, "digits", decode(TrustPack, fleet.repository.pack("digits").encode()))

    director = OnlineKeys.load(fleet.server / "keys").director
    now = clock.now()
    directive = Directive(
        fleet="lab",
        device="cam-1",
        seq=1,
        issued=now,
        expires=now + timedelta(days=1),
        slots={"digits": record.slot("de-1")},
    )
    recipient = Recipient("lab", "cam-1", device.director().keyring())
    slot = check_directive(directive.sign(director), recipient, last_seq=0, now=now).slots["digits"]
    target = device.target("digits", slot.path)
    approved = approve("digits", slot, target, device.policy("digits"), device="cam-1", hardware="x86_64")
    assert (approved.sha256, approved.index) == (record.sha256, record.index_sha256)

    ceremony.set_policy(fleet.keys, fleet.server, Policy(model="digits", floor=2), clock)
    take(device, "digits", fleet.repository.pack("digits"))
    with pytest.raises(BelowFloor, match="the floor is 2"):
        approve("digits", slot, target, device.policy("digits"), device="cam-1", hardware="x86_64")


def test_a_device_refuses_the_pack_of_yesterday(fleet: FoundedFleet, tmp_path: Path, clock: ManualClock) -> None:
    device = TrustStore(tmp_path / "device", fleet.repository.role("root"), clock)
    old = fleet.repository.pack("digits")
    ceremony.set_policy(fleet.keys, fleet.server, Policy(model="digits", floor=2), clock)
    take(device, "digits", fleet.repository.pack("digits"))
    with pytest.raises(UntrustedBundle):
        take(device, "digits", old)
    assert device.policy("digits").floor == 2


def test_a_device_follows_new_roots_and_renewals_for_a_year(
    fleet: FoundedFleet, tmp_path: Path, clock: ManualClock
) -> None:
    device = TrustStore(tmp_path / "device", fleet.repository.role("root"), clock)
    roles = ["root", "targets", "fleet", "policy", "model-digits"]
    for _ in range(6):
        take(device, "digits", fleet.repository.pack("digits"))
        clock.advance(60 * DAY_S)
        assert fleet.repository.renew() is True
        assert fleet.repository.due().keys() <= set(roles)
        ceremony.renew(fleet.keys, fleet.server, roles, clock)
    take(device, "digits", fleet.repository.pack("digits"))
    late = TrustStore(tmp_path / "late", fleet.repository.role("root"), clock)
    take(late, "digits", fleet.repository.pack("digits"))
    assert late.director() == device.director()
