"""What a split does when its challenger cannot be asked, or finds fault with one request."""

import math
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from google.protobuf.message import Message
from runtime_bundles import frames, make_bundle
from runtime_watches import Witness

from dsops.api.v1 import open_inference_grpc_pb2 as pb
from dsops.bundle import Bundle
from dsops.clock import ManualClock, SystemClock
from dsops.decision import Decision
from dsops.described import Described
from dsops.direct import Method, direct_path
from dsops.errors import DsopsError, InvalidInput, NotServing
from dsops.forms import Form, accepted_forms
from dsops.manifest import Preprocessing, TensorSpec
from dsops.modes import Mode
from dsops_agent.rival import Rival
from dsops_agent.runtime import oip
from dsops_agent.runtime.answer import Answer
from dsops_agent.runtime.brake import Brake
from dsops_agent.runtime.calls import Asking, Call
from dsops_agent.runtime.direct_server import DirectServer
from dsops_agent.runtime.duel import MAX_WAITING_BYTES, REST_S, Duel, Terms
from dsops_agent.runtime.engine import ServedModel, load_bundle
from dsops_agent.runtime.health import Health
from dsops_agent.runtime.observe import Observation
from dsops_agent.runtime.rival import RivalClient, RivalRefused, RivalUnavailable, check_form, encode_request
from dsops_agent.runtime.sent import Sent
from dsops_agent.runtime.sockets import Access
from dsops_agent.runtime.swap import Serving
from dsops_agent.runtime.throttle import ThrottleLimits

REQUEST = {"image": Sent(Form.REAL, frames(1))}


class Challenger:
    """Says what it takes, and refuses every request."""

    def __init__(self, metadata: pb.ModelMetadataResponse) -> None:
        self.metadata = metadata
        self.error: type[DsopsError] = InvalidInput
        self.asked = 0
        self.goes_on = threading.Event()
        self.goes_on.set()

    def answer(self, request: Message, asking: Asking) -> Message:
        self.asked += 1
        self.goes_on.wait(30)
        raise self.error("no")

    def describe(self, request: Message, asking: Asking) -> Message:
        return self.metadata


@pytest.fixture
def challenger(short_path: Path, champion: ServedModel) -> Iterator[Challenger]:
    made = Challenger(oip.describe(champion))
    calls = (
        Call("ModelInfer", Method.MODEL_INFER, pb.ModelInferRequest, made.answer),
        Call("ModelMetadata", Method.MODEL_METADATA, pb.ModelMetadataRequest, made.describe),
    )
    server = DirectServer(calls, direct_path(short_path / "c.sock"), Access())
    server.start()
    yield made
    server.stop(5.0)


@pytest.fixture
def rival(short_path: Path) -> Rival:
    return Rival(
        socket=str(short_path / "c.sock"),
        pid=1,
        digest="c" * 64,
        release=2,
        mode=Mode.SPLIT,
        share=1.0,
        cpu_share=1.0,
        salt="de-7",
    )


@pytest.fixture
def champion(tmp_path: Path) -> ServedModel:
    made = make_bundle(tmp_path)
    return load_bundle(Bundle.open(made.path), made.digest, 1)


@pytest.fixture
def ask(rival: Rival, champion: ServedModel) -> Iterator[Callable[..., object]]:
    """Ask as a caller of the champion's does whose key is the challenger's; time stands still."""
    brake = Brake(ThrottleLimits())
    terms = Terms(lambda *_: None, 10.0, 20.0, ManualClock(datetime(2026, 5, 1, tzinfo=UTC)), brake)
    duel = Duel(rival, terms, lambda: 0.0)
    yield lambda left_s=math.inf: duel.answer(champion, REQUEST, "line-4", "", left_s)
    duel.stop()
    duel.run()


def test_a_request_that_the_challenger_finds_fault_with_moves_no_other_key(
    challenger: Challenger, ask: Callable[..., object]
) -> None:
    assert ask() is None
    assert ask() is None
    assert challenger.asked == 2, f"nobody's keys went to the challenger for {REST_S:g} s"


def described(section: Preprocessing | None, spec: TensorSpec) -> Described:
    return Described(spec.name, accepted_forms(spec, section), section)


