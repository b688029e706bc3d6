"""Models of every task: served, proved, asked over the protocol, watched."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from runtime_bundles import CLASSES, LABELS, MadeBundle, ModelBuilder, frames
from runtime_tasks import (
    TABLE,
    THRESHOLD,
    features,
    levels,
    make_alarm,
    make_flags,
    make_line,
    make_logits,
    make_lookup,
    make_memory,
    make_pair,
    make_twin,
    memory_model,
    pair_model,
)

from dsops.api.v1 import open_inference_grpc_pb2 as pb
from dsops.api.v1 import samples_pb2, telemetry_pb2
from dsops.bundle import Bundle
from dsops.clock import ManualClock
from dsops.errors import GoldenMismatch, InvalidInput, InvalidModel, OverMemory, OverSize, RuntimeTooOld, TooSlow
from dsops.golden_compare import distances
from dsops.manifest import Budgets, Manifest, Postprocessing, Task, TensorSpec
from dsops.signals import measure, signals_of
from dsops_agent.runtime import oip
from dsops_agent.runtime.answer import Exchange, outputs_of
from dsops_agent.runtime.engine import MAX_FRAMES, ServedModel, load_bundle
from dsops_agent.runtime.golden import check_golden
from dsops_agent.runtime.litert import Array, Runtime, find_runtime
from dsops_agent.runtime.prove import Bounds, check_runtime, prove
from dsops_agent.runtime.records import Kind
from dsops_agent.runtime.sample_budgets import SampleBudgets
from dsops_agent.runtime.sample_settings import SampleSettings
from dsops_agent.runtime.samples import Sampling
from dsops_agent.runtime.watch import ModelWatch

EVERY: list[Callable[[Path], MadeBundle]] = [
    make_pair, make_line, make_twin, make_lookup, make_flags, make_memory, make_logits, make_alarm,
]  # fmt: skip


def load(bundle: MadeBundle) -> ServedModel:
    return load_bundle(Bundle.open(bundle.path), bundle.digest, threads=1)


@pytest.mark.parametrize("make", EVERY, ids=lambda make: make.__name__.removeprefix("make_"))
def test_every_model_is_proved(tmp_path: Path, make: Callable[[Path], MadeBundle]) -> None:
    result = prove(make(tmp_path).path, Bounds())
    assert result["ok"] is True


# The engine.


def test_inputs_go_by_name_and_every_output_comes_back(tmp_path: Path) -> None:
    served = load(make_pair(tmp_path))
    left, right = features(5, 11), features(5, 12)
    answer = served.infer({"right": right, "left": left})
    assert answer.outputs[0] == pytest.approx(left + right)
    assert answer.outputs[1] == pytest.approx(left - right)
    assert (answer.decision.scores, answer.decision.choices) == (None, None)
    assert len(answer.latency_us) == 5


@pytest.mark.parametrize(
    ("inputs", "text"),
    [
        ({"left": features(2, 1)}, "has 2 inputs, 'left', 'right': got 'left'"),
        ({"left": features(2, 1), "middle": features(2, 1)}, "got 'left', 'middle'"),
        ({}, "got none"),
        ({"left": features(2, 1), "right": features(3, 1)}, "different numbers of frames: 2 of 'left', 3 of 'right'"),
        ({"left": features(2, 1), "right": features(2, 1, 5)}, r"'right' of model pair has shape \[n, 4\]"),
        ({"left": features(2, 1), "right": np.full((2, 4), np.inf, np.float32)}, "'right' holds a value"),
    ],
    ids=["one", "name", "none", "lengths", "shape", "infinite"],
)
def test_inputs_that_do_not_fit_together_are_refused(tmp_path: Path, inputs: dict[str, Array], text: str) -> None:
    with pytest.raises(InvalidInput, match=text):
        load(make_pair(tmp_path)).infer(inputs)


def test_whole_numbers_are_passed_as_they_are(tmp_path: Path) -> None:
    served = load(make_lookup(tmp_path))
    answer = served.infer({"index": np.array([4, 0], np.int32)})
    assert answer.outputs[0].tolist() == TABLE[[4, 0]].tolist()
    assert (answer.outputs[1].tolist(), answer.outputs[1].dtype) == ([4, 0], np.int64)
    with pytest.raises(InvalidInput, match="'index' of model lookup is INT32: got float32"):
        served.infer({"index": np.zeros(1, np.float32)})


def test_a_model_with_a_state_begins_every_frame_anew(tmp_path: Path) -> None:
    rows = np.ones((4, 2), np.float32)
    plain = find_runtime().module.Interpreter(model_content=memory_model())
    plain.allocate_tensors()
    kept = []
    for row in rows:
        plain.set_tensor(plain.get_input_details()[0]["index"], row[None])
        plain.invoke()
        kept.append(float(plain.get_tensor(plain.get_output_details()[0]["index"])[0, 0]))
    assert kept == [2.0, 4.0, 6.0, 6.0]
    assert load(make_memory(tmp_path)).infer({"x": rows}).outputs[0].ravel().tolist() == [2.0] * 4


def test_a_signature_that_names_other_inputs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidModel, match="the payload's input 'right'") as caught:
        load(make_pair(tmp_path, pair_model(names=("right", "left"))))
    assert "the manifest tells 'left'" in caught.value.why


def test_a_request_has_no_more_frames_than_its_answer_has_room(tmp_path: Path) -> None:
    served = load(make_pair(tmp_path))
    assert served.max_frames == MAX_FRAMES
    small = replace(served, max_answer_bytes=4 * 32)
    assert small.max_frames == 4
    rows = features(5, 1)
    assert len(small.infer({"left": rows[:4], "right": rows[:4]}).latency_us) == 4
    with pytest.raises(InvalidInput, match="n is 1 to 4"):
        small.infer({"left": rows, "right": rows})
    assert len(check_golden(small)) == 6
    assert replace(served, max_answer_bytes=1).max_frames == 1


def backwards_model() -> bytes:
    """A model whose first operator reads what the second one writes."""
    build = ModelBuilder()
    x, middle, y = (build.tensor(name, (1, 4), schema.TensorType.FLOAT32) for name in ("x", "middle", "y"))
    build.operator(schema.BuiltinOperator.ADD, [middle, x], [y], schema.AddOptionsT())
    build.operator(schema.BuiltinOperator.ADD, [x, x], [middle], schema.AddOptionsT())
    return build.finish([x], [y])


def custom_model() -> bytes:
    build = ModelBuilder()
    x, y = (build.tensor(name, (1, 4), schema.TensorType.FLOAT32) for name in ("x", "y"))
    build.operator(schema.BuiltinOperator.ADD, [x, x], [y], schema.AddOptionsT())
    (code,) = build.model.operatorCodes
    code.builtinCode = schema.BuiltinOperator.CUSTOM
    code.deprecatedBuiltinCode = schema.BuiltinOperator.CUSTOM
    code.customCode = "edgetpu-custom-op"
    return build.finish([x], [y])


@pytest.mark.parametrize(
    ("payload", "why"),
    [
        (b"no model", "does not begin as a TFLite file does"),
        (backwards_model(), "read before anything writes it"),
        (custom_model(), "edgetpu-custom-op"),
        (pair_model()[:-40], ""),
    ],
    ids=["none", "order", "custom", "cut"],
)
def test_a_payload_that_is_not_sound_never_reaches_the_runtime(tmp_path: Path, payload: bytes, why: str) -> None:
    with pytest.raises(InvalidModel) as caught:
        load(make_pair(tmp_path, payload))
    assert "refuses the model" not in caught.value.what  # which the runtime's own refusal says
    assert why in caught.value.why


# Golden inputs.


def test_every_output_is_compared(tmp_path: Path) -> None:
    with pytest.raises(GoldenMismatch, match="6 of 6") as caught:
        check_golden(load(make_pair(tmp_path, shift=0.06)))
    assert caught.value.why == "input 0: output 'total' is off by 0.06, 0.05 is allowed"
    check_golden(load(make_pair(tmp_path, shift=0.04)))


def test_a_difference_far_down_the_golden_set_has_its_own_row(tmp_path: Path) -> None:
    served = replace(load(make_alarm(tmp_path, 0.6)), max_answer_bytes=8)
    assert served.max_frames == 2
    with pytest.raises(GoldenMismatch, match="1 of 5") as caught:
        check_golden(served)
    assert caught.value.why == "input 2: taken for 'alarm', expected 'calm'"


def test_distances_of_what_is_no_number_and_of_large_integers() -> None:
    real = distances(np.array([[1.0, np.nan], [0.0, 0.0]]), np.array([[1.0, np.nan], [0.5, 0.25]], np.float32))
    assert np.isnan(real[0])
    assert real[1] == 0.5
    whole = np.array([[2**62], [2**62 + 1], [7]])
    assert distances(np.array([[2**62], [2**62], [4]]), whole) == [0.0, 1.0, 3.0]


def test_an_anomaly_must_stay_one(tmp_path: Path) -> None:
    with pytest.raises(GoldenMismatch, match="4 of 8") as caught:
        check_golden(load(make_twin(tmp_path, shift=0.4)))
    assert caught.value.why == "input 0: taken for 'no anomaly', expected 'an anomaly'"
    check_golden(load(make_twin(tmp_path, threshold=None, shift=0.4)))


def test_a_label_is_checked_after_the_threshold(tmp_path: Path) -> None:
    check_golden(load(make_alarm(tmp_path, 0.8)))
    with pytest.raises(GoldenMismatch, match="1 of 5") as caught:
        check_golden(load(make_alarm(tmp_path, 0.6)))
    assert caught.value.why == "input 2: taken for 'alarm', expected 'calm'"


@pytest.mark.parametrize(
    ("budgets", "error", "text"),
    [
        (
            Budgets(max_memory_bytes=1 << 20),
            OverMemory,
            r"takes \d{8,} bytes of memory .* its budget is 1048576",
        ),
        (Budgets(max_disk_bytes=1000), OverSize, r"takes \d{4} bytes of disk: its budget is 1000"),
        (Budgets(max_latency_ms=1e-6), TooSlow, r"a frame takes .* the limit is 1e-06 ms"),
    ],
)
def test_budgets(tmp_path: Path, budgets: Budgets, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        prove(make_line(tmp_path, budgets).path, Bounds())


@pytest.mark.parametrize(
    ("name", "version", "needed", "is_enough"),
    [
        ("ai-edge-litert", "2.3.0", "", True),
        ("ai-edge-litert", "2.3.0", "2.3", True),
        ("ai-edge-litert", "2.3.1rc1", "2.3.1", True),
        ("ai-edge-litert", "2.10.0", "2.9.9", True),
        ("ai-edge-litert", "2.3.0", "2.3.1", False),
        ("ai-edge-litert", "1.4.0", "2", False),
        ("tflite-runtime", "2.14.0", "", True),
        ("tflite-runtime", "2.14.0", "1.0", False),
    ],
)
def test_the_runtime_must_be_new_enough(name: str, version: str, needed: str, is_enough: bool) -> None:
    runtime = Runtime(np, name, version)
    if is_enough:
        check_runtime(runtime, needed)
        return
    with pytest.raises(RuntimeTooOld, match=f"this device has {name} {version}: the bundle needs LiteRT {needed}"):
        check_runtime(runtime, needed)


# The protocol.


def ask(served: ServedModel, wanted: tuple[str, ...] = (), *, raw: bool = True, **inputs: Any) -> dict[str, Any]:
    """Ask as a program does; return every output's values by name, and metadata that matches them."""
    types = {"float32": "FP32", "int32": "INT32", "bool": "BOOL", "int8": "INT8"}
    message = pb.ModelInferRequest(model_name=served.name)
    for name, values in inputs.items():
        tensor = message.inputs.add(name=name, datatype=types[str(values.dtype)], shape=values.shape)
        if raw:
            message.raw_input_contents.append(values.tobytes())
        elif values.dtype == np.float32:
            tensor.contents.fp32_contents.extend(values.ravel().tolist())
        elif values.dtype == np.bool_:
            tensor.contents.bool_contents.extend(values.ravel().tolist())
        else:
            tensor.contents.int_contents.extend(values.ravel().tolist())
    message.outputs.extend(pb.ModelInferRequest.InferRequestedOutputTensor(name=name) for name in wanted)
    response = oip.encode_answer(message, served, served.infer(served.prepared(oip.decode_inputs(message, served))))
    described = {output.name: output for output in oip.describe(served).outputs}
    found = {}
    for at, output in enumerate(response.outputs):
        assert output.datatype == described[output.name].datatype
        assert list(output.shape[1:]) == list(described[output.name].shape[1:])
        found[output.name] = _values(output, response.raw_output_contents[at] if raw else None)
    return found


