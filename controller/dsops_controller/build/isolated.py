"""Runs work on files that nobody vouches for in a process of its own.

Readers, quantizer and runtime are native code: a hostile model may make them crash, hang or take all memory. In a fresh
interpreter with limits none of that reaches the program that asked, and what the libraries print goes nowhere. On Linux
the process ends with the program that asked, even when that is killed.

The work is a function ``(parts, progress) -> parts`` over byte strings, named ``module:function``. Its expected errors
come back as they are; a crash, a hang and a lack of memory become :class:`~dsops.errors.InvalidModel`. Starting costs
about half a second.
"""

import errno
import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import IO, Any, Final, TypeAlias

from dsops.errors import DeviceError, DsopsError, InvalidModel, NoSpace
from dsops_controller.build.progress import Progress, silent

Work: TypeAlias = Callable[[Sequence[bytes], Progress], Sequence[bytes]]
"""What can be run: it takes and gives byte strings."""

CHILD = "dsops_controller.build.isolated_child"
MAX_MESSAGE_BYTES = 1 << 20
_BASE_MEMORY_BYTES = 3 << 30
_MEMORY_FACTOR = 12
"""How many times its input the work may take, on top of the base: decoded, calibrated and encoded copies."""
_TAIL_BYTES = 4096
_LENGTH_BYTES = 8
_FIELDS = ("self", "what", "why", "hint")
_ORDER: Final = "little"


@dataclass(frozen=True)
class ProcessLimits:
    """What a process may use.

    Attributes:
        time_s: Wall-clock time from its start to its end; the processor time is limited to as much.
        memory_bytes: Address space (RLIMIT_AS, where the system has it); 0 derives it from the size of the input.
    """

    time_s: float = 900.0
    memory_bytes: int = 0

    def memory_for(self, input_bytes: int) -> int:
        """Return the limit in bytes for an input."""
        return self.memory_bytes or _BASE_MEMORY_BYTES + _MEMORY_FACTOR * input_bytes


DEFAULT_LIMITS = ProcessLimits()


def run_isolated(
    work: str,
    parts: Sequence[bytes],
    what: str,
    limits: ProcessLimits = DEFAULT_LIMITS,
    progress: Progress = silent,
) -> list[bytes]:
    """Run a function in a fresh interpreter and return what it returns.

    Args:
        work: The function's place, ``module:function``; see :data:`Work`.
        parts: Its input.
        what: What is done, for the error's text, such as "quantization to int8".
        limits: What the process may use.
        progress: Told what the function tells.

    Raises:
        DsopsError: What the function raised.
        InvalidModel: The process crashed, needed too much time or memory, or failed in a way that nobody foresaw.
        NoSpace: The disk has no room for input or result.
    """
    memory = limits.memory_for(sum(len(part) for part in parts))
    try:
        with ExitStack() as stack:
            given, result, errors = (stack.enter_context(tempfile.TemporaryFile()) for _ in range(3))
            write_parts(given, parts)
            given.seek(0)
            told = [memory, limits.time_s, result.fileno(), os.getpid()]
            command = [sys.executable, "-P", "-m", CHILD, work, *map(str, told)]
            process = stack.enter_context(_started(command, given, errors, result.fileno()))
            stack.callback(process.kill)
            _follow(process, what, limits, memory, progress)
            _check_end(process, what, errors, result.fileno())
            result.seek(0)
            return read_parts(result)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise NoSpace(f"no room for the files of {what}", why=str(error.strerror)) from error
        raise DeviceError(f"cannot run a process for {what}", why=str(error)) from error


def write_parts(stream: IO[bytes], parts: Sequence[bytes]) -> None:
    """Write byte strings one after the other, each behind its length."""
    stream.write(len(parts).to_bytes(_LENGTH_BYTES, _ORDER))
    for part in parts:
        stream.write(len(part).to_bytes(_LENGTH_BYTES, _ORDER))
        stream.write(part)
    stream.flush()


