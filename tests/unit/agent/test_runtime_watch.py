"""What is held against an inference process whose frame is late: the time since the look before, and no other."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from dsops_agent import runtime_watch
from dsops_agent.runtime.channel import Channel
from dsops_agent.runtime.flight import FlightRecorder
from dsops_agent.runtime_process import Launch, RuntimeProcess
from dsops_agent.runtime_watch import Lost, RuntimeWatch

LOOK_S = 0.2


def spent_s(pid: int) -> float:
    used = psutil.Process(pid).cpu_times()
    return used.user + used.system


def test_what_a_process_ran_before_is_not_held_against_it_when_it_is_suspended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime_watch, "LOOK_S", LOOK_S)
    frame = FlightRecorder(tmp_path).open("compass", "d" * 64)
    ours, theirs = socket.socketpair()
    with ours, theirs, subprocess.Popen([sys.executable, "-c", "while True: pass"]) as child:
        try:
            process = RuntimeProcess(child.pid, Channel(ours, lambda *_: ({}, b"")), None)
            watch = RuntimeWatch(process, Launch(tmp_path, "{}", hang_s=0.05), 0.0)
            ends_s = time.monotonic() + 60
            while spent_s(child.pid) < 2 * LOOK_S:
                assert time.monotonic() < ends_s, "it does not run"
                time.sleep(0.01)
            os.kill(child.pid, signal.SIGSTOP)
            while psutil.Process(child.pid).status() != psutil.STATUS_STOPPED:
                assert time.monotonic() < ends_s, "it is not suspended"
                time.sleep(0.01)
            assert watch.look(LOOK_S, is_at_work=False) is None

            def watched() -> object:
                time.sleep(2 * LOOK_S)
                assert watch.look(2 * LOOK_S, is_at_work=False) is None
                os.kill(child.pid, signal.SIGCONT)
                while spent_s(child.pid) < 4 * LOOK_S:
                    assert time.monotonic() < ends_s, "it does not go on"
                    time.sleep(0.01)
                return watch.look(3 * LOOK_S, is_at_work=False)

            found = frame.run(watched)
            assert isinstance(found, Lost)
            assert [one.model for one in found.stuck] == ["compass"]
        finally:
            child.kill()
