"""The process that :mod:`dsops_controller.build.isolated` starts: one function, then it ends.

Arguments: ``module:function``, the limits of memory (bytes) and time (seconds), the descriptor for the result, and the
parent's process id. The function's input comes on the standard input; messages go to the standard output, one JSON
object a line. On Linux the process ends with its parent, however that ends.
"""

import ctypes
import importlib
import json
import math
import os
import resource
import signal
import sys
from typing import IO

from dsops.errors import DsopsError
from dsops_controller.build.isolated import Work, read_parts, write_parts

_PR_SET_PDEATHSIG = 1
"""prctl(2), linux/prctl.h."""


def main(work: str, memory_bytes: int, time_s: float, result: int, parent: int) -> int:
    """Run the function; return the process's exit code."""
    if not _bound_to(parent):
        return 1
    _limit(memory_bytes, time_s)
    channel = _Channel(os.fdopen(os.dup(sys.stdout.fileno()), "wb", buffering=0))
    _silence(sys.stdout.fileno())
    try:
        parts = _function(work)(read_parts(sys.stdin.buffer), channel)
        with os.fdopen(result, "wb") as stream:
            write_parts(stream, parts)
    except DsopsError as error:
        channel.send({"error": error.as_dict()})
    except MemoryError:
        channel.send({"memory": True})
    return 0


class _Channel:
    """Tells the parent process of progress, errors and the lack of memory."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream

    def send(self, message: dict[str, object]) -> None:
        self._stream.write(json.dumps(message).encode() + b"\n")

    def step(self, name: str, total: int | None = None) -> None:
        self.send({"step": name, "total": total})

    def advance(self, units: int = 1) -> None:
        self.send({"advance": units})


def _bound_to(parent: int) -> bool:
    """Let the kernel kill this process when its parent ends; say whether the parent is still there.

    The signal comes when the thread that started the process ends, and that thread waits for the process.
    """
    if sys.platform != "linux":
        return True
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    return os.getppid() == parent  # it may have ended before the call


def _limit(memory_bytes: int, time_s: float) -> None:
    """Limit this process, and leave no core file."""
    seconds = math.ceil(time_s)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    if sys.platform == "linux":
        resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))


def _silence(descriptor: int) -> None:
    """Let what libraries print go nowhere."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, descriptor)
    os.close(null)


def _function(work: str) -> Work:
    module, _, name = work.partition(":")
    found: Work = getattr(importlib.import_module(module), name)
    return found


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5])))
