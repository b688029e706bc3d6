"""How soon the release before answers when a champion breaks, on a device that nobody can reach.

A whole device: control process, inference process, probation over, broker and controller then ended. The champion
passes its proof and its golden inputs, and breaks at one input, which a program asks again and again: it crashes the
inference process, or does not come back. One that hangs is measured with a latency budget, without one, and with one so
large that only the agent's general limit holds. The clock runs from the first such request to the first answer of the
release before.
"""

import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import numpy as np
from measure.report import Limit, Report, Row, run
from runtime_breakers import CRASHES, HANGS, make_breaker

from dsops.api.v1 import open_inference_grpc_pb2 as pb
from dsops.api.v1.open_inference_grpc_pb2_grpc import GRPCInferenceServiceStub
from dsops.errors import TimedOut
from dsops.manifest import Budgets
from dsops_controller.demo.stage import MODEL, Stage

DEVICE = "cam-1"


@dataclass(frozen=True)
class Case:
    """A champion: which breaker it is, at which input it breaks, and its latency budget; 0 sets none."""

    kind: str
    breaks_at: int
    budget_ms: float = 0.0

    def __str__(self) -> str:
        return f"{self.kind}, {f'budget {self.budget_ms:g} ms' if self.budget_ms else 'no budget'}"


CASES = {
    "first crash to the release before": Case("dividing", int(CRASHES[0]), 20.0),
    "first hang to the release before, budget of 20 ms": Case("endless", int(HANGS[0]), 20.0),
    "the same, no budget": Case("endless", int(HANGS[0])),
    "the same, budget of 1 s": Case("endless", int(HANGS[0]), 1000.0),
}
LIMIT = Limit("figure", "<=", 30.0)
PATIENCE_S = 300.0


def ask(stub: GRPCInferenceServiceStub, value: int) -> int | None:
    """Return the release that answered; None when there was no answer."""
    request = pb.ModelInferRequest(model_name=MODEL)
    request.inputs.add(name="x", datatype="INT32", shape=[1])
    request.raw_input_contents.append(np.array([value], np.int32).tobytes())
    try:
        return int(stub.ModelInfer(request, timeout=60).model_version)
    except grpc.RpcError:
        return None


def push(stage: Stage, kind: str, release: int, budget_ms: float) -> None:
    """Roll a release out to the device; the outputs of breakers have names of their own."""
    made = make_breaker(stage.folder, kind, release, MODEL, Budgets(max_latency_ms=budget_ms))
    stage.commands.run("bundle", "sign", made.path, "--keys", stage.keys, online=True)
    stage.online("bundle", "push", made.path)
    how = ("--wave", "1", "--wait", "--timeout", "120", "--changes-contract")
    stage.online("rollout", "create", f"{MODEL}/{release}", *how)


@contextmanager
def alone(case: Case) -> Iterator[GRPCInferenceServiceStub]:
    """Set up a device whose champion, release 2, breaks, and which has no network."""
    with tempfile.TemporaryDirectory(prefix="dsops-") as name:
        stage = Stage(Path(name), lambda _line: None)
        try:
            stage.raise_curtain()
            stage.start_agent(DEVICE)
            stage.wait_until("the device is online", lambda: any(row["online"] for row in stage.client.devices()))
            push(stage, "sound", 1, case.budget_ms)
            push(stage, case.kind, 2, case.budget_ms)
            for child in list(stage.processes.children):
                if child.name in ("mosquitto", "server"):
                    stage.processes.stop(child)
            with grpc.insecure_channel(f"unix:{stage.inference_socket(DEVICE)}") as channel:
                yield GRPCInferenceServiceStub(channel)
        finally:
            stage.processes.stop_all()


def broken_for_s(case: Case) -> tuple[float, int]:
    """Return how long it took until the release before answered, and how often the champion was asked the input."""
    with alone(case) as stub:
        began_s, asked = time.monotonic(), 0
        while time.monotonic() < began_s + PATIENCE_S:
            release = ask(stub, 9)
            if release == 1:
                return time.monotonic() - began_s, asked
            if release == 2:
                asked += 1
                ask(stub, case.breaks_at)
            time.sleep(0.02)
    raise TimedOut(f"release 1 does not answer within {PATIENCE_S:g} s")


def measure() -> Report:
    """Break a champion in each way."""
    found = {name: broken_for_s(case) for name, case in CASES.items()}
    facts = {f"breaks, {CASES[name]}": str(asked) for name, (_, asked) in found.items()}
    rows = tuple(Row(name, "s", took_s, limit=LIMIT) for name, (took_s, _) in found.items())
    return Report("breakdown", "A champion breaks, without a network", facts, rows)


if __name__ == "__main__":
    sys.exit(run(measure))
