"""The feeding process under its supervisor: its end costs no request of others, and it never outlives the agent."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest
from feed_crew import eventually, lines, put
from runtime_bundles import frames, make_bundle
from serving_runtime import serving

from dsops.client import Inference
from dsops.clock import SystemClock
from dsops.errors import DsopsError
from dsops_agent.config import Config, load
from dsops_agent.feed_process import FeedSupervisor, feed_settings

pytestmark = pytest.mark.integration
ROWS = frames(12, seed=2, noise=0.02)
CONFIG = """
device = "cam-1"
state = "state"
run = "{run}"
[trust]
root = "1.root.json"
[[source]]
name = "inbox"
model = "compass"
[source.directory]
path = "in"
settle_s = 0.05
[[sink]]
name = "kept"
[sink.file]
path = "answers.jsonl"
"""


@pytest.fixture
def config(short_path: Path, tmp_path: Path) -> Config:
    (tmp_path / "in").mkdir()
    (tmp_path / "agent.toml").write_text(CONFIG.format(run=short_path))
    return load(tmp_path / "agent.toml").config


@pytest.mark.slow
def test_a_kill_of_it_costs_no_answer(config: Config, short_path: Path, tmp_path: Path) -> None:
    supervisor, stop, failures, asked = FeedSupervisor(config, SystemClock()), threading.Event(), [], [0]
    thread = threading.Thread(target=supervisor.run, args=(stop,))
    with serving(short_path, make_bundle(tmp_path)), Inference(short_path / "inference.sock", "compass") as compass:

        def ask() -> None:
            while not stop.is_set():
                try:
                    compass.infer(ROWS[:1])
                    asked[0] += 1
                except DsopsError as error:
                    failures.append(error)

        asker = threading.Thread(target=ask)
        asker.start()
        thread.start()
        for turn in range(3):
            eventually(lambda: supervisor.status().pid)
            put(tmp_path / "in", f"{turn}.npy", ROWS[turn])
            eventually(lambda turn=turn: len(lines(tmp_path / "answers.jsonl")) == turn + 1)
            os.kill(supervisor.status().pid, signal.SIGKILL)
            eventually(lambda turn=turn: supervisor.status().restarts == turn + 1)
            assert supervisor.status().pid == 0 or supervisor.status().sources
        eventually(lambda: supervisor.status().pid)
        pid = supervisor.status().pid
        before = asked[0]
        eventually(lambda: asked[0] > before)
        stop.set()
        thread.join(60)
        asker.join(60)
    assert failures == []
    assert not psutil.pid_exists(pid)


def test_it_ends_when_the_control_process_is_killed(config: Config, tmp_path: Path) -> None:
    parent_code = (
        "import subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-m', 'dsops_agent.feed', '--settings', sys.argv[1]],"
        " stdin=subprocess.PIPE)\nprint(child.pid, flush=True)\ntime.sleep(1000)\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", parent_code, feed_settings(config)], stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    eventually((config.state / "feed" / "status.json").exists)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    eventually(lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)


def test_frames_on_standard_input(config: Config, short_path: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "dsops_agent", "feed", "--config", str(tmp_path / "agent.toml")]
    with serving(short_path, make_bundle(tmp_path)):
        found = subprocess.run(
            [*command, "--stdin", "compass", "--raw", "float32", "--show", "label"],
            input=ROWS[:2].astype("<f4").tobytes(),
            capture_output=True,
            check=True,
        )
    assert [b'"north"' in found.stdout.splitlines()[0], b'"east"' in found.stdout.splitlines()[1]] == [True, True]
    waits = subprocess.Popen([*command, "--stdin", "compass"], stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert waits.stderr is not None
        assert "waits for the model" in waits.stderr.readline()
    finally:
        waits.terminate()
        _, said = waits.communicate(timeout=60)
    assert "Traceback" not in said
