"""A device as it is in the field, for one run: enrolled, connected, a model installed; its agent can be started again.

Controller and broker run on the same machine, which shares pages of libraries that a device has for itself; the figures
of :class:`Footprint` say what a device would count.
"""

import os
import re
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import numpy as np

from dsops.api.v1 import open_inference_grpc_pb2 as pb
from dsops.api.v1.open_inference_grpc_pb2_grpc import GRPCInferenceServiceStub
from dsops.errors import TimedOut
from dsops_agent.status import Status, read_status
from dsops_controller.demo.prepare import prepare
from dsops_controller.demo.stage import MODEL, Stage
from measure.child import ENVIRONMENT, stop

DEVICE = "cam-1"
PATIENCE_S = 60.0
LOOK_S = 0.005
_MAPPING = re.compile(r"^[0-9a-f]+-[0-9a-f]+ \S+ \S+ \S+ \S+ *(.*)$")


@dataclass(frozen=True)
class Pages:
    """Memory of one file, or of what has none, in one process; bytes.

    Attributes:
        resident: All of it.
        proportional: As the kernel shares it out among all processes of this machine.
        dirty: What no file can give again, as long as only this process has it.
        forked: The same, which another process has too: it was copied from this one, or this one from it.
    """

    resident: int
    proportional: int
    dirty: int
    forked: int

    @property
    def clean(self) -> int:
        """What other processes may share."""
        return self.resident - self.dirty - self.forked


@dataclass(frozen=True)
class Footprint:
    """The memory of a process by file (proc_pid_smaps(5))."""

    by_file: Mapping[str, Pages]

    @classmethod
    def of(cls, pid: int) -> "Footprint":
        """Read it."""
        found: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
        name = ""
        for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
            if mapping := _MAPPING.match(line):
                name = mapping[1]
            elif line.endswith(" kB"):
                key, value = line.split(":")
                found[name][key] += int(value.split()[0]) * 1024
        return cls(
            {
                name: Pages(each["Rss"], each["Pss"], each["Private_Dirty"], each["Shared_Dirty"])
                for name, each in found.items()
            }
        )

    @property
    def proportional_mb(self) -> float:
        """The kernel's figure, on this machine with everything that runs on it."""
        return sum(pages.proportional for pages in self.by_file.values()) / 1e6

    @property
    def dirty_mb(self) -> float:
        """What nobody shares, and nobody can drop."""
        return sum(pages.dirty for pages in self.by_file.values()) / 1e6

    def beside_mb(self, other: "Footprint | None") -> float:
        """The proportional figure of a device on which only ``other`` runs the same libraries.

        Of a file that both have resident, the smaller part is taken to be the same pages. What was copied from a
        process is shared by these two only.
        """
        none = Pages(0, 0, 0, 0)
        total = 0.0
        for name, pages in self.by_file.items():
            theirs = other.by_file.get(name, none) if other else none
            total += pages.dirty + pages.forked / 2 + pages.clean - min(pages.clean, theirs.clean) / 2
        return total / 1e6


class Device:
    """The device; ``python`` is how its interpreter is called."""

    def __init__(self, stage: Stage, python: tuple[str, ...] = (sys.executable,)) -> None:
        self._stage = stage
        self._python = python
        self._agent: subprocess.Popen[bytes] | None = None
        self._home = stage.home(DEVICE)
        self.socket = stage.inference_socket(DEVICE)
        self.built = stage.folder / "built"

    def start(self) -> float:
        """Start the agent; return the seconds until its first answer.

        Raises:
            TimedOut: There is none.
        """
        began_s = time.monotonic()
        command = (*self._python, "-m", "dsops_agent", "run", "--config", str(self._home / "agent.toml"))
        with (self._home / "agent.log").open("ab") as log:
            self._agent = subprocess.Popen(command, stderr=log, env=ENVIRONMENT)
        while time.monotonic() < began_s + PATIENCE_S:
            if self.socket.exists() and _answers(self.socket):
                return time.monotonic() - began_s
            time.sleep(LOOK_S)
        raise TimedOut("the device does not answer", hint=f"see {self._home / 'agent.log'}")

    def settle(self, rest_s: float) -> Status:
        """Wait until it is connected and everything is uploaded, then so many seconds more; return its status."""
        ends_s = time.monotonic() + PATIENCE_S
        while not (status := self._status()).connected or status.problems or status.runtime_pid is None:
            if time.monotonic() > ends_s:
                raise TimedOut("the device does not connect", hint=f"see {self._home / 'agent.log'}")
            time.sleep(0.2)
        time.sleep(rest_s)
        return self._status()

    @property
    def pid(self) -> int:
        """The control process."""
        assert self._agent is not None, "it was started"
        return self._agent.pid

    def stop(self) -> None:
        """End the agent in order."""
        if self._agent is not None:
            stop(self._agent)
            self._agent = None

    def _status(self) -> Status:
        return read_status(self._home / "state" / "status.json")


@contextmanager
def enrolled() -> Iterator[Device]:
    """Set up a device with the demonstration's model; its agent does not run."""
    with tempfile.TemporaryDirectory(prefix="dsops-") as name:
        stage = Stage(Path(name), lambda _line: None)
        try:
            _install(stage)
            device = Device(stage)
            try:
                yield device
            finally:
                device.stop()
        finally:
            stage.processes.stop_all()


def _install(stage: Stage) -> None:
    stage.raise_curtain()
    recipe, built, bundle = (stage.folder / part for part in ("recipe", "built", "digits-1.bundle"))
    prepare(recipe, 0)
    run = stage.commands.run
    run("model", "build", recipe, "--to", built)
    run("bundle", "build", built, "-r", "1", "--variant", "int8", "--to", bundle, "--keys", stage.keys)
    run("bundle", "sign", bundle, "--keys", stage.keys, online=True)
    stage.online("bundle", "push", bundle)
    agent = stage.start_agent(DEVICE)
    stage.wait_until("the device is online", lambda: any(row["online"] for row in stage.client.devices()))
    stage.online("rollout", "create", f"{MODEL}/1", "--wave", "1", "--wait", "--timeout", "60")
    stage.processes.stop(agent)


def _answers(path: Path) -> bool:
    request = pb.ModelInferRequest(model_name=MODEL)
    request.inputs.add(name="image", datatype="FP32", shape=[1, 8, 8, 1])
    request.raw_input_contents.append(np.zeros(64, np.float32).tobytes())
    with grpc.insecure_channel(f"unix://{path}") as channel:
        try:
            GRPCInferenceServiceStub(channel).ModelInfer(request, timeout=5)
        except grpc.RpcError:  # the runtime is there, the model not yet
            return False
    return True


def weigh(code: str) -> Footprint:
    """Return the memory of a fresh interpreter that ran some code."""
    command = [sys.executable, "-c", f"{code}\nprint(flush=True)\ninput()"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=ENVIRONMENT) as child:
        assert child.stdout is not None
        child.stdout.readline()
        found = Footprint.of(child.pid)
        child.communicate(b"\n")
    return found


def timed_s(code: str) -> float:
    """Return the seconds that a fresh interpreter takes to run some code."""
    began_s = time.monotonic()
    subprocess.run([sys.executable, "-c", code], check=True, env=ENVIRONMENT, cwd=os.sep)
    return time.monotonic() - began_s
