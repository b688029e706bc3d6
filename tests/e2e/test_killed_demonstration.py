"""A demonstration that is killed with SIGKILL: what it started ends too, and by itself."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

STAGE = """
import pathlib, sys, time
from dsops_controller.demo.stage import Stage
stage = Stage(pathlib.Path(sys.argv[1]), lambda text: None)
stage.raise_curtain()
stage.start_agent("cam-1")
time.sleep(600)
"""
"""The beginning of the story as the demonstration tells it, without the minute in which a model is built."""


@contextmanager
def started(*command: str, folder: Path) -> Iterator[psutil.Process]:
    """Run a demonstration; whatever it leaves behind is ended by its number."""
    seen: set[psutil.Process] = set()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, env=os.environ | {"TMPDIR": str(folder)}) as demo:
        process = psutil.Process(demo.pid)
        try:
            yield process
        finally:
            seen.update(children(process))
            demo.kill()
    for left in seen:
        if left.is_running():
            left.kill()


def children(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def runs(process: psutil.Process) -> bool:
    """Return whether a process has not ended; one that has may not have been seen by the host's first process yet."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def words(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def eventually(condition: Callable[[], bool], what: Callable[[], str]) -> None:
    ends = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < ends, what()
        time.sleep(0.05)


def kill_once_there(demo: psutil.Process, *wanted: str) -> None:
    """Kill a demonstration as soon as processes with these words run; everything that it started must end."""

    def there() -> bool:
        found = [words(one) for one in children(demo)]
        return all(any(text in one for one in found) for text in wanted)

    eventually(there, lambda: f"{wanted} do not run: {[words(one) for one in children(demo)]}")
    begun = children(demo)
    demo.send_signal(signal.SIGKILL)
    eventually(lambda: not any(map(runs, begun)), lambda: f"run on: {[words(one) for one in begun]}")


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder of which a demonstration takes that its sockets find room below it."""
    with tempfile.TemporaryDirectory(prefix="ds", dir="/tmp", ignore_cleanup_errors=True) as name:
        yield Path(name)


def test_a_demonstration_that_is_killed_early_leaves_no_process(folder: Path) -> None:
    command = (sys.executable, "-m", "dsops_controller.cli.app", "demo", "--devices", "2", "--seed", "5")
    with started(*command, folder=folder) as demo:
        kill_once_there(demo, "mosquitto", "server run", "model build")


def test_agents_and_their_inference_processes_end_too(folder: Path) -> None:
    with started(sys.executable, "-c", STAGE, str(folder), folder=folder) as demo:
        kill_once_there(demo, "mosquitto", "server run", "dsops_agent run", "dsops_agent.runtime")