IMAGE = TensorSpec(name="image", datatype="INT8", shape=(1, 4, 4, 1), scale=1 / 255, zero_point=-128)
BYTES_RAW = Preprocessing(input="image", layout="NHWC", color="GRAY", raw="UINT8", scale=(1 / 255,))
RAW = Sent(Form.RAW, np.zeros((2, 4, 4, 1), np.uint8))
REAL = Sent(Form.REAL, frames(2))


@pytest.mark.parametrize(
    ("change", "sent", "code"),
    [
        ({}, RAW, ""),
        ({}, REAL, ""),
        ({"scale": (1 / 127,)}, RAW, ""),
        ({"scale": (1 / 127,)}, REAL, "challenger_other_preprocessing"),
        ({"resize": "crop", "interpolation": "area"}, RAW, ""),
        ({"raw": ""}, REAL, ""),
        ({"raw": ""}, RAW, "challenger_other_form"),
        ({"raw": "INT8"}, RAW, "challenger_other_form"),
        ({"color": "RGB", "raw_color": "GRAY"}, RAW, ""),
        ({"color": "RGB"}, RAW, "challenger_other_form"),
    ],
)
def test_only_what_means_the_same_to_both_is_passed_on(change: dict[str, object], sent: Sent, code: str) -> None:
    champion = described(BYTES_RAW, IMAGE)
    challenger = described(Preprocessing.model_validate(BYTES_RAW.model_dump() | change), IMAGE)
    if code:
        with pytest.raises(RivalRefused) as refused:
            check_form(champion, challenger, sent)
        assert refused.value.code == code
    else:
        check_form(champion, challenger, sent)


def test_stored_values_with_a_scale_are_passed_on_as_real_ones(champion: ServedModel) -> None:
    stored = Sent(Form.STORED, np.full((1, 4, 4, 1), 127, np.int8))
    theirs = {"image": champion.forms["image"].described}
    message = encode_request(champion, theirs, {"image": stored}, "7", ["scores"])
    assert (message.inputs[0].datatype, message.inputs[0].parameters["form"].string_param) == ("FP32", "real")
    assert np.frombuffer(message.raw_input_contents[0], "<f4") == pytest.approx(np.ones(16))


def test_a_challenger_that_cannot_be_asked_rests(challenger: Challenger, ask: Callable[..., object]) -> None:
    challenger.error = NotServing
    assert ask() is None
    assert ask() is None
    assert challenger.asked == 1


def test_a_request_that_comes_while_another_challenger_takes_over_is_the_champions(
    rival: Rival, champion: ServedModel
) -> None:
    client = RivalClient(rival)
    client.close()
    with pytest.raises(RivalUnavailable):
        client.ask(champion, REQUEST, "", ["scores"], 1.0)


def test_half_of_a_callers_time_is_left_to_the_champion(challenger: Challenger, ask: Callable[..., object]) -> None:
    challenger.goes_on.clear()
    began_s = time.monotonic()
    assert ask(1.0) is None
    assert time.monotonic() - began_s < 0.9, "the caller's deadline passes while it waits for the challenger"
    challenger.goes_on.set()


def test_copies_that_wait_for_a_shadow_hold_no_more_memory_than_they_may(rival: Rival, champion: ServedModel) -> None:
    terms = Terms(lambda *_: None, 10.0, 20.0, ManualClock(datetime(2026, 5, 1, tzinfo=UTC)), Brake(ThrottleLimits()))
    duel = Duel(rival.model_copy(update={"mode": Mode.SHADOW}), terms, lambda: 0.0)  # its thread does not run
    serving = Serving(champion, Witness(), Health(champion, SystemClock()))
    arrays: list[weakref.ref[np.ndarray]] = []
    for _ in range(40):
        raw, prepared, scores = np.zeros((1, 1 << 18), np.uint8), np.zeros((1, 1 << 18), np.float32), np.zeros((1, 4))
        arrays += map(weakref.ref, (raw, prepared, scores))
        answer = Answer((scores,), Decision(), (1.0,))
        duel.watch(Observation.of(serving, {"image": prepared}, answer, "", {"image": Sent(Form.RAW, raw)}))
        del raw, prepared, scores, answer
    held = sum(array.nbytes for kept in arrays if (array := kept()) is not None)
    assert MAX_WAITING_BYTES / 2 < held <= MAX_WAITING_BYTES
