"""The documents of a bundle: valid by their own standards, complete, and the same for the same build."""

import base64
import json
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from dsops import dsse, strictjson
from dsops.bundle import Bundle
from dsops.errors import DigestMismatch, InvalidInput, UntrustedBundle
from dsops_controller.build.bundles.documents.modelcard import sections
from dsops_controller.build.bundles.documents.provenance import (
    PAYLOAD_TYPE,
    Signer,
    check_provenance,
    check_subjects,
    read_provenance,
)
from dsops_controller.build.bundles.package import build_bundle
from dsops_controller.build.record import BuildRecord

Change = Callable[..., None]
KEY = ed25519.Ed25519PrivateKey.generate()
KEYS = {dsse.key_id(KEY.public_key()): KEY.public_key()}
CARD = """# Digits

## Intended use

- Reading meters
- Sorting parcels
  by postcode

## Limitations
Only upright digits,
one at a time.

### Ethical considerations ###
1. Handwriting of few people
"""


@pytest.fixture
def packed(build: Path, tmp_path: Path) -> Callable[..., Bundle]:
    def make(**options: Any) -> Bundle:
        build_bundle(build, 4, tmp_path / "out.bundle", **options)
        return Bundle.open(tmp_path / "out.bundle")

    return make


def bill(bundle: Bundle) -> dict[str, Any]:
    data = bundle.read("sbom.cdx.json")
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(data.decode()) is None
    found: dict[str, Any] = json.loads(data)
    return found


def test_the_bill_of_materials_is_valid_and_names_everything(
    packed: Callable[..., Bundle], change: Change, build: Path
) -> None:
    lineage = {
        "source_sha256": "a" * 64,
        "datasets": {"training": f"sha256:{'b' * 64}", "field": "three weeks in May"},
        "commit": "f00",
        "parameters": {"epochs": "6"},
    }
    metrics = {"accuracy": 0.97, "accuracy[camera=2]": 0.9}
    change(lineage=lineage, license="Apache-2.0 OR MIT", description="Digits", variant={"metrics": metrics})
    bundle = packed(signer=Signer(KEY))
    found = bill(bundle)
    component = found["metadata"]["component"]
    assert (component["type"], component["name"], component["version"]) == ("machine-learning-model", "digits", "4")
    assert component["hashes"] == [{"alg": "SHA-256", "content": bundle.manifest.blob("model.tflite").sha256}]
    assert component["licenses"] == [{"expression": "Apache-2.0 OR MIT"}]
    card = component["modelCard"]
    assert card["modelParameters"]["task"] == "classification"
    assert card["quantitativeAnalysis"]["performanceMetrics"] == [
        {"type": "accuracy", "value": "0.97"},
        {"type": "accuracy", "slice": "camera=2", "value": "0.9"},
    ]
    operators = {p["name"]: p["value"] for p in card["properties"]}
    assert operators["dsops:operator:CONV_2D"] == "2"
    assert operators["dsops:training:epochs"] == "6"
    parts = {part["bom-ref"]: part for part in found["components"]}
    assert parts["source-model"]["hashes"][0]["content"] == "a" * 64
    assert parts["data:training"]["hashes"][0]["content"] == "b" * 64
    assert parts["data:field"]["properties"] == [{"name": "dsops:digest", "value": "three weeks in May"}]
    assert [entry["ref"] for entry in card["modelParameters"]["datasets"]] == ["data:field", "data:training"]
    others = {blob.name: blob.sha256 for blob in bundle.manifest.blobs}
    for name in ("golden.bin", "profile.json", "thresholds.json", "modelcard.md"):
        assert parts[f"file:{name}"]["hashes"][0]["content"] == others[name]
    assert sorted(found["dependencies"][0]["dependsOn"]) == sorted(parts)
    tools = {tool["name"]: tool["version"] for tool in found["metadata"]["tools"]["components"]}
    assert tools == BuildRecord.read(build).tools


def test_the_bill_holds_no_time_and_its_serial_number_follows_from_the_content(
    packed: Callable[..., Bundle], change: Change
) -> None:
    first, again = bill(packed()), bill(packed())
    assert first == again
    assert "timestamp" not in first["metadata"]
    assert uuid.UUID(first["serialNumber"].removeprefix("urn:uuid:")).version == 5
    change(description="another")
    assert bill(packed())["serialNumber"] != first["serialNumber"]


@pytest.mark.parametrize(
    ("text", "licence"),
    [
        ("MIT", {"expression": "MIT"}),
        ("(MIT OR GPL-2.0-or-later WITH Classpath-exception-2.0)", {"expression": True}),
        ("Acme licence, see contract 12", {"license": {"name": "Acme licence, see contract 12"}}),
    ],
)
def test_a_licence_that_is_no_expression_is_named(
    packed: Callable[..., Bundle], change: Change, text: str, licence: dict[str, Any]
) -> None:
    change(license=text)
    found = bill(packed())["metadata"]["component"]["licenses"]
    assert found == [licence if licence != {"expression": True} else {"expression": text}]


