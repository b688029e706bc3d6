"""Bundles: only what an owner signed gets in, exactly once, and every chunk that goes out is what was signed."""

import hashlib
import os
from pathlib import Path

import pytest
from tuf.api.metadata import Metadata, TargetFile, Targets

from dsops.bundle import Bundle, encode_bundle
from dsops.chunks import ChunkIndex
from dsops.clock import ManualClock
from dsops.errors import Conflict, DigestMismatch, MalformedBundle, NotFound, UntrustedBundle
from dsops.files import write_atomically
from dsops.manifest import Manifest
from dsops.needs import needs_of
from dsops.operators import operators_of
from dsops_controller.audit import Audit
from dsops_controller.bundles import Bundles
from dsops_controller.db.database import Database
from dsops_controller.trust.bundle_roles import bundle_facts
from dsops_controller.trust.keys import KeyFolder, OnlineKeys
from dsops_controller.trust.repository import Repository
from dsops_controller.trust.roles import sign_role
from dsops_controller.trust.testing import FoundedFleet, MakeBundle

pytestmark = pytest.mark.integration

GOLDEN = Path(__file__).parents[3] / "firmware_bundles/golden/v1"
BIG = bytes(range(256)) * 400  # about 100 kB: four chunks


class PowerCut(BaseException):
    """Ends a writer; no handler of errors sees it."""


@pytest.fixture
def store(tmp_path: Path, db: Database, fleet: FoundedFleet, clock: ManualClock) -> Bundles:
    return Bundles(db, tmp_path / "bundles", fleet.repository, clock)


def test_a_signed_bundle_is_taken_and_handed_out(
    store: Bundles, fleet: FoundedFleet, bundle: MakeBundle, tmp_path: Path
) -> None:
    path = bundle(payload=BIG)
    record = store.push(path.read_bytes(), fleet.sign(path))
    assert store.list() == store.list("digits") == (record,)
    assert store.get("digits", 1) == store.by_digest(record.sha256) == record
    assert store.open(record.sha256).read("model.tflite") == BIG
    assert (tmp_path / "bundles" / record.sha256).read_bytes() == path.read_bytes()
    target = fleet.repository.target("digits/1.int8.bundle")
    assert target is not None
    assert target.hashes == {"sha256": record.sha256}
    slot = record.slot("de-1")
    assert (slot.path, slot.sha256, slot.length_bytes) == (record.path, record.sha256, path.stat().st_size)


def test_chunks_put_together_are_the_bundle(store: Bundles, fleet: FoundedFleet, bundle: MakeBundle) -> None:
    path = bundle(payload=BIG)
    record = store.push(path.read_bytes(), fleet.sign(path))
    data = store.chunk(record.index_sha256)
    assert data is not None
    index = ChunkIndex.decode(data)
    assert index == store.index(record.sha256)
    parts = [store.chunk(digest) for digest in index.digests]
    assert b"".join(part for part in parts if part is not None) == path.read_bytes()
    needs = needs_of(record.manifest, record.length_bytes)
    assert store.chunk(needs.digest) == needs.encode()
    sent = [digest for digest, _ in store.chunks(record.sha256)]
    assert sent == [needs.digest, index.digest, *index.digests]
    assert all(hashlib.sha256(part).hexdigest() == digest for digest, part in store.chunks(record.sha256))
    assert store.chunk("0" * 64) is None


def test_a_restarted_server_finds_every_chunk(
    store: Bundles, fleet: FoundedFleet, bundle: MakeBundle, db: Database, tmp_path: Path, clock: ManualClock
) -> None:
    for release in (1, 2):
        path = bundle(release=release, payload=BIG + bytes([release]))
        store.push(path.read_bytes(), fleet.sign(path))
        clock.advance(1)
    again = Bundles(db, tmp_path / "bundles", fleet.repository, clock)
    for record in store.list():
        for digest, part in store.chunks(record.sha256):
            assert again.chunk(digest) == part


