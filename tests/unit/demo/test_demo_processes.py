"""The demonstration's children: none is forgotten, and a dead one is noticed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dsops.errors import InvalidInput
from dsops_controller.demo.commands import Commands
from dsops_controller.demo.processes import ProcessEnded, Processes

# Starts a grandchild that ignores SIGTERM, says its number, and waits.
PARENT = """
import subprocess, sys, time
deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)"
child = subprocess.Popen([sys.executable, "-c", deaf])
print(child.pid, flush=True)
time.sleep(60)
"""


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


# Starts a child of the demonstration and waits; says the numbers of both.
DEMONSTRATION = """
import pathlib, sys, time
from dsops_controller.demo.processes import Processes
code = "print(1, flush=True); import time; time.sleep(600)"
child = Processes(pathlib.Path(sys.argv[1])).start("child", sys.executable, "-c", code)
while not child.log.read_text():
    time.sleep(0.02)
print(child.pid, flush=True)
time.sleep(600)
"""


def test_children_end_with_a_demonstration_that_is_killed(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", DEMONSTRATION, str(tmp_path)], stdout=subprocess.PIPE) as demo:
        assert demo.stdout is not None
        child = int(demo.stdout.readline())
        assert is_alive(child)
        demo.kill()
    deadline = time.monotonic() + 30
    while is_alive(child):
        assert time.monotonic() < deadline, "it runs on"
        time.sleep(0.02)


def test_a_program_that_cannot_be_run_is_named(tmp_path: Path) -> None:
    processes = Processes(tmp_path)
    child = processes.start("broker", str(tmp_path / "mosquitto"))
    child.process.wait()
    with pytest.raises(ProcessEnded, match=r"broker ended with 127: .*mosquitto cannot be run: No such file"):
        processes.check()


def test_what_a_killed_child_leaves_behind_is_ended_too(tmp_path: Path) -> None:
    processes = Processes(tmp_path)
    child = processes.start("parent", sys.executable, "-c", PARENT)
    while not (text := child.log.read_text()).endswith("\n"):
        time.sleep(0.02)
    grandchild = int(text)
    os.kill(child.pid, signal.SIGKILL)
    child.process.wait()
    assert is_alive(grandchild)
    processes.stop_all()
    deadline = time.monotonic() + 10
    while is_alive(grandchild) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not is_alive(grandchild)
    assert processes.children == []


def test_a_dead_child_is_named_with_its_last_words(tmp_path: Path) -> None:
    processes = Processes(tmp_path)
    child = processes.start("broker", sys.executable, "-c", "print('address in use'); raise SystemExit(3)")
    child.process.wait()
    with pytest.raises(ProcessEnded, match="broker ended with 3: address in use"):
        processes.check()


def test_a_command_is_not_waited_for_when_a_child_is_dead(tmp_path: Path) -> None:
    def check() -> None:
        raise ProcessEnded("mosquitto ended")

    commands = Commands(tmp_path, tmp_path / "operator.toml", [].append, check)
    with pytest.raises(ProcessEnded, match="mosquitto"):
        commands.run("server", "init", "state")


def test_a_command_fails_with_the_error_that_it_named(tmp_path: Path) -> None:
    shown: list[str] = []
    commands = Commands(tmp_path, tmp_path / "operator.toml", shown.append, lambda: None)
    with pytest.raises(InvalidInput, match="not-a-bundle"):
        commands.run("bundle", "verify", tmp_path / "not-a-bundle")
    assert shown == ["dsops bundle verify not-a-bundle"]
