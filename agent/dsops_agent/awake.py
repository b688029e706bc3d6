"""How long another process was able to run: neither suspended, nor waiting for a processor that others have.

What does not answer for so long hangs; what merely was not let run does not. The kernel tells the processor time of any
process (clock_getcpuclockid(3)), and the state of each thread in /proc, where it does not hide them (proc(5)).
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_STOPPED = frozenset("TtZXx")
"""Suspended, held by a debugger, or dead."""
_RUNS, _ON_DISK = "R", "D"
"""Runs or wants to; waits for something that cannot be interrupted, nearly always the disk."""
_BUSY_SHARE = 0.9
"""Who used so much of the time needs no further look."""
_LOOKS, _BETWEEN_S = 4, 0.003
"""Threads that wait for Python's lock wake up every 5 ms; one without a processor wants to run at each look, and one
whose disk is slow waits for it at each."""
UNCERTAIN = 4
"""Where it cannot be known whether a process was able to run, its silence counts so many times less."""


@dataclass(frozen=True)
class Able:
    """How long a process was able to run.

    Attributes:
        for_s: So long.
        is_certain: Whether that is known; otherwise it may have been suspended, or waited for a processor.
    """

    for_s: float
    is_certain: bool = True

    @property
    def at_least_s(self) -> float:
        """What may be held against it, where it is not known."""
        return self.for_s if self.is_certain else self.for_s / UNCERTAIN


def able(gap_s: float, used_s: float, states: frozenset[str]) -> Able:
    """Return how long a process was able to run. Pure.

    A disk that all of a device waits for may hold a thread up for many times as long as a frame takes, and one that is
    gone holds it up for good: what is waited for there cannot be known either.

    Args:
        gap_s: The time in question.
        used_s: How much of the processor it used in it.
        states: Those of its threads at the end of it, as proc(5) has them; empty when they cannot be seen.
    """
    if _ON_DISK in states:
        return Able(gap_s / UNCERTAIN)
    if used_s >= _BUSY_SHARE * gap_s:
        return Able(gap_s)
    if not states:
        return Able(gap_s, is_certain=False)
    if states <= _STOPPED:
        return Able(0.0)
    return Able(used_s if _RUNS in states else gap_s)  # asleep, it waits for something else than a processor


def lasting(looks: Sequence[Mapping[str, str]]) -> frozenset[str]:
    """Return in which states threads are that were looked at several times. Pure.

    One that wants to run only for a moment, as to try a lock, is asleep, and so is one that does not always wait for
    the disk.
    """
    seen = [(thread, state) for look in looks for thread, state in look.items()]
    on_disk = {thread: state for thread, state in seen if state == _ON_DISK}
    asleep = {thread: state for thread, state in seen if state not in (_RUNS, _ON_DISK)}
    return frozenset(({**looks[-1], **on_disk, **asleep}).values())


class Awake:
    """Watches one process.

    Args:
        pid: It.
        proc: Where the kernel tells of processes.
    """

    def __init__(self, pid: int, proc: Path = Path("/proc")) -> None:
        self._pid = pid
        self._threads = proc / str(pid) / "task"
        self._used_s = self._used()

    def look(self, gap_s: float) -> Able:
        """Return how long it was able to run since the look, or what was passed over, ``gap_s`` ago."""
        used_s = self._used()
        before_s, self._used_s = self._used_s, used_s
        return able(gap_s, used_s - before_s, self._states() if used_s else frozenset())

    def pass_over(self) -> None:
        """Let the time of the next look begin now: it is nobody's question how long the process was able to run."""
        self._used_s = self._used()

    def _used(self) -> float:
        try:
            return time.clock_gettime(~self._pid << 3 | 2)  # CPUCLOCK_SCHED of a process
        except OSError:  # it is gone
            return 0.0

    def _states(self) -> frozenset[str]:
        """Return in which states its threads are."""
        looks = [self._look_at_threads()]
        while {_RUNS, _ON_DISK} & set(looks[-1].values()) and len(looks) < _LOOKS:
            time.sleep(_BETWEEN_S)
            looks.append(self._look_at_threads())
        return lasting(looks)

    def _look_at_threads(self) -> dict[str, str]:
        try:
            found = {stat.parent.name: _state(stat) for stat in self._threads.glob("*/stat")}
        except OSError:  # gone, or hidden
            return {}
        return {thread: state for thread, state in found.items() if state}


def _state(stat: Path) -> str:
    try:
        return stat.read_text().rpartition(")")[2].split()[0]
    except (OSError, IndexError):  # the thread is gone
        return ""
