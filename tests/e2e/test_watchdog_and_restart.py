"""The control process stops making progress while a program asks: its service manager kills it and starts it again.

The manager is one of the tests' own, which does what the unit says; the agent, its runtime and the model are real.
"""

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from fleet_stage import DEVICES, Fleet, plan, wait_for
from test_kills_during_a_rollout import finish, runtime_of, status
from tiny_service_manager import Run, TinyServiceManager

from dsops_controller.demo import digits
from dsops_controller.demo.programs import Classifier, Program
from dsops_controller.demo.stage import MODEL

CANARY = DEVICES[0]
HANGING = Path(__file__).with_name("hanging_agent.py")
KEYS = {"WatchdogSec": "6", "RestartSec": "0.2"}
ASKED_HZ = 50


@pytest.fixture
def manager(fleet: Fleet) -> Iterator[TinyServiceManager]:
    fleet.publish(1)
    assert finish(fleet, fleet.client.create_rollout(plan(1))["id"])["state"] == "succeeded"
    fleet.processes.stop(*(child for child in fleet.agents() if child.name == f"agent-{CANARY}"))
    command = [sys.executable, str(HANGING), str(fleet.home(CANARY) / "agent.toml")]
    made = TinyServiceManager(command, fleet.folder, KEYS)
    made.start()
    yield made
    made.stop()


def wait_until_well(fleet: Fleet, manager: TinyServiceManager, lives: int) -> Run:
    """Wait until the process of a life serves, connected, and return it."""

    def is_well() -> bool:
        told = status(fleet, CANARY)
        run = manager.runs[-1]
        return run.is_ready and told.get("pid") == run.pid and bool(told.get("connected"))

    wait_for(f"life {lives} is well", lambda: len(manager.runs) >= lives and is_well(), timeout_s=90)
    return manager.runs[-1]


@pytest.mark.slow
@pytest.mark.e2e
def test_a_control_process_without_progress_is_killed_and_its_runtime_answers_throughout(
    fleet: Fleet, manager: TinyServiceManager
) -> None:
    first = wait_until_well(fleet, manager, 1)
    runtime = runtime_of(fleet, CANARY)
    frames = digits.splits(7).test
    program = Program(CANARY, Classifier(fleet.inference_socket(CANARY), MODEL), frames, rate_hz=ASKED_HZ, seed=1)
    program.start()

    os.kill(first.pid, signal.SIGSTOP)
    wait_for("the suspended process is killed", lambda: first.code is not None)
    assert (first.why, first.code) == ("watchdog", -signal.SIGABRT)
    second = wait_until_well(fleet, manager, 2)
    assert runtime_of(fleet, CANARY) == runtime, "it was taken over"

    (fleet.home(CANARY) / "hangs").write_text(f"installer {second.pid}")
    wait_for("the process with a stuck thread is killed", lambda: second.code is not None, timeout_s=90)
    assert (second.why, second.code) == ("watchdog", -signal.SIGABRT)
    assert any(line.startswith("STATUS=the installer has made no progress") for line in second.heard)
    wait_until_well(fleet, manager, 3)
    assert runtime_of(fleet, CANARY) == runtime, "it was taken over again"

    answered = program.total.answered
    wait_for("it answers on", lambda: program.total.answered > answered + ASKED_HZ)
    program.stop()
    assert (program.total.failed, program.total.first_failure) == (0, "")
    assert set(program.total.releases) == {"1"}
    last = manager.stop()
    assert (last.why, last.code) == ("stop", 0)
    assert "STOPPING=1" in last.heard
    assert manager.ignored == [], "only the main process talks to its manager"
