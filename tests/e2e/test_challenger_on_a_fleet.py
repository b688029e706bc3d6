"""A challenger from the command line to a device and back as figures: in the shadow, killed, split, promoted."""

import json
import os
import signal
import threading
from typing import Any

import grpc
import pytest
from fleet_stage import DEVICES, Fleet, plan, wait_for
from test_kills_during_a_rollout import finish, kill_agent, status

from dsops.api.v1 import open_inference_grpc_pb2 as pb
from dsops.api.v1 import open_inference_grpc_pb2_grpc
from dsops_controller.demo import digits

CANARY = DEVICES[0]


class Program:
    """A program on the device that asks all the time."""

    def __init__(self, fleet: Fleet) -> None:
        self._frames = digits.splits(7).test.x[:50]
        self._channel = grpc.insecure_channel(f"unix:{fleet.inference_socket(CANARY)}")
        self._stub = open_inference_grpc_pb2_grpc.GRPCInferenceServiceStub(self._channel)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.releases: list[int] = []
        self._thread.start()

    def ask(self, key: str = "") -> int:
        """Return the release that answered."""
        frame = self._frames[len(self.releases) % 50][None]
        request = pb.ModelInferRequest(model_name="digits")
        request.inputs.add(name="image", datatype="FP32", shape=frame.shape)
        request.raw_input_contents.append(frame.astype("<f4").tobytes())
        if key:
            request.parameters["key"].string_param = key
        return int(self._stub.ModelInfer(request, timeout=30).parameters["release"].int64_param)

    def _run(self) -> None:
        while not self._stop.wait(0.01):
            self.releases.append(self.ask())

    def end(self) -> None:
        self._stop.set()
        self._thread.join(60)
        assert not self._thread.is_alive()
        self._channel.close()


def challenger(fleet: Fleet) -> dict[str, Any]:
    return dict(status(fleet, CANARY)["models"]["digits"]["challenger"] or {})


def compared(fleet: Fleet) -> int:
    return sum(row["compared"] for row in fleet.client.comparisons(model="digits"))


@pytest.mark.slow
@pytest.mark.e2e
def test_a_challenger_is_set_compared_killed_split_and_promoted(fleet: Fleet) -> None:
    fleet.publish(1)
    fleet.publish(2)
    assert finish(fleet, fleet.client.create_rollout(plan(1))["id"])["state"] == "succeeded"
    program = Program(fleet)

    fleet.commands.run("challenger", "set", "digits/2", "--device", CANARY, "--shadow", "100", online=True)
    wait_for("the challenger is compared", lambda: compared(fleet) > 20, 120)
    shown = fleet.commands.run("challenger", "show", "digits", online=True)
    (there,) = shown["challengers"]
    assert (there["device"], there["champion_release"], there["release"]) == (CANARY, 1, 2)
    assert (there["mode"], there["active"], there["install"]) == ("shadow", True, "committed")
    (found,) = shown["comparisons"]
    assert (found["disagreed"], found["distance"]) == (0, 0), "both are the same payload"
    assert found["p50_us"] > 0
    assert found["challenger_p50_us"] > 0
    assert found["confidence"] == pytest.approx(found["challenger_confidence"], abs=1e-3)

    pid = int((fleet.inference_socket(CANARY).parent / "shadow-digits" / "runtime.pid").read_text())
    os.kill(pid, signal.SIGKILL)
    before = compared(fleet)
    wait_for("it is compared again", lambda: compared(fleet) > before + 20, 120)
    kill_agent(fleet, CANARY)
    fleet.run_agent(CANARY)
    before = compared(fleet)
    wait_for("a new agent goes on with it", lambda: compared(fleet) > before + 20, 120)
    assert set(program.releases) == {1}, "the champion noticed"

    fleet.commands.run("challenger", "set", "digits/2", "--device", CANARY, "--split", "50", online=True)
    keys = [f"user-{number}" for number in range(40)]
    wait_for("keys are split", lambda: {program.ask(key) for key in keys} == {1, 2}, 120)
    assert [program.ask(key) for key in keys] == [program.ask(key) for key in keys]

    rollout = fleet.commands.run("challenger", "promote", "digits", online=True)
    assert finish(fleet, rollout["id"])["state"] == "succeeded"
    wait_for("it is the champion", lambda: program.ask() == 2)
    wait_for("nothing is left of it", lambda: not challenger(fleet))
    assert fleet.client.challengers() == []
    program.end()
    assert set(program.releases) == {1, 2}
    trail = json.dumps(fleet.client.events(kind="challenger_committed"))
    assert CANARY in trail
