"""The inference process that is started before the rest of the agent: where it is wanted, and never left behind."""

import os
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from dsops_agent.config import Config, load
from dsops_agent.launching import EarlyStart, launch
from dsops_agent.runtime_process import OOM_SCORE, is_found

pytestmark = pytest.mark.integration
Eventually = Callable[..., None]


def processes(run_folder: Path) -> list[psutil.Process]:
    """Return the inference processes of a run folder."""
    found = []
    for process in psutil.process_iter():
        try:
            arguments = process.cmdline()
        except psutil.Error:
            continue
        if "dsops_agent.runtime" in arguments and str(run_folder) in arguments:
            found.append(process)
    return found


def copies(agent: Any) -> list[psutil.Process]:
    """Return the inference processes that are copies of an agent: the command line is the agent's."""
    named = [process for process in psutil.process_iter(["name", "cmdline"]) if process.info["name"] == "dsops-runtime"]
    return [process for process in named if str(agent.folder / "agent.toml") in (process.info["cmdline"] or ())]


@pytest.fixture
def config(tmp_path: Path, short_path: Path) -> Config:
    path = tmp_path / "agent.toml"
    path.write_text(f'device = "cam-1"\nstate = "state"\nrun = "{short_path}"\n[trust]\nroot = "1.root.json"\n')
    return load(path).config


@pytest.fixture
def enrolled(config: Config) -> Config:
    (config.state / "identity/1").mkdir(parents=True)
    (config.state / "identity/active").symlink_to("1")
    return config


@pytest.fixture
def early(enrolled: Config) -> Iterator[EarlyStart]:
    started = EarlyStart.of(enrolled)
    yield started
    started.end()


def test_a_device_without_an_identity_starts_nothing(config: Config) -> None:
    assert EarlyStart.of(config).take() is None
    assert processes(config.run_folder) == []


def test_it_tells_when_it_answers_and_offers_itself_to_the_oom_killer(enrolled: Config, early: EarlyStart) -> None:
    starting = early.take()
    assert starting is not None
    assert starting.is_over(60)
    assert starting.child.poll() is None
    assert launch(enrolled).control_socket.exists()
    assert enrolled.inference_socket.exists()
    assert Path(f"/proc/{starting.child.pid}/oom_score_adj").read_text().strip() == str(OOM_SCORE)
    assert early.take() is None, "it has one owner"
    starting.end()
    assert processes(enrolled.run_folder) == []


def test_one_that_nobody_takes_is_ended(enrolled: Config, early: EarlyStart) -> None:
    assert len(processes(enrolled.run_folder)) == 1
    early.end()
    assert processes(enrolled.run_folder) == []


def test_beside_one_that_can_be_taken_over_none_is_started(
    enrolled: Config, early: EarlyStart, eventually: Eventually
) -> None:
    eventually(lambda: is_found(launch(enrolled)), 60)
    assert EarlyStart.of(enrolled).take() is None
    assert len(processes(enrolled.run_folder)) == 1


def test_a_socket_that_was_left_behind_is_nobody(enrolled: Config) -> None:
    enrolled.run_folder.mkdir(exist_ok=True)
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(launch(enrolled).control_socket))
    starting = EarlyStart.of(enrolled).take()
    assert starting is not None
    assert starting.is_over(60)
    assert starting.child.poll() is None
    starting.end()


def test_one_that_cannot_start_says_so_at_once(enrolled: Config) -> None:
    enrolled.inference_socket.mkdir(parents=True)
    starting = EarlyStart.of(enrolled).take()
    assert starting is not None
    assert starting.is_over(60), "its end is heard, too"
    assert starting.child.wait(30) != 0
    starting.forget()


@pytest.mark.slow
def test_an_agent_takes_it_when_it_starts_again_and_leaves_none_behind_when_it_fails(
    agent: Any, eventually: Eventually
) -> None:
    agent.start()
    eventually(agent.is_well, 60)
    agent.signal(signal.SIGTERM)
    assert agent.wait() == 0
    agent.start()
    eventually(agent.is_well, 60)
    config = load(agent.folder / "agent.toml").config
    (runtime,) = copies(agent)
    assert processes(config.run_folder) == []
    assert runtime.pid == agent.status.runtime_pid
    assert runtime.ppid() == agent.process.pid
    assert "was not started early" not in agent.log
    os.kill(agent.process.pid, signal.SIGTERM)
    assert agent.wait() == 0
    (agent.folder / "1.root.json").unlink()
    agent.start()
    assert agent.wait() == 2, agent.log
    assert copies(agent) == processes(config.run_folder) == []
