"""Real certificates, a real broker and real gRPC servers for the agent's integration tests."""

import os
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
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
from dsops.api.v1.enrolment_pb2 import EnrolReply, EnrolRequest
from dsops.api.v1.samples_pb2 import SampleBatch, SampleRecord
from dsops.api.v1.telemetry_pb2 import Ack, TelemetryBatch, TelemetryRecord
from dsops_agent.identity import Fleet, Identity, IdentityFolder

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

    def issue(self, cn: str, public_key: ec.EllipticCurvePublicKey, *, ca: bool = False, days: int = 1) -> bytes:
        now = datetime.now(UTC)
        names = x509.SubjectAlternativeName([x509.DNSName("localhost"), x509.IPAddress(ip_address("127.0.0.1"))])
        return (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, cn)]))
            .issuer_name(self.name)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=10))
            .not_valid_after(now + timedelta(days=days))
            .add_extension(names, critical=False)
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .sign(self.key, hashes.SHA256())
            .public_bytes(serialization.Encoding.PEM)
        )

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


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


class RealBroker:
    """mosquitto with mutual TLS; it can be killed, frozen and started again on the same port."""

    def __init__(self, folder: Path, pki: Pki) -> None:
        self.port = free_port()
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
    telemetry_pb2_grpc.TelemetryServicer, samples_pb2_grpc.SamplesServicer, enrolment_pb2_grpc.EnrolmentServicer
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
        self.break_after_commit = 0
        self.refuse: grpc.StatusCode | None = None
        self.port = free_port()
        self.enrolment_port = free_port()
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
            yield Ack(committed_seq=committed)

    @override
    def Enrol(self, request: EnrolRequest, context: grpc.ServicerContext) -> EnrolReply:
        if self.refuse is not None:
            context.abort(self.refuse, "refused for the test")
        self.enrolled.append(request)
        if self.tokens.get(request.device) != request.token:
            context.abort(grpc.StatusCode.PERMISSION_DENIED, "the token is not valid")
        csr = x509.load_der_x509_csr(request.csr_der)
        assert csr.is_signature_valid
        key = csr.public_key()
        assert isinstance(key, ec.EllipticCurvePublicKey)
        return EnrolReply(
            certificate_pem=self._pki.issue(request.device, key),
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
