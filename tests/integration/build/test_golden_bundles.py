"""Bundles of every version of the format, as old releases wrote them, are read, shown and proved by this one."""

import json
from pathlib import Path

import pytest

from dsops import dsse
from dsops.bundle import Bundle, file_digest
from dsops.manifest import FORMATS
from dsops_agent.runtime.prove import Bounds, prove
from dsops_controller.build.bundles.documents.provenance import check_provenance
from dsops_controller.cli import app
from dsops_controller.cli.content_keys import find_key

pytestmark = pytest.mark.integration

FOLDER = Path(__file__).parents[3] / "firmware_bundles/golden"
BUNDLES = sorted(FOLDER.glob("v*/*.bundle"))


def test_the_bundles_are_those_that_were_made() -> None:
    assert len(BUNDLES) >= 3
    for sums in FOLDER.glob("v*/SHA256SUMS"):
        found = {path.name: file_digest(path)[0] for path in sums.parent.glob("*.bundle")}
        assert {name: digest for digest, name in map(str.split, sums.read_text().splitlines())} == found
    assert sum(path.stat().st_size for path in BUNDLES) < 200_000


@pytest.mark.parametrize("path", BUNDLES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_a_bundle_is_read_shown_and_proved(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = Bundle.open(path)
    bundle.verify()
    manifest = bundle.manifest
    assert path.stem == f"{manifest.model}-{manifest.release}-{manifest.variant}"
    assert path.parent.name == f"v{manifest.format}"
    keyfile = path.with_suffix(".key")
    words = ["--content-key", str(keyfile)] if keyfile.exists() else []
    assert app.run(["bundle", "show", str(path), "-o", "json", *words]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["manifest"] == manifest.model_dump(mode="json")
    assert shown["payload"]["structure"] == "sound"
    assert shown["golden"]["frames"] > 0
    owner = dsse.load_public_key(path.with_suffix(".pub").read_text())
    assert manifest.documents.provenance is not None
    envelope = bundle.read(manifest.documents.provenance)
    assert check_provenance(envelope, manifest.blobs, {dsse.key_id(owner): owner}) == "urn:dsops:golden-bundles"
    proof = prove(path, Bounds(), find_key(manifest, [keyfile]))
    assert proof["ok"] is True


def test_there_are_bundles_of_every_format_and_sealed_ones_are_of_the_second() -> None:
    assert {path.parent.name for path in BUNDLES} == {f"v{number}" for number in FORMATS}
    assert {path.parent.name for path in BUNDLES if path.with_suffix(".key").exists()} == {"v2"}


def test_the_bundles_differ_in_what_they_hold() -> None:
    manifests = [Bundle.open(path).manifest for path in BUNDLES if path.parent.name == "v1"]
    assert {manifest.task.value for manifest in manifests} >= {"classification", "reconstruction"}
    assert any(len(manifest.inputs) > 1 for manifest in manifests)
    assert any(manifest.files for manifest in manifests)
