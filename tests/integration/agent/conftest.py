"""Real certificates, a real broker and real gRPC servers for the agent's integration tests."""

import os
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from paho.mqtt.client import Client, MQTTMessage, MQTTv5
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode
from typing_extensions import override

from dsops.api.v1 import enrolment_pb2_grpc, samples_pb2_grpc, telemetry_pb2_grpc
from dsops.api.v1.enrolment_pb2 import EnrolReply, EnrolRequest, RenewRequest
from dsops.api.v1.samples_pb2 import SampleBatch, SampleRecord
from dsops.api.v1.telemetry_pb2 import Ack, TelemetryBatch, TelemetryRecord
from dsops.renewal import check_proof
from dsops_agent.identity import Fleet, Identity, IdentityFolder
from dsops_agent.status import Status, read_status
from dsops_controller.demo.ports import free_ports

MOSQUITTO = os.environ.get("DSOPS_MOSQUITTO") or shutil.which("mosquitto") or "/usr/sbin/mosquitto"


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


@dataclass(frozen=True)
class Pki:
    """One authority with a server certificate for localhost."""

    folder: Path
    key: ec.EllipticCurvePrivateKey
    name: x509.Name

    @property
    def ca_pem(self) -> bytes:
        return (self.folder / "ca.crt").read_bytes()

    def issue(
        self, cn: str, public_key: ec.EllipticCurvePublicKey, *, ca: bool = False, life_s: float | None = None
    ) -> bytes:
        now = datetime.now(UTC)
        begins, ends = (now - timedelta(days=10), now + timedelta(days=10))
        if life_s is not None:
            begins, ends = now, now + timedelta(seconds=life_s)
        names = x509.SubjectAlternativeName([x509.DNSName("localhost"), x509.IPAddress(ip_address("127.0.0.1"))])
        return (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, cn)]))
            .issuer_name(self.name)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(begins)
            .not_valid_after(ends)
            .add_extension(names, critical=False)
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .sign(self.key, hashes.SHA256())
            .public_bytes(serialization.Encoding.PEM)
        )

    def revocations(self, *certificates: x509.Certificate) -> bytes:
        now = datetime.now(UTC)
        builder = x509.CertificateRevocationListBuilder().issuer_name(self.name)
        builder = builder.last_update(now - timedelta(days=1)).next_update(now + timedelta(days=1))
        for certificate in certificates:
            revoked = x509.RevokedCertificateBuilder().serial_number(certificate.serial_number)
            builder = builder.add_revoked_certificate(revoked.revocation_date(now - timedelta(hours=1)).build())
        return builder.sign(self.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    def identity(self, folder: Path, device: str, broker: str, store: str) -> Identity:
        identities = IdentityFolder(folder)
        certificate = self.issue(device, identities.key().public_key())
        fleet = Fleet(fleet="f", broker=broker, store=store, topic_prefix="dsops/v1")
        identities.complete(certificate, self.ca_pem, fleet)
        identity = identities.load(device)
        assert identity is not None
        return identity


@pytest.fixture(scope="session")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    folder = tmp_path_factory.mktemp("pki")
    key = ec.generate_private_key(ec.SECP256R1())
    pki = Pki(folder, key, x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test authority")]))
    (folder / "ca.crt").write_bytes(pki.issue("test authority", key.public_key(), ca=True))
    for name in ("server", "controller"):
        own = ec.generate_private_key(ec.SECP256R1())
        (folder / f"{name}.key").write_bytes(_pem(own))
        (folder / f"{name}.crt").write_bytes(pki.issue(name, own.public_key()))
    return pki


class RealBroker:
    """mosquitto with mutual TLS; it can be killed, frozen and started again on the same port."""

    def __init__(self, folder: Path, pki: Pki) -> None:
        [self.port] = free_ports(1)
        self._folder = folder
        self.process: subprocess.Popen[bytes] | None = None
        (folder / "acl").write_text(
            "user controller\ntopic readwrite dsops/v1/#\n"
            "pattern write dsops/v1/d/%u/up/#\npattern read dsops/v1/d/%u/dn/#\n"
            "pattern read dsops/v1/t/+\npattern read dsops/v1/c/+\n"
        )
        (folder / "broker.conf").write_text(
            f"listener {self.port} 127.0.0.1\nset_tcp_nodelay true\nmax_packet_size 262144\n"
            f"cafile {pki.folder}/ca.crt\ncertfile {pki.folder}/server.crt\nkeyfile {pki.folder}/server.key\n"
            "require_certificate true\nuse_identity_as_username true\nallow_anonymous false\n"
            f"acl_file {folder}/acl\nuser root\n"
        )

    def configure(self, line: str) -> None:
        """Start anew with one more line of configuration; what was retained is lost."""
        self.kill()
        with (self._folder / "broker.conf").open("a") as conf:
            conf.write(f"{line}\n")
        self.start()

    def revoke(self, crl: bytes) -> None:
        """Start anew with a list of revoked certificates."""
        self.kill()
        crlfile = self._folder / "crl.pem"
        with (self._folder / "broker.conf").open("a") as conf:
            if not crlfile.exists():
                conf.write(f"crlfile {crlfile}\n")
        crlfile.write_bytes(crl)
        self.start()

    @property
    def address(self) -> str:
        return f"localhost:{self.port}"

    def start(self) -> None:
        self.process = subprocess.Popen(
            [MOSQUITTO, "-c", str(self._folder / "broker.conf")], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        wait_until(self._answers)

    def _answers(self) -> bool:
        with socket.socket() as sock:
            return sock.connect_ex(("127.0.0.1", self.port)) == 0

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


@pytest.fixture
def broker(tmp_path: Path, pki: Pki) -> Iterator[RealBroker]:
    folder = tmp_path / "broker"
    folder.mkdir()
    broker = RealBroker(folder, pki)
    broker.start()
    yield broker
    broker.kill()


def wait_until(condition: Callable[[], bool], timeout_s: float = 20.0) -> None:
    """Wait for a condition; the limit only ends a test that would fail anyway."""
    ends = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < ends, "waited in vain"
        time.sleep(0.01)


@pytest.fixture
def eventually() -> Callable[[Callable[[], bool]], None]:
    return wait_until


class RealStore(
    telemetry_pb2_grpc.TelemetryServicer,
    samples_pb2_grpc.SamplesServicer,
    enrolment_pb2_grpc.EnrolmentServicer,
    enrolment_pb2_grpc.RenewalServicer,
):
    """The controller's gRPC side with real TLS: it keeps watermarks as the DataOps store does, in memory."""

    def __init__(self, pki: Pki, broker_address: str) -> None:
        self._pki = pki
        self._broker_address = broker_address
        self._lock = threading.Lock()
        self.telemetry: dict[tuple[bytes, int], TelemetryRecord] = {}
        self.samples: dict[tuple[bytes, int], SampleRecord] = {}
        self.watermarks: dict[bytes, int] = {}
        self.batches: list[TelemetryBatch | SampleBatch] = []
        self.tokens = {"cam-1": "one-time token"}
        self.enrolled: list[EnrolRequest] = []
        self.waiting: set[str] = set()
        self.known: dict[str, list[ec.EllipticCurvePublicKey]] = {}
        self.renewed: list[RenewRequest] = []
        self.life_s: float | None = None
        self.refusal = ""
        self.break_after_commit = 0
        self.refuse: grpc.StatusCode | None = None
        self.pushback_ms = 0
        self.refused_s: list[float] = []
        self.port, self.enrolment_port = free_ports(2)
        self._server: grpc.Server | None = None

    @property
    def address(self) -> str:
        return f"localhost:{self.port}"

    def start(self) -> None:
        folder = self._pki.folder
        pair = ((folder / "server.key").read_bytes(), (folder / "server.crt").read_bytes())
        mutual = grpc.ssl_server_credentials([pair], self._pki.ca_pem, require_client_auth=True)
        self._server = server = grpc.server(
            ThreadPoolExecutor(8), options=[("grpc.so_reuseport", 0), ("grpc.http2.max_ping_strikes", 0)]
        )
        telemetry_pb2_grpc.add_TelemetryServicer_to_server(self, server)
        samples_pb2_grpc.add_SamplesServicer_to_server(self, server)
        enrolment_pb2_grpc.add_EnrolmentServicer_to_server(self, server)
        enrolment_pb2_grpc.add_RenewalServicer_to_server(self, server)
        server.add_secure_port(f"127.0.0.1:{self.port}", mutual)
        server.add_secure_port(f"127.0.0.1:{self.enrolment_port}", grpc.ssl_server_credentials([pair]))
        server.start()

    def stop(self) -> None:
        if self._server is not None:
            self._server.stop(0).wait()
            self._server = None

    @override
    def Report(self, request_iterator: Any, context: grpc.ServicerContext) -> Iterator[Ack]:
        yield from self._take(request_iterator, context, "records", self.telemetry)

    @override
    def Upload(self, request_iterator: Any, context: grpc.ServicerContext) -> Iterator[Ack]:
        yield from self._take(request_iterator, context, "samples", self.samples)

    def _take(self, batches: Any, context: grpc.ServicerContext, field: str, rows: dict[Any, Any]) -> Iterator[Ack]:
        for batch in batches:
            if self.refuse is not None:
                self.refused_s.append(time.monotonic())
                if self.pushback_ms:
                    context.set_trailing_metadata((("grpc-retry-pushback-ms", str(self.pushback_ms)),))
                context.abort(self.refuse, "refused for the test")
            with self._lock:
                self.batches.append(batch)
                known = self.watermarks.get(batch.stream, 0)
                for seq, record in zip(batch.seqs, getattr(batch, field), strict=True):
                    if seq > known:
                        assert (batch.stream, seq) not in rows
                        rows[batch.stream, seq] = record
                        self.watermarks[batch.stream] = seq
                if self.break_after_commit:
                    self.break_after_commit -= 1
                    context.abort(grpc.StatusCode.UNAVAILABLE, "the acknowledgement is lost")
                committed = self.watermarks.get(batch.stream, 0)
            yield Ack(committed_seq=committed, server_us=time.time_ns() // 1000)

    @override
    def Enrol(self, request: EnrolRequest, context: grpc.ServicerContext) -> EnrolReply:
        if self.refuse is not None:
            context.abort(self.refuse, "refused for the test")
        self.enrolled.append(request)
        if self.refusal:
            context.set_trailing_metadata((("dsops-code", self.refusal),))
            context.abort(grpc.StatusCode.PERMISSION_DENIED, "refused for the test")
        if request.device in self.waiting:
            return EnrolReply(pending=True, retry_s=1)
        if not request.proof and request.device in self.tokens and self.tokens[request.device] != request.token:
            context.abort(grpc.StatusCode.PERMISSION_DENIED, "the token is not valid")
        if request.proof:
            check_proof(request.proof, request.device, request.csr_der, self.known[request.device][-1])
        return self._certified(request.device, request.csr_der)

    @override
    def Renew(self, request: RenewRequest, context: grpc.ServicerContext) -> EnrolReply:
        device = context.auth_context()["x509_common_name"][0].decode()
        self.renewed.append(request)
        return self._certified(device, request.csr_der)

    def _certified(self, device: str, csr_der: bytes) -> EnrolReply:
        csr = x509.load_der_x509_csr(csr_der)
        assert csr.is_signature_valid
        key = csr.public_key()
        assert isinstance(key, ec.EllipticCurvePublicKey)
        self.known.setdefault(device, []).append(key)
        return EnrolReply(
            certificate_pem=self._pki.issue(device, key, life_s=self.life_s),
            ca_pem=self._pki.ca_pem,
            fleet="f",
            broker=self._broker_address,
            store=self.address,
            topic_prefix="dsops/v1",
        )


@pytest.fixture
def store(pki: Pki, broker: RealBroker) -> Iterator[RealStore]:
    store = RealStore(pki, broker.address)
    store.start()
    yield store
    store.stop()


class Controller:
    """The other side: a plain client with the controller's certificate."""

    def __init__(self, pki: Pki, port: int) -> None:
        self.pki = pki
        self.messages: list[tuple[str, bytes]] = []
        self.client = Client(CallbackAPIVersion.VERSION2, client_id="controller", protocol=MQTTv5)
        context = ssl.create_default_context(cafile=str(pki.folder / "ca.crt"))
        context.load_cert_chain(pki.folder / "controller.crt", pki.folder / "controller.key")
        self.client.tls_set_context(context)
        self.client.on_connect = lambda client, *_: client.subscribe("dsops/v1/#", qos=1) and None
        self.client.on_message = self._keep
        self.client.reconnect_delay_set(1, 1)
        self.client.connect("localhost", port)
        self.client.loop_start()

    def _keep(self, _: Client, __: object, message: MQTTMessage) -> None:
        self.messages.append((message.topic, bytes(message.payload)))

    def put(self, topic: str, payload: bytes, *, retain: bool = True) -> None:
        while not self.client.is_connected():
            time.sleep(0.005)
        info = self.client.publish(topic, payload, qos=1, retain=retain)
        assert info.rc is MQTTErrorCode.MQTT_ERR_SUCCESS
        while not info.is_published():
            time.sleep(0.005)

    def got(self, topic: str) -> list[bytes]:
        return [payload for at, payload in self.messages if at == topic]


@pytest.fixture
def controller(pki: Pki, broker: RealBroker) -> Iterator[Controller]:
    controller = Controller(pki, broker.port)
    yield controller
    controller.client.disconnect()
    controller.client.loop_stop()


CONFIG = """
device = "cam-1"
state = "state"
run = "{run}"

[enrolment]
address = "localhost:{port}"
ca = "server-ca.pem"
token = "token"
retry_max_s = 0.2

[trust]
root = "1.root.json"

[telemetry]
interval_s = 0.2
spool_bytes = 1048576
retry_max_s = 0.2

[mqtt]
first_contact_max_s = 0.1
reconnect_max_s = 0.2
will_delay_s = 0
"""


class AgentProcess:
    """`dsops-agent run` in a folder of its own."""

    def __init__(self, folder: Path, store: Any, pki: Any, run_folder: Path) -> None:
        self.folder = folder
        (folder / "agent.toml").write_text(CONFIG.format(port=store.enrolment_port, run=run_folder))
        (folder / "server-ca.pem").write_bytes(pki.ca_pem)
        (folder / "token").write_text("one-time token\n")
        (folder / "1.root.json").write_text("{}")
        self.python = sys.executable
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *command: str, environment: Mapping[str, str] | None = None) -> None:
        arguments = (*(command or ("-m", "dsops_agent", "run", "--config")), str(self.folder / "agent.toml"))
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [self.python, *arguments], stderr=log, env={**os.environ, **(environment or {})}
            )

    def wait(self) -> int:
        assert self.process is not None
        return self.process.wait(30)

    def signal(self, number: int) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    @property
    def status(self) -> Status:
        return read_status(self.folder / "state/status.json")

    def is_well(self) -> bool:
        path = self.folder / "state/status.json"
        assert self.process is not None
        assert self.process.poll() is None, self.log
        return path.exists() and self.status.pid == self.process.pid and not self.status.unhealthy_because()

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text()


def ask_agent(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "dsops_agent", *arguments, "--config", str(folder / "agent.toml")]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture
def agent(tmp_path: Path, store: Any, pki: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[AgentProcess]:
    folder = tmp_path / "device"
    folder.mkdir()
    agent = AgentProcess(folder, store, pki, tmp_path_factory.mktemp("r"))
    yield agent
    if agent.process is not None and agent.process.poll() is None:
        agent.process.terminate()
        agent.process.wait(30)


@pytest.fixture
def ask() -> Callable[..., subprocess.CompletedProcess[str]]:
    return ask_agent
