"""A supervisor with a real inference process, and programs that ask it, for tests of what breaks it."""

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import grpc
import numpy as np
from runtime_bundles import MadeBundle

from dsops.api.v1 import open_inference_grpc_pb2 as pb
from dsops.api.v1 import open_inference_grpc_pb2_grpc
from dsops.clock import SystemClock
from dsops_agent.install.ports import Death
from dsops_agent.moment import Moments
from dsops_agent.proof import Prover
from dsops_agent.runtime_process import Launch
from dsops_agent.supervisor import RuntimeSupervisor, Told
from dsops_agent.telemetry.collect import SpoolEvents
from dsops_agent.telemetry.spool import Spool

HANG_S = 2.0


def eventually(condition: Callable[[], bool], timeout_s: float = 60.0) -> None:
    """Wait for a condition; the limit only ends a test that would fail anyway."""
    ends = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < ends, "waited in vain"
        time.sleep(0.01)


def request_of(model: str, value: np.ndarray) -> pb.ModelInferRequest:
    request = pb.ModelInferRequest(model_name=model)
    request.inputs.add(name="x", datatype="INT32", shape=[1])
    request.raw_input_contents.append(value.tobytes())
    return request


def ask(folder: Path, model: str, value: np.ndarray, timeout_s: float = 60.0) -> int | None:
    """Return the answer, or None when there is none."""
    with grpc.insecure_channel(f"unix:{folder / 'inference.sock'}") as channel:
        stub = open_inference_grpc_pb2_grpc.GRPCInferenceServiceStub(channel)
        try:
            response = stub.ModelInfer(request_of(model, value), timeout=timeout_s)
        except grpc.RpcError:
            return None
    return int(np.frombuffer(response.raw_output_contents[0], np.int32)[0])


class Device:
    """A supervisor with a real inference process, and programs that ask it."""

    def __init__(
        self, folder: Path, run_folder: Path, hang_s: float = HANG_S, settings: str = "{}", **times_s: float
    ) -> None:
        self.deaths: list[Death] = []
        self.folder = run_folder
        clock = SystemClock()
        self._spool = Spool(folder / "spool", 1 << 20)
        launch = replace(Launch(run_folder, settings, hang_s=hang_s), **times_s)
        events = SpoolEvents(self._spool, Moments(clock))
        told = Told(lambda _: None, self.deaths.append)
        self.supervisor = RuntimeSupervisor(launch, Prover(1), self._spool, events, clock, told)
        self._thread = threading.Thread(target=self.supervisor.run)
        self._thread.start()
        assert self.supervisor.ready.wait(60)

    def serve(self, bundle: MadeBundle) -> None:
        manifest = bundle.manifest
        self.supervisor.activate(manifest.model, bundle.path, bundle.digest, manifest.release)

    def ask(self, model: str, value: np.ndarray, timeout_s: float = 60.0) -> int | None:
        return ask(self.folder, model, value, timeout_s)

    def stop(self) -> None:
        self.supervisor.leave()
        self._thread.join(30)
        assert not self._thread.is_alive()
        self._spool.close()
