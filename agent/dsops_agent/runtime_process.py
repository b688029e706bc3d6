"""The inference process as a process: started, taken over from a control process before, and ended."""

import logging
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import dsops
from dsops.clock import Clock
from dsops.errors import DsopsError, RuntimeCrashed
from dsops_agent import endings
from dsops_agent.hangs import QUIET_S
from dsops_agent.runtime.channel import Channel, Handler
from dsops_agent.runtime.claim import PID_FILE, settings_digest
from dsops_agent.runtime.flight import InFlight, forget_flight, read_lost

logger = logging.getLogger(__name__)

START_S = 20.0
"""How long a process may take to start."""
SILENT_S = 20.0
"""How long a process may leave a question unanswered."""
OOM_SCORE, CHALLENGER_OOM_SCORE, PROOF_OOM_SCORE = 500, 750, 1000
"""Added to the kernel's score of these processes when memory is short (proc_pid_oom_score_adj(5)): a proof goes first,
then a challenger, then the inference process that answers, all before the control process.
"""
_LOOK_S = 0.1
_NOT_THEIRS = frozenset({"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "CREDENTIALS_DIRECTORY"})
_MODULE = "dsops_agent.runtime"
Begin = Callable[[list[str], Mapping[str, str], int], endings.Child]
"""Makes a process of a command line and an environment; it inherits one descriptor, and standard error."""


@dataclass(frozen=True)
class Launch:
    """How to start the process.

    Attributes:
        run_folder: Where its sockets are.
        settings_json: Its settings, as ``python -m dsops_agent.runtime --settings`` takes them.
        hang_s: How long one frame may take until the process counts as hung.
        start_s: How long it may take until it answers on its control socket.
        silent_s: How long it may take to say how it is, whatever it does.
        quiet_s: How long while nothing of it may take longer.
        model: The model whose challenger it serves; empty for the process of the champions.
        mode: What that challenger is asked.
        oom_score: How soon the kernel ends it when memory is short.
    """

    run_folder: Path
    settings_json: str
    hang_s: float = 20.0
    start_s: float = START_S
    silent_s: float = SILENT_S
    quiet_s: float = QUIET_S
    model: str = ""
    mode: str = ""
    oom_score: int = OOM_SCORE

    @property
    def control_socket(self) -> Path:
        """Where it listens for the control process."""
        return self.run_folder / "control.sock"

    def command(self, ready_fd: int) -> list[str]:
        """Return the command line; the process writes to ``ready_fd`` once it answers."""
        folder = str(self.run_folder)
        arguments = ["--run-folder", folder, "--settings", self.settings_json, "--ready-fd", str(ready_fd)]
        return [sys.executable, "-m", _MODULE, *arguments]


@dataclass(frozen=True)
class Starting:
    """A process that was started and may not answer yet.

    Attributes:
        child: It.
        ready: Can be read once it answers, or has ended.
        lost: What ran in the process before it, if that ended while nobody watched; None when none did.
    """

    child: endings.Child
    ready: int
    lost: tuple[InFlight, ...] | None = None

    def is_over(self, timeout_s: float) -> bool:
        """Wait until it answers or has ended, ``timeout_s`` seconds at most; return whether it came to that."""
        return bool(select.select([self.ready], [], [], timeout_s)[0])

    def end(self) -> None:
        """End it, and return when it is gone."""
        endings.end(self.child.pid, self.child)
        self.forget()

    def forget(self) -> None:
        """Listen no more."""
        os.close(self.ready)


@dataclass(frozen=True)
class RuntimeProcess:
    """A process that answers on ``channel``; ``child`` is None when another control process started it."""

    pid: int
    channel: Channel
    child: endings.Child | None

    def end(self) -> bool:
        """Let it finish what is under way; returns when it is gone, and whether it had to be killed."""
        was_killed = endings.end(self.pid, self.child)
        self.channel.close()
        return was_killed

    def kill(self) -> None:
        """End it at once: a frame that hangs keeps it from ending in order, and everybody waits for the next one."""
        endings.kill(self.pid, self.child)
        self.channel.close()


def adopt(launch: Launch, handle: Handler) -> RuntimeProcess | None:
    """Take over a process that is alive, answers, and is as it would be started; end one that is not; None for none.

    It says itself what it is, and holds a lock while it lives: /proc may hide it.
    """
    pid = _pid_of(launch)
    channel = _connect(launch, handle)
    if channel is None:
        if pid is not None:
            logger.warning("an inference process (pid %d) does not answer and is ended", pid)
            endings.end(pid, None)
        return None
    try:
        status, _ = channel.call("status")
        pid = int(status["pid"])
    except (DsopsError, KeyError, TypeError, ValueError) as error:
        logger.warning("the inference process that was found does not answer: %s", error)
        channel.close()
        if pid is not None:
            endings.end(pid, None)
        return None
    wanted = dsops.__version__, settings_digest(launch.settings_json)
    if (status.get("version"), status.get("settings")) == wanted:
        logger.info("took over inference process %d", pid)
        return RuntimeProcess(pid, channel, None)
    logger.info("inference process %d is of another version or has other settings, and is replaced", pid)
    endings.end(pid, None)  # it hands its last records over first
    channel.close()
    forget_flight(launch.run_folder)  # what ran in it has not ended it
    return None


def is_found(launch: Launch) -> bool:
    """Return whether a process is there that :func:`adopt` has to judge."""
    return _pid_of(launch) is not None or _listens(launch.control_socket)


def _listens(path: Path) -> bool:
    """Return whether anybody listens; a socket that was left behind by a power cut is a file without a listener."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        return probe.connect_ex(str(path)) == 0


def start(launch: Launch, begin: Begin | None = None) -> Starting:
    """Start a process.

    Args:
        launch: How.
        begin: Makes the process; by default a fresh interpreter.

    Raises:
        OSError: It cannot be started.
    """
    launch.control_socket.unlink(missing_ok=True)
    lost = read_lost(launch.run_folder)
    forget_flight(launch.run_folder)
    ready, theirs = os.pipe()
    try:
        child = (begin or _begin_afresh)(launch.command(theirs), runtime_environment(), theirs)
    except OSError:
        os.close(ready)
        raise
    finally:
        os.close(theirs)
    offer_to_oom_killer(child.pid, launch.oom_score)
    return Starting(child, ready, lost)


def _begin_afresh(command: list[str], environment: Mapping[str, str], ready: int) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, env=environment, pass_fds=(ready,)
    )


def spawn(launch: Launch, handle: Handler, clock: Clock, wait: Callable[[float], bool]) -> RuntimeProcess:
    """Start a process and wait until it answers; see :func:`await_answer`."""
    return await_answer(start(launch), launch, handle, clock, wait)


def await_answer(
    starting: Starting, launch: Launch, handle: Handler, clock: Clock, wait: Callable[[float], bool]
) -> RuntimeProcess:
    """Wait until a process answers.

    Args:
        starting: The process; it is ended when it does not answer.
        launch: How it was started.
        handle: Answers its requests.
        clock: Time.
        wait: Waits so many seconds, or less; true when the agent stops.

    Raises:
        RuntimeCrashed: It ended, or did not answer in time, or the agent stops.
    """
    child, ends_s = starting.child, clock.monotonic_s() + launch.start_s
    while not starting.is_over(_LOOK_S) and not wait(0.0) and clock.monotonic_s() < ends_s:
        continue
    channel = _connect(launch, handle) if child.poll() is None else None
    if channel is None:
        starting.end()
        raise RuntimeCrashed("the inference process did not start", why=describe_exit(child.returncode))
    starting.forget()
    logger.info("started inference process %d", child.pid)
    return RuntimeProcess(child.pid, channel, child)


def offer_to_oom_killer(pid: int, score: int) -> None:
    """Let the kernel end this process before the control process when memory is short."""
    try:
        Path(f"/proc/{pid}/oom_score_adj").write_text(f"{score}")
    except OSError as error:  # it ended already, or there is no /proc
        logger.debug("the OOM killer was not told of process %d: %s", pid, error)


def runtime_environment() -> dict[str, str]:
    """Return the environment of processes that load NumPy, whose own threads gain nothing there and cost memory.

    So do more pools of malloc than a few (mallopt(3), M_ARENA_MAX). The blobs of a bundle go back to the system when
    they are done with: left to itself, malloc raises its thresholds with the first large block that is freed, and
    keeps those that follow (M_MMAP_THRESHOLD). gRPC's older listener answers a request 50 us sooner: it hands it from
    thread to thread once less. Both hold unless somebody has set something else. What the service manager gave the
    control process stays there: code of a payload must not speak in its name.
    """
    pools = {"MALLOC_ARENA_MAX": "2", "MALLOC_MMAP_THRESHOLD_": str(2 << 20), "MALLOC_TRIM_THRESHOLD_": str(4 << 20)}
    chosen = {**pools, "GRPC_EXPERIMENTS": "-event_engine_listener"}
    given = {name: value for name, value in os.environ.items() if name not in _NOT_THEIRS}
    return {**chosen, **given, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


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
    """Return the process that has this run folder; None when none does."""
    return endings.holder(launch.run_folder / PID_FILE)
