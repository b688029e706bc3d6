import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519

from dsops.bundle import Bundle, describe_blobs, sha256_hex
from dsops.errors import (
    DigestMismatch,
    GoldenMismatch,
    InvalidInput,
    InvalidModel,
    OverSize,
    UntrustedBundle,
)
from dsops.operators import operators_of
from dsops.profile import Profile
from dsops_controller.build.bundles.documents.provenance import Signer
from dsops_controller.build.bundles.package import build_bundle, build_bundles
from dsops_controller.build.bundles.payload import read_payload
from dsops_controller.build.record import PACKED, BuildRecord

Change = Callable[..., None]
SIGNATURES = Path(__file__).parents[1] / "model_signatures"


def without_weights(model: bytes) -> bytes:
    """Return a model whose largest tensor holds nothing but zeros."""
    largest = max(read_payload(model).weights, key=lambda weight: weight.length_bytes)
    return model[: largest.start] + bytes(largest.length_bytes) + model[largest.start + largest.length_bytes :]


def test_a_bundle_holds_the_build_and_its_documents(build: Path, tmp_path: Path) -> None:
    manifest = build_bundle(build, 7, tmp_path / "digits-7.bundle")
    bundle = Bundle.open(tmp_path / "digits-7.bundle")
    bundle.verify()
    entry = BuildRecord.read(build)
    assert bundle.manifest == manifest
    assert (manifest.model, manifest.release, manifest.variant) == (entry.model, 7, "int8")
    assert (manifest.labels, manifest.task, manifest.lineage) == (entry.labels, entry.task, entry.lineage)
    assert (manifest.inputs, manifest.metrics) == (entry.variants[0].inputs, entry.variants[0].metrics)
    for blob in entry.variants[0].files:
        assert bundle.read(blob.name) == (build / "int8" / blob.name).read_bytes()
    assert bundle.read("thresholds.json") == (build / "shared/thresholds.json").read_bytes()
    assert [(file.blob, file.kind) for file in manifest.files] == [("thresholds.json", "config")]
    assert manifest.documents.names() == ("modelcard.md", "sbom.cdx.json")
    assert manifest.compatibility.operators == operators_of(bundle.read("model.tflite"))
    assert manifest.compatibility.operators


def test_the_same_build_release_and_signer_give_the_same_bytes(build: Path, tmp_path: Path) -> None:
    signer = Signer(ed25519.Ed25519PrivateKey.generate())
    other = Path(shutil.copytree(build, tmp_path / "elsewhere/other"))
    for folder, name in ((build, "a"), (other, "b")):
        build_bundle(folder, 1, tmp_path / name, signer=signer)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    build_bundle(build, 2, tmp_path / "b", signer=signer)
    assert (tmp_path / "a").read_bytes() != (tmp_path / "b").read_bytes()


@pytest.mark.parametrize("name", ["model.tflite", "profile.json", "golden.bin"])
@pytest.mark.parametrize("edit", [lambda d: d[:-1] + bytes([d[-1] ^ 1]), lambda d: d + b"\0", lambda d: b""])
def test_a_file_changed_since_the_build_is_refused(build: Path, tmp_path: Path, name: str, edit: Any) -> None:
    path = build / "int8" / name
    path.write_bytes(edit(path.read_bytes()))
    with pytest.raises(DigestMismatch, match=name):
        build_bundle(build, 1, tmp_path / "out.bundle")
    assert not (tmp_path / "out.bundle").exists()


def test_a_shared_file_changed_since_the_build_is_refused(build: Path, tmp_path: Path) -> None:
    (build / "shared/thresholds.json").write_bytes(b"{}")
    with pytest.raises(DigestMismatch, match="thresholds"):
        build_bundle(build, 1, tmp_path / "out.bundle")


def test_golden_inputs_of_other_labels_are_refused(build: Path, change: Change, tmp_path: Path) -> None:
    change(labels=BuildRecord.read(build).labels[::-1])
    with pytest.raises(GoldenMismatch):
        build_bundle(build, 1, tmp_path / "out.bundle")
    assert not (tmp_path / "out.bundle").exists()


