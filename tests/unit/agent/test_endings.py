"""How other processes are ended."""

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from dsops_agent import endings

STUBBORN = """
    import pathlib, signal, sys, time
    def asked(*_):
        pathlib.Path(sys.argv[1]).touch()
        if sys.argv[2] == "polite":
            sys.exit(0)
    signal.signal(signal.SIGTERM, asked)
    print(flush=True)
    time.sleep(600)
"""


def begin(flag: Path, manner: str) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-c", textwrap.dedent(STUBBORN), str(flag), manner]
    child = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert child.stdout is not None
    child.stdout.readline()
    child.stdout.close()
    return child


@pytest.mark.parametrize("is_own", [True, False])
def test_one_that_is_killed_is_asked_nothing(tmp_path: Path, is_own: bool) -> None:
    child = begin(tmp_path / "asked", "polite")
    endings.kill(child.pid, child if is_own else None)
    assert child.wait(60) == -9
    assert not (tmp_path / "asked").exists()
    endings.kill(child.pid, child if is_own else None)  # one that is gone is no error


@pytest.mark.parametrize("is_own", [True, False])
def test_one_that_ends_when_it_is_asked_is_not_killed(tmp_path: Path, is_own: bool) -> None:
    child = begin(tmp_path / "asked", "polite")
    assert not endings.end(child.pid, child if is_own else None)
    assert child.wait(60) == 0


@pytest.mark.slow
@pytest.mark.parametrize("is_own", [True, False])
def test_one_that_does_not_is_killed_in_the_end(tmp_path: Path, is_own: bool) -> None:
    child = begin(tmp_path / "asked", "stubborn")
    assert endings.end(child.pid, child if is_own else None)
    assert child.wait(60) == -9
    assert (tmp_path / "asked").exists()
