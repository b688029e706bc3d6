"""What the interpreters run at this moment, in a file that outlives the process: who it was when it dies, or hangs.

The data process maps ``flight`` in its run folder and writes, before each frame, into the slot of the instance that
runs it when the frame began; afterwards a zero. A frame costs about a microsecond for it. A shared mapping belongs
to the kernel, so what was written is there after a SIGSEGV, a SIGKILL or the end of memory. It is not forced to the
disk: behind the slots stands which start of the host it is of, and after another one nobody asks.

Which of several frames crashed, the stack tells that :mod:`faulthandler` writes into ``fault`` beside it: each slot
calls what it runs through a function of its own name. It is the stack of the thread that crashed and of no other one:
the others still run while it is written, and one time in a hundred walking theirs crashed as well.
"""

import faulthandler
import logging
import math
import mmap
import os
import re
import struct
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FunctionType
from typing import Protocol, TypeVar

from dsops_agent.boot import BYTES, boot_id

logger = logging.getLogger(__name__)

FILE, FAULT = "flight", "fault"
SLOTS = 128
_BEGAN = struct.Struct("@Q8x")
"""When the frame began: CLOCK_MONOTONIC, which all processes of a host share, in ns; 0: none runs.

Eight bytes are free: processes of an agent before this one have their thread there.
"""
_WHO = struct.Struct("@64s128s")
_MOST = struct.Struct("@d")
HANG_BUDGETS, HANG_FRAMES, LEAST_HANG_S = 200, 50, 5.0
"""A frame is given up after so many times the model's latency budget, and so many times the longest frame that it came
back from in this process, and never sooner than that many seconds.

A batch is one such frame, of eight; a busy device multiplies by ten what the proof measured. What came back was run
here, by whatever runs the model: the limit holds without a budget, and where a delegate that the budget counts on is
not used.
"""
_SLOT_BYTES = 256
_WHO_AT = _BEGAN.size
_MOST_AT = _WHO_AT + _WHO.size
_BOOT_AT = SLOTS * _SLOT_BYTES
_FILE_BYTES = _BOOT_AT + BYTES
_STACK, _WHOLE = b"Stack (most recent call first)", b"\nExtension modules: "
_GAPS = re.compile(rb"^  (\.\.\.|<(?:invalid|freed))", re.MULTILINE)
_IN_SLOT = re.compile(rb" in frame_of_slot_([0-9]+)$", re.MULTILINE)

Made = TypeVar("Made")


@dataclass(frozen=True)
class InFlight:
    """A frame that an interpreter runs, or ran when its process died.

    Attributes:
        model: The model.
        digest: Its bundle.
        for_s: For how long.
        slot: The slot of its instance.
        most_s: For how long at most, by what is known of the model; infinite before that is anything.
        began_ns: When it began: what tells it from another frame of the model.
    """

    model: str
    digest: str
    for_s: float = field(compare=False)
    slot: int
    most_s: float = field(default=math.inf, compare=False)
    began_ns: int = 0


class Marks(Protocol):
    """Takes note of what an instance runs."""

    def run(self, task: Callable[[], Made]) -> Made:
        """Call what runs a frame, take note of when it began and of its end, and return or raise what comes of it."""
        ...


class Unmarked:
    """Keeps nothing: for a process whose parent knows what it runs."""

    def run(self, task: Callable[[], Made]) -> Made:
        """Call it."""
        return task()


class Runner(Protocol):
    """Runs what it is given."""

    def __call__(self, task: Callable[[], Made]) -> Made:
        """Return what it returns."""
        ...


def _call(task: Callable[[], Made]) -> Made:
    return task()


def _named(slot: int) -> Runner:
    """Return a runner by whose name in a stack the slot is known."""
    return FunctionType(_call.__code__.replace(co_name=f"frame_of_slot_{slot}"), {})


class Slot:
    """The marks of one instance of a served bundle, whose frames run one after the other.

    Until the first of them came back there is no limit of its own.

    Args:
        memory: The file.
        number: Which of its slots.
        least_s: How long a frame may take in any case.
    """

    def __init__(self, memory: mmap.mmap, number: int, least_s: float) -> None:
        self._memory = memory
        self._offset = number * _SLOT_BYTES
        self._least_s = least_s
        self._call = _named(number)
        self._longest_ns = -1

    def run(self, task: Callable[[], Made]) -> Made:
        """Write when it begins, and when it has ended how long the next one may take if none took longer than it."""
        began_ns = time.monotonic_ns()
        _BEGAN.pack_into(self._memory, self._offset, began_ns)
        try:
            return self._call(task)
        finally:
            _BEGAN.pack_into(self._memory, self._offset, 0)
            self._note(time.monotonic_ns() - began_ns)

    def _note(self, took_ns: int) -> None:
        if took_ns > self._longest_ns:
            self._longest_ns = took_ns
            most_s = max(self._least_s, HANG_FRAMES * took_ns / 1e9)
            _MOST.pack_into(self._memory, self._offset + _MOST_AT, most_s)