def test_damaged_weights_are_noticed_by_the_golden_inputs(build: Path, replace: Change, tmp_path: Path) -> None:
    replace("model.tflite", without_weights((build / "int8/model.tflite").read_bytes()))
    with pytest.raises(GoldenMismatch):
        build_bundle(build, 1, tmp_path / "out.bundle")


def test_a_payload_with_other_tensors_than_recorded_is_refused(build: Path, change: Change, tmp_path: Path) -> None:
    spec = BuildRecord.read(build).variants[0].inputs[0].model_dump()
    change(variant={"inputs": [spec | {"scale": spec["scale"] * 2}]})
    with pytest.raises(GoldenMismatch, match="other inputs"):
        build_bundle(build, 1, tmp_path / "out.bundle")


@pytest.mark.parametrize("data", [b"", b"TFL3", b"no model at all, but some bytes"])
def test_a_payload_that_is_no_model_is_refused(build: Path, replace: Change, tmp_path: Path, data: bytes) -> None:
    replace("model.tflite", data)
    with pytest.raises(InvalidModel):
        build_bundle(build, 1, tmp_path / "out.bundle")


def test_a_profile_of_other_signals_is_refused(build: Path, replace: Change, tmp_path: Path) -> None:
    profile = Profile.decode((build / "int8/profile.json").read_bytes())
    replace("profile.json", profile.model_copy(update={"signals": profile.signals[1:]}).encode())
    with pytest.raises(GoldenMismatch, match="does not watch"):
        build_bundle(build, 1, tmp_path / "out.bundle")


def test_a_profile_of_other_classes_is_refused(build: Path, replace: Change, tmp_path: Path) -> None:
    profile = Profile.decode((build / "int8/profile.json").read_bytes())
    signals = [
        signal.model_copy(update={"counts": (sum(signal.counts[:2]), *signal.counts[2:])})
        if signal.kind == "categorical"
        else signal
        for signal in profile.signals
    ]
    replace("profile.json", profile.model_copy(update={"signals": tuple(signals)}).encode())
    with pytest.raises(GoldenMismatch, match="knows 9 classes"):
        build_bundle(build, 1, tmp_path / "out.bundle")


@pytest.mark.parametrize("name", ["profile.json", "golden.bin"])
def test_a_damaged_part_is_named(build: Path, replace: Change, tmp_path: Path, name: str) -> None:
    replace(name, b"{}")
    with pytest.raises(InvalidInput, match="damaged"):
        build_bundle(build, 1, tmp_path / "out.bundle")


def test_a_bundle_over_its_disk_budget_is_refused(build: Path, change: Change, tmp_path: Path) -> None:
    build_bundle(build, 1, tmp_path / "fits.bundle")
    size = (tmp_path / "fits.bundle").stat().st_size
    change(variant={"budgets": {"max_disk_bytes": size - 100}})
    with pytest.raises(OverSize, match=f"max_disk_bytes is {size - 100}"):
        build_bundle(build, 1, tmp_path / "out.bundle")
    assert not (tmp_path / "out.bundle").exists()
    change(variant={"budgets": {"max_disk_bytes": size + 100}})
    build_bundle(build, 1, tmp_path / "out.bundle")


def test_what_a_variant_cannot_run_without_is_in_its_manifest(build: Path, change: Change, tmp_path: Path) -> None:
    plain = build_bundle(build, 1, tmp_path / "plain.bundle").compatibility
    change(variant={"compatibility": {"delegates": ["edgetpu"], "min_litert": "2.1"}})
    needed = build_bundle(build, 1, tmp_path / "needy.bundle").compatibility
    assert (needed.delegates, needed.min_litert, needed.operators) == (("edgetpu",), "2.1", plain.operators)


