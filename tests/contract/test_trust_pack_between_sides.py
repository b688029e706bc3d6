"""What the controller's repository publishes, the device's trust store believes; and nothing else."""

from pathlib import Path

import pytest

from dsops import messages
from dsops.bundle import file_digest
from dsops.clock import ManualClock
from dsops.errors import UntrustedBundle
from dsops.messages import TrustPack
from dsops.trust import TargetFacts
from dsops_agent.trust.store import TrustStore
from dsops_controller.trust.testing import FoundedFleet, bundle_maker


@pytest.fixture
def fleet(tmp_path: Path) -> FoundedFleet:
    made = FoundedFleet.create(tmp_path, ManualClock())
    made.grant("digits")
    return made


@pytest.fixture
def store(fleet: FoundedFleet, tmp_path: Path) -> TrustStore:
    return TrustStore(tmp_path / "device", fleet.repository.pack("digits").files()["1.root.json"], fleet.clock)


def over_the_wire(pack: TrustPack) -> TrustPack:
    return messages.decode(TrustPack, pack.encode())


def take(store: TrustStore, model: str, pack: TrustPack) -> None:
    assert store.accept(model, pack.head, pack.documents()) == ()


def test_what_devices_are_offered_is_what_the_packs_hold(fleet: FoundedFleet) -> None:
    fleet.grant("words")
    offer = fleet.repository.offer()
    packs = [fleet.repository.pack(model) for model in ("digits", "words")]
    assert {pack.head for pack in packs} == {offer.head}
    assert packs[0].documents() | packs[1].documents() == offer.documents


def test_granted_model_is_known(fleet: FoundedFleet, store: TrustStore) -> None:
    take(store, "digits", over_the_wire(fleet.repository.pack("digits")))
    assert store.director() == fleet.repository.director()
    assert store.policy("digits") == fleet.repository.policy("digits")
    assert store.target("digits", "digits/1.int8.bundle") is None


def test_signed_bundle_is_believed_after_each_publication(
    fleet: FoundedFleet, store: TrustStore, tmp_path: Path
) -> None:
    make = bundle_maker(tmp_path)
    for release in (1, 2):
        path = make(release=release)
        fleet.repository.publish_role(fleet.sign(path))
        take(store, "digits", over_the_wire(fleet.repository.pack("digits")))
        target = store.target("digits", f"digits/{release}.int8.bundle")
        assert target is not None
        assert (target.sha256, target.length_bytes) == file_digest(path)
        assert TargetFacts.model_validate(dict(target.custom)).release == release


def test_old_pack_is_refused(fleet: FoundedFleet, store: TrustStore, tmp_path: Path) -> None:
    old = fleet.repository.pack("digits")
    fleet.repository.publish_role(fleet.sign(bundle_maker(tmp_path)()))
    take(store, "digits", fleet.repository.pack("digits"))
    with pytest.raises(UntrustedBundle, match="BadVersionNumber"):
        take(store, "digits", old)


def test_two_models_share_one_store(fleet: FoundedFleet, store: TrustStore) -> None:
    fleet.grant("words")
    for model in ("digits", "words"):
        take(store, model, over_the_wire(fleet.repository.pack(model)))
    assert store.policy("digits").model == "digits"
    assert store.policy("words").model == "words"
