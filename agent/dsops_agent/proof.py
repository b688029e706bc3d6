"""Tries a bundle in a throw-away process, so that a payload that crashes or hangs takes nothing else down."""

import json
import logging
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from dsops.errors import Cancelled, NoMemory, RuntimeCrashed, from_dict
from dsops.sealing import ContentKey
from dsops_agent.install.ports import ProveLimits
from dsops_agent.runtime_process import PROOF_OOM_SCORE, describe_exit, offer_to_oom_killer, runtime_environment

logger = logging.getLogger(__name__)

MAX_OUTPUT_BYTES = 64 * 1024
_LOOK_S = 0.05


@dataclass(frozen=True)
class Proved:
    """A bundle that stood its proof.

    Attributes:
        model: Its model.
        release: Its release.
        digest: SHA-256 of the bundle file.
        unproven: Why it was not tried with the delegate that it will run on; empty when it was, or will not.
    """

    model: str
    release: int
    digest: str
    unproven: str = ""


class Prover:
    """Runs ``python -m dsops_agent.runtime.prove``, one at a time, under the conditions of the inference process.

    Args:
        threads: Threads of the interpreter.
        delegate_json: The delegate of the configuration; empty when there is none.
        cpus: Processors to run on; none named: all.
        nice: By how much other processes go first.
    """

    def __init__(self, threads: int, delegate_json: str = "", *, cpus: Sequence[int] = (), nice: int = 0) -> None:
        self._under = ["--threads", str(threads), "--nice", str(nice), "--cpus", *map(str, cpus)]
        self._under += ["--delegate", delegate_json] if delegate_json else []
        self._lock = threading.Lock()
        self._child: subprocess.Popen[bytes] | None = None
        self._was_aborted = False

    def prove(
        self,
        path: Path,
        limits: ProveLimits,
        key: ContentKey | None = None,
        ended: threading.Event | None = None,
        delegate_problem: str = "",
    ) -> Proved:
        """Run a bundle's golden inputs within limits of time, address space and output.

        The key of a sealed bundle goes through a pipe: arguments and environment could be read by others.

        Args:
            path: The bundle.
            limits: The limits.
            key: The content key of a sealed bundle.
            ended: Set when nobody wants to know any more.
            delegate_problem: Why the inference process does not use the delegate; empty when it does.

        Raises:
            Cancelled: ``ended`` was set, and the process killed.
            NoMemory: The process was killed by somebody else, as the kernel does when memory is short.
            RuntimeCrashed: The process died, ran out of memory or time, or said nothing that makes sense.
            DsopsError: What it found wrong with the bundle.
        """
        output = os.memfd_create("proof")
        try:
            command = self._command(path, limits, is_sealed=key is not None)
            command += ["--delegate-problem", delegate_problem] if delegate_problem else []
            self._run(command, limits, output, key, ended or threading.Event())
            data = os.pread(output, MAX_OUTPUT_BYTES, 0)
        finally:
            os.close(output)
        result = _parse(data)
        if not result.get("ok"):
            error = result.get("error")
            raise from_dict(error if isinstance(error, dict) else {})
        logger.info("%s was proved: %s ms, %s", path.parent.name, result.get("latency_ms"), result.get("runtime"))
        return _proved(result)

    def abort(self) -> None:
        """Kill the process, if there is one."""
        with self._lock:
            if self._child is not None:
                self._was_aborted = True
                _kill(self._child)

    def _command(self, path: Path, limits: ProveLimits, *, is_sealed: bool) -> list[str]:
        command = [sys.executable, "-m", "dsops_agent.runtime.prove", str(path), *self._under]
        command += ["--parent", str(os.getpid())]
        command += ["--sealed"] if is_sealed else []
        command += ["--challenger"] if limits.is_challenger else []
        if limits.champion is not None:
            command += ["--champion", str(limits.champion), "--slowdown", str(limits.slowdown)]
        return command

    def _run(
        self, command: list[str], limits: ProveLimits, output: int, key: ContentKey | None, ended: threading.Event
    ) -> None:
        with _input(key) as given, self._lock:
            self._was_aborted = False
            self._child = child = subprocess.Popen(
                command, stdin=given, stdout=output, env=runtime_environment(), process_group=0
            )  # a group of its own: Ctrl-C at a terminal is not the bundle's fault
        try:
            _limit(child.pid, limits)
            offer_to_oom_killer(child.pid, PROOF_OOM_SCORE)
            code = _await(child, limits.timeout_s, ended)
        except subprocess.TimeoutExpired as error:
            raise RuntimeCrashed(
                "the bundle was not proved in time", why=f"no answer within {limits.timeout_s:g} s"
            ) from error
        finally:
            _kill(child)
            child.wait()
            with self._lock:
                self._child = None
        if code == -signal.SIGKILL and not self._was_aborted:
            why = "the kernel does so when memory is short; nothing else is known to"
            raise NoMemory("the process that tried the bundle was killed", why=why)
        if code != 0:
            raise RuntimeCrashed("the process that tried the bundle died", why=describe_exit(code))


def _kill(child: subprocess.Popen[bytes]) -> None:
    """Kill a process that is there still, and what it started: a delegate that hangs would hold its accelerator."""
    if child.poll() is None:
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)


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
    except (ValueError, IndexError, RecursionError) as error:
        raise RuntimeCrashed("the process that tried the bundle said nothing that makes sense") from error
    if not isinstance(result, dict):
        raise RuntimeCrashed("the process that tried the bundle said nothing that makes sense")
    return result


def _proved(result: Mapping[str, object]) -> Proved:
    model, release = result.get("model"), result.get("release")
    digest, unproven = result.get("digest"), result.get("unproven")
    if not (isinstance(model, str) and isinstance(release, int) and isinstance(digest, str)):
        raise RuntimeCrashed("the process that tried the bundle said nothing that makes sense")
    return Proved(model, release, digest, str(unproven or ""))