def _values(output: Any, raw: bytes | None) -> Any:
    if output.datatype == "BYTES":
        assert raw is None
        return list(output.contents.bytes_contents)
    dtype, typed = {
        "FP32": ("<f4", "fp32_contents"),
        "INT64": ("<i8", "int64_contents"),
        "BOOL": ("?", "bool_contents"),
    }[output.datatype]
    values = getattr(output.contents, typed) if raw is None else np.frombuffer(raw, dtype)
    return np.array(values).reshape(output.shape)


@pytest.mark.parametrize("raw", [True, False])
def test_two_inputs_in_any_order(tmp_path: Path, raw: bool) -> None:
    served = load(make_pair(tmp_path))
    left, right = features(3, 1), features(3, 2)
    found = ask(served, raw=raw, right=right, left=left)
    assert list(found) == ["total", "label"]  # not a classification: the model's own output keeps its name
    assert found["total"] == pytest.approx(left + right)
    assert found["label"] == pytest.approx(left - right)
    assert list(ask(served, ("label",), raw=raw, left=left, right=right)) == ["label"]


def test_the_metadata_tells_every_input(tmp_path: Path) -> None:
    told = oip.describe(load(make_pair(tmp_path)))
    assert [(i.name, i.datatype, list(i.shape)) for i in told.inputs] == [
        ("left", "FP32", [-1, 4]),
        ("right", "FP32", [-1, 4]),
    ]
    (index,) = oip.describe(load(make_lookup(tmp_path))).inputs
    assert (index.datatype, list(index.shape)) == ("INT32", [-1])


