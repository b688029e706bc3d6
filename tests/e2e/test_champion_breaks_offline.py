"""A champion starts to crash the runtime long after its activation, and nobody can be reached: the device helps itself.

The control process is killed before two of the three crashes, and starts again after each.

The model is real: it divides, passes its proof, its golden inputs and its probation, and one input of a program makes
the processor refuse the division (see ``runtime_breakers``). How long it takes is measured by
``benchmarks/breakdown.py``.
"""

import sys
from typing import Any

import grpc
import numpy as np
import pytest
from fleet_stage import DEVICES, Fleet, plan, wait_for
from runtime_breakers import make_breaker
from test_kills_during_a_rollout import finish, kill_agent, status

from dsops.api.v1 import open_inference_grpc_pb2 as pb
from dsops.api.v1 import open_inference_grpc_pb2_grpc
from dsops.errors import DsopsError
from dsops_controller.demo.stage import MODEL

CANARY = DEVICES[0]


def push(fleet: Fleet, kind: str, release: int) -> str:
    made = make_breaker(fleet.folder, kind, release, MODEL)
    fleet.commands.run("bundle", "sign", made.path, "--keys", fleet.keys, online=True)
    fleet.commands.run("bundle", "push", made.path, online=True)
    assert finish(fleet, fleet.client.create_rollout(plan(release))["id"])["state"] == "succeeded"
    return made.digest


def cut_the_network(fleet: Fleet) -> None:
    """End everything that the device talks to: the broker, the controller, its store."""
    for name in ("mosquitto", "server"):
        (child,) = [child for child in fleet.processes.children if child.name == name]
        child.process.kill()
        child.process.wait()
        fleet.processes.children.remove(child)


def mend_the_network(fleet: Fleet) -> None:
    fleet.start_broker()
    fleet.processes.start(
        "server", sys.executable, "-m", "dsops_controller.cli.app", "server", "run", str(fleet.server)
    )

    def answers() -> bool:
        try:
            return bool(fleet.client.devices())
        except DsopsError:
            return False

    wait_for("the controller answers", answers)


def ask(fleet: Fleet, value: int) -> tuple[int, int] | None:
    """Return the release that answered, and its answer; None when there was none."""
    with grpc.insecure_channel(f"unix:{fleet.inference_socket(CANARY)}") as channel:
        stub = open_inference_grpc_pb2_grpc.GRPCInferenceServiceStub(channel)
        request = pb.ModelInferRequest(model_name=MODEL)
        request.inputs.add(name="x", datatype="INT32", shape=[1])
        request.raw_input_contents.append(np.array([value], np.int32).tobytes())
        try:
            response = stub.ModelInfer(request, timeout=5.0)
        except grpc.RpcError:
            return None
    return int(response.model_version), int(np.frombuffer(response.raw_output_contents[0], np.int32)[0])


def counted(fleet: Fleet) -> int:
    """Return how many crashes the agent has counted, by its log: it says so once they are in its journal."""
    (log,) = {child.log for child in fleet.agents() if child.name == f"agent-{CANARY}"}
    return log.read_text().count("the inference process died with a frame of model")


def reported(fleet: Fleet) -> dict[str, Any]:
    model: dict[str, Any] = fleet.client.device(CANARY)["models"][MODEL]
    return model


@pytest.mark.slow
@pytest.mark.e2e
def test_the_previous_release_serves_and_the_report_arrives_after_the_reconnection(fleet: Fleet) -> None:
    sound, dividing = push(fleet, "sound", 1), push(fleet, "dividing", 2)
    assert ask(fleet, 9) == (2, 0)
    cut_the_network(fleet)
    wait_for("the device is alone", lambda: not status(fleet, CANARY)["connected"])
    poison = -(2**31)
    for number in (1, 2):  # each while no control process is there
        kill_agent(fleet, CANARY)
        assert ask(fleet, poison) is None
        fleet.run_agent(CANARY)
        wait_for("the crash is counted", lambda number=number: counted(fleet) == number)
        wait_for("release 2 answers again", lambda: ask(fleet, 9) == (2, 0))
    assert ask(fleet, poison) is None
    wait_for("release 1 answers", lambda: ask(fleet, 9) == (1, 2))
    assert ask(fleet, poison) == (1, 5), "the very request that ended release 2"
    wait_for("the device knows", lambda: status(fleet, CANARY)["models"][MODEL]["install"] == "rolled_back")
    found = status(fleet, CANARY)["models"][MODEL]
    assert (found["active"], found["quarantined"]) == (sound, [dividing])
    assert found["problem"]["code"] == "unfit.crashes"
    assert "SIGFPE" in found["problem"]["message"]
    mend_the_network(fleet)
    wait_for("the report arrives", lambda: reported(fleet)["install"] == "rolled_back", timeout_s=120)
    assert reported(fleet)["problem"]["code"] == "unfit.crashes"

    def told() -> bool:
        events = fleet.client.events(device=CANARY)
        return any((one["kind"], one["code"]) == ("rolled_back", "unfit.crashes") for one in events)

    wait_for("the store has the event", told, timeout_s=120)
    assert ask(fleet, 9) == (1, 2)
