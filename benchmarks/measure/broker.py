"""A real mosquitto with the product's own configuration, for one run, on loopback with mutual TLS."""

import os
import re
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from dsops.clock import SystemClock
from dsops.errors import BrokerUnreachable, NotFound
from dsops_agent.identity import Fleet, Identity, IdentityFolder
from dsops_controller.demo.ports import free_ports
from dsops_controller.fleet.ca import Authority, Issued
from dsops_controller.server.mosquitto import BrokerFiles, write_broker_files
from dsops_controller.server.tls import Credentials
from measure.child import stop

PREFIX = "dsops/v1"
HOST = "127.0.0.1"
LARGE_PACKET = "max_packet_size 67108864"
LIGHT = "light"
"""Name in the one certificate that all light agents show."""
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

    def light(self) -> None:
        """Make the certificate of light agents: ``light.crt`` and ``light.key``."""
        key = ec.generate_private_key(ec.SECP256R1())
        csr = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
        issued = self.authority.issue_device(csr.public_bytes(serialization.Encoding.DER), LIGHT)
        pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        Issued(issued.certificate_pem, pem).save(self.folder, LIGHT)

    def device(self, name: str) -> Identity:
        """Return the identity of a device, enrolled."""
        identities = IdentityFolder(self.folder / name)
        certificate = self.authority.issue_device(identities.request(name), name).certificate_pem
        fleet = Fleet(fleet="benchmark", broker=f"{HOST}:1", store=f"{HOST}:1", topic_prefix=PREFIX)
        identities.complete(certificate, self.authority.certificate_pem, fleet)
        identity = identities.load(name)
        assert identity is not None, "it was completed just now"
        return identity


def light_credentials(folder: Path) -> Credentials:
    """Return the identity of light agents in the folder of a fleet's keys."""
    return Credentials(folder / "ca.crt", folder / f"{LIGHT}.crt", folder / f"{LIGHT}.key")


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
    plain_port: int = 0

    @property
    def peak_mb(self) -> float:
        """Most memory that it ever had resident."""
        return resident_mb(self.pid, "VmHWM")

    @property
    def cpu_s(self) -> float:
        """Processor time that it used up to now, to a hundredth of a second."""
        return cpu_s(self.pid)


@contextmanager
def broker(folder: Path, keys: Keys, *, large_packets: bool = False, light: bool = False) -> Iterator[RunningBroker]:
    """Run a broker with empty state and the product's own configuration, but for what is asked for.

    Args:
        folder: Its folder, to be made.
        keys: Of its fleet.
        large_packets: Lift the one limit that forbids a bundle in one message.
        light: Listen without TLS too, and know clients by the name that they give, as light agents share a certificate.

    Raises:
        NotFound: There is no mosquitto.
        BrokerUnreachable: It does not start.
    """
    port, plain_port = free_ports(2)
    files = BrokerFiles(HOST, port, PREFIX, folder, keys.folder)
    folder.mkdir()
    write_broker_files(folder, files)
    if large_packets:
        change(folder / "mosquitto.conf", r"^max_packet_size .*$", LARGE_PACKET)
    if light:
        change(folder / "mosquitto.conf", r"^use_username_as_clientid .*$", "")
        change(folder / "mosquitto.conf", r"^allow_anonymous .*$", "allow_anonymous true")
        change(folder / "mosquitto.conf", r"\Z", f"listener {plain_port} {HOST}\n")
        change(folder / "acl", "%u", "%c")
    with running(folder / "mosquitto.conf", port, folder / "log") as started:
        yield RunningBroker(started.port, started.pid, plain_port if light else 0)


def change(path: Path, pattern: str, to: str) -> None:
    """Put other text where a pattern stands in a file of the broker's."""
    text, count = re.subn(pattern, to, path.read_text(), flags=re.MULTILINE)
    assert count, f"{pattern} is in {path}"
    path.write_text(text)


def resident_mb(pid: int, which: str = "VmRSS") -> float:
    """Return a process's resident memory now, or with ``VmHWM`` the most that it ever had (proc(5))."""
    status = Path(f"/proc/{pid}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith(f"{which}:"))
    return int(line.split()[1]) * 1024 / 1e6


def cpu_s(pid: int) -> float:
    """Return the processor time that a process used up to now (proc(5), fields utime and stime)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


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
