"""What a bundle needs, as a document: it follows from the manifest, has one text, and hostile ones are refused."""

import json
from typing import Any

import pytest

from dsops.bundle import describe_blobs
from dsops.contract import breaches, contract_of
from dsops.errors import InvalidModel, MalformedBundle
from dsops.manifest import Attachment, Budgets, Compatibility, Manifest, TensorSpec
from dsops.needs import MAX_NEEDS_BYTES, Needs, check_length, check_same, needs_of, parse_operator
from dsops.operators import operators_of

BLOBS = {"config.toml": b"c" * 70, "golden.bin": b"gold", "model.tflite": b"TFL3" * 9, "profile.json": b"{}"}
IMAGE = TensorSpec(name="image", datatype="INT8", shape=(1, 8, 8, 1), scale=0.1)
SCORES = TensorSpec(name="out", datatype="INT8", shape=(1, 2), scale=0.004)


def manifest_of(**changes: Any) -> Manifest:
    fields = {
        "model": "digits",
        "release": 1,
        "labels": ("a", "b"),
        "inputs": (IMAGE,),
        "outputs": (SCORES,),
        "files": (Attachment(blob="config.toml", kind="config"),),
        "blobs": describe_blobs(BLOBS),
    }
    return Manifest.model_validate(fields | changes)


def test_needs_follow_from_the_manifest() -> None:
    asked = Compatibility(min_litert="2.1", operators=("ADD/2", "CONV_2D/3"), delegates=("edgetpu",))
    needs = needs_of(manifest_of(compatibility=asked, budgets=Budgets(max_memory_bytes=5000)), 300)
    assert (needs.min_litert, needs.operators, needs.delegates) == ("2.1", ("ADD/2", "CONV_2D/3"), ("edgetpu",))
    assert (needs.memory_bytes, needs.disk_bytes) == (5000, 370)
    assert [str(shown) for shown in needs.contract.inputs] == ["image FP32 [n, 8, 8, 1]"]
    assert [str(shown) for shown in needs.contract.outputs] == ["scores FP32 [n, 2]", "label BYTES [n]"]


def test_a_payload_without_a_budget_needs_at_least_its_own_length() -> None:
    assert needs_of(manifest_of(), 300).memory_bytes == len(BLOBS["model.tflite"])


def test_a_document_survives_its_bytes() -> None:
    needs = needs_of(manifest_of(compatibility=Compatibility(operators=("CONV_2D/3", "custom:a b/1"))), 300)
    assert Needs.decode(needs.encode()) == needs


@pytest.mark.parametrize(
    ("edit", "why"),
    [
        (lambda text: text + b"\n", "not in canonical form"),
        (lambda text: text.replace(b":", b": ", 1), "not in canonical form"),
        (lambda text: text[:-1], "not strict JSON"),
        (lambda text: text.replace(b"}", b',"more":1}', 1), "not valid"),
        (lambda text: text.replace(b'"disk_bytes":370', b'"disk_bytes":-1'), "not valid"),
        (lambda text: text.replace(b'"disk_bytes":370', b'"disk_bytes":370,"disk_bytes":1'), "not strict JSON"),
        (lambda text: text.replace(b'"operators":[]', b'"operators":["conv 2d"]'), "not valid"),
        (lambda text: text.replace(b'"operators":[]', b'"operators":[' + b'"ADD/1",' * 300 + b'"ADD/1"]'), "not valid"),
        (lambda text: b"[" * 100 + text, "not strict JSON"),
        (lambda _: b"\xff\xfe", "not strict JSON"),
        (lambda text: text + b" " * MAX_NEEDS_BYTES, "too long"),
    ],
)
def test_a_hostile_document_is_refused(edit: Any, why: str) -> None:
    text = edit(needs_of(manifest_of(), 300).encode())
    with pytest.raises(MalformedBundle, match=why):
        Needs.decode(text)


@pytest.mark.parametrize(
    "changes",
    [
        {"compatibility": Compatibility(min_litert="9")},
        {"compatibility": Compatibility(operators=("ADD/9",))},
        {"compatibility": Compatibility(delegates=("gpu",))},
        {"budgets": Budgets(max_memory_bytes=10**9)},
        {"inputs": (IMAGE.model_copy(update={"shape": (1, 9, 9, 1)}),)},
        {"labels": ()},
    ],
)
def test_a_bundle_that_needs_something_else_than_was_signed_is_malformed(changes: dict[str, Any]) -> None:
    signed = needs_of(manifest_of(), 300).digest
    check_same(signed, manifest_of(description="what it needs is the same"), 300)
    with pytest.raises(MalformedBundle, match="contradicts what was signed"):
        check_same(signed, manifest_of(**changes), 300)
    with pytest.raises(MalformedBundle):
        check_same(signed, manifest_of(), 301)


