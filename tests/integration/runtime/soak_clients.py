"""Programs that ask an inference process without end: those that behave, and those that do not.

Each is a function that asks in one way once. Those that behave return after answers that were right, and raise
otherwise; the others come to no answer that anybody waits for.
"""

import random
import socket
import struct
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import numpy as np
from numpy.typing import NDArray
from runtime_bundles import frames

from dsops.api.v1 import open_inference_grpc_pb2 as pb
from dsops.api.v1 import open_inference_grpc_pb2_grpc
from dsops.call_status import CallStatus
from dsops.client import Inference
from dsops.direct import DirectChannel, Framed, Method, direct_path
from dsops.errors import DsopsError, QueueFull
from dsops_agent.runtime.room import SMALL_BYTES

ROWS = frames(1100, seed=3)
"""More bytes than are answered without room."""
TIMEOUT_S = 60.0
PIPELINE = 20
UNTAKEN_S = 2.0
assert ROWS.nbytes > SMALL_BYTES


@dataclass
class Field:
    """What clients ask, and what they found.

    Attributes:
        socket: The inference socket.
        expected: The scores of ROWS by each bundle.
        rounds: How often each client came to its end.
        refused: How often each was told that there are too many.
        problems: What must not be.
        ended: Set when nobody shall ask any more.
    """

    socket: Path
    expected: dict[str, NDArray[np.float32]] = field(repr=False)
    rounds: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    ended: threading.Event = field(default_factory=threading.Event)

    def run(self, name: str, ask: Callable[["Field"], None]) -> None:
        """Let a client ask until the end; the body of a thread."""
        while not self.ended.is_set():
            try:
                ask(self)
            except _FAILURES as error:
                if not _is_full(error):
                    self.problems.append(f"{name}: {type(error).__name__}: {error}")
                    return
                self.refused[name] += 1  # and asks again, as it is told
            else:
                self.rounds[name] += 1

    def check(self, digest: str, scores: NDArray[np.float32], at: int = 0) -> None:
        """Check the scores of the rows from ``at`` on."""
        right = self.expected[digest][at : at + len(scores)]
        assert scores.tobytes() == right.tobytes(), f"an answer for the rows from {at} on is wrong"

    def check_message(self, message: pb.ModelInferResponse, at: int = 0) -> None:
        """Check an answer as it travels."""
        scores = np.frombuffer(message.raw_output_contents[0], np.float32).reshape(-1, 4)
        self.check(message.parameters["digest"].string_param, scores, at)

    def connect(self) -> socket.socket:
        """Return a connection to the direct socket."""
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(str(direct_path(self.socket)))  # without a limit, which would make a full backlog an error
        connection.settimeout(TIMEOUT_S)
        return connection


_FAILURES = (DsopsError, grpc.RpcError, OSError, AssertionError, KeyError, ValueError)


def _is_full(error: BaseException) -> bool:
    code = error.code() if isinstance(error, grpc.Call) else None
    return isinstance(error, QueueFull) or code is grpc.StatusCode.RESOURCE_EXHAUSTED


def message(at: int, count: int, request_id: str = "") -> pb.ModelInferRequest:
    asked = pb.ModelInferRequest(model_name="compass", id=request_id)
    asked.inputs.add(name="image", datatype="FP32", shape=(count, 4, 4, 1))
    asked.raw_input_contents.append(ROWS[at : at + count].tobytes())
    return asked


def _ask(there: Field, client: Inference, count: int) -> None:
    at = random.randrange(len(ROWS) - count + 1)
    answer = client.infer(ROWS[at : at + count])
    there.check(answer.digest, answer["scores"], at)


def few_frames(there: Field) -> None:
    with Inference(there.socket, "compass", timeout_s=TIMEOUT_S) as client:
        for _ in range(10):
            _ask(there, client, random.choice((1, 1, 1, 3)))


def many_frames(there: Field) -> None:
    with Inference(there.socket, "compass", timeout_s=TIMEOUT_S) as client:
        _ask(there, client, len(ROWS))
        _ask(there, client, 100)


