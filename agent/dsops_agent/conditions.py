"""The state of this host that maintenance rules ask for, and the local program that can veto."""

import os
import signal
import subprocess
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import psutil

from dsops.clock import Clock
from dsops.errors import InvalidConfig
from dsops_agent.install.maintenance import Conditions
from dsops_agent.temperature import ANY, hottest_c

_ROUTES, _ROUTES_6 = Path("/proc/net/route"), Path("/proc/net/ipv6_route")
_UP, _REJECTS = 0x1, 0x200  # RTF_UP, RTF_REJECT of <linux/route.h>
_LEAST_S = 1.0
_MAX_ANSWER_BYTES = 4096


def is_metered(patterns: Collection[str]) -> bool:
    """Return whether a default route of this host goes over an interface that fits one of the patterns."""
    if not patterns:
        return False
    links = default_links(_text(_ROUTES), _text(_ROUTES_6))
    return any(fnmatchcase(link, pattern) for link in links for pattern in patterns)


class SystemConditions:
    """This host, seen through psutil and ``/proc``.

    Args:
        sensor: Pattern of the sensors that say how hot it is.
    """

    def __init__(self, sensor: str = ANY) -> None:
        self._sensor = sensor
        self._process = psutil.Process()
        self._read = self._times()
        self._cpu_percent = 100.0  # not known yet: nobody may call it idle

    def conditions(self) -> Conditions:
        """Return the state of now; the processors' is since the call before."""
        battery = psutil.sensors_battery() if hasattr(psutil, "sensors_battery") else None
        return Conditions(
            on_power=battery is None or battery.power_plugged is not False,
            cpu_percent=self._cpu(),
            temperature_c=hottest_c(self._sensor),
            links=default_links(_text(_ROUTES), _text(_ROUTES_6)),
        )

    def _cpu(self) -> float:
        """Return what others used: a transfer must not stop itself by its own work."""
        total, busy = (now - before for now, before in zip(self._times(), self._read, strict=True))
        if total >= _LEAST_S * (os.cpu_count() or 1):
            self._cpu_percent = min(100.0, max(0.0, 100 * busy / total))
            self._read = self._times()
        return self._cpu_percent

    def _times(self) -> tuple[float, float]:
        """Return seconds of all processors so far: of everything, and of other programs."""
        times, own = psutil.cpu_times(), self._process.cpu_times()
        total = sum(times) - getattr(times, "guest", 0.0) - getattr(times, "guest_nice", 0.0)
        return total, total - times.idle - getattr(times, "iowait", 0.0) - own.user - own.system


def default_links(routes: str, routes_6: str) -> tuple[str, ...]:
    """Return the interfaces of the default routes that the kernel prefers, one of IPv4 and one of IPv6.

    Args:
        routes: Text of ``/proc/net/route``.
        routes_6: Text of ``/proc/net/ipv6_route``.
    """
    four = (line.split() for line in routes.splitlines()[1:])
    six = (line.split() for line in routes_6.splitlines())
    found = [
        _preferred((int(f[6]), f[0]) for f in four if len(f) >= 8 and f[1] == f[7] == "0" * 8 and _leads(f[3])),
        _preferred(
            (int(f[5], 16), f[9]) for f in six if len(f) >= 10 and f[0] == "0" * 32 and f[1] == "00" and _leads(f[8])
        ),
    ]
    return tuple(dict.fromkeys(name for name in found if name))


def _leads(flags: str) -> bool:
    return int(flags, 16) & (_UP | _REJECTS) == _UP


def _preferred(routes: Iterable[tuple[int, str]]) -> str:
    """Return the interface of the smallest metric."""
    return min(((metric, name) for metric, name in routes if name != "lo"), default=(0, ""))[1]


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:  # a kernel without IPv6 has no such file
        return ""


@dataclass
class _Run:
    """A program under way."""

    child: subprocess.Popen[bytes]
    ends_s: float


def require_program(program: Path) -> None:
    """Return if the veto program can be run, as far as can be told without running it.

    Raises:
        InvalidConfig: It cannot; every install would wait for ever.
    """
    try:
        why = "" if program.is_file() else "it is no file" if program.exists() else "it does not exist"
    except OSError as error:
        why = error.strerror or str(error)
    if not why and not os.access(program, os.X_OK):
        why = "it is not executable"
    if why:
        raise InvalidConfig(
            f"the program {program} cannot be asked",
            why=f"maintenance.veto names it: {why}",
            hint="correct the key, or put the program there; without the key nothing is asked",
            key="maintenance.veto",
        )


class VetoProgram:
    """Runs a local program to ask whether an install may go on: exit status 0 allows it.

    It gets ``download`` or ``activate``, the model and the release as arguments; the first line that it writes is the
    reason why not. One that cannot be run, or takes too long, allows nothing.

    Args:
        program: Its path.
        timeout_s: How long it may take.
        clock: Time.
    """

    def __init__(self, program: Path, timeout_s: float, clock: Clock) -> None:
        self._program = program
        self._timeout_s = timeout_s
        self._clock = clock
        self._runs: dict[tuple[str, ...], _Run] = {}

    def ask(self, question: tuple[str, ...]) -> str | None:
        """Return its objection, empty when it has none, None until it ended."""
        self._sweep(question)
        run = self._runs.get(question)
        if run is None:
            return self._start(question)
        code = run.child.poll()
        if code is None and self._clock.monotonic_s() < run.ends_s:
            return None
        del self._runs[question]
        return self._answer(run.child, code)

    def _sweep(self, question: tuple[str, ...]) -> None:
        """End the programs of other questions whose time is up: whoever asked may never come back for the answer.

        An answer that is there stays for as long as a program may take, for other installs wait at the same time.
        """
        now_s = self._clock.monotonic_s()
        for other in [other for other, run in self._runs.items() if other != question and now_s >= run.ends_s]:
            run = self._runs.pop(other)
            self._answer(run.child, run.child.poll())

    def _start(self, question: tuple[str, ...]) -> str | None:
        try:
            child = subprocess.Popen(
                [str(self._program), *question],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                process_group=0,
            )
        except OSError as error:
            return f"{self._program} cannot be run: {error.strerror or error}"
        self._runs[question] = _Run(child, self._clock.monotonic_s() + self._timeout_s)
        return None

    def _answer(self, child: subprocess.Popen[bytes], code: int | None) -> str:
        assert child.stdout is not None
        with child.stdout as output:
            if code is None:
                os.killpg(child.pid, signal.SIGKILL)  # with everything that it started
                child.wait()
                return f"{self._program.name} did not answer within {self._timeout_s:g} s"
            os.set_blocking(output.fileno(), False)  # a child of it may hold the pipe open still
            said = (output.read(_MAX_ANSWER_BYTES) or b"").decode(errors="replace").strip()
        if code == 0:
            return ""
        return said.splitlines()[0].strip() if said else f"{self._program.name} ended with status {code}"
