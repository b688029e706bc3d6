"""Chunks that a device pulls because the broker has lost them or retains nothing: real server, broker and session."""

import os
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from dsops.api.v1.enrolment_pb2 import EnrolRequest
from dsops.api.v1.enrolment_pb2_grpc import EnrolmentStub
from dsops.bundle import bundle_index, describe_blobs, encode_bundle, sha256_hex
from dsops.clock import SystemClock
from dsops.manifest import Manifest, TensorSpec
from dsops.messages import Connection, Problem
from dsops.topics import Topics
from dsops_agent.commander import Commander
from dsops_agent.install.fetch import Pace, Transfer, Wanted
from dsops_agent.install.mailbox import ChunkCame, ChunkLost, Connected, Mailbox
from dsops_agent.sources.mqtt import MqttChunks
from dsops_agent.transport.mqtt import Life, MqttSession, Settings
from dsops_controller.client import Client
from dsops_controller.fleet.ca import Issued
from dsops_controller.trust import ceremony

pytestmark = pytest.mark.integration

T = Topics()
CAM, MODEL = "cam-1", "digits"
PATIENCE_S = 60.0


class Puller:
    """The agent's session, mailbox and transfer; the installer's place in it is taken by a loop."""

    def __init__(self, port: int, tls: Callable[[], ssl.SSLContext], staging: Path, wanted: Wanted) -> None:
        self.mailbox = Mailbox()
        self.clock = SystemClock()
        self.chunk_bytes = 0
        birth = Connection(device=CAM, online=True, boot_id="b", conn_seq=1).encode()
        life = Life(T.connection(CAM), lambda: 1, lambda _seq, _online: birth)
        settings = Settings(CAM, f"127.0.0.1:{port}", tls, keepalive_s=5, reconnect_max_s=0.2, will_delay_s=0)
        self.commander = Commander(T, CAM, self, self.chunk_arrived)
        self.session = MqttSession(settings, life, self, self.clock)
        self.session.subscribe(T.down(CAM), 1)
        chunks = MqttChunks(self.session, T, CAM, self.chunk_lost)
        self.transfer = Transfer(staging, wanted, chunks, Pace(window=16, timeout_s=0.5))
        self.thread = threading.Thread(target=self.session.run)
        self.thread.start()

    def message(self, topic: str, payload: bytes) -> None:
        self.commander.on_message(topic, payload)

    def connected(self) -> None:
        self.mailbox.put(Connected())

    def disconnected(self) -> None:
        return

    def on_directive(self, data: bytes) -> None:
        return

    def on_trust_head(self, data: bytes) -> None:
        return

    def chunk_arrived(self, digest: str, data: bytes) -> None:
        self.chunk_bytes += len(data)
        self.mailbox.put(ChunkCame(digest, data))

    def chunk_lost(self, digest: str, problem: Problem) -> None:
        self.mailbox.put(ChunkLost(digest, problem))

    def fetch(self) -> bytes:
        """Fetch the file, as the install worker does; the first connection must be there."""
        ends_s = self.clock.monotonic_s() + PATIENCE_S
        self.mailbox.take(0.0)
        self.transfer.start(self.clock.monotonic_s())
        while not self.transfer.done:
            for message in self.mailbox.take(0.05):
                now_s = self.clock.monotonic_s()
                if isinstance(message, ChunkCame):
                    self.transfer.arrived(message.digest, message.data, now_s)
                elif isinstance(message, ChunkLost):
                    self.transfer.lost(message.digest, message.problem, now_s)
            self.transfer.tick(self.clock.monotonic_s())
            assert self.clock.monotonic_s() < ends_s, f"only {self.transfer.progress:.0%} came"
        return self.transfer.path.read_bytes()

    def close(self) -> None:
        self.transfer.close()
        self.session.stop()
        self.thread.join()


