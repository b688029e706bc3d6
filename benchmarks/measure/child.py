"""Child processes of a benchmark. Each ends with its standard input, so none outlives the benchmark, even if killed."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from dsops.errors import RuntimeCrashed

READY = "ready"
STOP_S = 10.0
ENVIRONMENT = os.environ | {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "PYTHONPATH": os.pathsep.join(filter(None, [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])),
}


@contextmanager
def child(module: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Run ``python -m module`` from when it has written ``ready`` until the end of the block.

    Raises:
        RuntimeCrashed: It ended first.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
    )
    with process:
        try:
            assert process.stdout is not None
            if process.stdout.readline().strip() != READY:
                raise RuntimeCrashed(f"{module} did not start", why=f"it ended with {process.wait(STOP_S)}")
            yield process
        finally:
            stop(process)


def stop(process: subprocess.Popen[str] | subprocess.Popen[bytes]) -> None:
    """End a process that reads its input to the end or obeys SIGTERM; kill it when it does neither."""
    if process.stdin is not None:
        process.stdin.close()
    else:
        process.terminate()
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def answer_once(answer: Callable[[], object]) -> None:
    """Say that this process is ready, answer in one line of JSON when a line comes, and wait until it shall end."""
    sys.stdout.write(f"{READY}\n")
    sys.stdout.flush()
    sys.stdin.readline()
    sys.stdout.write(json.dumps(answer()) + "\n")
    sys.stdout.flush()
    sys.stdin.read()


def wait_for_end_of_input() -> None:
    """Say that this process is ready, then wait until the parent wants it to end."""
    sys.stdout.write(f"{READY}\n")
    sys.stdout.flush()
    sys.stdin.read()
