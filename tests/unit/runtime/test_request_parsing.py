"""Which messages are read: those that take long are refused before."""

import pytest

from dsops.api.v1 import open_inference_grpc_pb2 as pb
from dsops.errors import InvalidInput, TooLarge
from dsops_agent.runtime.parsing import MOST_FIELDS, PLAIN_BYTES, parsed

INPUT, RAW = b"\x2a", b"\x3a"


def read(body: bytes) -> pb.ModelInferRequest:
    return parsed(pb.ModelInferRequest, "ModelInfer", body)


def message(raw: int = 0, typed: int = 0) -> pb.ModelInferRequest:
    made = pb.ModelInferRequest(model_name="compass", id="r-1")
    made.inputs.add(name="image", datatype="INT64", shape=[1, 1]).contents.int64_contents.extend([1] * typed)
    made.parameters["timeout"].int64_param = 1 << 40
    if raw:
        made.raw_input_contents.append(bytes(raw))
    return made


@pytest.mark.parametrize("made", [message(), message(raw=20 << 20), message(typed=500_000), message(1 << 20, 70_000)])
def test_what_is_raw_or_short_is_read(made: pb.ModelInferRequest) -> None:
    assert read(made.SerializeToString()) == made


@pytest.mark.parametrize(
    "body",
    [
        message(typed=PLAIN_BYTES).SerializeToString(),
        message(raw=1 << 20, typed=PLAIN_BYTES).SerializeToString(),
        (INPUT + b"\0") * 100_000,
        (RAW + b"\0") * 100_000,
        b"\x08\x01" * 100_000,
        b"\x0d1234" * 100_000,
        b"\x0912345678" * 100_000,
    ],
)
def test_what_would_take_long_to_read_is_refused(body: bytes) -> None:
    with pytest.raises(TooLarge, match=f"in up to {MOST_FIELDS} fields"):
        read(body)


@pytest.mark.parametrize("tail", [b"\x2a", b"\x2a\xff", b"\x2f", b"\x08" + b"\xff" * 12, b"\x2a\x7f1"])
@pytest.mark.parametrize("length", [0, 100_000])
def test_what_is_no_message_is_refused_whatever_its_length(tail: bytes, length: int) -> None:
    start = message(raw=length).SerializeToString()
    with pytest.raises(InvalidInput, match="the request of ModelInfer cannot be read"):
        read(start + tail)
