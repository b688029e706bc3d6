"""A service manager as small as a test needs: one unit, its main process, what that says, its watchdog, its restarts.

What it does is read from the unit file. Sources: sd_notify(3); systemd.service(5), "Restart=",
"RestartPreventExitStatus=", "TimeoutStartSec=", "WatchdogSec=" and "NotifyAccess="; systemd.kill(5), "KillMode=" (the
main process only) and "KillSignal=" (SIGCONT follows each signal, so that a suspended process ends, too).
"""

import configparser
import os
import signal
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from typing_extensions import override

UNIT = Path(__file__).parents[2] / "agent/packaging/dsops-agent.service"
_START = 'ulimit -c 0; WATCHDOG_PID=$$ exec "$@"'
_CREDENTIALS = struct.Struct("3i")


@dataclass
class Run:
    """One life of the main process.

    Attributes:
        pid: Its id.
        heard: What it said, a line each.
        is_ready: Whether it said ``READY=1``.
        why: ``watchdog``, ``start`` or ``stop`` if it was ended, and for what; empty: it ended by itself.
        code: How it ended; None while it runs.
    """

    pid: int
    heard: list[str] = field(default_factory=list)
    is_ready: bool = False
    why: str = ""
    code: int | None = None


class TinyServiceManager(threading.Thread):
    """Keeps the agent's unit running until :meth:`stop`.

    Args:
        command: What is run instead of the unit's ``ExecStart=``.
        folder: For the socket and the log.
        keys: Keys of the unit that are others here, such as a ``WatchdogSec`` that a test can wait for.
    """

    def __init__(self, command: Sequence[str], folder: Path, keys: Mapping[str, str]) -> None:
        super().__init__(name="service-manager", daemon=True)
        self._keys = _keys_of(UNIT) | keys
        assert (self._keys["Type"], self._keys["KillMode"]) == ("notify", "process"), "nothing else is understood"
        self._command = ["sh", "-c", _START, "sh", *command]
        self.log = folder / "service.log"
        self._address = str(folder / "n")
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self._socket.bind(self._address)
        self._socket.settimeout(0.02)
        self._stopped = threading.Event()
        self.runs: list[Run] = []
        self.ignored: list[str] = []

    @override
    def run(self) -> None:
        while not self._stopped.is_set():
            code = self._live()
            if self._keys["Restart"] != "always" or str(code) in self._keys["RestartPreventExitStatus"].split():
                return
            self._stopped.wait(self._seconds("RestartSec"))

    def stop(self) -> Run:
        """End the unit in order, and return how its last process ended. What it left behind is ended, too."""
        self._stopped.set()
        self.join()
        self._socket.close()
        for run in self.runs:
            with suppress(ProcessLookupError):
                os.killpg(run.pid, signal.SIGKILL)
        return self.runs[-1]

    def _seconds(self, key: str) -> float:
        return float(self._keys[key])

    def _live(self) -> int:
        """Start the main process, and return what it ended with."""
        watchdog = {"NOTIFY_SOCKET": self._address, "WATCHDOG_USEC": str(int(self._seconds("WatchdogSec") * 1e6))}
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=os.environ | watchdog,
                start_new_session=True,
            )
        run = Run(process.pid)
        self.runs.append(run)
        ends_s = time.monotonic() + self._seconds("TimeoutStartSec")
        while process.poll() is None:
            for line in self._listen(run):
                ends_s = self._later(run, line, ends_s)
            if not run.why:
                run.why = self._reason(run, ends_s)
                if run.why:
                    ends_s = time.monotonic() + self._seconds("TimeoutStopSec")
                    _signal(process, signal.SIGABRT if run.why == "watchdog" else signal.SIGTERM)
            elif time.monotonic() > ends_s:
                process.kill()
        run.heard += self._listen(run)
        run.code = process.returncode
        return run.code

    def _listen(self, run: Run) -> list[str]:
        """Return what the main process has said; what another one says counts for nothing (``NotifyAccess=main``)."""
        try:
            said, ancillary, _, _ = self._socket.recvmsg(4096, socket.CMSG_SPACE(_CREDENTIALS.size))
        except TimeoutError:
            return []
        lines = said.decode().split("\n")
        (pid, _, _) = _CREDENTIALS.unpack(ancillary[0][2])
        if pid != run.pid:
            self.ignored += lines
            return []
        run.heard += lines
        run.is_ready = run.is_ready or "READY=1" in lines
        return lines

    def _later(self, run: Run, line: str, ends_s: float) -> float:
        """Return until when the process may go on without another word."""
        name, _, value = line.partition("=")
        if name == "EXTEND_TIMEOUT_USEC" and not run.is_ready:
            return time.monotonic() + int(value) / 1e6
        if name in ("READY", "WATCHDOG") and run.is_ready:  # before, the limit of the start holds
            return time.monotonic() + self._seconds("WatchdogSec")
        return ends_s

    def _reason(self, run: Run, ends_s: float) -> str:
        if self._stopped.is_set():
            return "stop"
        if time.monotonic() <= ends_s:
            return ""
        return "watchdog" if run.is_ready else "start"


def _signal(process: subprocess.Popen[bytes], number: int) -> None:
    process.send_signal(number)
    process.send_signal(signal.SIGCONT)


def _keys_of(unit: Path) -> dict[str, str]:
    parser = configparser.RawConfigParser(strict=False, delimiters=("=",), comment_prefixes=("#",), interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(unit)
    return dict(parser["Service"])
