"""From a rollout to the offer in a directive, over a real database, real files and the real workshop."""

import hashlib
import io
from pathlib import Path
from typing import Any

import pytest
from delta_bundles import digits, payload_of, repacked, tuned
from sqlalchemy import insert, select
from test_driver import Fleet

from dsops.bundle import Bundle, sha256_hex
from dsops.chunks import ChunkIndex
from dsops.delta import Ends, apply_delta
from dsops.directive import DeltaOffer
from dsops.errors import NotFound
from dsops.states import Install
from dsops.topics import Topics
from dsops_controller.db import tables
from dsops_controller.deltas.files import DeltaFiles, Stock
from dsops_controller.deltas.matching import BundleBytes
from dsops_controller.deltas.workshop import PATIENCE_S, Workshop
from dsops_controller.rollout.driver import Driver
from dsops_controller.rollout.plan import Plan, WaveSpec
from dsops_controller.rollout.wanted import wanted_files
from dsops_controller.server.publications import Publications

DIGITS_V2 = Path(__file__).parents[3] / "firmware_bundles/golden/v2/digits-1-int8.bundle"
OLD = digits()
NEW = repacked(OLD, 12, model__tflite=tuned(payload_of(OLD)))
OTHER = repacked(OLD, 13, model__tflite=hashlib.shake_256(b"other").digest(40_000))


class Folder:
    """Bundle files named by their digest."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        self.opened = 0

    def put(self, bundle: BundleBytes, sha256: str) -> None:
        (self.folder / sha256).write_bytes(bundle.data)

    def open(self, sha256: str) -> Bundle:
        self.opened += 1
        if not (self.folder / sha256).exists():
            raise NotFound(f"there is no bundle {sha256}")
        return Bundle.open(self.folder / sha256)

    def index(self, sha256: str) -> ChunkIndex:
        raise NotFound(f"there is no bundle {sha256}")

    def digests(self, sha256: str) -> tuple[str, ...]:
        raise NotFound(f"there is no bundle {sha256}")

    def chunk(self, digest: str) -> bytes | None:
        return None


class DeltaFleet(Fleet):
    """A fleet whose device b runs ``OLD``; the other releases are real files, too."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.bundles = Folder(folder / "bundles")
        self.files = DeltaFiles(self.db, folder / "deltas")
        self.workshop = Workshop(self.db, self.bundles, self.files, self.clock)
        self.driver = Driver(self.db, self.courier, self.director, self.clock, self.workshop)
        self.sha = {bundle.manifest.release: self.push(bundle) for bundle in (OLD, NEW, OTHER)}

    def push(self, bundle: BundleBytes) -> str:
        sha256, release = sha256_hex(bundle.data), bundle.manifest.release + 100
        self.bundles.put(bundle, sha256)
        with self.db.write() as connection:
            connection.execute(
                insert(tables.bundle).values(
                    sha256=sha256, model="digits", release=release, variant="int8", length_bytes=len(bundle.data),
                    path=f"digits/{release}.int8.bundle", index_sha256=sha256, manifest="{}", pushed_ms=0,
                )
            )  # fmt: skip
        return sha256

    def install(self, bundle: BundleBytes) -> None:
        self.roll_out(bundle)
        self.commit("b")
        assert self.wanted("b").slots["digits"].sha256 == self.sha[bundle.manifest.release]

    def roll_out(self, bundle: BundleBytes, device: str = "b") -> str:
        plan = Plan(
            model="digits",
            release=bundle.manifest.release + 100,
            cohort=(device,),
            waves=(WaveSpec(devices=(device,)),),
        )
        rollout = self.rollouts.create(plan)
        self.driver.turn()
        return rollout

    def offered(self) -> set[str]:
        with self.db.read() as connection:
            return set(wanted_files(connection))

    def offer(self, device: str = "b") -> DeltaOffer | None:
        return self.wanted(device).slots["digits"].delta

    def target(self, device: str = "b") -> str:
        return self.wanted(device).slots["digits"].sha256

    def rows(self) -> list[Any]:
        with self.db.read() as connection:
            return list(connection.execute(select(tables.delta)))


@pytest.fixture
def fleet(tmp_path: Path) -> DeltaFleet:
    made = DeltaFleet(tmp_path)
    made.install(OLD)
    return made


def read(fleet: DeltaFleet, offer: DeltaOffer) -> bytes:
    """Fetch a delta as a device does, by the digests of its index and chunks."""
    stock = Stock(fleet.bundles, fleet.files)
    encoded = stock.chunk(offer.index)
    assert encoded is not None
    chunks = [stock.chunk(digest) for digest in ChunkIndex.decode(encoded).digests]
    data = b"".join(chunk for chunk in chunks if chunk)
    assert len(data) == offer.length_bytes
    return data


def test_the_directive_waits_for_its_delta_and_offers_it(fleet: DeltaFleet) -> None:
    fleet.roll_out(NEW)
    assert fleet.target() == fleet.sha[1], "nothing is sent while the delta is made"
    assert fleet.workshop.work()
    fleet.driver.turn()
    offer = fleet.offer()
    assert offer is not None
    assert (fleet.target(), offer.base) == (fleet.sha[12], fleet.sha[1])
    assert offer.length_bytes < 0.6 * len(NEW.data)
    out, delta = io.BytesIO(), read(fleet, offer)
    for _ in apply_delta(io.BytesIO(delta), io.BytesIO(OLD.data), out, Ends(offer.base, fleet.target(), len(NEW.data))):
        pass
    assert out.getvalue() == NEW.data


def test_it_is_seeded_with_its_bundle(fleet: DeltaFleet) -> None:
    fleet.courier.seeded.clear()
    fleet.roll_out(NEW)
    fleet.workshop.work()
    fleet.driver.turn()
    offer = fleet.offer()
    assert offer is not None
    assert fleet.courier.seeded == [(offer.sha256, "digits"), (fleet.sha[12], "digits")]


