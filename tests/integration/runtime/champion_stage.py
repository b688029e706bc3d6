"""A data process that serves a champion, run as the control process runs it, and a program that never stops asking."""

import json
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from runtime_bundles import MadeBundle, frames

from dsops.api.v1 import open_inference_grpc_pb2 as pb
from dsops.api.v1 import open_inference_grpc_pb2_grpc
from dsops.clock import SystemClock
from dsops_agent.runtime_process import Launch, RuntimeProcess, spawn

ROWS = 3
TIMEOUT_S = 20.0


def request(model: str = "compass", count: int = ROWS) -> pb.ModelInferRequest:
    rows = frames(count, seed=4)
    message = pb.ModelInferRequest(model_name=model)
    message.inputs.add(name="image", datatype="FP32", shape=rows.shape)
    message.raw_input_contents.append(rows.astype("<f4").tobytes())
    return message


@dataclass
class Program:
    """Asks one model at a steady rate, and keeps what it is told.

    Attributes:
        rows: Frames of a request.
        answers: How many answers each bundle gave.
        values: The raw outputs of each bundle; a second value for one bundle is a problem.
        problems: What went wrong.
        latencies_s: Of each answer, in order.
        rests: Set while it shall not ask.
    """

    socket: Path
    rate_hz: float
    rows: int = ROWS
    answers: Counter[str] = field(default_factory=Counter)
    values: dict[str, bytes] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    latencies_s: list[float] = field(default_factory=list)
    rests: threading.Event = field(default_factory=threading.Event)
    ended: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        message = request(count=self.rows)
        with grpc.insecure_channel(f"unix:{self.socket}") as channel:
            stub = open_inference_grpc_pb2_grpc.GRPCInferenceServiceStub(channel)
            next_s = time.monotonic()
            while not self.ended.is_set():
                if not self.rests.is_set():
                    self._ask(stub, message)
                next_s = max(next_s + 1 / self.rate_hz, time.monotonic() - 1.0)
                time.sleep(max(next_s - time.monotonic(), 0))

    def _ask(self, stub: Any, message: pb.ModelInferRequest) -> None:
        start_s = time.perf_counter()
        try:
            response = stub.ModelInfer(message, timeout=TIMEOUT_S)
        except grpc.RpcError as error:
            self.problems.append(f"{error.code()}: {error.details()}")
            return
        self.latencies_s.append(time.perf_counter() - start_s)
        digest = response.parameters["digest"].string_param
        self.answers[digest] += 1
        if self.values.setdefault(digest, response.raw_output_contents[0]) != response.raw_output_contents[0]:
            self.problems.append(f"{digest}: a mix")


class Champion:
    """The data process with one bundle active, and a program that asks it all the time."""

    def __init__(self, folder: Path, bundle: MadeBundle, rate_hz: float = 50.0, rows: int = ROWS) -> None:
        self.bundle = bundle
        launch = Launch(folder, json.dumps({"interval_s": 0.2, "instances": 1}))  # memory and order of one are compared
        self.process: RuntimeProcess = spawn(launch, self._take, SystemClock(), threading.Event().wait)
        self.activate(bundle)
        self.program = Program(folder / "inference.sock", rate_hz, rows)
        self._asking = threading.Thread(target=self.program.run, daemon=True)
        self._asking.start()

    @staticmethod
    def _take(op: str, header: dict[str, Any], body: bytes) -> tuple[dict[str, Any], bytes]:
        return {"stored": len(header["kinds"])}, b""

    def activate(self, bundle: MadeBundle) -> None:
        manifest = bundle.manifest
        fields = {"model": manifest.model, "digest": bundle.digest, "release": manifest.release}
        self.process.channel.call("activate", timeout_s=TIMEOUT_S, path=str(bundle.path), **fields)

    def status(self) -> dict[str, Any]:
        return self.process.channel.call("status", timeout_s=TIMEOUT_S)[0]

    def wait_for_answers(self, count: int) -> None:
        """Wait until the program has so many answers more."""
        wanted = self.program.answers.total() + count
        ends_s = time.monotonic() + 30
        while self.program.answers.total() < wanted:
            assert time.monotonic() < ends_s, self.program.problems
            time.sleep(0.01)

    def close(self) -> None:
        self.program.ended.set()
        self._asking.join(TIMEOUT_S)
        self.process.end()
