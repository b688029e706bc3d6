"""The demonstration's stage: one folder, one broker, one controller, N devices, all on loopback and each a process."""

import os
import shutil
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from dsops.errors import MissingExtra, TimedOut
from dsops_controller.client import Access, Client
from dsops_controller.demo.commands import Commands, Json
from dsops_controller.demo.ports import HOST, free_ports
from dsops_controller.demo.processes import Child, Processes

MODEL = "digits"
FLEET = "demo"
_AGENT_TOML = """\
device = "{device}"
state = "{state}"

[enrolment]
address = "{enrolment}"
ca = "{ca}"
token = "{token}"

[trust]
root = "{root}"

[install]
probation_s = 1.0

[telemetry]
interval_s = 1.0

[samples]
inputs = true
bytes_per_day = 400000000
burst_bytes = 4000000
min_gap_s = 0.0
period_s = 2.0

[mqtt]
first_contact_max_s = 0.2
reconnect_max_s = 2.0
"""


@dataclass(frozen=True)
class Ports:
    """Free ports of this host, found by asking for them."""

    rest: int
    broker: int
    ingest: int
    enrolment: int

    @classmethod
    def free(cls) -> "Ports":
        """Return four ports that were free a moment ago."""
        return cls(*free_ports(4))


class Stage:
    """Folders, processes and commands of one demonstration.

    What a person would do goes through ``commands``; ``client`` only waits for something to come true.
    """

    client: Client

    def __init__(self, folder: Path, show: Callable[[str], None]) -> None:
        self.folder = folder
        self.server = folder / "server"
        self.keys = folder / "offline-keys"
        self.ports = Ports.free()
        self.processes = Processes(folder / "logs", {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"})
        self.commands = Commands(folder, self.server / "operator.toml", show, self.processes.check)

    def raise_curtain(self) -> None:
        """Make the server's state and the root of trust; start broker and controller."""
        ports = self.ports
        listeners = (
            ("rest", ports.rest),
            ("broker", ports.broker),
            ("ingest", ports.ingest),
            ("enrolment", ports.enrolment),
        )
        numbers = [word for name, port in listeners for word in (f"--{name}-port", str(port))]
        self.commands.run("server", "init", self.server, "--fleet", FLEET, "--host", HOST, *numbers)
        self.commands.run("trust", "quickstart", "--keys", self.keys, "--server", self.server, "--model", MODEL)
        self.start_broker()
        self.processes.wait_for_line(self.start_server(), "ready:")
        self.client = Client(Access.load(self.commands.context))

    def start_server(self) -> Child:
        """Start the controller with the state that it has."""
        return self.processes.start("server", *_python("dsops_controller.cli.app"), "server", "run", str(self.server))

    def start_broker(self) -> Child:
        """Start mosquitto with the configuration that `dsops server init` wrote."""
        child = self.processes.start(
            "mosquitto", find_broker(), "-c", str(self.server / "mosquitto" / "mosquitto.conf")
        )
        self.wait_until("the broker listens", lambda: _listens(self.ports.broker), child)
        return child

    def stop_broker(self) -> None:
        """Stop mosquitto."""
        self.processes.stop(*[child for child in self.processes.children if child.name == "mosquitto"])

    def start_agent(self, device: str) -> Child:
        """Give a device its token and configuration, and start its agent."""
        home = self.home(device)
        home.mkdir(parents=True)
        token = home / "token"
        self.commands.run("device", "token", device, "--to", token, online=True)
        root = home / "1.root.json"
        shutil.copy(self.server / "trust" / "metadata" / "1.root.json", root)
        shutil.copy(self.server / "ca" / "ca.crt", home / "server-ca.crt")
        config = home / "agent.toml"
        enrolment = f"{HOST}:{self.ports.enrolment}"
        names = {"state": "state", "ca": "server-ca.crt", "root": root.name, "token": token.name}
        config.write_text(_AGENT_TOML.format(device=device, enrolment=enrolment, **names))
        return self.run_agent(device)

    def run_agent(self, device: str) -> Child:
        """Start a device's agent with the configuration and state that it has."""
        config = self.home(device) / "agent.toml"
        return self.processes.start(f"agent-{device}", *_python("dsops_agent"), "run", "--config", str(config))

    def agents(self) -> list[Child]:
        """Return the agents that run."""
        return [child for child in self.processes.children if child.name.startswith("agent-")]

    def home(self, device: str) -> Path:
        """Return a device's folder: configuration, token, state."""
        return self.folder / "devices" / device

    def inference_socket(self, device: str) -> Path:
        """Return where a device answers programs."""
        return self.home(device) / "state" / "run" / "inference.sock"

    def wait_until(self, what: str, is_true: Callable[[], bool], *children: Child, timeout_s: float = 40.0) -> None:
        """Look again and again until something is true.

        Raises:
            TimedOut: It did not become true.
            ProcessEnded: A process that it depends on ended.
        """
        deadline = time.monotonic() + timeout_s
        while not is_true():
            for child in children or self.processes.children:
                child.check()
            if time.monotonic() > deadline:
                raise TimedOut(f"waited {timeout_s:.0f} s until {what}", hint=f"see the logs in {self.processes.logs}")
            time.sleep(0.2)

    def online(self, *arguments: str | Path) -> Json:
        """Run a command that asks the controller, and return its JSON."""
        return self.commands.run(*arguments, online=True)


def check_parts() -> None:
    """Raise MissingExtra unless everything that the demonstration needs is installed."""
    for module in ("sklearn", "onnx", "ai_edge_quantizer", "ai_edge_litert", "paho", "deltalake"):
        try:
            __import__(module)
        except ImportError as error:
            raise MissingExtra(
                "the demonstration needs the extra 'demo'",
                why=f"{module} is not installed",
                hint="pip install 'dsops[demo]'",
            ) from error


def find_broker() -> str:
    """Return mosquitto's path: ``DSOPS_MOSQUITTO``, else from the PATH, else from where Debian puts it.

    Raises:
        MissingExtra: There is none.
    """
    named = os.environ.get("DSOPS_MOSQUITTO")
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"])
    found = named or shutil.which("mosquitto", path=path)
    if not found:
        raise MissingExtra("mosquitto is not installed", hint="run `make demo`, or: apt-get install mosquitto")
    return found


def _python(module: str) -> tuple[str, str, str]:
    return sys.executable, "-m", module


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((HOST, port)) == 0
