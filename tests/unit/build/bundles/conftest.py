"""A build folder, made from a golden bundle's parts, so that nothing has to be trained or converted for these tests."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dsops.bundle import Bundle, describe_blobs
from dsops.manifest import Attachment
from dsops_controller.build import record
from dsops_controller.build.record import BuildRecord, VariantRecord

GOLDEN_BUNDLES = Path(__file__).parents[4] / "firmware_bundles/golden/v1"
DIGITS = GOLDEN_BUNDLES / "digits-1-int8.bundle"
THRESHOLDS = b'{"alarm":0.9}'
KEPT = ("model", "description", "license", "task", "labels", "preprocessing", "postprocessing", "lineage", "kpis")
OF_VARIANT = ("inputs", "outputs", "budgets", "metrics")

Rewrite = Callable[..., None]


@pytest.fixture(scope="session")
def digits() -> Bundle:
    return Bundle.open(DIGITS)


@pytest.fixture
def build(digits: Bundle, tmp_path: Path) -> Path:
    """A build of digits with one variant and an attachment."""
    folder = tmp_path / "build"
    manifest = digits.manifest
    files = {name: digits.read(name) for name in record.PACKED}
    shared = {"thresholds.json": THRESHOLDS}
    for place, blobs in (("int8", files), (record.SHARED, shared)):
        (folder / place).mkdir(parents=True)
        for name, data in blobs.items():
            (folder / place / name).write_bytes(data)
    variant = VariantRecord(
        variant="int8", mode="int8", files=describe_blobs(files), **{k: getattr(manifest, k) for k in OF_VARIANT}
    )
    entry = BuildRecord(
        recipe_sha256="d" * 64,
        tools={"dsops": "1", "numpy": "2"},
        attachments=(Attachment(blob="thresholds.json", kind="config"),),
        shared=describe_blobs(shared),
        variants=(variant,),
        **{key: getattr(manifest, key) for key in KEPT},
    )
    (folder / record.FILE_NAME).write_bytes(entry.encode())
    return folder


@pytest.fixture
def change(build: Path) -> Rewrite:
    """Return a function that changes the record of the build, or of its first variant."""

    def rewrite(variant: dict[str, Any] | None = None, **fields: Any) -> None:
        entry = BuildRecord.read(build)
        first = entry.variants[0].model_dump() | (variant or {})
        rest = [one.model_dump() for one in entry.variants[1:]]
        changed = entry.model_dump() | {"variants": [first, *rest]} | fields
        (build / record.FILE_NAME).write_bytes(BuildRecord.model_validate(changed).encode())

    return rewrite


@pytest.fixture
def replace(build: Path, change: Rewrite) -> Rewrite:
    """Return a function that changes a file of the first variant, and its entry in the record."""

    def write(name: str, data: bytes) -> None:
        variant = BuildRecord.read(build).variants[0]
        (build / variant.variant / name).write_bytes(data)
        blobs = {blob.name: (build / variant.variant / blob.name).read_bytes() for blob in variant.files}
        change(variant={"files": [blob.model_dump() for blob in describe_blobs(blobs)]})

    return write


@pytest.fixture
def share(build: Path, change: Rewrite) -> Rewrite:
    """Return a function that adds a file for the bundle of every variant; fields of the record say what it is."""

    def write(name: str, data: bytes, **fields: Any) -> None:
        (build / record.SHARED / name).write_bytes(data)
        shared = {
            blob.name: (build / record.SHARED / blob.name).read_bytes() for blob in BuildRecord.read(build).shared
        }
        change(shared=[blob.model_dump() for blob in describe_blobs(shared | {name: data})], **fields)

    return write
