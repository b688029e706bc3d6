import os
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, Queue

import httpx
import paho.mqtt.client as mqtt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from dsops.clock import SystemClock
from dsops_controller.client import Access, Client
from dsops_controller.demo.ports import free_ports
from dsops_controller.fleet.ca import Authority, Issued
from dsops_controller.server.init import Ports, init_server

MOSQUITTO = os.environ.get("DSOPS_MOSQUITTO") or shutil.which("mosquitto") or "/usr/sbin/mosquitto"
PATIENCE_S = 20.0


def wait_until(holds: Callable[[], bool], what: str, patience_s: float = PATIENCE_S) -> None:
    deadline = time.monotonic() + patience_s
    while not holds():
        assert time.monotonic() < deadline, f"in vain: {what}"
        time.sleep(0.02)


def answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


@dataclass
class Site:
    """A server's folder and the ports in it."""

    folder: Path
    ports: Ports

    def identity(self, name: str, into: Path) -> Path:
        """Issue a device's certificate; return the path of its files without suffix."""
        key = ec.generate_private_key(ec.SECP256R1())
        csr = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
        authority = Authority.load(self.folder / "ca", SystemClock())
        made = authority.issue_device(csr.public_bytes(serialization.Encoding.DER), name)
        pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        Issued(made.certificate_pem, pem).save(into, name)
        return into / name


class Mosquitto:
    """The real broker over a server's configuration."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        log = (self._site.folder.parent / "mosquitto.log").open("ab")
        command = [MOSQUITTO, "-c", str(self._site.folder / "mosquitto" / "mosquitto.conf")]
        self._process = subprocess.Popen(command, stdout=log, stderr=log)
        wait_until(lambda: answers(self._site.ports.broker), "mosquitto listens")

    def kill(self) -> None:
        if self._process:
            self._process.kill()
            self._process.wait()
            self._process = None

    def forget(self) -> None:
        """Lose everything that the broker stored."""
        for file in (self._site.folder / "mosquitto" / "data").iterdir():
            file.unlink()


@dataclass
class Device:
    """A plain MQTT client with a device's certificate; what it is told and what the broker answers it."""

    client: mqtt.Client
    heard: Queue[tuple[str, bytes]] = field(default_factory=Queue)
    codes: dict[int, int] = field(default_factory=dict)
    is_up: threading.Event = field(default_factory=threading.Event)

    def publish(self, topic: str, payload: bytes = b"x", *, retain: bool = False) -> int:
        """Publish and return the broker's reason code."""
        mid = self.client.publish(topic, payload, qos=1, retain=retain).mid
        wait_until(lambda: mid in self.codes, f"{topic} is acknowledged")
        return self.codes[mid]

    def subscribe(self, *filters: str) -> None:
        done = threading.Event()
        self.client.on_subscribe = lambda *_: done.set()
        self.client.subscribe([(topic, 1) for topic in filters])
        assert done.wait(PATIENCE_S)

    def next(self) -> tuple[str, bytes]:
        return self.heard.get(timeout=PATIENCE_S)

    def drain(self, seconds: float = 0.3) -> list[tuple[str, bytes]]:
        """Return what comes until it is silent."""
        found = []
        while True:
            try:
                found.append(self.heard.get(timeout=seconds))
            except Empty:
                return found


def connect(site: Site, identity: Path, client_id: str) -> Device:
    client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id=client_id, protocol=MQTTProtocolVersion.MQTTv5)
    device = Device(client)
    client.tls_set(str(site.folder / "ca" / "ca.crt"), f"{identity}.crt", f"{identity}.key")
    client.on_connect = lambda *_: device.is_up.set()
    client.on_message = lambda _c, _u, message: device.heard.put((message.topic, bytes(message.payload)))

    def acknowledged(_client: object, _data: object, mid: int, reason: mqtt.ReasonCode, _properties: object) -> None:
        device.codes[mid] = int(reason.value)

    client.on_publish = acknowledged
    client.connect("127.0.0.1", site.ports.broker)
    client.loop_start()
    assert device.is_up.wait(PATIENCE_S)
    return device


@pytest.fixture
def site(tmp_path: Path) -> Site:
    ports = Ports(*free_ports(4))
    init_server(tmp_path / "server", fleet="test", ports=ports)
    return Site(tmp_path / "server", ports)


@pytest.fixture
def mosquitto(site: Site) -> Iterator[Mosquitto]:
    broker = Mosquitto(site)
    broker.start()
    yield broker
    broker.kill()


@pytest.fixture
def late_mosquitto(site: Site) -> Iterator[Mosquitto]:
    """A broker that does not run yet."""
    broker = Mosquitto(site)
    yield broker
    broker.kill()


@pytest.fixture
def join(site: Site, mosquitto: Mosquitto, tmp_path: Path) -> Iterator[Callable[..., Device]]:
    """Connect a device by name; ``controller`` uses the controller's own certificate."""
    joined: list[Device] = []

    def run(name: str, client_id: str = "") -> Device:
        own = site.folder / "ca" / name
        identity = own if own.with_suffix(".crt").exists() else site.identity(name, tmp_path)
        device = connect(site, identity, client_id or name)
        joined.append(device)
        return device

    yield run
    for device in joined:
        device.client.disconnect()
        device.client.loop_stop()


class ServerProcess:
    """``dsops server run`` as a process of its own."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self.process: subprocess.Popen[str] | None = None
        self.ready = ""

    def start(self) -> None:
        program = "import sys; from pathlib import Path; from dsops_controller.server.app import Server; "
        program += "Server(Path(sys.argv[1])).run()"
        log = self.log.open("ab")
        command = [sys.executable, "-c", program, str(self._site.folder)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
        assert self.process.stdout is not None
        self.ready = self.process.stdout.readline()
        assert self.ready.startswith("ready:"), self.log.read_text()

    @property
    def log(self) -> Path:
        return self._site.folder.parent / "server.log"

    def terminate(self) -> int:
        """Ask it to stop; return its exit code."""
        assert self.process is not None
        self.process.terminate()
        return self.process.wait(timeout=10)

    def kill(self) -> None:
        if self.process:
            self.process.kill()
            self.process.wait()


@pytest.fixture
def server(site: Site) -> Iterator[ServerProcess]:
    running = ServerProcess(site)
    running.start()
    yield running
    running.kill()


@pytest.fixture
def operator(site: Site, server: ServerProcess) -> Iterator[Client]:
    client = Client(Access.load(site.folder / "operator.toml"))
    yield client
    client.close()


@pytest.fixture
def http(site: Site, server: ServerProcess) -> Iterator[httpx.Client]:
    """HTTPS with the operator's token, for what the client class does not do."""
    access = Access.load(site.folder / "operator.toml")
    headers = {"Authorization": f"Bearer {access.token}"}
    trust = ssl.create_default_context(cafile=access.ca)
    with httpx.Client(base_url=f"{access.url}/api/v1", verify=trust, headers=headers) as client:
        yield client


@pytest.fixture
def eventually() -> Callable[..., None]:
    return wait_until


@pytest.fixture
def join_as(site: Site, mosquitto: Mosquitto) -> Iterator[Callable[[Path], Device]]:
    """Connect with the certificate of an enrolled device."""
    joined: list[Device] = []

    def run(identity: Path) -> Device:
        joined.append(connect(site, identity, identity.name))
        return joined[-1]

    yield run
    for device in joined:
        device.client.disconnect()
        device.client.loop_stop()
