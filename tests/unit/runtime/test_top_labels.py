"""The best labels of a frame, and raw frames through the protocol."""

from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError
from runtime_bundles import LABELS, MadeBundle, frames, make_bundle, with_section

from dsops.api.v1 import open_inference_grpc_pb2 as pb
from dsops.bundle import Bundle
from dsops.contract import breaches, contract_of
from dsops.errors import InvalidInput
from dsops.manifest import Postprocessing, Preprocessing
from dsops.needs import Needs, needs_of
from dsops_agent.runtime import oip
from dsops_agent.runtime.engine import ServedModel, load_bundle


def load(bundle: MadeBundle) -> ServedModel:
    return load_bundle(Bundle.open(bundle.path), bundle.digest, 1)


def asked(
    rows: np.ndarray, datatype: str, outputs: tuple[str, ...] = (), parameters: dict[str, str] | None = None
) -> pb.ModelInferRequest:
    message = pb.ModelInferRequest(model_name="compass")
    message.inputs.add(name="image", datatype=datatype, shape=rows.shape)
    message.raw_input_contents.append(rows.tobytes())
    for name in outputs:
        message.outputs.add(name=name)
    for key, value in (parameters or {}).items():
        message.parameters[key].string_param = value
    return message


def answered(served: ServedModel, message: pb.ModelInferRequest) -> dict[str, np.ndarray]:
    """The outputs by name, as the response holds them; texts as objects."""
    response = oip.encode_answer(message, served, served.infer(served.prepared(oip.decode_inputs(message, served))))
    pairs = zip(response.outputs, response.raw_output_contents, strict=True)
    return {
        one.name: (np.frombuffer(raw, "<f4") if one.datatype == "FP32" else texts(raw)).reshape(tuple(one.shape))
        for one, raw in pairs
    }


def texts(raw: bytes) -> np.ndarray:
    found = []
    while raw:
        length = int.from_bytes(raw[:4], "little")
        found.append(raw[4 : 4 + length].decode())
        raw = raw[4 + length :]
    return np.array(found, object)


def test_the_best_labels_come_with_their_scores_in_order(tmp_path: Path) -> None:
    served = load(make_bundle(tmp_path, postprocessing=Postprocessing(top_k=3)))
    result = answered(served, asked(frames(5), "FP32", ("top_labels", "top_scores", "scores")))
    scores, top = result["scores"], result["top_scores"]
    labels = result["top_labels"]
    assert labels.shape == top.shape == (5, 3)
    assert top.tolist() == np.sort(scores, axis=1)[:, ::-1][:, :3].tolist()
    for row in range(5):
        assert labels[row, 0] == LABELS[row % 4]
        assert [scores[row, LABELS.index(label)] for label in labels[row]] == top[row].tolist()


def test_they_are_offered_only_when_the_bundle_says_how_many_and_sent_only_when_asked_for(tmp_path: Path) -> None:
    without, with_top = (
        load(make_bundle(tmp_path, release=release, postprocessing=Postprocessing(top_k=top)))
        for release, top in ((1, 0), (2, 2))
    )
    assert "top_labels" not in without.offered
    assert [output.name for output, _ in oip.asked_outputs(asked(frames(1), "FP32"), with_top)] == ["scores", "label"]
    assert b"top_k" not in without.manifest.encode()
    assert breaches(contract_of(with_top.manifest), contract_of(without.manifest))
    assert not breaches(contract_of(without.manifest), contract_of(with_top.manifest))


def test_more_labels_than_there_are_cannot_be_told(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="there are 4 labels"):
        make_bundle(tmp_path, postprocessing=Postprocessing(top_k=5))


@pytest.mark.parametrize("int8", [True, False])
def test_raw_frames_are_answered_as_the_real_values_that_they_stand_for(tmp_path: Path, int8: bool) -> None:
    section = Preprocessing(input="image", layout="NHWC", color="GRAY", raw="UINT8", scale=(1 / 255,))
    served = load(with_section(make_bundle(tmp_path, int8=int8), section))
    raw = np.rint(frames(6) * 255).astype(np.uint8)
    real = raw.astype(np.float32) * np.float32(1 / 255)
    found = answered(served, asked(raw, "UINT8"))["scores"]
    assert found.tolist() == answered(served, asked(real, "FP32"))["scores"].tolist()


def test_a_request_says_what_type_and_shape_do_not_tell(tmp_path: Path) -> None:
    section = Preprocessing(input="image", layout="NHWC", color="GRAY", raw="INT8", scale=(1 / 255,), offset=(0.5,))
    served = load(with_section(make_bundle(tmp_path), section))
    rows = np.zeros((2, 4, 4, 1), np.int8)
    with pytest.raises(InvalidInput, match="stored or raw"):
        oip.decode_inputs(asked(rows, "INT8"), served)
    said = [asked(rows, "INT8", parameters={"form": form}) for form in ("stored", "raw")]
    stored, raw = (served.prepared(oip.decode_inputs(message, served))["image"] for message in said)
    assert (stored.dtype, raw.dtype, raw.max()) == (np.int8, np.float32, 0.5)


def test_a_release_without_the_raw_frames_of_before_breaks_programs(tmp_path: Path) -> None:
    section = Preprocessing(input="image", layout="NHWC", raw="UINT8")
    before = with_section(make_bundle(tmp_path), section).manifest
    after = before.model_copy(update={"preprocessing": ()})
    assert breaches(contract_of(before), contract_of(after)) == ["input image raw UINT8 [n, 4, 4, 1] is gone"]
    assert not breaches(contract_of(after), contract_of(before))
    document = needs_of(before, 1)
    assert Needs.decode(document.encode()) == document
    assert b'"raw"' not in needs_of(after, 1).encode()
