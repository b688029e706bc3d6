"""Open Inference Protocol messages to arrays and back."""

import secrets
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from runtime_bundles import CLASSES, SHAPE, frames, make_bundle

from dsops.api.v1 import open_inference_grpc_pb2 as pb
from dsops.bundle import Bundle
from dsops.errors import InvalidInput, NotFound, QueueFull, TooLarge
from dsops_agent.runtime import oip, tensors
from dsops_agent.runtime.engine import ServedModel, load_bundle
from dsops_agent.runtime.room import Room
from dsops_agent.runtime.sent import MOST_WORDS, Words
from dsops_agent.runtime.shared_memory import Regions


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> ServedModel:
    bundle = make_bundle(tmp_path_factory.mktemp("oip"))
    return load_bundle(Bundle.open(bundle.path), bundle.digest, 1)


def request(
    rows: np.ndarray, *, raw: bool = True, datatype: str = "FP32", name: str = "image", shape: Any = None
) -> pb.ModelInferRequest:
    message = pb.ModelInferRequest(model_name="compass", id="r-7")
    tensor = message.inputs.add(name=name, datatype=datatype, shape=rows.shape if shape is None else shape)
    if raw:
        message.raw_input_contents.append(rows.tobytes())
    elif datatype == "FP32":
        tensor.contents.fp32_contents.extend(rows.ravel().tolist())
    else:
        tensor.contents.int_contents.extend(rows.ravel().tolist())
    return message


@pytest.mark.parametrize("raw", [True, False])
def test_real_values_arrive(served: ServedModel, raw: bool) -> None:
    rows = frames(3)
    found = oip.decode_inputs(request(rows, raw=raw), served)["image"].values
    assert found.dtype == np.float32
    assert (found == rows).all()


@pytest.mark.parametrize("raw", [True, False])
def test_stored_values_arrive(served: ServedModel, raw: bool) -> None:
    rows = np.arange(-8, 8, dtype=np.int8).reshape(1, *SHAPE)
    found = oip.decode_inputs(request(rows, raw=raw, datatype="INT8"), served)["image"].values
    assert found.dtype == np.int8
    assert (found == rows).all()


def no_input() -> pb.ModelInferRequest:
    return pb.ModelInferRequest(model_name="compass")


def two_inputs() -> pb.ModelInferRequest:
    message = request(frames(1))
    message.inputs.add(name="image")
    return message


def two_raw() -> pb.ModelInferRequest:
    message = request(frames(1))
    message.raw_input_contents.append(b"x")
    return message


@pytest.mark.parametrize(
    ("message", "text"),
    [
        (no_input(), "one input, 'image': got none"),
        (two_inputs(), "one input"),
        (two_raw(), "as many raw contents: got 2"),
        (request(frames(1), name="picture"), "got 'picture'"),
        (request(frames(1), datatype="FP64"), "datatype FP32 or INT8: got 'FP64'"),
        (request(frames(1), shape=[1, 16]), r"shape \[n, 4, 4, 1\]"),
        (request(frames(1), shape=[]), "shape"),
        (request(frames(1), shape=[0, 4, 4, 1]), "n from 1"),
        (request(frames(1), shape=[-1, 4, 4, 1]), "n from 1"),
        (request(frames(1), shape=[1 << 40, 4, 4, 1]), "n from 1"),
        (request(frames(1), shape=[2, 4, 4, 1]), "128 bytes: got 64"),
        (request(frames(1), raw=False, shape=[2, 4, 4, 1]), "32 values: got 16"),
        (request(np.full((1, *SHAPE), 300), raw=False, datatype="INT8"), "outside -128 to 127"),
    ],
)
def test_a_request_that_does_not_fit_is_told_what_does(
    served: ServedModel, message: pb.ModelInferRequest, text: str
) -> None:
    with pytest.raises(InvalidInput, match=text):
        oip.decode_inputs(message, served)


