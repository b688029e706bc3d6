"""Work that the tests of isolation run in a process of its own: good, failing, and hostile."""

import os
import signal
import sys
import time
from collections.abc import Sequence
from typing import Any

from dsops.errors import AccuracyGateFailed
from dsops_controller.build.progress import Progress


def reverse(parts: Sequence[bytes], progress: Progress) -> list[bytes]:
    progress.step("reverse", len(parts))
    for _ in parts:
        progress.advance()
    return [part[::-1] for part in parts]


def chatter(parts: Sequence[bytes], progress: Progress) -> list[bytes]:
    os.write(1, b"native talk\n")
    os.write(2, b"native talk\n")
    return list(parts)


def refuse(parts: Sequence[bytes], progress: Progress) -> list[bytes]:
    raise AccuracyGateFailed("too bad", why="it is", hint="do better", frames=3)


def crash(parts: Sequence[bytes], progress: Progress) -> list[bytes]:
    os.kill(os.getpid(), signal.SIGSEGV)
    return []


def hang(parts: Sequence[bytes], progress: Progress) -> list[bytes]:
    progress.step(str(os.getpid()))
    time.sleep(60)
    return []


def hoard(parts: Sequence[bytes], progress: Progress) -> list[bytes]:
    return [bytes(8 << 30)]


def stumble(parts: Sequence[bytes], progress: Progress) -> list[bytes]:
    raise KeyError("a library's own error")


def leave(parts: Sequence[bytes], progress: Progress) -> list[bytes]:
    sys.exit(0)


def lie(parts: Sequence[bytes], progress: Progress) -> list[bytes]:
    channel: Any = progress
    channel._stream.write(b"".join(part + b"\n" for part in parts))
    return [b"x"]