@pytest.mark.parametrize("raw", [True, False])
def test_whole_numbers_and_truth_values_over_the_protocol(tmp_path: Path, raw: bool) -> None:
    found = ask(load(make_lookup(tmp_path)), raw=raw, index=np.array([3, 1], np.int32))
    assert found["row"].tolist() == TABLE[[3, 1]].tolist()
    assert found["same"].tolist() == [3, 1]
    flags = np.array([[True, False]])
    assert ask(load(make_flags(tmp_path)), raw=raw, flags=flags)["others"].tolist() == [[False, True]]


def test_a_byte_that_is_no_truth_value_is_made_one(tmp_path: Path) -> None:
    served = load(make_flags(tmp_path))
    message = pb.ModelInferRequest(raw_input_contents=[b"\x07\x00"])
    message.inputs.add(name="flags", datatype="BOOL", shape=[1, 2])
    assert oip.decode_inputs(message, served)["flags"].values.view(np.uint8).tolist() == [[1, 0]]


@pytest.mark.parametrize("raw", [True, False])
def test_a_reconstruction_tells_score_and_anomaly(tmp_path: Path, raw: bool) -> None:
    served = load(make_twin(tmp_path))
    rows = np.concatenate([levels(2, 5), features(2, 6)])
    found = ask(served, raw=raw, x=rows)
    assert list(found) == ["again", "score", "anomaly"]
    expected = rows.var(axis=1)
    assert found["again"] == pytest.approx(np.repeat(rows.mean(axis=1, keepdims=True), 4, axis=1))
    assert found["score"] == pytest.approx(expected, rel=1e-4)
    assert found["anomaly"].tolist() == (expected >= THRESHOLD).tolist() == [False, False, True, True]
    assert list(ask(load(make_twin(tmp_path, threshold=None)), x=rows)) == ["again", "score"]