@pytest.mark.parametrize(
    ("datatype", "shape", "text"),
    [("BOOL", [1, *SHAPE], "BOOL"), ("FP32", [1, *SHAPE], "16 values"), ("FP32", [1 << 20], "shape")],
)
def test_values_that_do_not_fit_are_refused_before_they_are_looked_at(
    served: ServedModel, datatype: str, shape: list[int], text: str
) -> None:
    message = pb.ModelInferRequest()
    contents = message.inputs.add(name="image", datatype=datatype, shape=shape).contents
    contents.bool_contents.extend([True] * (1 << 20))
    contents.fp32_contents.extend([1.5] * (1 << 20))
    tracemalloc.start()
    try:
        with pytest.raises(InvalidInput, match=text):
            oip.decode_inputs(message, served)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_many_plain_values_arrive(served: ServedModel) -> None:
    rows = np.random.default_rng(3).integers(-128, 128, (4096 + 1, *SHAPE)).astype(np.int8)[: served.max_frames]
    found = oip.decode_inputs(request(rows, raw=False, datatype="INT8"), served)["image"].values
    assert found.size >= 1 << 16
    assert (found == rows).all()


@pytest.mark.parametrize("told", [{"string_param": "50000"}, {"bool_param": True}, {"int64_param": -1}, {}])
def test_a_timeout_that_is_no_number_of_microseconds_is_refused(told: dict[str, Any]) -> None:
    message = pb.ModelInferRequest()
    message.parameters["timeout"].CopyFrom(pb.InferParameter(**told))
    with pytest.raises(InvalidInput, match="number of microseconds"):
        oip.patience_s(message, None)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=200)
@given(
    shape=st.just([1, *SHAPE]) | st.lists(st.integers(-(2**63), 2**63 - 1) | st.integers(0, 5), max_size=5),
    datatype=st.sampled_from(["FP32", "INT8", "FP16", "BYTES", "", "FP64"]),
    raw=st.lists(st.binary(max_size=80) | st.binary(min_size=64, max_size=64), max_size=2),
    typed=st.lists(st.floats(width=32), max_size=17) | st.lists(st.floats(width=32), min_size=16, max_size=16),
)
def test_whatever_comes_is_frames_or_a_refusal(
    served: ServedModel, shape: list[int], datatype: str, raw: list[bytes], typed: list[float]
) -> None:
    message = pb.ModelInferRequest(raw_input_contents=raw)
    message.inputs.add(name="image", datatype=datatype, shape=shape).contents.fp32_contents.extend(typed)
    try:
        found = oip.decode_inputs(message, served)["image"].values
    except InvalidInput:
        return
    assert found.shape[1:] == SHAPE


@pytest.mark.parametrize("raw", [True, False])
def test_an_answer_has_the_form_of_its_request(served: ServedModel, raw: bool) -> None:
    message = request(frames(2), raw=raw)
    response = oip.encode_answer(message, served, served.infer({"image": frames(2)}))
    assert (response.model_name, response.model_version, response.id) == ("compass", "1", "r-7")
    assert [(o.name, o.datatype, list(o.shape)) for o in response.outputs] == [
        ("scores", "FP32", [2, CLASSES]),
        ("label", "BYTES", [2]),
    ]
    if raw:
        assert response.raw_output_contents[1] == b"\x05\x00\x00\x00north\x04\x00\x00\x00east"
        assert len(response.raw_output_contents[0]) == 2 * CLASSES * 4
    else:
        assert not response.raw_output_contents
        assert list(response.outputs[1].contents.bytes_contents) == [b"north", b"east"]
        assert len(response.outputs[0].contents.fp32_contents) == 2 * CLASSES


def test_what_answers_have_in_common_is_made_once_and_nothing_else_stays(served: ServedModel) -> None:
    def answered(count: int, request_id: str) -> pb.ModelInferResponse:
        message = request(frames(count))
        message.id = request_id
        return oip.encode_answer(message, served, served.infer({"image": frames(count)}))

    found = [answered(1, "r-1"), answered(3, "r-2"), answered(1, "")]
    assert [one.id for one in found] == ["r-1", "r-2", ""]
    assert [[list(output.shape) for output in one.outputs] for one in found] == [
        [[count, CLASSES], [count]] for count in (1, 3, 1)
    ]
    assert [len(one.raw_output_contents) for one in found] == [2, 2, 2]
    assert found[0].raw_output_contents[:] == found[2].raw_output_contents[:]
    assert served.outlines.get(1) is not None


