"""What changed between two bundles, figure by figure; each change is made by hand, so the right answer is known."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

from dsops import strictjson
from dsops.bundle import Bundle, describe_blobs, encode_bundle
from dsops.chunks import DEFAULT_CHUNK_BYTES, index_of
from dsops.golden import GoldenSet
from dsops.manifest import MAX_COUNT, Manifest
from dsops.profile import Profile, Signal
from dsops_controller.build.bundles.compare import Contents, compare
from dsops_controller.build.bundles.compare_profile import compare_profiles
from dsops_controller.build.bundles.compare_size import update_size
from dsops_controller.build.bundles.compare_weights import compare_weights
from dsops_controller.build.bundles.payload import Payload, Weight, read_payload

Edit = Callable[[Mapping[str, bytes]], dict[str, bytes]]


def contents(bundle: Bundle, blobs: Mapping[str, bytes] | None = None, **changes: Any) -> Contents:
    held = {blob.name: bundle.read(blob.name) for blob in bundle.manifest.blobs} | dict(blobs or {})
    fields = bundle.manifest.model_dump() | changes | {"blobs": describe_blobs(held)}
    manifest = Manifest.model_validate(fields)
    return Contents(encode_bundle(manifest, held), manifest, held)


def weights_of(values: np.ndarray[Any, Any], dtype: str, **how: Any) -> tuple[Payload, bytes]:
    data = values.tobytes()
    weight = Weight("w", dtype, how.pop("shape", values.shape), 0, len(data), **how)
    return Payload({}, (), 1, values.size, (weight,)), data


def test_a_bundle_is_equal_to_itself(digits: Bundle) -> None:
    found = compare(contents(digits), contents(digits))
    assert found.is_equal
    assert (found.fields, found.metrics, found.operators, found.weights, found.blobs) == ((), (), (), (), ())
    assert {signal.distance for signal in found.profile} == {0.0}
    assert (found.golden.shared, found.golden.largest) == (found.golden.after, 0.0)
    assert (found.size.fetch_bytes, found.size.delta_bytes) == (0, 0)
    assert found.size.shared_chunks == found.size.chunks


def test_changed_fields_labels_and_metrics_are_named(digits: Bundle) -> None:
    old = contents(digits, metrics={"accuracy": 0.97, "f1": 0.9})
    spec = digits.manifest.inputs[0].model_dump() | {"zero_point": 3}
    labels = ("zero", *digits.manifest.labels[1:])
    new = contents(digits, release=9, labels=labels, inputs=[spec], metrics={"accuracy": 0.95, "auc": 0.5})
    found = compare(old, new)
    assert not found.is_equal
    changed = {change.where: (change.before, change.after) for change in found.fields}
    name = spec["name"]
    assert changed == {
        "release": (digits.manifest.release, 9),
        f"inputs.{name}.zero_point": (digits.manifest.inputs[0].zero_point, 3),
    }
    metrics = {change.where: change.as_dict() for change in found.metrics}
    assert metrics["accuracy"]["difference"] == pytest.approx(-0.02)
    assert (metrics["f1"]["after"], metrics["auc"]["before"]) == (None, None)
    assert (found.labels.added, found.labels.removed, found.labels.is_reordered) == (("zero",), ("0",), False)


def test_labels_that_stand_for_other_scores_are_noticed(digits: Bundle) -> None:
    found = compare(contents(digits), contents(digits, labels=digits.manifest.labels[::-1]))
    assert (found.labels.added, found.labels.removed, found.labels.is_reordered) == ((), (), True)


def test_one_changed_weight_is_found_with_its_real_difference(digits: Bundle) -> None:
    data = digits.read("model.tflite")
    weight = max(read_payload(data).weights, key=lambda one: one.length_bytes)
    place = weight.start + weight.length_bytes - 1
    stored = int.from_bytes(data[place : place + 1], "little", signed=True)
    moved = stored - 7 if stored > 0 else stored + 7
    edited = data[:place] + moved.to_bytes(1, "little", signed=True) + data[place + 1 :]
    found = compare(contents(digits), contents(digits, {"model.tflite": edited}))
    (change,) = found.weights
    assert (change.name, change.kind, change.changed, change.elements) == (
        weight.name,
        "changed",
        1,
        math.prod(weight.shape),
    )
    assert change.largest == pytest.approx(7 * weight.scales[-1])
    assert [blob.where for blob in found.blobs] == ["model.tflite"]
    assert found.size.delta_bytes < 400 < found.size.fetch_bytes


@pytest.mark.parametrize(
    ("dtype", "before", "after", "how", "changed", "largest"),
    [
        ("FLOAT32", np.float32([1, 2, 3]), np.float32([1, 2.5, 3]), {}, 1, 0.5),
        ("FLOAT16", np.float16([1, 2]), np.float16([0, 2]), {}, 1, 1.0),
        ("FLOAT32", np.float32([1, 2]), np.float32([1, math.nan]), {}, 1, None),
        ("FLOAT32", np.float32([0.0]), np.float32([-0.0]), {}, 1, 0.0),
        ("INT8", np.int8([-128, 5]), np.int8([127, 5]), {"scales": (0.5,)}, 1, 127.5),
        ("INT8", np.int8([[1, 2], [3, 4]]), np.int8([[1, 4], [3, 5]]), {"scales": (1.0, 10.0)}, 2, 10.0),
        ("INT8", np.int8([[1, 2], [3, 4]]), np.int8([[1, 4], [3, 5]]), {"scales": (1.0, 10.0), "axis": 1}, 2, 20.0),
        ("UINT8", np.uint8([0]), np.uint8([255]), {"scales": (1.0,), "zero_points": (128,)}, 1, 255.0),
        ("INT32", np.int32([7, 8]), np.int32([7, -8]), {}, 1, 16.0),
        ("INT4", np.uint8([0x7F, 0x01]), np.uint8([0x8F, 0x01]), {"shape": (3,), "scales": (2.0,)}, 1, 30.0),
        ("BFLOAT16", np.uint8([1, 2]), np.uint8([1, 4]), {"shape": (1,)}, 1, 2.0),
    ],
)
def test_weights_of_every_type_are_compared_as_real_values(
    dtype: str, before: Any, after: Any, how: dict[str, Any], changed: int, largest: float | None
) -> None:
    old, old_data = weights_of(before, dtype, **dict(how))
    new, new_data = weights_of(after, dtype, **dict(how))
    (change,) = compare_weights(old, old_data, new, new_data)
    assert (change.kind, change.changed, change.largest) == ("changed", changed, largest)


def test_the_same_stored_values_with_another_scale_differ() -> None:
    values = np.int8([1, 2])
    old, data = weights_of(values, "INT8", scales=(1.0,))
    new, _ = weights_of(values, "INT8", scales=(1.5,))
    (change,) = compare_weights(old, data, new, data)
    assert (change.changed, change.largest) == (0, 1.0)


def test_a_large_tensor_is_compared_in_blocks() -> None:
    before = np.zeros((5, 1 << 19), np.int8)
    after = before.copy()
    after[4, -1] = 3
    after[0, 0] = -2
    old, old_data = weights_of(before, "INT8", scales=(1.0, 1.0, 1.0, 1.0, 0.1))
    new, new_data = weights_of(after, "INT8", scales=(1.0, 1.0, 1.0, 1.0, 0.1))
    (change,) = compare_weights(old, old_data, new, new_data)
    assert (change.changed, change.largest) == (2, 2.0)


def test_a_tensor_of_another_type_or_shape_was_added_and_removed() -> None:
    old, old_data = weights_of(np.zeros((2, 3), np.float32), "FLOAT32")
    new, new_data = weights_of(np.zeros((3, 2), np.float32), "FLOAT32")
    found = compare_weights(old, old_data, new, new_data)
    assert [(change.kind, change.shape) for change in found] == [("added", (3, 2)), ("removed", (2, 3))]


def profile(*signals: Signal) -> Profile:
    return Profile(n_ref=200, signals=signals)


def test_signals_with_the_same_bins_are_compared_bin_by_bin() -> None:
    old = Signal(name="s", kind="ordinal", edges=(0.0, 1.0), counts=(20, 160, 20))
    new = Signal(name="s", kind="ordinal", edges=(0.0, 1.0), counts=(40, 120, 40))
    (change,) = compare_profiles(profile(old), profile(new))
    assert (change.distance, change.is_rebinned) == (pytest.approx(0.2), False)
    p, q = np.array([20.5, 160.5, 20.5]) / 201.5, np.array([40.5, 120.5, 40.5]) / 201.5
    assert change.stability == pytest.approx(float(((p - q) * np.log(p / q)).sum()))


def test_signals_with_other_bins_are_compared_on_the_edges_of_both() -> None:
    coarse = Signal(name="s", kind="ordinal", edges=(0.0, 1.0), counts=(0, 200, 0))
    fine = Signal(name="s", kind="ordinal", edges=(0.0, 0.25, 1.0), counts=(0, 50, 150, 0))
    shifted = Signal(name="s", kind="ordinal", edges=(0.5, 1.5), counts=(0, 200, 0))
    apart = Signal(name="s", kind="ordinal", edges=(2.0, 3.0), counts=(0, 200, 0))
    for other, distance in ((fine, 0.0), (shifted, 0.5), (apart, 1.0)):
        (change,) = compare_profiles(profile(coarse), profile(other))
        assert (change.distance, change.is_rebinned) == (pytest.approx(distance), True)


def test_signals_that_cannot_be_compared_say_why() -> None:
    a = Signal(name="a", kind="categorical", counts=(80, 120))
    b = Signal(name="a", kind="categorical", counts=(80, 100, 20))
    c = Signal(name="c", kind="categorical", counts=(80, 120))
    found = compare_profiles(profile(a), profile(b, c))
    assert [(change.name, change.note, change.distance) for change in found] == [
        ("a", "other classes", None),
        ("c", "added", None),
    ]
    assert [change.note for change in compare_profiles(profile(a, c), profile(a))] == ["", "removed"]


def test_shared_golden_frames_are_found_in_any_order(digits: Bundle) -> None:
    golden = GoldenSet.decode(digits.read("golden.bin"))
    (tensor,), (output,) = golden.inputs, golden.outputs
    frames, values = len(tensor.data) // len(golden), len(output.data) // len(golden)
    kept = [2, 0]
    outputs = np.frombuffer(output.data, "<f4").reshape(len(golden), -1)[kept] + np.float32([[0.0], [0.25]])
    reordered = GoldenSet(
        inputs=(
            type(tensor)(
                tensor.name,
                tensor.dtype,
                (2, *tensor.shape[1:]),
                b"".join(tensor.data[row * frames : (row + 1) * frames] for row in kept),
            ),
        ),
        outputs=(type(output)(output.name, output.dtype, (2, *output.shape[1:]), outputs.astype("<f4").tobytes()),),
        tolerances=golden.tolerances,
    )
    assert values == outputs.itemsize * outputs.shape[1]
    found = compare(contents(digits), contents(digits, {"golden.bin": reordered.encode()})).golden
    assert (found.before, found.after, found.shared) == (len(golden), 2, 2)
    assert found.largest == pytest.approx(0.25, abs=1e-6)


def test_only_chunks_that_are_not_there_are_fetched() -> None:
    first = bytes(range(256)) * (DEFAULT_CHUNK_BYTES // 256)
    old, new = first + b"old" * 9, first + b"new" * 9
    found = update_size(index_of(old), index_of(new), 5)
    assert (found.chunks, found.shared_chunks) == (2, 1)
    assert found.fetch_bytes == 27 + 24 + 2 * 32  # the last chunk, and the index
    assert found.delta_bytes == 5


def test_a_delta_of_moved_weights_is_much_smaller_than_the_model(digits: Bundle) -> None:
    data = bytearray(digits.read("model.tflite"))
    draw = np.random.default_rng(1)
    for weight in read_payload(bytes(data)).weights:
        if weight.dtype == "INT8":
            values = np.frombuffer(bytes(data), np.int8, weight.length_bytes, weight.start).copy()
            moved = draw.random(values.shape) < 0.1
            values[moved] = np.clip(values[moved].astype(np.int16) + draw.choice([-1, 1], moved.sum()), -127, 127)
            data[weight.start : weight.start + weight.length_bytes] = values.tobytes()
    size = compare(contents(digits), contents(digits, {"model.tflite": bytes(data)})).size
    assert size.shared_chunks < size.chunks
    assert 0 < size.delta_bytes < size.fetch_bytes / 4


def test_a_comparison_can_be_written_as_strict_json(digits: Bundle) -> None:
    weight = min(read_payload(digits.read("model.tflite")).weights, key=lambda one: one.start)
    data = bytearray(digits.read("model.tflite"))
    data[weight.start] ^= 1
    found = compare(contents(digits), contents(digits, {"model.tflite": bytes(data)}, release=99)).as_dict()
    written: Any = strictjson.loads(strictjson.dumps(found))
    assert written == found
    assert [written["weights"][0]["changed"], len(written["fields"]), written["equal"]] == [1, 1, False]


def test_the_largest_profiles_that_there_may_be_are_compared() -> None:
    most = MAX_COUNT
    old = Signal(name="s", kind="ordinal", edges=(-1e300, 1e300), counts=(0, most, 0))
    new = Signal(name="s", kind="ordinal", edges=(0.0, 1e300), counts=(0, most, 0))
    (change,) = compare_profiles(Profile(n_ref=most, signals=(old,)), Profile(n_ref=most, signals=(new,)))
    assert change.distance == pytest.approx(0.5)
    assert change.stability is not None
    assert np.isfinite(change.stability)