def shared_memory(there: Field) -> None:
    with Inference(there.socket, "compass", timeout_s=TIMEOUT_S, shared_memory=True) as client:
        for count in (1, 1, 100, 1, len(ROWS), 1):
            _ask(there, client, count)


def over_grpc(there: Field) -> None:
    with grpc.insecure_channel(f"unix:{there.socket}", options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
        stub = open_inference_grpc_pb2_grpc.GRPCInferenceServiceStub(channel)
        for count in (1,) * 20 + (len(ROWS),):
            there.check_message(stub.ModelInfer(message(0, count), timeout=TIMEOUT_S))


def pipelines(there: Field) -> None:
    with there.connect() as connection:
        connection.setblocking(True)
        framed = Framed(connection, TIMEOUT_S)
        for at in range(PIPELINE):
            framed.send(Method.MODEL_INFER, message(at, 1, f"r-{at}").SerializeToString())
        for at in range(PIPELINE):
            status, _, body = framed.receive() or (99, 0, b"")
            if status == CallStatus.RESOURCE_EXHAUSTED:
                raise QueueFull(body.decode())
            assert status == 0, body
            answer = pb.ModelInferResponse.FromString(body)
            assert answer.id == f"r-{at}"
            there.check_message(answer, at)


POLITE = (few_frames, few_frames, many_frames, shared_memory, over_grpc, pipelines)


def _framed(body: bytes) -> bytes:
    return struct.pack("<III", len(body), Method.MODEL_INFER, 0) + body


def goes_in_the_middle(there: Field) -> None:
    """Goes within a head, a small or large body, or between a request and its answer."""
    whole = _framed(message(0, random.choice((1, len(ROWS)))).SerializeToString())
    with there.connect() as connection, suppress(OSError):
        connection.sendall(whole[: random.choice((0, 5, 12, 100, len(whole) - 1, len(whole)))])


def takes_no_answer(there: Field) -> None:
    """Asks until nothing more can be sent, and goes after a while."""
    whole = _framed(message(0, 1).SerializeToString())
    with there.connect() as connection:
        connection.settimeout(UNTAKEN_S)
        with suppress(OSError):
            while not there.ended.is_set():
                connection.sendall(whole)


def gives_up(there: Field) -> None:
    """Cancels calls of gRPC, or has no time for them, and closes its channel in their middle."""
    with grpc.insecure_channel(f"unix:{there.socket}", options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
        stub = open_inference_grpc_pb2_grpc.GRPCInferenceServiceStub(channel)
        calls = [stub.ModelInfer.future(message(0, 600), timeout=random.choice((0.001, 10.0))) for _ in range(3)]
        with suppress(grpc.RpcError, grpc.FutureCancelledError):
            calls[0].result()
        calls[1].cancel()


def crowds(there: Field) -> None:
    """Connects more often than one may, asks nothing, and goes."""
    connections = [there.connect() for _ in range(random.choice((2, 70)))]
    there.ended.wait(0.5)
    for connection in connections:
        connection.close()


DIES = """
import os, sys, threading
import numpy as np
from dsops.client import Inference

def ask(shared_memory):
    client = Inference(sys.argv[1], "compass", shared_memory=shared_memory)
    while True:
        client.infer(np.zeros((400, 4, 4, 1), np.float32))
        os.write(1, b"answered\\n")

threading.Thread(target=ask, args=(True,), daemon=True).start()
ask(False)
"""


def is_killed(there: Field) -> None:
    """A process that dies while it asks, with memory shared."""
    with subprocess.Popen([sys.executable, "-c", DIES, str(there.socket)], stdout=subprocess.PIPE) as process:
        assert process.stdout
        for _ in range(4):
            assert process.stdout.readline() == b"answered\n"
        process.kill()


RUDE = (goes_in_the_middle, goes_in_the_middle, takes_no_answer, gives_up, crowds, is_killed)


def is_served(there: Field) -> bool:
    """Return whether a program that comes now is answered."""
    channel = DirectChannel(direct_path(there.socket))
    try:
        return channel.call(Method.MODEL_INFER, message(0, 1).SerializeToString(), TIMEOUT_S)[0] == 0
    finally:
        channel.close()