def test_a_given_model_card_is_kept_and_read_for_the_bill(packed: Callable[..., Bundle], share: Change) -> None:
    share("card.md", CARD.encode(), model_card="card.md")
    bundle = packed()
    assert bundle.manifest.documents.model_card == "card.md"
    assert bundle.read("card.md").decode() == CARD
    assert bill(bundle)["metadata"]["component"]["modelCard"]["considerations"] == {
        "useCases": ["Reading meters", "Sorting parcels by postcode"],
        "technicalLimitations": ["Only upright digits, one at a time."],
        "ethicalConsiderations": [{"name": "Handwriting of few people"}],
    }


@pytest.mark.parametrize(("data", "says"), [(b"\xff\xfe", "UTF-8"), (b"x" * (1 << 20) + b"x", "too long")])
def test_a_model_card_that_nobody_can_read_is_refused(
    packed: Callable[..., Bundle], share: Change, data: bytes, says: str
) -> None:
    share("card.md", data, model_card="card.md")
    with pytest.raises(InvalidInput, match=says):
        packed()


def test_a_model_card_is_written_when_none_is_given(packed: Callable[..., Bundle], change: Change) -> None:
    change(description="Reads | digits", variant={"metrics": {"accuracy": 0.125}}, lineage={"facts": {"a|b": "c\nd"}})
    text = packed().read("modelcard.md").decode()
    assert "# digits" in text
    assert "| accuracy | 0.125 |" in text
    assert "| Task | classification |" in text
    assert r"| a\|b | c d |" in text
    assert "owner stated none" in sections(text)["intended use"][0]


def test_the_provenance_names_every_other_blob_and_where_it_came_from(
    packed: Callable[..., Bundle], change: Change
) -> None:
    change(lineage={"source_sha256": "a" * 64, "datasets": {"training": "b" * 64, "field": "in May"}})
    bundle = packed(signer=Signer(KEY, "urn:acme:ci"))
    envelope = bundle.read("provenance.dsse.json")
    statement: Any = strictjson.loads(dsse.verify(envelope, PAYLOAD_TYPE, KEYS))
    assert (statement["_type"], statement["predicateType"]) == (
        "https://in-toto.io/Statement/v1",
        "https://slsa.dev/provenance/v1",
    )
    named = {entry["name"]: entry["digest"]["sha256"] for entry in statement["subject"]}
    assert named == {b.name: b.sha256 for b in bundle.manifest.blobs if b.name != "provenance.dsse.json"}
    definition = statement["predicate"]["buildDefinition"]
    assert definition["buildType"] == "urn:dsops:build:1"
    assert definition["externalParameters"] == {"model": "digits", "release": 4, "variant": "int8"}
    digests = {entry["name"]: entry.get("digest") for entry in definition["resolvedDependencies"]}
    assert digests == {
        "source model": {"sha256": "a" * 64},
        "bundle.toml": {"sha256": "d" * 64},
        "data set: training": {"sha256": "b" * 64},
        "data set: field": None,
    }
    assert statement["predicate"]["runDetails"]["builder"]["id"] == "urn:acme:ci"
    assert check_provenance(envelope, bundle.manifest.blobs, KEYS) == "urn:acme:ci"
    assert read_provenance(envelope)["subjects"] == named


def test_a_provenance_of_another_key_or_bundle_is_refused(packed: Callable[..., Bundle], change: Change) -> None:
    bundle = packed(signer=Signer(KEY))
    envelope = bundle.read("provenance.dsse.json")
    stranger = ed25519.Ed25519PrivateKey.generate().public_key()
    with pytest.raises(UntrustedBundle, match="not signed"):
        check_provenance(envelope, bundle.manifest.blobs, {dsse.key_id(stranger): stranger})
    change(description="another")
    other = packed(signer=Signer(KEY)).manifest.blobs
    with pytest.raises(DigestMismatch, match="sbom"):
        check_provenance(envelope, other, KEYS)
    with pytest.raises(DigestMismatch, match="sbom"):
        check_subjects(envelope, other)


@pytest.mark.parametrize(
    "payload",
    [b"", b"{}", b"[]", b'{"_type":1}', b'{"_type":"x","subject":[],"predicateType":"y","predicate":{}}'],
)
def test_a_signed_text_that_is_no_provenance_is_refused(packed: Callable[..., Bundle], payload: bytes) -> None:
    blobs = packed().manifest.blobs
    envelope = dsse.sign(PAYLOAD_TYPE, payload, KEY).encode()
    for use in (lambda: check_provenance(envelope, blobs, KEYS), lambda: read_provenance(envelope)):
        with pytest.raises(UntrustedBundle):
            use()


def test_a_damaged_envelope_is_refused() -> None:
    text = {"payload": "@@", "payloadType": PAYLOAD_TYPE, "signatures": [{"keyid": "", "sig": ""}]}
    for envelope in (b"", b"{}", json.dumps(text).encode(), base64.b64encode(b"x")):
        with pytest.raises(UntrustedBundle):
            read_provenance(envelope)


@pytest.mark.parametrize("builder", ["", "acme", "urn:", "https://a b", "urn:" + "x" * 600])
def test_a_builder_that_is_no_uri_is_refused(builder: str) -> None:
    with pytest.raises(InvalidInput, match="URI"):
        Signer(KEY, builder)
