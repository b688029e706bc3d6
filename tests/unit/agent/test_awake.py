"""How long another process was able to run: by what the kernel tells of real ones."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil
import pytest

from dsops_agent.awake import UNCERTAIN, Able, Awake, able, lasting

GAP_S = 0.3
WAITS_IN_THE_KERNEL = """
import ctypes, os, signal, time
libc = ctypes.PyDLL(None)
if libc.vfork() == 0:
    libc.prctl(1, signal.SIGKILL)
    libc.sleep(600)
    os._exit(0)
"""
"""Who made a process that shares its memory (vfork(2)) waits for it to go on, and nothing but an end wakes it."""


@contextmanager
def running(code: str) -> Iterator[int]:
    """Run a program on one processor, once it says that it has begun."""
    child = subprocess.Popen([sys.executable, "-c", f"print(flush=True)\n{code}"], stdout=subprocess.PIPE)
    try:
        assert child.stdout is not None
        child.stdout.readline()
        os.sched_setaffinity(child.pid, {min(os.sched_getaffinity(0))})
        yield child.pid
    finally:
        child.kill()
        child.wait()


def looked(pid: int, proc: Path = Path("/proc")) -> Able:
    awake = Awake(pid, proc)
    time.sleep(GAP_S)
    return awake.look(GAP_S)


def wait_until(pid: int, status: str) -> None:
    ends_s = time.monotonic() + 60
    while psutil.Process(pid).status() != status:
        assert time.monotonic() < ends_s, f"it is never {status}"
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("used_s", "states", "expected"),
    [
        (1.0, "R", 1.0),
        (3.5, "R", 1.0),
        (0.1, "RS", 0.1),
        (0.0, "S", 1.0),
        (0.0, "D", 0.25),
        (0.0, "SD", 0.25),
        (0.1, "RD", 0.25),
        (1.0, "RD", 0.25),
        (0.0, "T", 0.0),
        (0.0, "t", 0.0),
        (0.0, "TS", 1.0),
    ],
)
def test_only_who_waits_for_a_processor_or_is_suspended_could_not_run(
    used_s: float, states: str, expected: float
) -> None:
    assert able(1.0, used_s, frozenset(states)) == Able(expected)


def test_where_it_cannot_be_seen_silence_counts_less() -> None:
    assert able(1.0, 0.2, frozenset()) == Able(1.0, is_certain=False)
    assert able(1.0, 0.2, frozenset()).at_least_s == 1.0 / UNCERTAIN
    assert able(1.0, 1.0, frozenset()).at_least_s == 1.0


def test_a_process_that_sleeps_is_able_and_one_that_is_suspended_is_not() -> None:
    with running("import time; time.sleep(600)") as pid:
        wait_until(pid, psutil.STATUS_SLEEPING)
        assert looked(pid) == Able(GAP_S)
        os.kill(pid, signal.SIGSTOP)
        assert looked(pid) == Able(0.0)


def test_a_process_that_waits_for_what_cannot_be_interrupted_counts_as_the_uncertain() -> None:
    with running(WAITS_IN_THE_KERNEL) as pid:
        wait_until(pid, psutil.STATUS_DISK_SLEEP)
        assert looked(pid) == Able(GAP_S / UNCERTAIN)


def test_what_was_passed_over_is_not_taken_for_the_time_since() -> None:
    with running("while True: pass") as pid:
        awake = Awake(pid)
        time.sleep(3 * GAP_S)
        os.kill(pid, signal.SIGSTOP)
        wait_until(pid, psutil.STATUS_STOPPED)
        awake.pass_over()
        time.sleep(GAP_S)
        assert awake.look(GAP_S) == Able(0.0), "it was suspended"


def test_a_thread_that_wakes_up_for_a_moment_is_asleep() -> None:
    assert lasting([{"1": "R", "2": "S"}, {"1": "S", "2": "R"}, {"1": "R", "2": "S"}]) == {"S"}
    assert lasting([{"1": "R", "2": "S"}, {"1": "R", "2": "S"}, {"1": "R", "2": "R"}]) == {"R", "S"}
    assert lasting([{"1": "T", "2": "T"}]) == {"T"}
    assert lasting([{"1": "D", "2": "S"}, {"1": "R", "2": "S"}, {"1": "D", "2": "D"}]) == {"D", "S"}
    assert lasting([{"1": "D"}, {"1": "S"}, {"1": "D"}]) == {"S"}, "it goes on reading"
    assert lasting([{}]) == frozenset()


def test_a_process_that_others_leave_no_processor_is_not_able() -> None:
    spin = "while True: pass"
    with ExitStack() as open_:
        starved, *others = [open_.enter_context(running(spin)) for _ in range(3)]
        os.sched_setscheduler(starved, os.SCHED_IDLE, os.sched_param(0))
        assert looked(starved).for_s < GAP_S / 2
        for other in others:
            os.kill(other, signal.SIGSTOP)


def test_a_process_that_hides_or_is_gone_is_no_error(tmp_path: Path) -> None:
    with running("import time; time.sleep(600)") as pid:
        assert looked(pid, tmp_path) == Able(GAP_S, is_certain=False)
    assert Awake(pid).look(1.0) == Able(1.0, is_certain=False)