def test_every_variant_gets_a_bundle_of_its_own(build: Path, change: Change, tmp_path: Path) -> None:
    shutil.copytree(build / "int8", build / "tpu")
    first = BuildRecord.read(build).variants[0].model_dump()
    change(variants=[first, first | {"variant": "tpu", "compatibility": {"hardware": ["coral"]}}])
    with pytest.raises(InvalidInput, match="2 variants") as caught:
        build_bundle(build, 1, tmp_path / "out.bundle")
    assert "--variant" in caught.value.hint
    with pytest.raises(InvalidInput, match="it has int8, tpu"):
        build_bundle(build, 1, tmp_path / "out.bundle", "float")
    assert build_bundle(build, 1, tmp_path / "out.bundle", "tpu").compatibility.hardware == ("coral",)
    (tmp_path / "bundles").mkdir()
    written = build_bundles(build, 3, tmp_path / "bundles")
    assert [path.name for path in written] == ["digits-3-int8.bundle", "digits-3-tpu.bundle"]
    assert [Bundle.open(path).manifest.variant for path in written] == ["int8", "tpu"]


def test_nothing_is_written_when_one_variant_is_wrong(build: Path, change: Change, tmp_path: Path) -> None:
    shutil.copytree(build / "int8", build / "tpu")
    first = BuildRecord.read(build).variants[0].model_dump()
    change(variants=[first, first | {"variant": "tpu", "budgets": {"max_disk_bytes": 1}}])
    (tmp_path / "bundles").mkdir()
    with pytest.raises(OverSize):
        build_bundles(build, 3, tmp_path / "bundles")
    assert list((tmp_path / "bundles").iterdir()) == []


def test_a_payload_that_this_host_cannot_run_is_judged_by_its_stand_in(
    build: Path, change: Change, tmp_path: Path
) -> None:
    shutil.copytree(build / "int8", build / "tpu")
    data = without_weights((build / "int8/model.tflite").read_bytes())
    (build / "tpu/model.tflite").write_bytes(data)
    first = BuildRecord.read(build).variants[0].model_dump()
    blobs = {name: (build / "tpu" / name).read_bytes() for name in PACKED}
    other = first | {"variant": "tpu", "files": describe_blobs(blobs)}
    change(variants=[first, other])
    with pytest.raises(GoldenMismatch):
        build_bundle(build, 1, tmp_path / "out.bundle", "tpu")
    change(variants=[first, other | {"measured_as": "int8"}])
    assert build_bundle(build, 1, tmp_path / "out.bundle", "tpu").blob("model.tflite").sha256 == sha256_hex(data)


def test_a_model_signature_is_packed_when_it_covers_the_source_model(
    build: Path, change: Change, share: Change, tmp_path: Path
) -> None:
    signature = (SIGNATURES / "p256-file.sigstore.json").read_bytes()
    share("model.sigstore.json", signature, signature="model.sigstore.json")
    with pytest.raises(UntrustedBundle, match="does not cover"):
        build_bundle(build, 1, tmp_path / "out.bundle")
    digest = hashlib.sha256((SIGNATURES / "model.onnx").read_bytes()).hexdigest()
    change(lineage={"source_sha256": digest})
    manifest = build_bundle(build, 1, tmp_path / "out.bundle")
    assert manifest.documents.signature == "model.sigstore.json"
    assert Bundle.open(tmp_path / "out.bundle").read("model.sigstore.json") == signature


@pytest.mark.parametrize("name", ["sbom.cdx.json", "provenance.dsse.json", "modelcard.md"])
def test_a_file_under_the_name_of_a_document_is_refused(build: Path, share: Change, tmp_path: Path, name: str) -> None:
    attachments = [{"blob": "thresholds.json", "kind": "config"}, {"blob": name, "kind": "document"}]
    share(name, b"mine", attachments=attachments)
    with pytest.raises(InvalidInput, match=name):
        build_bundle(build, 1, tmp_path / "out.bundle")


@pytest.mark.parametrize("release", [0, -1, 2**31])
def test_a_release_out_of_range_is_refused(build: Path, tmp_path: Path, release: int) -> None:
    with pytest.raises(InvalidInput, match="release"):
        build_bundle(build, release, tmp_path / "out.bundle")


def test_a_missing_part_is_named(build: Path, tmp_path: Path) -> None:
    (build / "int8/profile.json").unlink()
    with pytest.raises(InvalidInput, match=r"profile\.json"):
        build_bundle(build, 1, tmp_path / "out.bundle")


def test_a_place_that_does_not_exist_is_named(build: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="there is no folder"):
        build_bundle(build, 1, tmp_path / "nowhere" / "out.bundle")
