"""Child processes of the demonstration: each with a log file, each stopped, none left behind, not even by a SIGKILL."""

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from dsops.errors import DeviceError, TimedOut
from dsops_controller.demo import leash

STOP_S = 8.0


class ProcessEnded(DeviceError):
    """A process that should run has ended."""

    code = "device.process_ended"


@dataclass
class Child:
    """One process and where its output goes."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def pid(self) -> int:
        """Process id."""
        return self.process.pid

    def check(self) -> None:
        """Raise ProcessEnded if it does not run any more."""
        if self.process.poll() is not None:
            raise ProcessEnded(
                f"{self.name} ended with {self.process.returncode}", why=last_lines(self.log), hint=f"see {self.log}"
            )


@dataclass
class Processes:
    """Starts children and stops them in the reverse order."""

    logs: Path
    environment: dict[str, str] = field(default_factory=dict)
    children: list[Child] = field(default_factory=list)

    def start(self, name: str, *command: str) -> Child:
        """Start a program in a session of its own, so that a terminal's Ctrl-C reaches it only through us."""
        self.logs.mkdir(parents=True, exist_ok=True)
        log = self.logs / f"{name}.log"
        with log.open("ab") as output, _undisturbed():
            process = subprocess.Popen(
                leash.command(*command),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=os.environ | self.environment,
                start_new_session=True,
            )
            child = Child(name, process, log)
            self.children.append(child)
        return child

    def check(self) -> None:
        """Raise ProcessEnded if a child does not run any more."""
        for child in self.children:
            child.check()

    def wait_for_line(self, child: Child, text: str, timeout_s: float = 30.0) -> None:
        """Wait until a child has written a line that contains ``text``.

        Raises:
            ProcessEnded: It ended first.
            TimedOut: It did not.
        """
        deadline = time.monotonic() + timeout_s
        while text not in child.log.read_text(errors="replace"):
            child.check()
            if time.monotonic() > deadline:
                raise TimedOut(f"{child.name} did not get ready", why=last_lines(child.log), hint=f"see {child.log}")
            time.sleep(0.05)

    def stop(self, *children: Child) -> None:
        """Stop some children at once: SIGTERM, and SIGKILL to the one that does not end in time.

        What a child has started and left behind, as a runtime whose agent was killed, is ended with it.
        """
        for child in children:
            if child.process.poll() is None:
                child.process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + STOP_S
        for child in children:
            try:
                child.process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                child.process.kill()
                child.process.wait()
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)  # its session is its process group
            self.children.remove(child)

    def stop_all(self) -> None:
        """Stop every child: agents first, all at once, then the server, then the broker."""
        agents = [child for child in self.children if child.name.startswith("agent-")]
        self.stop(*agents)
        for child in reversed(self.children[:]):
            self.stop(child)


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Let a signal wait until the block has ended: a child that was started must not be forgotten.

    The signals are not blocked, because the child would inherit that.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, lambda number, _frame: came.append(number)) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if came:
            signal.raise_signal(came[0])


def last_lines(log: Path, count: int = 3) -> str:
    """Return the end of a log in one line."""
    lines = log.read_text(errors="replace").strip().splitlines()
    return " | ".join(lines[-count:]) if lines else "it wrote nothing"
