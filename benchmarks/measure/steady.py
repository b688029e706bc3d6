"""A caller at a steady rate that checks every answer: which release gave it, and that it is what that release gives."""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import grpc
import numpy as np

from dsops.api.v1 import open_inference_grpc_pb2 as pb
from dsops.api.v1 import open_inference_grpc_pb2_grpc as rpc
from measure.asking import Floats, Frames

TOLERANCE = 1e-6
TIMEOUT_S = 30.0
_DATATYPES = {"int8": "INT8", "float32": "FP32"}

Release = Callable[[pb.ModelInferResponse], str]
"""Names the release that gave an answer; of a server that does not say, the empty name."""


def digest_of(response: pb.ModelInferResponse) -> str:
    """Return the digest of the bundle that gave an answer, as our API tells it."""
    return response.parameters["digest"].string_param


def unsaid(_response: pb.ModelInferResponse) -> str:
    """Return no name: for a server that does not tell who answered."""
    return ""


@dataclass
class Heard:
    """What a caller was told.

    Attributes:
        latencies_us: From when a request was due until its answer, so that one that waited behind another counts too.
        errors: What requests ended with that got no answer.
        mixed: Answers that are not what the release that they name gives.
        late: Answers by a release that had been replaced when the request was sent.
        answers: How many there were of each release.
    """

    latencies_us: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    mixed: int = 0
    late: int = 0
    answers: dict[str, int] = field(default_factory=dict)

    def quantile_us(self, share: float) -> float:
        """Return a quantile of the latencies."""
        return float(np.quantile(self.latencies_us, share))


@dataclass
class SteadyCaller:
    """Asks one model for frame after frame, each when it is due.

    Attributes:
        stub: The server.
        model: The model's name.
        frames: What is asked, one frame a request.
        rate_hz: Requests a second.
        release_of: Tells who gave an answer.
    """

    stub: rpc.GRPCInferenceServiceStub
    model: str
    frames: Frames
    rate_hz: float
    release_of: Release
    _right: dict[str, list[Sequence[Floats]]] = field(default_factory=dict)
    _replaced: frozenset[str] = frozenset()

    def expect(self, release: str, scores: Floats) -> None:
        """Take note of what a release gives for each frame; one without a name may give either."""
        self._right.setdefault(release, []).append(scores)

    def replaced(self, release: str) -> None:
        """Take note that requests sent from now on must not be answered by a release any more."""
        self._replaced |= {release}

    def ask_while(self, work: Callable[[], None], least: int) -> Heard:
        """Ask while ``work`` is done on this thread, and ``least`` requests at least; return what was heard."""
        heard, done = Heard(), threading.Event()
        asking = threading.Thread(target=self._ask_until, args=(heard, done, least))
        asking.start()
        try:
            work()
        finally:
            done.set()
            asking.join()
        return heard

    def _ask_until(self, heard: Heard, done: threading.Event, least: int) -> None:
        due_s, number = time.perf_counter(), 0
        while number < least or not done.is_set():
            time.sleep(max(0.0, due_s - time.perf_counter()))
            self._ask(heard, number % len(self.frames), due_s)
            due_s += 1 / self.rate_hz
            number += 1

    def _ask(self, heard: Heard, row: int, due_s: float) -> None:
        frame, replaced = self.frames[row : row + 1], self._replaced
        request = pb.ModelInferRequest(model_name=self.model)
        request.inputs.add(name="image", datatype=_DATATYPES[frame.dtype.name], shape=frame.shape)
        request.raw_input_contents.append(frame.tobytes())
        try:
            response = self.stub.ModelInfer(request, timeout=TIMEOUT_S)
        except grpc.RpcError as error:
            heard.errors.append(f"{error.code()}: {error.details()}")
            return
        heard.latencies_us.append((time.perf_counter() - due_s) * 1e6)
        release = self.release_of(response)
        heard.answers[release] = heard.answers.get(release, 0) + 1
        heard.late += release in replaced
        given = scores_of(response)
        heard.mixed += not any(
            np.allclose(given, right[row], rtol=0, atol=TOLERANCE) for right in self._right.get(release, [])
        )


def scores_of(response: pb.ModelInferResponse) -> Floats:
    """Return the scores that an answer for one frame holds."""
    position = [tensor.name for tensor in response.outputs].index("scores")
    if response.raw_output_contents:
        return np.frombuffer(response.raw_output_contents[position], np.float32)
    return np.array(response.outputs[position].contents.fp32_contents, np.float32)