def test_it_is_made_once(fleet: DeltaFleet) -> None:
    fleet.roll_out(NEW)
    fleet.workshop.work()
    opened = fleet.bundles.opened
    fleet.driver.turn()
    assert not fleet.workshop.work()
    assert fleet.bundles.opened == opened
    assert len(fleet.rows()) == 1


def test_one_that_saves_too_little_is_remembered_and_not_offered(fleet: DeltaFleet) -> None:
    fleet.roll_out(OTHER)
    fleet.workshop.work()
    fleet.driver.turn()
    assert fleet.target() == fleet.sha[13]
    assert fleet.offer() is None
    (row,) = fleet.rows()
    assert (row.sha256, row.index_sha256) == (None, None)
    assert row.length_bytes > 0.6 * len(OTHER.data)


def test_a_device_without_a_bundle_waits_for_nothing(fleet: DeltaFleet) -> None:
    fleet.roll_out(NEW, "a")
    assert fleet.target("a") == fleet.sha[12]
    assert fleet.offer("a") is None
    assert not fleet.workshop.work()


def test_a_base_that_is_not_here_is_waited_for_by_nobody(fleet: DeltaFleet) -> None:
    fleet.report("b", Install.COMMITTED, active="f" * 64)
    fleet.roll_out(NEW)
    assert fleet.target() == fleet.sha[12]
    assert fleet.offer() is None


def test_a_rollout_goes_without_a_delta_that_takes_too_long(fleet: DeltaFleet) -> None:
    fleet.roll_out(NEW)
    fleet.clock.advance(PATIENCE_S - 1)
    fleet.driver.turn()
    assert fleet.target() == fleet.sha[1]
    fleet.clock.advance(2)
    fleet.driver.turn()
    assert fleet.target() == fleet.sha[12]
    assert fleet.offer() is None


def test_a_bundle_that_is_damaged_on_the_server_stops_no_rollout(fleet: DeltaFleet) -> None:
    (fleet.bundles.folder / fleet.sha[1]).write_bytes(OLD.data[:-1] + b"?")
    fleet.roll_out(NEW)
    assert fleet.workshop.work()
    fleet.driver.turn()
    assert fleet.target() == fleet.sha[12]
    assert fleet.offer() is None
    assert fleet.rows() == [], "it may be made when the bundle was pushed again"


def test_a_directive_that_is_written_again_offers_what_fits_now(fleet: DeltaFleet) -> None:
    fleet.roll_out(NEW)
    fleet.workshop.work()
    fleet.driver.turn()
    assert fleet.offer() is not None
    fleet.commit("b")
    fleet.clock.advance(8 * 86_400)
    fleet.driver.turn()
    assert fleet.target() == fleet.sha[12]
    assert fleet.offer() is None, "the device has the bundle itself"


@pytest.mark.parametrize("is_damaged", [False, True])
def test_a_restarted_controller_serves_what_is_whole(fleet: DeltaFleet, is_damaged: bool, tmp_path: Path) -> None:
    fleet.roll_out(NEW)
    fleet.workshop.work()
    fleet.driver.turn()
    offer = fleet.offer()
    assert offer is not None
    path = tmp_path / "deltas" / offer.sha256
    if is_damaged:
        path.write_bytes(path.read_bytes()[:-1] + b"?")
    again = DeltaFiles(fleet.db, tmp_path / "deltas")
    assert (again.chunk(offer.index) is None) is is_damaged
    assert again.chunk("0" * 64) is None


def test_a_delta_whose_file_is_lost_is_forgotten(fleet: DeltaFleet, tmp_path: Path) -> None:
    fleet.roll_out(NEW)
    fleet.workshop.work()
    fleet.driver.turn()
    offer = fleet.offer()
    assert offer is not None
    fleet.files.forget_lost()
    assert len(fleet.rows()) == 1
    (tmp_path / "deltas" / offer.sha256).unlink()
    fleet.files.forget_lost()
    assert fleet.rows() == []


def test_a_delta_leaves_the_broker_when_its_rollout_ends(fleet: DeltaFleet) -> None:
    rollout = fleet.roll_out(NEW)
    fleet.workshop.work()
    fleet.driver.turn()
    offer = fleet.offer()
    assert offer is not None
    stock = Stock(fleet.bundles, fleet.files)
    publications = Publications(fleet.db, Topics(), None, stock, fleet.clock)  # type: ignore[arg-type]
    assert {offer.sha256, fleet.sha[12]} <= fleet.offered()
    topics = {message.topic for message in publications.file(offer.sha256)}
    assert topics == {Topics().chunk(digest) for digest in (offer.index, *stock.index(offer.sha256).digests)}
    fleet.commit("b")
    assert fleet.state(rollout) == "succeeded"
    assert offer.sha256 not in fleet.offered()
    assert fleet.sha[12] in fleet.offered()
    assert stock.chunk(offer.index) is not None, "a device that comes back may still ask for it"


def test_sealed_bundles_get_none(fleet: DeltaFleet) -> None:
    sealed = DIGITS_V2.read_bytes()
    sha256 = fleet.push(BundleBytes(sealed, Bundle.open(DIGITS_V2).manifest.model_copy(update={"release": 50})))
    fleet.sha[50] = sha256
    plan = Plan(model="digits", release=150, cohort=("b",), waves=(WaveSpec(devices=("b",)),))
    fleet.rollouts.create(plan)
    fleet.driver.turn()
    fleet.workshop.work()
    fleet.driver.turn()
    assert fleet.target() == sha256
    assert fleet.offer() is None
    (row,) = fleet.rows()
    assert row.sha256 is None