class FlightRecorder:
    """The file, as the data process writes it; made with the first bundle, in place of that of the process before.

    Args:
        folder: The run folder.
        is_patient: Whether frames may take long whatever their model's budget says: those of a process that has the
            processor only when nobody else wants it.
    """

    def __init__(self, folder: Path, *, is_patient: bool = False) -> None:
        self._is_patient = is_patient
        self._path = folder / FILE
        self._memory: mmap.mmap | None = None
        self._free = list(reversed(range(SLOTS)))
        self._lock = threading.RLock()  # a slot may be given back while another is taken, by the garbage collector

    def open(self, model: str, digest: str, budget_ms: float = 0.0) -> Marks:
        """Return the marks of an instance of a bundle; they are given back with the last reference to them.

        ``budget_ms`` is its latency budget; 0 without one.

        Where there is no room for the file, a model is served all the same; its crashes are nobody's then.
        """
        with self._lock:
            try:
                memory = self._memory = self._memory or self._make()
            except OSError as error:
                logger.warning("%s cannot be made: %s", self._path, error.strerror)
                return Unmarked()
            if not self._free:
                return Unmarked()
            number = self._free.pop()
            offset = number * _SLOT_BYTES
            _BEGAN.pack_into(memory, offset, 0)
            _WHO.pack_into(memory, offset + _WHO_AT, digest.encode(), model.encode()[:128])
            _MOST.pack_into(memory, offset + _MOST_AT, math.inf)
        slot = Slot(memory, number, math.inf if self._is_patient else hang_limit_s(budget_ms))
        weakref.finalize(slot, self._give_back, memory, number)
        return slot

    def _make(self) -> mmap.mmap:
        self._path.unlink(missing_ok=True)  # who still looks at the old one keeps it
        with self._path.open("w+b") as file:
            os.posix_fallocate(file.fileno(), 0, _FILE_BYTES)  # a hole could end the process on a full disk
            memory = mmap.mmap(file.fileno(), _FILE_BYTES)
        memory[_BOOT_AT:] = boot_id().encode().ljust(BYTES, b"\0")
        return memory

    def _give_back(self, memory: mmap.mmap, number: int) -> None:
        with self._lock:
            _BEGAN.pack_into(memory, number * _SLOT_BYTES, 0)
            self._free.append(number)


@contextmanager
def fault_file(folder: Path) -> Iterator[None]:
    """Let this process write into ``fault`` the stack of the thread that crashed, should one."""
    with (folder / FAULT).open("wb") as file:
        faulthandler.enable(file, all_threads=False)
        try:
            yield
        finally:
            faulthandler.disable()


def forget_flight(folder: Path) -> None:
    """Remove what an earlier process left, so that it is not taken for that of the next."""
    for name in (FILE, FAULT):
        (folder / name).unlink(missing_ok=True)


def read_flight(folder: Path) -> tuple[InFlight, ...]:
    """Return what runs, longest first; nothing when there is no file."""
    try:
        data = (folder / FILE).read_bytes()
    except OSError:
        return ()
    now_ns = time.monotonic_ns()
    found = []
    for slot in range(len(data) // _SLOT_BYTES):
        (began_ns,) = _BEGAN.unpack_from(data, slot * _SLOT_BYTES)
        if began_ns:
            digest, model, most_s = _who(data, slot * _SLOT_BYTES)
            found.append(InFlight(model, digest, max(0, now_ns - began_ns) / 1e9, slot, most_s, began_ns))
    return tuple(sorted(found, key=lambda one: -one.for_s))


def read_crashed(folder: Path) -> tuple[InFlight, ...]:
    """Return what ran in a process that is dead: on the thread that crashed if that is known, else on every thread.

    It is not known of a process that was killed, where no Python runs on the thread (an interpreter's own), and where
    the stack was not written to its end: what overwrote memory, or another thread that crashed, can prevent that.
    """
    ran = read_flight(folder)
    try:
        stack = (folder / FAULT).read_bytes()
    except OSError:
        return ran
    crashed = {int(slot) for slot in _IN_SLOT.findall(stack)}
    is_whole = _STACK in stack and _WHOLE in stack and not _GAPS.search(stack)  # modules are told last; NumPy is one
    return tuple(one for one in ran if one.slot in crashed) if crashed or is_whole else ran


def has_fault(folder: Path) -> bool:
    """Return whether a process that is dead wrote that it crashed: one that was killed could not."""
    try:
        return (folder / FAULT).stat().st_size > 0
    except OSError:
        return False


def read_lost(folder: Path) -> tuple[InFlight, ...] | None:
    """Return what ran in a process that crashed while nobody watched it; None when none ended without a word.

    One that ends in order leaves no such file, and one whose end was noticed is forgotten by who noticed it. Of one
    that did not write of a crash nothing is told: it was killed, as the kernel does when memory is short.
    """
    try:
        boot = (folder / FILE).read_bytes()[_BOOT_AT:].rstrip(b"\0").decode(errors="replace")
    except OSError:
        return None
    if not boot or boot != boot_id():
        return None
    return read_crashed(folder) if has_fault(folder) else ()


def hang_limit_s(budget_ms: float) -> float:
    """Return how long a frame may take in any case, by the model's latency budget; 0 stands for none."""
    return max(LEAST_HANG_S, HANG_BUDGETS * budget_ms / 1000)


def _who(data: bytes, offset: int) -> tuple[str, str, float]:
    digest, model = _WHO.unpack_from(data, offset + _WHO_AT)
    (most_s,) = _MOST.unpack_from(data, offset + _MOST_AT)
    texts = (text.rstrip(b"\0").decode(errors="replace") for text in (digest, model))
    return next(texts), next(texts), most_s