def test_only_the_outputs_asked_for(served: ServedModel) -> None:
    message = request(frames(1))
    message.outputs.add(name="label")
    response = oip.encode_answer(message, served, served.infer({"image": frames(1)}))
    assert [output.name for output in response.outputs] == ["label"]
    assert len(response.raw_output_contents) == 1
    message.outputs.add(name="boxes")
    with pytest.raises(InvalidInput, match="scores, label: got 'boxes'"):
        oip.encode_answer(message, served, served.infer({"image": frames(1)}))


def test_a_model_without_labels_has_scores_only(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path, labels=())
    plain = load_bundle(Bundle.open(bundle.path), bundle.digest, 1)
    assert [output.name for output in oip.describe(plain).outputs] == ["scores"]
    assert [
        o.name for o in oip.encode_answer(request(frames(1)), plain, plain.infer({"image": frames(1)})).outputs
    ] == ["scores"]


def shared(size: int) -> pb.ModelInferRequest:
    message = pb.ModelInferRequest(model_name="compass")
    tensor = message.inputs.add(name="image", datatype="FP32", shape=[2, 4, 4, 1])
    tensor.parameters[oip.REGION].string_param = "nobody's"
    tensor.parameters[oip.SIZE].int64_param = size
    return message


def test_more_shared_memory_than_a_message_could_have_is_refused_unread(
    served: ServedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensors, "MAX_INPUT_BYTES", 127)
    with pytest.raises(TooLarge, match="in shared memory too"):
        oip.decode_inputs(shared(128), served)


def test_the_same_words_for_shared_memory_are_planned_once_and_read_each_time(served: ServedModel) -> None:
    key = f"dsops-test-{secrets.token_hex(8)}"
    rows, others = frames(2), frames(2) * np.float32(0.5)
    known, asked = Regions(lambda _: True), shared(rows.nbytes)
    path = Path("/dev/shm", key)
    path.write_bytes(rows.tobytes())
    try:
        known.register("nobody's", key, 0, rows.nbytes)
        assert (oip.decode_inputs(asked, served, known)["image"].values == rows).all()
        plan = served.plans.get(asked.SerializeToString())
        assert plan is not None
        path.write_bytes(others.tobytes())
        assert (oip.decode_inputs(asked, served, known)["image"].values == others).all()
        assert served.plans.get(asked.SerializeToString()) is plan
        known.unregister("nobody's")
        with pytest.raises(NotFound, match="nobody's"):
            oip.decode_inputs(asked, served, known)
    finally:
        path.unlink()


def test_of_words_only_some_are_kept() -> None:
    words: Words[bytes, int] = Words()
    for number in range(3 * MOST_WORDS):
        words.keep(str(number).encode(), number)
        assert words.get(str(number).encode()) == number
    kept = [number for number in range(3 * MOST_WORDS) if words.get(str(number).encode()) is not None]
    assert len(kept) <= MOST_WORDS


def test_requests_together_hold_so_many_bytes_and_no_more() -> None:
    room = Room(100, wait_s=0.0, small_bytes=0)
    assert oip.tensor_bytes(shared(60)) == 60
    with room.held(60):
        with pytest.raises(QueueFull):
            room.held(41).__enter__()
        with room.held(40):
            pass
    with room.held(100):
        pass


def test_typed_values_are_weighed_as_they_are_converted_and_raw_ones_are_not() -> None:
    rows = np.ones((2, 4, 4, 1), np.int32)
    assert oip.tensor_bytes(request(rows, raw=False, datatype="INT8")) == 32
    assert oip.tensor_bytes(request(rows, raw=False, datatype="INT32")) == 128
    assert oip.tensor_bytes(request(rows.astype(np.float32), raw=False)) == 128
    assert oip.tensor_bytes(request(rows.astype(np.float32))) == 0
    assert oip.tensor_bytes(request(rows, datatype="FP64")) == 0
    given = tensors.Given("image", "FP32", (2, 4, 4, 1), [0.0] * 32)
    assert tensors.tensor_bytes([given, tensors.Given("raw", "FP32", (2,), bytes(8))]) == 128