def read_parts(stream: IO[bytes]) -> list[bytes]:
    """Read what :func:`write_parts` wrote into a file.

    Raises:
        InvalidModel: The file ends before what its lengths announce.
    """
    left = os.fstat(stream.fileno()).st_size

    def announced() -> int:
        return int.from_bytes(stream.read(_LENGTH_BYTES), _ORDER)

    parts = []
    for _ in range(min(announced(), left // _LENGTH_BYTES)):
        length = announced()
        if length > left:
            raise InvalidModel("a process for the build wrote a result that is cut off")
        parts.append(stream.read(length))
    return parts


def _started(command: list[str], given: IO[bytes], errors: IO[bytes], result: int) -> subprocess.Popen[bytes]:
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, stdin=given, stdout=subprocess.PIPE, stderr=errors, pass_fds=(result,), env=environment
    )


def _follow(
    process: subprocess.Popen[bytes], what: str, limits: ProcessLimits, memory: int, progress: Progress
) -> None:
    """Pass on what a process tells, until it ends.

    Raises:
        DsopsError: The function raised it.
        InvalidModel: It used up its time or memory.
    """
    for line in _lines(process, what, limits):
        match _decoded(line):
            case {"step": str(name), "total": int() | None as total}:
                progress.step(name, total)
            case {"advance": int(units)}:
                progress.advance(units)
            case {"error": {"code": str(code), "message": str(text), "why": str(why), "hint": str(hint), **more}}:
                raise _kinds().get(code, DsopsError)(text, why=why, hint=hint, **_details(more))
            case {"memory": True}:
                raise InvalidModel(f"{what} needs more than {memory >> 20} MiB of memory")
            case _:
                raise InvalidModel(f"{what} failed", why="its process told what is no message")


def _lines(process: subprocess.Popen[bytes], what: str, limits: ProcessLimits) -> Iterator[bytes]:
    """Give each line of a process's output as it comes.

    Raises:
        InvalidModel: Its time is over, or a line has no end.
    """
    assert process.stdout is not None
    deadline, rest = time.monotonic() + limits.time_s, b""
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while selector.select(max(0.0, deadline - time.monotonic())):
            chunk = os.read(process.stdout.fileno(), 1 << 16)
            *lines, rest = (rest + chunk).split(b"\n")
            yield from lines
            if not chunk:
                return
            if len(rest) > MAX_MESSAGE_BYTES:
                raise InvalidModel(f"{what} failed", why="its process told what is no message")
    raise InvalidModel(f"{what} took more than {limits.time_s:g} s")


def _decoded(line: bytes) -> object:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _check_end(process: subprocess.Popen[bytes], what: str, errors: IO[bytes], result: int) -> None:
    code = process.wait()
    if code == 0 and os.fstat(result).st_size:
        return
    if code < 0:
        raise InvalidModel(
            f"{what} crashed ({signal.Signals(-code).name})",
            why="a library that reads the model failed on it; nothing was written",
        )
    errors.seek(max(0, errors.seek(0, os.SEEK_END) - _TAIL_BYTES))
    lines = errors.read().decode(errors="replace").strip().splitlines()
    raise InvalidModel(f"{what} failed", why=lines[-1] if lines else f"its process ended with code {code}")


def _details(entry: Mapping[Any, Any]) -> dict[str, str | int | float | bool]:
    """Return the plain facts of an error that a process reported."""
    found = entry.get("details")
    plain = found.items() if isinstance(found, dict) else ()
    return {key: value for key, value in plain if key not in _FIELDS and isinstance(value, str | int | float)}


def _kinds() -> dict[str, type[DsopsError]]:
    """Return the error of each code; a kind that has no code of its own does not stand for its parent's."""
    found: dict[str, type[DsopsError]] = {}
    pending: list[type[DsopsError]] = [DsopsError]
    while pending:
        kind = pending.pop(0)
        found.setdefault(kind.code, kind)
        pending += kind.__subclasses__()
    return found
