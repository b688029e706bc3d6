"""Starts the inference process as a copy of this one, which shares with it what both have loaded: 13 MB of a device.

Only before there are threads, of which a copy has none, though it has their locks. Later starts are of a fresh
interpreter (:func:`dsops_agent.runtime_process.start`), which shares nothing.

Source: fork(2), copy-on-write ("NOTES"); :func:`gc.freeze`, which is made for this: a collection writes to every object
that it looks at, and so takes its page out of what is shared.
"""

import ctypes
import gc
import importlib
import logging
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from dsops_agent.runtime_process import Launch, Starting, runtime_environment, start

logger = logging.getLogger(__name__)

BOTH_LOAD = (
    "concurrent.futures",
    "dsops.api.v1.samples_pb2",
    "dsops.contract",
    "dsops.needs",
    "dsops_agent.give_back",
    "dsops_agent.installed",
    "dsops_agent.moment",
    "dsops_agent.rival",
    "dsops_agent.runtime.figures",
    "dsops_agent.runtime.records",
    "dsops_agent.temperature",
    "grpc",
    "http",
    "pydantic.functional_serializers",
)
"""What both processes load that the command line has not; each brings others."""
NAME = b"dsops-runtime"
"""What the kernel calls the process (prctl(2), PR_SET_NAME): its command line is that of the one it was copied from."""
_MAIN = "dsops_agent.runtime.__main__"
_GRPC_SETTING = "GRPC_EXPERIMENTS"
_PR_SET_NAME = 15
_MALLOC = {"MALLOC_ARENA_MAX": -8, "MALLOC_MMAP_THRESHOLD_": -3, "MALLOC_TRIM_THRESHOLD_": -1}
"""Variables that malloc reads when a program begins, and what they are called afterwards (mallopt(3))."""
_LOOK_S = 0.02
_FAILED = 1
_UNKNOWN = 255
"""As the exit code of a process that ended unobserved."""


class Copied:
    """A copy of this process, as :class:`subprocess.Popen` shows a child. May be used by several threads."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._lock = threading.Lock()

    def poll(self) -> int | None:
        """Return how it ended, a signal as a negative number; None while it lives."""
        with self._lock:
            if self.returncode is None:
                try:
                    ended, status = os.waitpid(self.pid, os.WNOHANG)
                except ChildProcessError:  # somebody else has waited for it
                    self.returncode = _UNKNOWN
                    return self.returncode
                if ended:
                    self.returncode = os.waitstatus_to_exitcode(status)
            return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Return how it ended.

        Raises:
            TimeoutExpired: It still lives after so many seconds.
        """
        ends_s = None if timeout is None else time.monotonic() + timeout
        while (code := self.poll()) is None:
            if ends_s is not None and timeout is not None and time.monotonic() >= ends_s:
                raise subprocess.TimeoutExpired(NAME.decode(), timeout)
            time.sleep(_LOOK_S)
        return code

    def terminate(self) -> None:
        """Ask it to end."""
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it."""
        self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        """Send a signal, unless the process is known to be gone: its number may be another one's by then."""
        if self.poll() is None:
            with self._lock, suppress(ProcessLookupError):
                if self.returncode is None:
                    os.kill(self.pid, number)


def start_shared(launch: Launch) -> Starting:
    """Start a process as a copy of this one; where this one has threads, as :func:`start` does.

    Raises:
        OSError: It cannot be started.
    """
    environment = runtime_environment()
    os.environ.setdefault(_GRPC_SETTING, environment[_GRPC_SETTING])  # gRPC reads it when it is loaded
    try:
        for name in BOTH_LOAD:
            importlib.import_module(name)
    except ModuleNotFoundError as error:  # who needs it in this process says so
        logger.info("the inference process shares nothing: %s", error)
        return start(launch)
    if not _is_alone():
        logger.info("the inference process shares nothing: this one has threads already")
        return start(launch)
    return start(launch, _copy)


def _is_alone() -> bool:
    """Return whether this process has one thread, those of libraries counted; where that cannot be told, it has not."""
    try:
        return len(list(Path("/proc/self/task").iterdir())) == 1
    except OSError:
        return False


def _copy(command: list[str], environment: Mapping[str, str], ready: int) -> Copied:
    if signal.getsignal(signal.SIGCHLD) is signal.SIG_IGN:  # inherited: how a child ended would be lost
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    gc.collect()
    gc.freeze()
    sys.stderr.flush()
    pid = os.fork()
    return Copied(pid) if pid else _become(command, environment, ready)


def _become(command: list[str], environment: Mapping[str, str], ready: int) -> NoReturn:
    """Be the process that ``command`` would start.

    What the kernel tells of it is that of the process it was copied from: command line, layout of the memory, and in
    ``/proc/PID/environ`` the environment of that one's start, which this process itself no longer has.
    """
    code = _FAILED
    try:
        _keep_only(ready)
        os.environ.clear()
        os.environ.update(environment)
        libc = ctypes.CDLL(None)
        _set_up_malloc(libc, environment)
        libc.prctl(_PR_SET_NAME, NAME, 0, 0, 0)
        arguments = command[command.index("-m") + 2 :]
        code = importlib.import_module(_MAIN).main(arguments)
        logging.shutdown()
    except BaseException:  # noqa: BLE001 - nothing of the process that was copied may go on here
        traceback.print_exc()
    finally:
        os._exit(code)


def _keep_only(ready: int) -> None:
    """Close every descriptor but standard error and ``ready``."""
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    for descriptor in [int(path.name) for path in Path("/proc/self/fd").iterdir()]:  # a limit of 1e9 is none
        if descriptor > 2 and descriptor != ready:
            with suppress(OSError):  # that of the list itself
                os.close(descriptor)


def _set_up_malloc(libc: ctypes.CDLL, environment: Mapping[str, str]) -> None:
    for name, option in _MALLOC.items():
        with suppress(AttributeError, ValueError):  # not glibc; not a number, as malloc itself passes over
            libc.mallopt(option, int(environment[name]))
