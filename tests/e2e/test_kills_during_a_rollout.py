"""Control process, runtime and broker are killed in turn while a release is on its way; it arrives all the same."""

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from fleet_stage import DEVICES, Fleet, plan, wait_for

from dsops.errors import RuntimeCrashed
from dsops_controller.demo import digits
from dsops_controller.demo.programs import Classifier, Program
from dsops_controller.demo.stage import MODEL

PADDING_BYTES = 6_000_000


def status(fleet: Fleet, device: str) -> dict[str, Any]:
    path = fleet.home(device) / "state" / "status.json"
    loaded: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return loaded


def install_state(fleet: Fleet, device: str) -> str:
    model = status(fleet, device).get("models", {}).get(MODEL, {})
    return str(model.get("install", ""))


def runtime_of(fleet: Fleet, device: str) -> int:
    """Return the runtime's process; a control process that just began does not know it yet."""
    wait_for("the runtime is known", lambda: status(fleet, device).get("runtime_pid") is not None)
    return int(status(fleet, device)["runtime_pid"])


def finish(fleet: Fleet, rollout: str) -> dict[str, Any]:
    wait_for("the rollout ends", lambda: fleet.client.rollout(rollout)["state"] != "running", timeout_s=150)
    return fleet.client.rollout(rollout)


def kill_agent(fleet: Fleet, device: str) -> None:
    (child,) = [c for c in fleet.processes.children if c.name == f"agent-{device}"]
    child.process.kill()
    child.process.wait()
    fleet.processes.children.remove(child)


def kill_broker_and_forget(fleet: Fleet) -> None:
    (child,) = [c for c in fleet.processes.children if c.name == "mosquitto"]
    child.process.kill()
    child.process.wait()
    fleet.processes.children.remove(child)
    for stored in (fleet.server / "mosquitto").glob("**/*.db"):
        stored.unlink()


@pytest.mark.slow
@pytest.mark.e2e
def test_a_rollout_survives_the_death_of_every_part(fleet: Fleet, built: Path) -> None:
    canary = DEVICES[0]
    fleet.publish(1)
    first = fleet.client.create_rollout(plan(1))["id"]
    assert finish(fleet, first)["state"] == "succeeded"

    frames = digits.splits(7).test
    program = Program(canary, Classifier(fleet.inference_socket(canary), MODEL), frames, rate_hz=20, seed=1)
    program.start()
    fleet.publish(2, PADDING_BYTES)
    second = fleet.client.create_rollout(plan(2))["id"]

    wait_for("the transfer is under way", lambda: install_state(fleet, canary) == "fetching")
    kill_agent(fleet, canary)
    time.sleep(0.5)
    fleet.run_agent(canary)
    wait_for("the transfer goes on", lambda: install_state(fleet, canary) not in {"", "idle", "received", "trusted"})
    program.stop()
    assert program.total.failed == 0, program.total.first_failure

    kill_broker_and_forget(fleet)
    time.sleep(0.5)
    fleet.start_broker()

    os.kill(runtime_of(fleet, canary), signal.SIGKILL)
    ended = finish(fleet, second)
    assert ended["state"] == "succeeded", ended

    for device in DEVICES:
        inference = Classifier(fleet.inference_socket(device), MODEL)
        wait_for("the device answers", lambda inference=inference: answers(inference, frames.x[0]) == "2")
        inference.close()


@pytest.mark.slow
@pytest.mark.e2e
def test_a_runtime_killed_on_probation_does_not_condemn_the_release(fleet: Fleet) -> None:
    canary = DEVICES[0]
    fleet.publish(1)
    rollout = fleet.client.create_rollout(plan(1))["id"]
    deadline = time.monotonic() + 60
    while install_state(fleet, canary) != "probation":
        assert time.monotonic() < deadline, "the release never came on probation"
        time.sleep(0.01)
    time.sleep(0.75)  # so late that the new process is not there yet when the second of probation is over
    killed = runtime_of(fleet, canary)
    os.kill(killed, signal.SIGKILL)
    ended = finish(fleet, rollout)
    assert ended["state"] == "succeeded", ended
    assert status(fleet, canary)["runtime_pid"] != killed


def answers(inference: Classifier, frame: digits.Images) -> str:
    try:
        return inference.classify(frame, "after").release
    except RuntimeCrashed:
        return ""