def test_pushing_again_changes_nothing(store: Bundles, fleet: FoundedFleet, bundle: MakeBundle, db: Database) -> None:
    first = bundle()
    role = fleet.sign(first)
    record = store.push(first.read_bytes(), role)
    second = bundle(release=2)
    store.push(second.read_bytes(), fleet.sign(second))
    before = fleet.repository.role("timestamp")
    assert store.push(first.read_bytes(), role) == record  # its role is older than the published one by now
    assert fleet.repository.role("timestamp") == before
    pushed = [entry for entry in Audit(db, fleet.clock).list() if entry.action == "bundle.pushed"]
    assert len(pushed) == 2


def test_damaged_bundles_are_refused(store: Bundles, fleet: FoundedFleet, bundle: MakeBundle, tmp_path: Path) -> None:
    path = bundle(payload=BIG)
    role, data = fleet.sign(path), path.read_bytes()
    flipped = data[:-1000] + bytes([data[-1000] ^ 1]) + data[-999:]
    for bad, error in (
        (b"", MalformedBundle),
        (data[:-1], MalformedBundle),
        (data + b"x", MalformedBundle),
        (b"X" + data[1:], MalformedBundle),
        (flipped, DigestMismatch),
    ):
        with pytest.raises(error):
            store.push(bad, role)
    assert store.list() == ()
    assert list((tmp_path / "bundles").iterdir()) == []


def test_only_a_role_that_names_exactly_this_bundle_lets_it_in(
    store: Bundles, fleet: FoundedFleet, bundle: MakeBundle
) -> None:
    fleet.grant("faces")
    path, other = bundle(), bundle(payload=b"other weights")
    owner = [KeyFolder(fleet.keys).signer("model-digits")]
    signed = Metadata[Targets].from_bytes(fleet.sign(path)).signed
    online = sign_role(signed, [fleet.online("snapshot")])
    signed.targets["digits/1.int8.bundle"].custom["hardware"] = ["riscv64"]
    altered = sign_role(signed, owner)
    signed.targets["digits/1.int8.bundle"].custom.update({"hardware": [], "needs": "0" * 64})
    other_needs = sign_role(signed, owner)
    faces = fleet.sign(bundle(model="faces"), "faces")
    for data, role in (
        (other.read_bytes(), fleet.sign(path)),
        (path.read_bytes(), online),
        (path.read_bytes(), altered),
        (path.read_bytes(), other_needs),
        (path.read_bytes(), faces),
        (path.read_bytes(), fleet.repository.role("model-digits")),
        (path.read_bytes(), b"no role"),
    ):
        with pytest.raises(UntrustedBundle):
            store.push(data, role)
    assert store.list() == ()
    store.push(path.read_bytes(), fleet.sign(path))


def test_a_release_has_one_content(store: Bundles, fleet: FoundedFleet, bundle: MakeBundle) -> None:
    path, other = bundle(), bundle(payload=b"other weights")
    store.push(path.read_bytes(), fleet.sign(path))
    signed = Metadata[Targets].from_bytes(fleet.repository.role("model-digits")).signed
    signed.version += 1
    data = other.read_bytes()
    target = TargetFile.from_data("digits/1.int8.bundle", data, ["sha256"])
    target.unrecognized_fields["custom"] = bundle_facts(Bundle.open(other).manifest, data).model_dump(mode="json")
    signed.targets[target.path] = target
    with pytest.raises(Conflict, match="another bundle"):
        store.push(other.read_bytes(), sign_role(signed, [KeyFolder(fleet.keys).signer("model-digits")]))
    assert [record.sha256 for record in store.list()] == [hashlib.sha256(path.read_bytes()).hexdigest()]


def test_variants_of_a_release_live_side_by_side(store: Bundles, fleet: FoundedFleet, bundle: MakeBundle) -> None:
    for variant in ("int8", "fp32"):
        path = bundle(variant=variant)
        store.push(path.read_bytes(), fleet.sign(path))
    assert store.get("digits", 1, "fp32").variant == "fp32"
    with pytest.raises(Conflict, match="several variants"):
        store.get("digits", 1)
    with pytest.raises(NotFound):
        store.get("digits", 2)
    with pytest.raises(NotFound):
        store.open("0" * 64)