def test_needs_that_cannot_be_sent_are_not_signed() -> None:
    many = tuple(TensorSpec(name="x" * 250 + str(n), datatype="FP32", shape=(1,) * 8) for n in range(64))
    names = tuple(sorted(f"custom:{'x' * 70}{n}/1" for n in range(256)))
    asked = Compatibility(operators=names)
    needs = needs_of(manifest_of(task="other", labels=(), inputs=many, outputs=many, compatibility=asked), 300)
    check_length(needs_of(manifest_of(), 300).encode())
    with pytest.raises(MalformedBundle, match="too long to be sent"):
        check_length(needs.encode())


@pytest.mark.parametrize(
    "names",
    [("CONV_2D/3", "ADD/1"), ("ADD/1", "ADD/1"), ("ADD",), ("ADD/0",), ("add/1",), ("custom:/1",), ("ADD/1000",)],
)
def test_operators_have_one_form_and_order(names: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="operators"):
        Compatibility(operators=names)


def test_operators_and_delegates_that_are_not_said_are_not_written() -> None:
    plain = json.loads(manifest_of().encode())["compatibility"]
    assert plain == {"hardware": [], "min_litert": ""}
    said = manifest_of(compatibility=Compatibility(operators=("ADD/1",), delegates=("gpu",)))
    assert json.loads(said.encode())["compatibility"] == {**plain, "operators": ["ADD/1"], "delegates": ["gpu"]}
    assert Manifest.decode(said.encode()) == said


def test_an_empty_list_that_is_written_is_another_text() -> None:
    written = json.loads(manifest_of().encode())
    written["compatibility"]["operators"] = []
    text = json.dumps(written, sort_keys=True, separators=(",", ":")).encode()
    with pytest.raises(MalformedBundle, match="canonical"):
        Manifest.decode(text)


def test_operators_are_parsed_as_they_are_written() -> None:
    assert parse_operator("CONV_2D/3") == ("CONV_2D", 3, False)
    assert parse_operator("custom:a/b/12") == ("a/b", 12, True)


def test_what_is_no_model_has_no_operators() -> None:
    with pytest.raises(InvalidModel):
        operators_of(b"TFL3" * 9)


# What programs see.


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"inputs": (IMAGE.model_copy(update={"shape": (1, 9, 9, 1)}),)}, "becomes image FP32 [n, 9, 9, 1]"),
        ({"inputs": (IMAGE.model_copy(update={"name": "frame"}),)}, "input image FP32 [n, 8, 8, 1] is gone"),
        ({"inputs": (IMAGE, IMAGE.model_copy(update={"name": "mask"}))}, "input mask FP32 [n, 8, 8, 1] is new"),
        ({"inputs": (IMAGE.model_copy(update={"scale": 0.0}),)}, "becomes image INT8"),
        ({"labels": ()}, "output label BYTES [n] is gone"),
        ({"labels": (), "outputs": (SCORES.model_copy(update={"shape": (1, 3)}),)}, "becomes scores FP32 [n, 3]"),
        ({"labels": (), "task": "other"}, "output scores FP32 [n, 2] is gone"),
    ],
)
def test_what_breaks_programs_is_named(changes: dict[str, Any], text: str) -> None:
    found = breaches(contract_of(manifest_of()), contract_of(manifest_of(**changes)))
    assert any(text in one for one in found), found


@pytest.mark.parametrize(
    "changes",
    [
        {"inputs": (IMAGE.model_copy(update={"datatype": "FP32", "scale": 0.0}),)},
        {"inputs": (IMAGE.model_copy(update={"scale": 0.7, "zero_point": 3}),)},
        {"outputs": (SCORES, SCORES.model_copy(update={"name": "embedding"}))},
        {"labels": ("c", "d")},
        {"outputs": (SCORES.model_copy(update={"name": "softmax"}),)},
    ],
)
def test_what_programs_do_not_notice_breaks_nothing(changes: dict[str, Any]) -> None:
    assert breaches(contract_of(manifest_of()), contract_of(manifest_of(**changes))) == []
