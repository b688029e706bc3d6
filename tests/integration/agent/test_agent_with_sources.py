"""The agent with a source: its feeding process is started, shown, started again, and gone with the agent."""

import os
import signal
import subprocess
from collections.abc import Callable
from typing import Any

import psutil
import pytest

pytestmark = pytest.mark.integration

SOURCE = """
[[source]]
name = "inbox"
model = "digits"
directory = { path = "in" }
[[sink]]
name = "kept"
file = { path = "answers.jsonl" }
"""


@pytest.mark.slow
def test_the_feeding_process_lives_and_ends_with_the_agent(
    agent: Any, ask: Callable[..., subprocess.CompletedProcess[str]], eventually: Callable[..., None]
) -> None:
    with (agent.folder / "agent.toml").open("a") as file:
        file.write(SOURCE)
    (agent.folder / "in").mkdir()
    (agent.folder / "in" / "waits.npy").write_bytes(b"for a model")
    agent.start()
    eventually(agent.is_well, 60)
    eventually(lambda: "waits for model digits" in str(agent.status.feed), 60)
    runtime, first = agent.status.runtime_pid, agent.status.feed.pid
    shown = ask(agent.folder, "status").stdout
    assert "directory: 0 frames, 0 answers, 0 failures, 0 drops" in shown
    assert "file: 0 answers" in shown
    os.kill(first, signal.SIGKILL)
    eventually(lambda: agent.status.feed.restarts == 1 and agent.status.feed.pid, 60)
    assert agent.status.runtime_pid == runtime
    second = agent.status.feed.pid
    agent.signal(signal.SIGTERM)
    assert agent.wait() == 0, agent.log
    assert not psutil.pid_exists(second)
    assert "Traceback" not in agent.log
    assert (agent.folder / "in" / ".work" / "waits.npy").read_bytes() == b"for a model"
