import shutil
from pathlib import Path

import pytest

from dsops.bundle import Bundle, describe_blobs
from dsops.errors import DigestMismatch, GoldenMismatch, InvalidInput
from dsops_controller.build.package import build_bundle
from dsops_controller.build.record import BuildRecord


@pytest.fixture
def copy(built: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(built, tmp_path / "build"))


def rewrite(folder: Path, name: str, data: bytes, **changed: object) -> None:
    """Change a file of a build and its record so that the digests agree."""
    (folder / name).write_bytes(data)
    record = BuildRecord.read(folder)
    blobs = {blob.name: (folder / blob.name).read_bytes() for blob in record.files}
    changed_record = record.model_copy(update={"files": describe_blobs(blobs), **changed})
    (folder / "build.json").write_bytes(changed_record.encode())


def test_a_bundle_holds_the_build(built: Path, tmp_path: Path) -> None:
    manifest = build_bundle(built, 7, tmp_path / "digits-7.bundle")
    bundle = Bundle.open(tmp_path / "digits-7.bundle")
    bundle.verify()
    assert bundle.manifest == manifest
    assert (manifest.model, manifest.release, manifest.variant) == ("digits", 7, "int8")
    assert {blob.name for blob in manifest.blobs} == {"model.tflite", "profile.json", "golden.bin"}
    for blob in manifest.blobs:
        assert bundle.read(blob.name) == (built / blob.name).read_bytes()
    assert manifest.preprocessing.layout == "NHWC"
    assert manifest.inputs[0].scale > 0


def test_the_same_build_and_release_give_the_same_bytes(built: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        build_bundle(built, 1, tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    build_bundle(built, 2, tmp_path / "b")
    assert (tmp_path / "a").read_bytes() != (tmp_path / "b").read_bytes()


@pytest.mark.parametrize("name", ["model.tflite", "profile.json", "golden.bin"])
def test_a_file_changed_since_the_build_is_refused(copy: Path, tmp_path: Path, name: str) -> None:
    data = bytearray((copy / name).read_bytes())
    data[-1] ^= 1
    (copy / name).write_bytes(data)
    with pytest.raises(DigestMismatch, match=name):
        build_bundle(copy, 1, tmp_path / "out.bundle")
    assert not (tmp_path / "out.bundle").exists()


def test_golden_inputs_of_other_labels_are_refused(copy: Path, tmp_path: Path) -> None:
    labels = BuildRecord.read(copy).labels
    rewrite(copy, "golden.bin", (copy / "golden.bin").read_bytes(), labels=labels[::-1])
    with pytest.raises(GoldenMismatch, match="its label is"):
        build_bundle(copy, 1, tmp_path / "out.bundle")
    assert not (tmp_path / "out.bundle").exists()


def test_damaged_weights_are_noticed_by_the_golden_inputs(copy: Path, tmp_path: Path) -> None:
    data = bytearray((copy / "model.tflite").read_bytes())
    middle = len(data) // 2  # the dense layer's weights
    data[middle : middle + 512] = bytes(512)
    rewrite(copy, "model.tflite", bytes(data))
    with pytest.raises(GoldenMismatch):
        build_bundle(copy, 1, tmp_path / "out.bundle")


@pytest.mark.parametrize("release", [0, -1, 2**31])
def test_a_release_out_of_range_is_refused(built: Path, tmp_path: Path, release: int) -> None:
    with pytest.raises(InvalidInput, match="release"):
        build_bundle(built, release, tmp_path / "out.bundle")


def test_a_folder_that_holds_no_build_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="does not hold a build"):
        build_bundle(tmp_path, 1, tmp_path / "out.bundle")
    (tmp_path / "build.json").write_text("{}")
    with pytest.raises(InvalidInput, match="not a build record"):
        build_bundle(tmp_path, 1, tmp_path / "out.bundle")


def test_a_missing_part_is_named(copy: Path, tmp_path: Path) -> None:
    (copy / "profile.json").unlink()
    with pytest.raises(InvalidInput, match=r"profile\.json"):
        build_bundle(copy, 1, tmp_path / "out.bundle")


def test_a_place_that_does_not_exist_is_named(built: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="there is no folder"):
        build_bundle(built, 1, tmp_path / "nowhere" / "out.bundle")
