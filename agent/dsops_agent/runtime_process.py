"""The inference process as a process: started, taken over from a control process before, and ended."""

import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil

import dsops
from dsops.clock import Clock
from dsops.errors import DsopsError, RuntimeCrashed
from dsops_agent.runtime.channel import Channel, Handler

logger = logging.getLogger(__name__)

START_S = 20.0
"""How long a process may take until it answers on its control socket."""
TERMINATE_S = 5.0
_MODULE = "dsops_agent.runtime"


@dataclass(frozen=True)
class Launch:
    """How to start the process.

    Attributes:
        run_folder: Where its sockets are.
        settings_json: Its settings, as ``python -m dsops_agent.runtime --settings`` takes them.
    """

    run_folder: Path
    settings_json: str

    @property
    def control_socket(self) -> Path:
        """Where it listens for the control process."""
        return self.run_folder / "control.sock"

    def command(self) -> list[str]:
        """Return the command line."""
        folder = str(self.run_folder)
        return [sys.executable, "-m", _MODULE, "--run-folder", folder, "--settings", self.settings_json]


@dataclass(frozen=True)
class RuntimeProcess:
    """A process that answers on ``channel``; ``child`` is None when another control process started it."""

    pid: int
    channel: Channel
    child: subprocess.Popen[bytes] | None

    def end(self) -> None:
        """Let it finish what is under way, then kill it if it must be; returns when it is gone."""
        _end(self.pid, self.child)
        self.channel.close()


def adopt(launch: Launch, handle: Handler) -> RuntimeProcess | None:
    """Take over a process that is alive, answers, and is of this version; end one that is not; None for none."""
    pid = _pid_of(launch)
    channel = _connect(launch, handle)
    if channel is None:
        if pid is not None:
            logger.warning("an inference process (pid %d) does not answer and is ended", pid)
            _end(pid, None)
        return None
    try:
        status, _ = channel.call("status")
        pid = int(status["pid"])
    except (DsopsError, KeyError, TypeError, ValueError) as error:
        logger.warning("the inference process that was found does not answer: %s", error)
        channel.close()
        if pid is not None:
            _end(pid, None)
        return None
    if status.get("version") == dsops.__version__:
        logger.info("took over inference process %d", pid)
        return RuntimeProcess(pid, channel, None)
    logger.info("inference process %d is of version %s and is replaced", pid, status.get("version"))
    _end(pid, None)  # it hands its last records over first
    channel.close()
    return None


def spawn(launch: Launch, handle: Handler, clock: Clock, wait: Callable[[float], bool]) -> RuntimeProcess:
    """Start a process and wait until it answers.

    Args:
        launch: How.
        handle: Answers its requests.
        clock: Time.
        wait: Waits so many seconds, or less; true when the agent stops.

    Raises:
        RuntimeCrashed: It ended, or did not answer in time, or the agent stops.
    """
    launch.control_socket.unlink(missing_ok=True)
    child = subprocess.Popen(
        launch.command(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        env=runtime_environment(),
    )
    ends_s = clock.monotonic_s() + START_S
    while child.poll() is None and clock.monotonic_s() < ends_s:
        channel = _connect(launch, handle)
        if channel is not None:
            logger.info("started inference process %d", child.pid)
            return RuntimeProcess(child.pid, channel, child)
        if wait(0.05):
            break
    _end(child.pid, child)
    raise RuntimeCrashed("the inference process did not start", why=describe_exit(child.returncode))


def runtime_environment() -> dict[str, str]:
    """Return the environment of processes that load NumPy, whose own threads gain nothing there and cost memory.

    gRPC's older listener answers a request 50 us sooner: it hands it from thread to thread once less.
    """
    faster = {"GRPC_EXPERIMENTS": os.environ.get("GRPC_EXPERIMENTS", "-event_engine_listener")}
    return {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", **faster}


def describe_exit(code: int | None) -> str:
    """Return in words how a process ended, from its return code."""
    if code is None:
        return "it is still there"
    return f"it was ended by signal {-code} ({_signal_name(-code)})" if code < 0 else f"it exited with {code}"


def _signal_name(number: int) -> str:
    return signal.Signals(number).name if number in signal.valid_signals() else "unknown"


def _connect(launch: Launch, handle: Handler) -> Channel | None:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.connect(str(launch.control_socket))
    except OSError:  # not there yet, or not there any more
        sock.close()
        return None
    channel = Channel(sock, handle)
    channel.start()
    return channel


def _pid_of(launch: Launch) -> int | None:
    """Return the process that ``runtime.pid`` names, if it is alive and is one of ours."""
    try:
        pid = int((launch.run_folder / "runtime.pid").read_text())
        arguments = psutil.Process(pid).cmdline()
    except (OSError, ValueError, psutil.Error):
        return None
    return pid if _MODULE in arguments and str(launch.run_folder) in arguments else None


def _end(pid: int, child: subprocess.Popen[bytes] | None) -> None:
    try:
        process = psutil.Process(pid)
        process.terminate()
    except psutil.NoSuchProcess:
        process = None
    if child is not None:
        _wait_for_child(child)
    elif process is not None:
        _wait_for_stranger(process)


def _wait_for_child(child: subprocess.Popen[bytes]) -> None:
    try:
        child.wait(TERMINATE_S)
    except subprocess.TimeoutExpired:
        logger.warning("inference process %d does not end and is killed", child.pid)
        child.kill()
        child.wait()


def _wait_for_stranger(process: psutil.Process) -> None:
    try:
        process.wait(TERMINATE_S)
    except psutil.TimeoutExpired:
        logger.warning("inference process %d does not end and is killed", process.pid)
        process.kill()
        process.wait(TERMINATE_S)