@pytest.mark.parametrize("writes", [0, 1, 2])
def test_a_push_that_was_cut_off_is_completed_by_pushing_again(
    fleet: FoundedFleet, bundle: MakeBundle, db: Database, tmp_path: Path, writes: int
) -> None:
    """The role's publication is cut off; file and row are there by then."""
    left = [writes]

    def cut(path: Path, data: bytes) -> None:
        if left[0] == 0:
            raise PowerCut
        left[0] -= 1
        write_atomically(path, data)

    online = OnlineKeys.load(fleet.server / "keys")
    path = bundle(payload=BIG)
    role = fleet.sign(path)
    dying = Bundles(db, tmp_path / "bundles", Repository(fleet.server / "trust", online, fleet.clock, cut), fleet.clock)
    with pytest.raises(PowerCut):
        dying.push(path.read_bytes(), role)
    assert fleet.repository.target("digits/1.int8.bundle") is None
    store = Bundles(db, tmp_path / "bundles", fleet.repository, fleet.clock)
    record = store.push(path.read_bytes(), role)
    assert store.list() == (record,)
    assert fleet.repository.target("digits/1.int8.bundle") is not None


def test_leftovers_of_a_killed_push_are_swept(
    store: Bundles, fleet: FoundedFleet, bundle: MakeBundle, tmp_path: Path
) -> None:
    folder = tmp_path / "bundles"
    folder.mkdir()
    for name in (".incoming", "..incoming.4711.tmp"):
        (folder / name).write_bytes(b"half")
    path = bundle()
    record = store.push(path.read_bytes(), fleet.sign(path))
    assert [file.name for file in folder.iterdir()] == [record.sha256]


def test_a_damaged_file_is_not_served_and_a_push_puts_it_right(
    store: Bundles, fleet: FoundedFleet, bundle: MakeBundle, db: Database, tmp_path: Path, clock: ManualClock
) -> None:
    path, sound = bundle(payload=BIG), bundle(release=2)
    role = fleet.sign(path)
    record = store.push(path.read_bytes(), role)
    other = store.push(sound.read_bytes(), fleet.sign(sound))
    digest = store.index(record.sha256).digests[0]
    file = tmp_path / "bundles" / record.sha256
    handle = os.open(file, os.O_WRONLY)
    os.pwrite(handle, b"\xff\xff", 500)
    os.close(handle)
    with pytest.raises(DigestMismatch):
        store.chunk(digest)
    again = Bundles(db, tmp_path / "bundles", fleet.repository, clock)
    assert again.chunk(digest) is None
    assert again.chunk(other.index_sha256) is not None
    again.push(path.read_bytes(), role)
    assert again.chunk(digest) == store.chunk(digest)
    assert hashlib.sha256(again.chunk(digest) or b"").hexdigest() == digest


def relabelled(folder: Path, *operators: str) -> Path:
    """Write a bundle of a real model whose manifest names these operators."""
    golden = Bundle.open(next(GOLDEN.glob("*.bundle")))
    fields = golden.manifest.model_dump() | {"model": "digits", "release": 1, "variant": "int8"}
    fields["compatibility"]["operators"] = operators
    path = folder / "relabelled.bundle"
    blobs = {blob.name: golden.read(blob.name) for blob in golden.manifest.blobs}
    path.write_bytes(encode_bundle(Manifest.model_validate(fields), blobs))
    return path


def test_a_manifest_that_hides_an_operator_is_not_taken(store: Bundles, fleet: FoundedFleet, tmp_path: Path) -> None:
    payload = Bundle.open(next(GOLDEN.glob("*.bundle"))).read("model.tflite")
    honest = operators_of(payload)
    for lie, why in ((honest[1:], f"{honest[0]} is missing"), ((*honest, "ZEROS_LIKE/1"), "ZEROS_LIKE/1 is not there")):
        path = relabelled(tmp_path, *lie)
        with pytest.raises(MalformedBundle, match="names other operators than its payload has") as refusal:
            store.push(path.read_bytes(), fleet.sign(path))
        assert refusal.value.why == why
    assert store.list() == ()
    path = relabelled(tmp_path, *honest)
    assert store.push(path.read_bytes(), fleet.sign(path)).manifest.compatibility.operators == honest
