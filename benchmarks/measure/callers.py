"""Callers of an inference server, several at once, each a process of its own as programs on a device are.

Run as a program, it asks for as long as it is told and writes how many answers it had.
"""

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from dsops.errors import RuntimeCrashed
from measure.asking import WAYS
from measure.bare_server import LIMITS
from measure.child import ENVIRONMENT

WARM_UP = 20
LATE_S = 60.0


def rate_of(way: str, address: str, model: str, frames: Path, count: int, seconds: float) -> float:
    """Return how many answers a second ``count`` callers have together, who ask in one of :data:`WAYS`.

    Raises:
        RuntimeCrashed: One of them failed.
    """
    arguments = [way, address, model, str(frames), str(seconds)]
    command = [sys.executable, "-m", "measure.callers", *arguments]
    callers = [
        subprocess.Popen(command, env=ENVIRONMENT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(count)
    ]
    try:
        for caller in callers:  # each has warmed up; now they begin together
            assert caller.stdout is not None
            caller.stdout.readline()
        found = [json.loads(caller.communicate("go\n", LATE_S + seconds)[0] or "0") for caller in _told(callers)]
    finally:
        for caller in callers:
            caller.kill()
            caller.wait()
    if not all(found):
        raise RuntimeCrashed("a caller had no answer")
    return sum(found)


def _told(callers: list["subprocess.Popen[str]"]) -> list["subprocess.Popen[str]"]:
    for caller in callers:
        assert caller.stdin is not None
        caller.stdin.write("go\n")
        caller.stdin.flush()
    return callers


def main() -> None:
    """Ask until the time is over; write the answers a second."""
    way, address, model, path, seconds = sys.argv[1:]
    frames = np.load(path)
    with (WAYS | LIMITS)[way](address, model, "scores", frames[:1].nbytes) as ask:
        for number in range(WARM_UP):
            ask(frames[number % len(frames)][None])
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        sys.stdin.readline()
        began_s, count = time.perf_counter(), 0
        while (took_s := time.perf_counter() - began_s) < float(seconds):
            ask(frames[count % len(frames)][None])
            count += 1
    sys.stdout.write(json.dumps(count / took_s))


if __name__ == "__main__":
    main()