def test_scores_are_probabilities_and_raw_ones_come_when_asked_for(tmp_path: Path) -> None:
    served = load(make_logits(tmp_path))
    rows = frames(CLASSES, noise=0.01).reshape(CLASSES, -1)
    found = ask(served, raw=False, x=rows)
    assert list(found) == ["scores", "label"]
    assert found["label"] == [label.encode() for label in LABELS]
    assert found["scores"].sum(axis=1) == pytest.approx(1.0)
    raw = ask(served, ("logits", "scores"), x=rows)
    powers = np.exp(raw["logits"])
    assert raw["scores"] == pytest.approx(powers / powers.sum(axis=1, keepdims=True), rel=1e-4)


def manifest_of(task: Task, outputs: tuple[str, ...], **more: Any) -> Manifest:
    base = {"name": "x", "datatype": "FP32", "shape": (1, 2)}
    blobs = [{"name": n, "size_bytes": 0, "sha256": "0" * 64} for n in ("golden.bin", "model.tflite", "profile.json")]
    specs = [TensorSpec(name=name, datatype="FP32", shape=(1, 2)) for name in outputs]
    return Manifest(model="m", release=1, task=task, inputs=[base], outputs=specs, blobs=blobs, **more)


@pytest.mark.parametrize(
    ("task", "more", "own", "offered"),
    [
        (Task.CLASSIFICATION, {"labels": ("a", "b")}, ("scores", "x"), ["scores", "label", "x"]),
        (
            Task.CLASSIFICATION,
            {"labels": ("a", "b"), "postprocessing": Postprocessing(activation="softmax")},
            ("scores", "label", "model_label"),
            ["scores", "label", "model_scores", "model_model_label", "model_label"],
        ),
        (Task.CLASSIFICATION, {}, ("y", "label"), ["scores", "label"]),
        (Task.REGRESSION, {}, ("scores", "score"), ["scores", "score"]),
        (
            Task.RECONSTRUCTION,
            {"postprocessing": Postprocessing(threshold=1.0)},
            ("score", "anomaly"),
            ["model_score", "model_anomaly", "score", "anomaly"],
        ),
        (Task.RECONSTRUCTION, {}, ("y", "anomaly"), ["y", "anomaly", "score"]),
    ],
)
def test_names_that_programs_know_mean_the_same_for_every_model(
    task: Task, more: dict[str, Any], own: tuple[str, ...], offered: list[str]
) -> None:
    assert list(outputs_of(manifest_of(task, own, **more))) == offered


