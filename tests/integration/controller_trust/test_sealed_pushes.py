"""The controller takes a sealed bundle with its own key, and with no other."""

from pathlib import Path

import pytest
from sqlalchemy import select

from dsops.bundle import Bundle, describe_blobs, encode_bundle
from dsops.clock import ManualClock
from dsops.errors import ContentSealed
from dsops.manifest import Manifest
from dsops.sealing import ContentKey, Identity, content_key, new_secret, seal
from dsops_controller.bundles import Bundles
from dsops_controller.db import tables
from dsops_controller.db.database import Database
from dsops_controller.trust.testing import FoundedFleet, MakeBundle

pytestmark = pytest.mark.integration

SECRET = new_secret()


@pytest.fixture
def store(tmp_path: Path, db: Database, fleet: FoundedFleet, clock: ManualClock) -> Bundles:
    return Bundles(db, tmp_path / "bundles", fleet.repository, clock)


@pytest.fixture
def sealed(bundle: MakeBundle) -> Path:
    path = bundle(payload=bytes(range(256)) * 40)
    opened = Bundle.open(path)
    manifest = opened.manifest
    blobs = {blob.name: opened.read(blob.name) for blob in manifest.blobs}
    identity = Identity(manifest.model, manifest.release, manifest.variant)
    part, ciphertexts = seal(SECRET, identity, {"model.tflite": blobs["model.tflite"]})
    blobs |= ciphertexts
    fields = manifest.model_dump() | {"format": 2, "sealed": part, "blobs": describe_blobs(blobs)}
    path.write_bytes(encode_bundle(Manifest.model_validate(fields), blobs))
    return path


def keys(db: Database) -> list[tuple[str, bytes]]:
    with db.read() as connection:
        rows = connection.execute(select(tables.content_key.c.bundle_sha256, tables.content_key.c.key)).all()
    return [(row.bundle_sha256, bytes(row.key)) for row in rows]


def test_a_sealed_bundle_is_taken_with_its_key_only(
    store: Bundles, fleet: FoundedFleet, sealed: Path, db: Database
) -> None:
    role = fleet.sign(sealed)
    for wrong in (None, ContentKey(SECRET)):
        with pytest.raises(ContentSealed):
            store.push(sealed.read_bytes(), role, key=wrong)
        assert store.list() == ()
    key = content_key(SECRET, Bundle.open(sealed).manifest)
    for _ in range(2):
        record = store.push(sealed.read_bytes(), role, key=key)
    assert keys(db) == [(record.sha256, key.data)]
    with pytest.raises(ContentSealed):
        store.push(sealed.read_bytes(), role)


def test_a_clear_bundle_is_taken_without_a_key_only(
    store: Bundles, fleet: FoundedFleet, bundle: MakeBundle, db: Database
) -> None:
    path = bundle()
    role = fleet.sign(path)
    with pytest.raises(ContentSealed):
        store.push(path.read_bytes(), role, key=ContentKey(SECRET))
    store.push(path.read_bytes(), role)
    assert keys(db) == []
