"""A sink that is a program: run for each answer, one at a time, with the answer as its input, within a time."""

import os
import signal
import subprocess
import threading
import time
from contextlib import suppress

from dsops.errors import DsopsError, TimedOut
from dsops_agent.feed.ports import Answer
from dsops_agent.feed.settings import Command

_LOOK_S = 0.05


class CommandOutlet:
    """Runs the program.

    Args:
        settings: Which one, and for how long.
    """

    def __init__(self, settings: Command) -> None:
        self._settings = settings

    def write(self, answer: Answer, stop: threading.Event) -> None:
        """Run it with an answer.

        Raises:
            TimedOut: It took too long and was killed, with all that it started.
            DsopsError: It ended with another status than 0.
            OSError: It cannot be started.
        """
        child = subprocess.Popen(
            self._settings.program, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True
        )
        feeder = threading.Thread(target=_feed, args=(child, answer.record + b"\n"), daemon=True)
        feeder.start()  # a program that does not read its input must not hold us up
        code = self._wait(child, stop)
        if code is None:
            os.killpg(child.pid, signal.SIGKILL)  # it was not waited for, so its number is its own still
            child.wait()
            raise TimedOut(f"{self._settings.program[0]} did not end within {self._settings.timeout_s:g} s")
        if code:
            raise DsopsError(f"{self._settings.program[0]} ended with status {code}")

    def close(self) -> None:
        """Do nothing: no program runs between two answers."""

    def _wait(self, child: subprocess.Popen[bytes], stop: threading.Event) -> int | None:
        ends_s = time.monotonic() + self._settings.timeout_s
        while not stop.is_set() and time.monotonic() < ends_s:
            with suppress(subprocess.TimeoutExpired):
                return child.wait(_LOOK_S)
        return None


def _feed(child: subprocess.Popen[bytes], data: bytes) -> None:
    assert child.stdin is not None
    with suppress(OSError), child.stdin as pipe:  # it may end without reading
        pipe.write(data)