def enrol(site: Any, operator: Client, into: Path) -> Path:
    """Enrol a device, so that the controller knows it; return the path of its files without suffix."""
    key = ec.generate_private_key(ec.SECP256R1())
    csr = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    trust = grpc.ssl_channel_credentials((site.folder / "ca" / "ca.crt").read_bytes())
    token = operator.new_token(CAM, 600)["token"]
    request = EnrolRequest(device=CAM, token=token, csr_der=csr.public_bytes(serialization.Encoding.DER))
    with grpc.secure_channel(f"127.0.0.1:{site.ports.enrolment}", trust) as channel:
        reply = EnrolmentStub(channel).Enrol(request, timeout=20)
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    Issued(reply.certificate_pem, pem).save(into, CAM)
    return into / CAM


def bundle(size: int) -> bytes:
    blobs = {"model.tflite": os.urandom(size), "profile.json": b"{}", "golden.bin": b"g"}
    tensor = TensorSpec(name="x", datatype="INT8", shape=(1, 64))
    made = Manifest(model=MODEL, release=1, inputs=(tensor,), outputs=(tensor,), blobs=describe_blobs(blobs))
    return encode_bundle(made, blobs)


@pytest.fixture
def pushed(site: Any, operator: Client, tmp_path: Path) -> bytes:
    """A bundle of 5 MB that no rollout wants yet: the controller has it, the broker does not."""
    data = bundle(5_000_000)
    keys = tmp_path / "keys"
    ceremony.init(keys, site.folder, fleet="test")
    ceremony.grant(keys, site.folder, MODEL)
    (tmp_path / "bundle").write_bytes(data)
    operator.push(data, ceremony.sign_bundle(tmp_path / "bundle", keys, operator.role(f"model-{MODEL}")))
    return data


@pytest.fixture
def puller(site: Any, operator: Client, pushed: bytes, tmp_path: Path) -> Iterator[Puller]:
    identity = enrol(site, operator, tmp_path)
    wanted = Wanted(sha256_hex(pushed), len(pushed), bundle_index(pushed).digest)

    def tls() -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=str(site.folder / "ca" / "ca.crt"))
        context.load_cert_chain(f"{identity}.crt", f"{identity}.key")
        return context

    made = Puller(site.ports.broker, tls, tmp_path / "staging", wanted)
    yield made
    made.close()


@pytest.mark.slow
def test_a_bundle_that_the_broker_lost_is_pulled_and_offered_again(
    site: Any, mosquitto: Any, operator: Client, *, puller: Puller, pushed: bytes, join: Any, eventually: Any
) -> None:
    mosquitto.kill()
    acl = site.folder / "mosquitto" / "acl"
    acl.write_text(f"user cam-2\ntopic write {T.chunk('#')}\n\n{acl.read_text()}")  # a broker that does not keep faith
    mosquitto.start()
    eventually(lambda: puller.session.is_connected, "the device is connected")
    eventually(lambda: operator.summary()["mqtt"]["connected"], "the server is connected")
    operator.create_rollout({"model": MODEL, "release": 1, "cohort": [CAM]})
    index, other = bundle_index(pushed), join("cam-2")
    topics = [T.chunk(digest) for digest in (index.digest, *index.digests)]
    other.subscribe(*topics)
    assert {other.next()[0] for _ in topics} == set(topics), "the broker is offered everything"
    for topic in topics:
        assert other.publish(topic, b"", retain=True) in (0, 0x10)
    other.drain()
    assert puller.fetch() == pushed
    assert puller.chunk_bytes < 1.05 * len(pushed), "what is offered again does not come twice"
    other.subscribe(*topics)
    assert {other.next()[0] for _ in topics} == set(topics), "the broker has it again"


def test_from_a_broker_that_retains_nothing_everything_is_pulled(
    site: Any, late_mosquitto: Any, operator: Client, puller: Puller, pushed: bytes, eventually: Any
) -> None:
    with (site.folder / "mosquitto" / "mosquitto.conf").open("a") as configured:
        configured.write("retain_available false\n")
    late_mosquitto.start()
    eventually(lambda: puller.session.is_connected, "the device is connected")
    eventually(lambda: operator.summary()["mqtt"]["connected"], "the server is connected")
    assert not puller.session.retains
    assert puller.fetch() == pushed
    assert puller.chunk_bytes < 1.05 * len(pushed)
