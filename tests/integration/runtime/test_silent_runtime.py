"""A real inference process that says no more how it is: something in it holds Python's lock, or it is suspended."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
from breakable_device import Device, eventually
from runtime_breakers import HANGS, make_breaker

from dsops_agent.install.ports import Suspect
from dsops_agent.runtime.flight import read_flight

pytestmark = [pytest.mark.integration, pytest.mark.slow]

FOR_EVER_S = 600.0
"""A test that waited for it would fail."""
HOLDS_THE_LOCK = """
import ctypes, pathlib, re, threading, time
ORDERS = pathlib.Path({path!r})
def hold():
    while not ORDERS.exists():
        time.sleep(0.02)
    if ORDERS.read_text() == "sleeps":
        ctypes.PyDLL(None).sleep(600)
    re.match("(a+)+$", "a" * 64 + "b")
threading.Thread(target=hold, daemon=True).start()
"""
"""What every Python process of the test runs first: at an order, a thread that never gives Python's lock back."""


@pytest.fixture
def orders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return where to write that inference processes shall be silent: those that start from now on."""
    folder = tmp_path / "first"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(HOLDS_THE_LOCK.format(path=str(folder / "orders")))
    monkeypatch.setenv("PYTHONPATH", str(folder))
    return folder / "orders"


@pytest.fixture
def device(tmp_path: Path, short_path: Path, orders: Path) -> Iterator[Device]:
    device = Device(tmp_path, short_path, hang_s=2.0, silent_s=FOR_EVER_S, quiet_s=1.5)
    yield device
    device.stop()


def test_a_frame_that_hangs_and_silences_its_process_is_found_as_any_other(
    device: Device, orders: Path, tmp_path: Path
) -> None:
    endless = make_breaker(tmp_path, "endless", 1, "endless")
    device.serve(endless)
    pid = device.supervisor.pid
    hung = threading.Thread(target=device.ask, args=("endless", HANGS, 120.0))
    hung.start()
    eventually(lambda: bool(read_flight(device.folder)))
    orders.write_text("sleeps")
    eventually(lambda: len(device.deaths) == 1)
    orders.unlink()
    hung.join(90)
    assert device.deaths[0].suspects == (Suspect("endless", endless.digest),)
    assert device.deaths[0].is_hang
    eventually(lambda: device.supervisor.pid not in (None, pid))


@pytest.mark.parametrize("how", ["sleeps", "spins"])
def test_a_process_that_says_nothing_while_it_runs_nothing_is_ended_and_nobody_is_blamed(
    device: Device, orders: Path, tmp_path: Path, how: str
) -> None:
    sound = make_breaker(tmp_path, "sound", 1)
    device.serve(sound)
    pid = device.supervisor.pid
    orders.write_text(how)
    eventually(lambda: len(device.deaths) == 1)
    orders.unlink()
    assert (device.deaths[0].suspects, device.deaths[0].is_hang, device.deaths[0].is_killed) == ((), False, False)
    assert "did not say how it is" in device.deaths[0].why
    assert pid is not None
    assert not psutil.pid_exists(pid)
    eventually(lambda: device.supervisor.pid not in (None, pid))
    device.serve(sound)
    assert device.ask("counter", np.array([9], np.int32)) == 2


@pytest.mark.parametrize("value", [2, 500])
def test_a_process_that_is_suspended_is_waited_for_whatever_it_ran(device: Device, tmp_path: Path, value: int) -> None:
    device.serve(make_breaker(tmp_path, "endless", 1, "endless"))
    pid = device.supervisor.pid or 0
    found: list[int | None] = []
    asking = threading.Thread(target=lambda: found.append(device.ask("endless", np.array([value], np.int32))))
    asking.start()
    if value > 2:
        eventually(lambda: bool(read_flight(device.folder)))
    os.kill(pid, signal.SIGSTOP)
    time.sleep(6.0)  # several times as long as it may be silent, or a frame may take
    os.kill(pid, signal.SIGCONT)
    asking.join(60)
    assert (found, device.deaths, device.supervisor.pid) == ([0], [], pid)
