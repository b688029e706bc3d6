"""A real mosquitto with the product's own configuration, for one run, on loopback with mutual TLS."""

import os
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from dsops.clock import SystemClock
from dsops.errors import BrokerUnreachable, NotFound
from dsops_agent.identity import Fleet, Identity, IdentityFolder
from dsops_controller.fleet.ca import Authority
from dsops_controller.server.mosquitto import BrokerFiles, configuration, write_broker_files
from dsops_controller.server.tls import Credentials
from measure.child import stop

PREFIX = "dsops/v1"
HOST = "127.0.0.1"
LARGE_PACKET = "max_packet_size 16777216"
START_S = 10.0


@dataclass(frozen=True)
class Keys:
    """Certificates of one small fleet: the broker's, the controller's, and those of its devices."""

    folder: Path
    authority: Authority

    @classmethod
    def create(cls, folder: Path) -> "Keys":
        """Make an authority, a server and a controller."""
        authority = Authority.create(folder, "benchmark", SystemClock())
        authority.issue_server([HOST, "localhost"]).save(folder, "server")
        authority.issue_client().save(folder, "controller")
        return cls(folder, authority)

    @property
    def controller(self) -> Credentials:
        """The controller's identity at the broker."""
        return Credentials(self.folder / "ca.crt", self.folder / "controller.crt", self.folder / "controller.key")

    def device(self, name: str) -> Identity:
        """Return the identity of a device, enrolled."""
        identities = IdentityFolder(self.folder / name)
        certificate = self.authority.issue_device(identities.request(name), name).certificate_pem
        fleet = Fleet(fleet="benchmark", broker=f"{HOST}:1", store=f"{HOST}:1", topic_prefix=PREFIX)
        identities.complete(certificate, self.authority.certificate_pem, fleet)
        identity = identities.load(name)
        assert identity is not None, "it was completed just now"
        return identity


def context(credentials: Credentials) -> ssl.SSLContext:
    """Return the context of mutual TLS for a plain client."""
    made = ssl.create_default_context(cafile=str(credentials.ca))
    made.load_cert_chain(credentials.certificate, credentials.key)
    return made


@dataclass(frozen=True)
class RunningBroker:
    """A broker that runs."""

    port: int
    pid: int

    @property
    def peak_mb(self) -> float:
        """Most memory that it ever had resident (``VmHWM``, proc(5))."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024 / 1e6


@contextmanager
def broker(folder: Path, keys: Keys, *, large_packets: bool = False) -> Iterator[RunningBroker]:
    """Run a broker with empty state; ``large_packets`` lifts the one limit that forbids a bundle in one message.

    Raises:
        NotFound: There is no mosquitto.
        BrokerUnreachable: It does not start.
    """
    port = free_ports(1)[0]
    files = BrokerFiles(HOST, port, PREFIX, folder, keys.folder)
    folder.mkdir()
    write_broker_files(folder, files)
    if large_packets:
        lines = configuration(files).splitlines()
        changed = [LARGE_PACKET if line.startswith("max_packet_size ") else line for line in lines]
        (folder / "mosquitto.conf").write_text("\n".join(changed) + "\n")
    with running(folder / "mosquitto.conf", port, folder / "log") as started:
        yield started


@contextmanager
def running(configured: Path, port: int, log: Path) -> Iterator[RunningBroker]:
    """Run a broker with a configuration that is there.

    Raises:
        NotFound: There is no mosquitto.
        BrokerUnreachable: It does not start.
    """
    with log.open("wb") as output:
        process = subprocess.Popen([_program(), "-c", str(configured)], stdout=output, stderr=output)
    try:
        _wait(port, process, log)
        yield RunningBroker(port, process.pid)
    finally:
        stop(process)


def _program() -> str:
    found = os.environ.get("DSOPS_MOSQUITTO") or shutil.which("mosquitto", path=f"{os.defpath}:/usr/sbin")
    if not found or not Path(found).exists():
        raise NotFound("there is no mosquitto", hint="make broker")
    return found


def _wait(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    ends_s = time.monotonic() + START_S
    while process.poll() is None and time.monotonic() < ends_s:
        with socket.socket() as sock:
            if sock.connect_ex((HOST, port)) == 0:
                return
        time.sleep(0.02)
    raise BrokerUnreachable("mosquitto did not start", why=log.read_text()[-500:])


def free_ports(count: int) -> list[int]:
    """Return ports that nobody listens on at this moment."""
    with ExitStack() as made:
        sockets = [made.enter_context(socket.create_server((HOST, 0))) for _ in range(count)]
        return [int(sock.getsockname()[1]) for sock in sockets]