def test_one_score_of_two_labels(tmp_path: Path) -> None:
    served = load(make_alarm(tmp_path))
    rows = np.stack([np.full(4, value, np.float32) for value in (0.2, 1.0)])
    found = ask(served, raw=False, x=rows)
    assert found["label"] == [b"calm", b"alarm"]
    assert found["scores"][:, 1] == pytest.approx(1 / (1 + np.exp(-rows.sum(axis=1))), rel=1e-4)
    assert found["scores"].sum(axis=1) == pytest.approx(1.0)


# The watch.


class Watched:
    """A model and what its watch recorded."""

    def __init__(self, bundle: MadeBundle, *, chance: float = 0.9) -> None:
        self.served = load(bundle)
        self.records: list[tuple[Kind, bytes]] = []
        settings = SampleSettings(inputs=True, uncertain_below=0.6, min_gap_s=0.0, period_s=0.0)
        clock = ManualClock()
        self.watch = ModelWatch(
            self.served,
            Sampling(settings, lambda: chance, SampleBudgets(settings, clock)),
            lambda kind, data, _: self.records.append((kind, data)),
            clock,
            drift_enabled=True,
        )

    def ask(self, **inputs: Array) -> None:
        answer = self.served.infer(inputs)
        self.watch.answered(answer)
        self.watch.observe([Exchange(inputs, answer, "r-1")])

    def interval(self) -> telemetry_pb2.ModelInterval:
        assert self.watch.end_interval()
        records = [telemetry_pb2.TelemetryRecord.FromString(data) for _, data in self.records[-2:]]
        return next(record.model for record in records if record.HasField("model"))

    def samples(self) -> list[samples_pb2.SampleRecord]:
        return [samples_pb2.SampleRecord.FromString(data) for kind, data in self.records if kind is Kind.SAMPLES]


