"""How soon the release before answers when a champion breaks, on a device that nobody can reach.

A whole device: control process, inference process, probation over, broker and controller then ended. The champion
passes its proof and its golden inputs, and breaks at one input, which a program asks again and again: it crashes the
inference process, or does not come back. The clock runs from the first such request to the first answer of the release
before.
"""

import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
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
BUDGET_MS = 20.0
KINDS = {"dividing": CRASHES, "endless": HANGS}
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


def push(stage: Stage, kind: str, release: int) -> None:
    """Roll a release out to the device."""
    made = make_breaker(stage.folder, kind, release, MODEL, Budgets(max_latency_ms=BUDGET_MS))
    stage.commands.run("bundle", "sign", made.path, "--keys", stage.keys, online=True)
    stage.online("bundle", "push", made.path)
    stage.online("rollout", "create", f"{MODEL}/{release}", "--wave", "1", "--wait", "--timeout", "120")


@contextmanager
def alone(kind: str) -> Iterator[GRPCInferenceServiceStub]:
    """Set up a device whose champion, release 2, breaks, and which has no network."""
    with tempfile.TemporaryDirectory(prefix="dsops-") as name:
        stage = Stage(Path(name), lambda _line: None)
        try:
            stage.raise_curtain()
            stage.start_agent(DEVICE)
            stage.wait_until("the device is online", lambda: any(row["online"] for row in stage.client.devices()))
            push(stage, "sound", 1)
            push(stage, kind, 2)
            for child in list(stage.processes.children):
                if child.name in ("mosquitto", "server"):
                    stage.processes.stop(child)
            with grpc.insecure_channel(f"unix:{stage.inference_socket(DEVICE)}") as channel:
                yield GRPCInferenceServiceStub(channel)
        finally:
            stage.processes.stop_all()


def broken_for_s(kind: str) -> tuple[float, int]:
    """Return how long it took until the release before answered, and how often the champion was asked the input."""
    with alone(kind) as stub:
        began_s, asked = time.monotonic(), 0
        while time.monotonic() < began_s + PATIENCE_S:
            release = ask(stub, 9)
            if release == 1:
                return time.monotonic() - began_s, asked
            if release == 2:
                asked += 1
                ask(stub, int(KINDS[kind][0]))
            time.sleep(0.02)
    raise TimedOut(f"release 1 does not answer within {PATIENCE_S:g} s")


def measure() -> Report:
    """Break a champion in both ways."""
    found = {kind: broken_for_s(kind) for kind in KINDS}
    facts = {"budget": f"{BUDGET_MS:g} ms"} | {f"breaks, {kind}": str(asked) for kind, (_, asked) in found.items()}
    rows = (
        Row("first crash to the release before", "s", found["dividing"][0], limit=LIMIT),
        Row("first hang to the release before", "s", found["endless"][0], limit=LIMIT),
    )
    return Report("breakdown", "A champion breaks, without a network", facts, rows)


if __name__ == "__main__":
    sys.exit(run(measure))
