"""Any valid manifest survives the way through its bytes, and its bytes are the only ones that stand for it."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from dsops.bundle import sha256_hex
from dsops.errors import MalformedBundle
from dsops.manifest import Dtype, Manifest, Postprocessing

PARTS = ("model.tflite", "profile.json", "golden.bin")
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
named = texts.filter(bool)
numbers = st.floats(allow_nan=False, allow_infinity=False)
limits = st.floats(0, 1e9)
counts = st.integers(0, 2**53)
words = st.from_regex(r"[a-z0-9][a-z0-9-]{0,12}", fullmatch=True)
blob_names = st.from_regex(r"[a-z0-9][a-z0-9._-]{0,12}", fullmatch=True).filter(lambda name: name not in PARTS)
maps = st.dictionaries(named, texts, max_size=3)
digests = st.binary(max_size=4).map(sha256_hex)
specs = st.fixed_dictionaries(
    {
        "name": named,
        "datatype": st.sampled_from(Dtype.__args__),
        "shape": st.lists(st.integers(1, 2**31 - 1), max_size=7).map(lambda sizes: [1, *sizes]),
        "scale": numbers,
        "zero_point": st.integers(-(2**31), 2**31 - 1),
    }
)
tensors = st.lists(specs, min_size=1, max_size=3, unique_by=lambda spec: spec["name"])


@st.composite
def manifests(draw: st.DrawFn) -> Manifest:
    inputs = draw(tensors)
    extra = draw(st.lists(blob_names, max_size=6, unique=True))
    roles = ("model_card", "sbom", "provenance", "signature")
    documents = dict(zip(roles, extra, strict=False))
    files = [{"blob": name, "kind": draw(st.sampled_from(["config", "labels"]))} for name in extra[len(roles) :]]
    fields: dict[str, Any] = {
        "model": draw(words),
        "release": draw(st.integers(1, 2**31 - 1)),
        "variant": draw(words),
        "description": draw(texts),
        "license": draw(texts),
        "task": "other",
        "labels": draw(st.lists(named, max_size=4, unique=True)),
        "inputs": inputs,
        "outputs": draw(tensors),
        "preprocessing": [
            {"input": spec["name"], "scale": draw(st.lists(numbers, min_size=1, max_size=1))} for spec in inputs
        ],
        "postprocessing": {"threshold": draw(st.none() | numbers)},
        "compatibility": {
            "hardware": draw(st.lists(words, max_size=3)),
            "min_litert": draw(st.sampled_from(["", "2.1"])),
            "operators": draw(st.sampled_from([[], ["CONV_2D/3", "custom:a b/1"]])),
            "delegates": draw(st.sampled_from([[], ["edgetpu"]])),
        },
        "budgets": {"max_latency_ms": draw(limits), "max_disk_bytes": draw(counts)},
        "lineage": {"source_sha256": draw(st.none() | digests), "datasets": draw(maps), "facts": draw(maps)},
        "metrics": draw(st.dictionaries(named, numbers, max_size=3)),
        "kpis": draw(st.lists(words, max_size=3, unique=True)),
        "files": files,
        "documents": documents,
        "blobs": [
            {"name": name, "size_bytes": draw(counts), "sha256": draw(digests)} for name in sorted((*PARTS, *extra))
        ],
    }
    return Manifest.model_validate(fields | (draw(seals(fields["blobs"])) if draw(st.booleans()) else {}))


@st.composite
def seals(draw: st.DrawFn, blobs: list[dict[str, Any]]) -> dict[str, Any]:
    """Return fields of a sealed manifest; the stored lengths follow from those before."""
    record = draw(st.integers(2**12, 2**24))
    names = draw(st.sampled_from([["model.tflite"], ["golden.bin", "model.tflite"]]))
    plain = [{"name": name, "size_bytes": draw(st.integers(1, 2**52)), "sha256": draw(digests)} for name in names]
    longer = {blob["name"]: blob["size_bytes"] + 16 * -(-blob["size_bytes"] // record) for blob in plain}
    stored = [blob | {"size_bytes": longer.get(blob["name"], blob["size_bytes"])} for blob in blobs]
    sealed = {"record_bytes": record, "key_id": draw(digests), "blobs": plain}
    return {"format": 2, "sealed": sealed, "blobs": stored}


@settings(max_examples=60)
@given(manifests())
def test_a_manifest_survives_its_bytes(manifest: Manifest) -> None:
    data = manifest.encode()
    assert Manifest.decode(data) == manifest
    assert Manifest.decode(data).encode() == data


@settings(max_examples=30)
@given(manifests(), st.data())
def test_no_other_text_stands_for_the_same_manifest(manifest: Manifest, data: st.DataObject) -> None:
    value = json.loads(manifest.encode())
    others = [
        json.dumps(value, sort_keys=True, ensure_ascii=False).encode(),
        json.dumps(dict(reversed(value.items())), separators=(",", ":"), ensure_ascii=False).encode(),
        manifest.encode() + b"\n",
        b"\xef\xbb\xbf" + manifest.encode(),
        json.dumps(value | {"release": float(value["release"])}, sort_keys=True, separators=(",", ":")).encode(),
        json.dumps({k: v for k, v in value.items() if k != "kpis"}, sort_keys=True, separators=(",", ":")).encode(),
    ]
    with pytest.raises(MalformedBundle):
        Manifest.decode(data.draw(st.sampled_from(others)))


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_numbers_that_json_cannot_hold_are_refused_when_they_are_given(number: float) -> None:
    with pytest.raises(ValidationError, match="finite"):
        Postprocessing(threshold=number)
