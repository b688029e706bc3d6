"""What tests of crowded servers share: a model that the test holds, a request to it, waiting for what comes of it."""

import time
from collections.abc import Callable
from contextlib import ExitStack

from runtime_bundles import frames

from dsops.api.v1 import open_inference_grpc_pb2 as pb
from dsops_agent.runtime.admission import PATIENT
from dsops_agent.runtime.dispatch import Dispatcher


def hold(dispatcher: Dispatcher, model: str = "compass") -> ExitStack:
    """Keep a model busy until what is returned is closed."""
    held = ExitStack()
    place = held.enter_context(dispatcher.admission.place(model))
    held.enter_context(place.turn(PATIENT, dispatcher.find(model).model.instances))
    return held


def request(request_id: str = "", model: str = "compass") -> pb.ModelInferRequest:
    """Return a request of one frame."""
    message = pb.ModelInferRequest(model_name=model, id=request_id)
    message.inputs.add(name="image", datatype="FP32", shape=[1, 4, 4, 1])
    message.raw_input_contents.append(frames(1).tobytes())
    return message


def eventually(condition: Callable[[], bool], what: str) -> None:
    """Wait for a condition; the limit only ends a test that would fail anyway."""
    ends = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < ends, what
        time.sleep(0.01)
