"""Tries a bundle in a throw-away process, so that a payload that crashes or hangs takes nothing else down."""

import json
import logging
import os
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dsops.errors import Cancelled, RuntimeCrashed, from_dict
from dsops.sealing import ContentKey
from dsops_agent.install.ports import ProveLimits
from dsops_agent.runtime_process import describe_exit, offer_to_oom_killer, runtime_environment

logger = logging.getLogger(__name__)

MAX_OUTPUT_BYTES = 64 * 1024
_LOOK_S = 0.05


class Prover:
    """Runs ``python -m dsops_agent.runtime.prove``, one at a time."""

    def __init__(self, threads: int, delegate_json: str = "") -> None:
        self._threads = threads
        self._delegate_json = delegate_json
        self._lock = threading.Lock()
        self._child: subprocess.Popen[bytes] | None = None

    def prove(
        self, path: Path, limits: ProveLimits, key: ContentKey | None = None, ended: threading.Event | None = None
    ) -> None:
        """Run a bundle's golden inputs within limits of time, address space and output.

        The key of a sealed bundle goes through a pipe: arguments and environment could be read by others.

        Raises:
            Cancelled: ``ended`` was set, and the process killed.
            RuntimeCrashed: The process died, ran out of memory or time, or said nothing that makes sense.
            DsopsError: What it found wrong with the bundle.
        """
        output = os.memfd_create("proof")
        try:
            self._run(path, limits, output, key, ended or threading.Event())
            data = os.pread(output, MAX_OUTPUT_BYTES, 0)
        finally:
            os.close(output)
        result = _parse(data)
        if not result.get("ok"):
            error = result.get("error")
            raise from_dict(error if isinstance(error, dict) else {})
        logger.info(
            "%s was proved: %.3f ms, %s", path.parent.name, result.get("latency_ms", 0.0), result.get("runtime")
        )

    def abort(self) -> None:
        """Kill the process, if there is one."""
        with self._lock:
            if self._child is not None:
                self._child.kill()

    def _run(
        self, path: Path, limits: ProveLimits, output: int, key: ContentKey | None, ended: threading.Event
    ) -> None:
        command = [sys.executable, "-m", "dsops_agent.runtime.prove", str(path), "--threads", str(self._threads)]
        command += [] if key is None else ["--sealed"]
        if limits.champion is not None:
            command += ["--champion", str(limits.champion), "--slowdown", str(limits.slowdown)]
        command += ["--delegate", self._delegate_json] if self._delegate_json else []
        with _input(key) as given, self._lock:
            self._child = child = subprocess.Popen(
                command, stdin=given, stdout=output, env=runtime_environment(), process_group=0
            )  # a group of its own: Ctrl-C at a terminal is not the bundle's fault
        try:
            _limit(child.pid, limits)
            offer_to_oom_killer(child.pid)
            code = _await(child, limits.timeout_s, ended)
        except subprocess.TimeoutExpired as error:
            raise RuntimeCrashed(
                "the bundle was not proved in time", why=f"no answer within {limits.timeout_s:g} s"
            ) from error
        finally:
            child.kill()
            child.wait()
            with self._lock:
                self._child = None
        if code != 0:
            raise RuntimeCrashed("the process that tried the bundle died", why=describe_exit(code))


def _await(child: subprocess.Popen[bytes], timeout_s: float, ended: threading.Event) -> int:
    """Return the exit code; raise Cancelled at once when ``ended`` is set, TimeoutExpired when it takes too long."""
    ends_s = time.monotonic() + timeout_s
    while not ended.is_set():
        try:
            return child.wait(min(_LOOK_S, max(0.0, ends_s - time.monotonic())))
        except subprocess.TimeoutExpired:
            if time.monotonic() >= ends_s:
                raise
    raise Cancelled("the bundle is not wanted any more")


@contextmanager
def _input(key: ContentKey | None) -> Iterator[int]:
    """Offer a key as the standard input of a child: a pipe that holds it and has no writer any more."""
    if key is None:
        yield subprocess.DEVNULL
        return
    reading, writing = os.pipe()
    try:
        os.write(writing, key.data)  # far less than a pipe holds
        os.close(writing)
        yield reading
    finally:
        os.close(reading)


def _limit(pid: int, limits: ProveLimits) -> None:
    """Set limits from outside: between fork and exec of a program with threads nothing else may run."""
    wanted = {resource.RLIMIT_FSIZE: MAX_OUTPUT_BYTES, resource.RLIMIT_CORE: 0}
    if limits.memory_bytes:
        wanted[resource.RLIMIT_AS] = limits.memory_bytes
    for kind, most in wanted.items():
        try:
            resource.prlimit(pid, kind, (most, most))
        except (ProcessLookupError, PermissionError) as error:  # it ended already, or a lower limit holds
            logger.debug("a limit was not set: %s", error)


def _parse(data: bytes) -> dict[str, object]:
    try:
        result = json.loads(data.splitlines()[-1])
    except (ValueError, IndexError) as error:
        raise RuntimeCrashed("the process that tried the bundle said nothing that makes sense") from error
    if not isinstance(result, dict):
        raise RuntimeCrashed("the process that tried the bundle said nothing that makes sense")
    return result
