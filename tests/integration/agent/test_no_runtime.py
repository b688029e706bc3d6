"""A device on which no TFLite runtime is installed says so, and what to do about it."""

import json
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[3]
RUNTIMES = ("ai_edge_litert", "tflite_runtime")


@pytest.fixture
def python(tmp_path: Path) -> str:
    """Return an interpreter that has every library of this one but a TFLite runtime."""
    libraries = tmp_path / "libraries"
    libraries.mkdir()
    for found in Path(sysconfig.get_path("purelib")).iterdir():
        if not found.name.startswith(RUNTIMES) and found.suffix != ".pth":
            (libraries / found.name).symlink_to(found)
    bare = tmp_path / "bare"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", bare], check=True)
    (site,) = bare.glob("lib/python*/site-packages")
    (site / "others.pth").write_text(f"{libraries}\n{ROOT / 'core'}\n{ROOT / 'agent'}\n")
    return str(bare / "bin/python")


def asked(python: str, module: str, *arguments: str) -> dict[str, Any]:
    done = subprocess.run([python, "-m", module, *arguments], capture_output=True, text=True, check=True)
    error: dict[str, Any] = json.loads(done.stdout)["error"]
    return error


def test_the_processes_that_need_one_say_which_there_are_and_how_to_get_one(python: str) -> None:
    error = asked(python, "dsops_agent.runtime.supports", "ADD/1")
    assert (error["code"], error["message"]) == ("device.runtime_missing", "no TFLite runtime can be loaded")
    assert error["why"] == "ai-edge-litert is not installed; tflite-runtime is not installed"
    for extra in ("pip install 'dsops[agent]'", "'dsops[agent-tflite]'"):
        assert extra in error["hint"]


@pytest.mark.slow
def test_the_agent_runs_and_says_it_before_anything_is_rolled_out(
    agent: Any, python: str, ask: Callable[..., subprocess.CompletedProcess[str]], eventually: Callable[..., None]
) -> None:
    agent.python = python
    agent.start()
    eventually(lambda: (agent.folder / "state/status.json").exists() and agent.status.connected, 60)
    eventually(lambda: agent.status.runtime_pid is not None, 60)
    told = agent.status.problems["runtime"]
    assert told.startswith("no TFLite runtime is installed: pip install 'dsops[agent]'")
    assert told in ask(agent.folder, "status").stdout
    checked = ask(agent.folder, "status", "--check")
    assert (checked.returncode, told in checked.stderr) == (3, True)
    assert "Traceback" not in agent.log