def test_a_model_without_confidences_is_counted_and_sampled_at_random(tmp_path: Path) -> None:
    watched = Watched(make_pair(tmp_path), chance=0.0)
    left, right = features(3, 1), features(3, 2)
    watched.ask(left=left, right=right)
    interval = watched.interval()
    assert (interval.count, interval.latency_us.count, interval.confidence_ppm.count) == (3, 3, 0)
    assert (list(interval.labels), interval.drift_frames) == ([], 3)
    samples = watched.samples()
    assert [sample.reason for sample in samples] == ["random"] * 3
    assert (samples[1].input.data, samples[1].predicted) == (left[1:2].tobytes(), "")
    assert np.frombuffer(samples[1].output.data, "<f4") == pytest.approx((left + right)[1])


def test_anomalies_are_counted_and_kept(tmp_path: Path) -> None:
    watched = Watched(make_twin(tmp_path))
    rows = np.concatenate([levels(5, 5, noise=0.01), features(2, 6)])
    watched.ask(x=rows)
    interval = watched.interval()
    assert (interval.count, list(interval.labels), interval.confidence_ppm.count) == (7, [5, 2], 0)
    samples = watched.samples()
    assert [(sample.reason, sample.predicted) for sample in samples] == [("uncertain", "anomaly")] * 2
    scores = rows[5:].var(axis=1)
    assert [sample.score for sample in samples] == pytest.approx(scores / (THRESHOLD + scores), rel=1e-4)
    assert samples[0].input.data == rows[5:6].tobytes()


def test_a_reconstruction_that_is_not_judged_keeps_nothing_but_drift_and_random(tmp_path: Path) -> None:
    watched = Watched(make_twin(tmp_path, threshold=None))
    watched.ask(x=features(50, 6))
    assert watched.samples() == []
    assert list(watched.interval().labels) == []


@pytest.mark.parametrize(
    ("make", "name", "usual", "strange"),
    [
        (make_line, "x", features(300, 21), features(300, 22) + 1),
        (make_twin, "x", levels(300, 21), levels(300, 22, noise=0.2)),
    ],
)
def test_drift_of_every_task_is_found(
    tmp_path: Path, make: Callable[[Path], MadeBundle], name: str, usual: Array, strange: Array
) -> None:
    watched = Watched(make(tmp_path))
    watched.ask(**{name: usual})
    assert watched.watch.totals.drift_level == "ok"
    watched.ask(**{name: strange})
    assert watched.watch.totals.drift_level == "drift"


def test_a_frame_of_one_number_has_signals() -> None:
    spec = TensorSpec(name="x", datatype="FP32", shape=(1,))
    found = measure(Task.REGRESSION, [(0, np.array([3.0], np.float32))], np.array([2.0], np.float32), None)
    assert list(found) == list(signals_of(Task.REGRESSION, [spec]))
    assert (found["input_mean"], found["input_gradient"], found["output_mean"]) == ([3.0], [0.0], [2.0])


def test_a_sample_of_a_classification_holds_probabilities(tmp_path: Path) -> None:
    watched = Watched(make_logits(tmp_path), chance=0.0)
    watched.ask(x=frames(1, noise=0.01).reshape(1, -1))
    (sample,) = watched.samples()
    assert sum(np.frombuffer(sample.output.data, "<f4")) == pytest.approx(1.0)
    assert sample.predicted == LABELS[0]
    assert watched.interval().confidence_ppm.count == 1
