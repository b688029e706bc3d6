"""A program's figures reach whoever asks the controller, once each, though store and agent are away in between."""

import json
import subprocess
import sys
from typing import Any

import pytest
from fleet_stage import DEVICES, Fleet, plan, wait_for

from dsops.errors import ServerUnreachable
from dsops_controller.demo.stage import MODEL

PROGRAM = """
import json, sys
from dsops.client import Inference

socket, first, last = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
with Inference(socket, "digits") as client:
    for number in range(first, last + 1):
        client.kpi("parts_rejected", number, unit="{part}", tags={"line": "4"})
    client.kpi("shift", last, model="")
"""


def report(fleet: Fleet, first: int, last: int) -> None:
    """A program of its own reports a figure for each number, and one that is about no model."""
    words = (str(fleet.inference_socket(DEVICES[0])), str(first), str(last))
    done = subprocess.run([sys.executable, "-c", PROGRAM, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def listed(fleet: Fleet, *more: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = fleet.online("telemetry", "kpis", "--limit", "10000", *more)
    return found


def answers(fleet: Fleet) -> bool:
    try:
        fleet.client.devices()
    except ServerUnreachable:
        return False
    return True


def pending(fleet: Fleet) -> int:
    """Return how many records of telemetry wait on the device."""
    said = json.loads((fleet.home(DEVICES[0]) / "state" / "status.json").read_text())
    return int(said["spool"]["telemetry"]["pending"])


@pytest.mark.slow
@pytest.mark.e2e
def test_figures_of_a_program_are_listed_once_each_with_what_served(fleet: Fleet) -> None:
    fleet.publish(1)
    rollout = fleet.client.create_rollout(plan(1))["id"]
    wait_for("the rollout ends", lambda: fleet.client.rollout(rollout)["state"] == "succeeded")
    report(fleet, 1, 20)
    wait_for("the first figures are stored", lambda: len(listed(fleet, "--name", "parts_rejected")) == 20)

    (server,) = [child for child in fleet.processes.children if child.name == "server"]
    server.process.kill()
    server.process.wait()
    fleet.processes.children.remove(server)
    before = pending(fleet)
    report(fleet, 21, 40)
    wait_for("the figures wait on the device", lambda: pending(fleet) >= before + 21)
    (agent,) = [child for child in fleet.processes.children if child.name == f"agent-{DEVICES[0]}"]
    agent.process.kill()
    agent.process.wait()
    fleet.processes.children.remove(agent)
    fleet.start_server()
    fleet.run_agent(DEVICES[0])
    wait_for("the controller answers again", lambda: answers(fleet))

    wait_for("all figures are stored", lambda: len(listed(fleet, "--name", "parts_rejected")) >= 40, timeout_s=120)
    rows = listed(fleet, "--name", "parts_rejected", "--device", DEVICES[0], "--model", MODEL)
    assert sorted(row["value"] for row in rows) == list(range(1, 41))
    assert {(row["unit"], row["release"], row["tags"]["line"]) for row in rows} == {("{part}", 1, "4")}
    digest = {bundle["sha256"] for bundle in fleet.client.bundles()}
    assert {row["digest"] for row in rows} == digest
    about_nothing = listed(fleet, "--name", "shift")
    assert sorted((row["value"], row["model"], row["release"]) for row in about_nothing) == [(20, "", 0), (40, "", 0)]
    assert listed(fleet, "--device", DEVICES[1]) == []
