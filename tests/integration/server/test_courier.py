"""The way of a bundle: pushed over HTTPS, offered over MQTT to an enrolled device, healed when the broker forgets."""

import hashlib
import io
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from dsops.api.v1.enrolment_pb2 import EnrolRequest
from dsops.api.v1.enrolment_pb2_grpc import EnrolmentStub
from dsops.bundle import bundle_index, describe_blobs, encode_bundle
from dsops.chunks import ChunkIndex
from dsops.clock import SystemClock
from dsops.delta import Ends, apply_delta
from dsops.directive import Directive, Recipient, check_directive
from dsops.manifest import Manifest, TensorSpec
from dsops.messages import Connection, ModelState, Need, Observed
from dsops.states import Install
from dsops.topics import Topics
from dsops.trust import Director, Policy
from dsops_agent.trust.store import TrustStore
from dsops_controller.client import Client
from dsops_controller.fleet.ca import Issued
from dsops_controller.trust import ceremony

pytestmark = pytest.mark.integration

T = Topics()
CAM = "cam-1"
MODEL = "digits"


def bundle_bytes(release: int, model: str = MODEL, payload: bytes = b"") -> bytes:
    blobs = {"model.tflite": payload or os.urandom(100_000), "profile.json": b"{}", "golden.bin": b"g"}
    tensor = TensorSpec(name="x", datatype="INT8", shape=(1, 64))
    manifest = Manifest(model=model, release=release, inputs=(tensor,), outputs=(tensor,), blobs=describe_blobs(blobs))
    return encode_bundle(manifest, blobs)


@dataclass
class Fleet:
    """A founded fleet: its offline keys, and the operator."""

    keys: Path
    operator: Client

    def push(self, release: int, model: str = MODEL, payload: bytes = b"") -> tuple[bytes, dict[str, Any]]:
        data = bundle_bytes(release, model, payload)
        path = self.keys.parent / f"{model}-{release}.bundle"
        path.write_bytes(data)
        role = ceremony.sign_bundle(path, self.keys, self.operator.role(f"model-{model}"))
        return data, self.operator.push(data, role)


@pytest.fixture
def fleet(site: Any, mosquitto: Any, operator: Client, tmp_path: Path) -> Fleet:
    keys = tmp_path / "keys"
    ceremony.init(keys, site.folder, fleet="test")
    ceremony.grant(keys, site.folder, MODEL)
    return Fleet(keys, operator)


@pytest.fixture
def key(site: Any, fleet: Fleet, tmp_path: Path) -> ec.EllipticCurvePrivateKey:
    """Enrol the device over gRPC; its key."""
    made = ec.generate_private_key(ec.SECP256R1())
    csr = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(made, hashes.SHA256())
    trust = grpc.ssl_channel_credentials((site.folder / "ca" / "ca.crt").read_bytes())
    with grpc.secure_channel(f"127.0.0.1:{site.ports.enrolment}", trust) as channel:
        reply = EnrolmentStub(channel).Enrol(
            EnrolRequest(
                device=CAM,
                token=fleet.operator.new_token(CAM, 600)["token"],
                csr_der=csr.public_bytes(serialization.Encoding.DER),
            ),
            timeout=20,
        )
    assert (reply.fleet, reply.broker, reply.topic_prefix) == ("test", f"127.0.0.1:{site.ports.broker}", "dsops/v1")
    pem = made.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (site.folder.parent / "identities").mkdir()
    Issued(reply.certificate_pem, pem).save(site.folder.parent / "identities", CAM)
    return made


@pytest.fixture
def device(site: Any, key: object, join_as: Callable[..., Any]) -> Any:
    """The enrolled device, connected and born."""
    connected = join_as(site.folder.parent / "identities" / CAM)
    birth = Connection(device=CAM, online=True, boot_id="b", conn_seq=1)
    assert connected.publish(T.connection(CAM), birth.encode(), retain=True) in (0, 0x10)
    return connected


def gather(device: Any, wanted: set[str]) -> dict[str, bytes]:
    """Return what comes on topics until every one in ``wanted`` was heard."""
    heard: dict[str, bytes] = {}
    while wanted - set(heard):
        topic, payload = device.next()
        heard[topic] = payload
    return heard


def chunk_topics(data: bytes) -> set[str]:
    index = bundle_index(data)
    return {T.chunk(digest) for digest in (index.digest, *index.digests)}


@dataclass
class Believer:
    """A device's trust store, fed by what its connection hears."""

    store: TrustStore
    device: Any

    def take(self, head: bytes) -> int:
        """Take a head in, and fetch what it leads to; return the number of documents that came."""
        held: dict[str, bytes] = {}
        while missing := self.store.accept(MODEL, head, held):
            topics = {T.chunk(digest) for digest in missing}
            self.device.subscribe(*sorted(topics))
            heard = gather(self.device, topics)
            held |= {digest: heard[T.chunk(digest)] for digest in missing}
        return len(held)

    def director(self, head: bytes) -> Director:
        self.take(head)
        return self.store.director()


@pytest.fixture
def believer(site: Any, device: Any, tmp_path: Path) -> Iterator[Believer]:
    root = (site.folder / "trust" / "metadata" / "1.root.json").read_bytes()
    made = Believer(TrustStore(tmp_path / "believer", root, SystemClock()), device)
    yield made
    made.store.close()


def directive_in(heard: dict[str, bytes], director: Director) -> Directive:
    """Verify a directive as a device does, with the director's keys in the trust metadata."""
    recipient = Recipient("test", CAM, director.keyring())
    return check_directive(heard[T.desired(CAM)], recipient, last_seq=0, now=datetime.now(UTC))


def report(key: ec.EllipticCurvePrivateKey, counter: int, seq: int, **models: ModelState) -> bytes:
    now = datetime.now(UTC)
    return Observed(device=CAM, counter=counter, time=now, seq=seq, models=models, clock_suspect=bool(models)).sign(key)


def test_a_rollout_reaches_a_device_and_its_signed_report_ends_it(
    fleet: Fleet,
    device: Any,
    key: ec.EllipticCurvePrivateKey,
    believer: Believer,
    eventually: Callable[..., None],
) -> None:
    data, pushed = fleet.push(1)
    eventually(lambda: fleet.operator.device(CAM)["online"], "the device is online")
    rollout = fleet.operator.create_rollout({"model": MODEL, "release": 1})
    device.subscribe(T.down(CAM), T.trust(), *sorted(chunk_topics(data)))
    heard = gather(device, {T.desired(CAM), T.trust()} | chunk_topics(data))
    directive = directive_in(heard, believer.director(heard[T.trust()]))
    slot = directive.slots[MODEL]
    assert (slot.sha256, slot.release, slot.path) == (pushed["sha256"], 1, pushed["path"])
    index = ChunkIndex.decode(heard[T.chunk(pushed["index_sha256"])])
    assert b"".join(heard[T.chunk(digest)] for digest in index.digests) == data

    state = ModelState(
        active=slot.sha256, active_release=1, install=Install.COMMITTED, deployment=slot.deployment, progress=1.0
    )
    device.publish(T.state(CAM), report(key, 1, directive.seq, digits=state), retain=True)
    eventually(lambda: fleet.operator.rollout(rollout["id"])["state"] == "succeeded", "the rollout succeeds")
    seen = fleet.operator.device(CAM)
    assert (seen["models"][MODEL]["active_release"], seen["models"][MODEL]["install"]) == (1, "committed")
    assert seen["clock_suspect"] is True
    summary = fleet.operator.summary()
    assert (summary["devices"], summary["online"], summary["rollouts_running"]) == (1, 1, 0)
    assert summary["grpc_bytes"] > 0
    eventually(lambda: fleet.operator.summary()["mqtt"]["bytes_in"] > len(data), "the broker counts bytes")


def test_a_broker_that_lost_everything_is_healed(
    site: Any, fleet: Fleet, device: Any, mosquitto: Any, join_as: Callable[..., Any], eventually: Callable[..., None]
) -> None:
    data, _ = fleet.push(1)
    fleet.operator.create_rollout({"model": MODEL, "release": 1, "cohort": [CAM]})
    topics = {T.desired(CAM), T.trust(), T.controller()} | chunk_topics(data)
    device.subscribe(*sorted(topics))
    before = gather(device, topics)
    device.client.disconnect()
    mosquitto.kill()
    eventually(lambda: not fleet.operator.summary()["mqtt"]["connected"], "the server notices")
    mosquitto.forget()
    mosquitto.start()
    eventually(lambda: fleet.operator.summary()["mqtt"]["connections"] == 2, "the server is back")
    again = join_as(site.folder.parent / "identities" / CAM)
    again.subscribe(*sorted(topics))
    after = gather(again, topics)
    assert {t: p for t, p in after.items() if t != T.controller()} == {
        t: p for t, p in before.items() if t != T.controller()
    }
    assert b'"online":true' in after[T.controller()]


def test_chunks_come_on_request_and_are_offered_again(fleet: Fleet, device: Any) -> None:
    data, _ = fleet.push(1)
    fleet.operator.create_rollout({"model": MODEL, "release": 1, "cohort": [CAM]})
    digest = bundle_index(data).digests[1]
    device.subscribe(T.down(CAM), T.chunk(digest))
    gather(device, {T.desired(CAM), T.chunk(digest)})
    device.publish(T.need(CAM), Need(digests=(digest, "00" * 32)).encode())
    heard = gather(device, {T.chunk_answer(CAM), T.chunk(digest)})
    answer = heard[T.chunk_answer(CAM)]
    assert (answer[:32].hex(), hashlib.sha256(answer[32:]).hexdigest()) == (digest, digest)
    assert heard[T.chunk(digest)] == answer[32:]


def test_a_chunk_that_nobody_wants_is_answered_and_not_left_with_the_broker(fleet: Fleet, device: Any) -> None:
    data, _ = fleet.push(1)
    digest = bundle_index(data).digests[1]
    device.subscribe(T.down(CAM), T.chunk(digest))
    device.publish(T.need(CAM), Need(digests=(digest,)).encode())
    assert gather(device, {T.chunk_answer(CAM)})[T.chunk_answer(CAM)][:32].hex() == digest
    assert device.drain() == []


def test_a_device_that_has_the_release_before_is_offered_a_delta(
    fleet: Fleet,
    device: Any,
    key: ec.EllipticCurvePrivateKey,
    believer: Believer,
    eventually: Callable[..., None],
) -> None:
    payload = os.urandom(100_000)
    old, before = fleet.push(1, payload=payload)
    data, pushed = fleet.push(2, payload=bytes((byte + (byte < 9)) & 0xFF for byte in payload))
    eventually(lambda: fleet.operator.device(CAM)["online"], "the device is online")
    state = ModelState(active=before["sha256"], active_release=1, install=Install.COMMITTED, progress=1.0)
    device.publish(T.state(CAM), report(key, 1, 0, digits=state), retain=True)
    eventually(lambda: MODEL in fleet.operator.device(CAM)["models"], "the report is taken")
    fleet.operator.create_rollout({"model": MODEL, "release": 2})
    device.subscribe(T.down(CAM), T.trust())
    heard = gather(device, {T.desired(CAM), T.trust()})
    slot = directive_in(heard, believer.director(heard[T.trust()])).slots[MODEL]
    assert slot.delta is not None
    assert (slot.sha256, slot.delta.base) == (pushed["sha256"], before["sha256"])
    device.subscribe(T.chunk(slot.delta.index))
    index = ChunkIndex.decode(gather(device, {T.chunk(slot.delta.index)})[T.chunk(slot.delta.index)])
    device.publish(T.need(CAM), Need(digests=(index.digests[0],)).encode())
    assert gather(device, {T.chunk_answer(CAM)})[T.chunk_answer(CAM)][:32].hex() == index.digests[0]
    topics = {digest: T.chunk(digest) for digest in index.digests}
    device.subscribe(*sorted(topics.values()))
    heard = gather(device, set(topics.values()))
    delta, made = b"".join(heard[topics[digest]] for digest in index.digests), io.BytesIO()
    assert len(delta) == slot.delta.length_bytes < 0.6 * len(data)
    for _ in apply_delta(io.BytesIO(delta), io.BytesIO(old), made, Ends(slot.delta.base, slot.sha256, len(data))):
        pass
    assert made.getvalue() == data


def test_hostile_messages_are_counted_and_the_server_lives(
    fleet: Fleet, device: Any, key: ec.EllipticCurvePrivateKey, eventually: Callable[..., None]
) -> None:
    stranger = ec.generate_private_key(ec.SECP256R1())
    hostile = [
        (T.connection(CAM), b"not json"),
        (T.connection(CAM), Connection(device="cam-2", online=True, boot_id="b", conn_seq=9).encode()),
        (T.state(CAM), b"\x00" * 100_000),
        (T.state(CAM), report(stranger, 1, 0)),
        (T.need(CAM), b'{"digests":["x"]}'),
    ]
    for number, (topic, payload) in enumerate(hostile, start=1):
        device.publish(topic, payload)
        eventually(lambda n=number: fleet.operator.summary()["mqtt"]["refused"] == n, f"refusal {number} is counted")
    device.publish(T.state(CAM), report(key, 1, 0), retain=True)
    eventually(lambda: fleet.operator.device(CAM)["seen"] is not None, "an honest report is taken")


def test_the_server_says_goodbye(fleet: Fleet, device: Any, server: Any) -> None:
    device.subscribe(T.controller())
    assert b'"online":true' in device.next()[1]
    assert server.terminate() == 0
    assert b'"online":false' in device.next()[1]


def test_the_brokers_will_tells_that_the_server_died(fleet: Fleet, device: Any, server: Any) -> None:
    device.subscribe(T.controller())
    assert b'"online":true' in device.next()[1]
    server.kill()
    assert b'"online":false' in device.next()[1]


def test_a_bundle_that_nobody_wants_leaves_the_broker(fleet: Fleet, device: Any) -> None:
    data, _ = fleet.push(1)
    rollout = fleet.operator.create_rollout({"model": MODEL, "release": 1})
    device.subscribe(T.down(CAM), *sorted(chunk_topics(data)))
    gather(device, {T.desired(CAM)} | chunk_topics(data))
    fleet.operator.abort_rollout(rollout["id"])
    left = chunk_topics(data)
    while left:
        topic, payload = device.next()
        left -= {topic} if payload == b"" else set()


@pytest.mark.slow
def test_what_a_killed_server_had_offered_leaves_the_broker_when_it_is_back(
    fleet: Fleet, device: Any, server: Any
) -> None:
    data, _ = fleet.push(1)
    rollout = fleet.operator.create_rollout({"model": MODEL, "release": 1})
    device.subscribe(T.down(CAM), *sorted(chunk_topics(data)))
    gather(device, {T.desired(CAM)} | chunk_topics(data))
    assert fleet.operator.summary()["retained_bytes"] == len(data)
    fleet.operator.abort_rollout(rollout["id"])
    server.kill()
    server.start()
    left = chunk_topics(data)
    while left:
        topic, payload = device.next()
        left -= {topic} if payload == b"" else set()


def test_without_retained_messages_a_device_is_told_while_it_is_there_and_pulls(
    site: Any, fleet: Fleet, key: object, mosquitto: Any, join_as: Callable[..., Any], eventually: Callable[..., None]
) -> None:
    data, _ = fleet.push(1)
    mosquitto.kill()
    eventually(lambda: not fleet.operator.summary()["mqtt"]["connected"], "the server notices")
    with (site.folder / "mosquitto" / "mosquitto.conf").open("a") as configuration:
        configuration.write("retain_available false\n")
    mosquitto.start()
    eventually(lambda: fleet.operator.summary()["mqtt"]["connections"] == 2, "the server is back")
    device = join_as(site.folder.parent / "identities" / CAM)
    chunks = chunk_topics(data)
    device.subscribe(T.down(CAM), T.trust(), *sorted(chunks))
    fleet.operator.create_rollout({"model": MODEL, "release": 1, "cohort": [CAM]})
    heard = gather(device, {T.desired(CAM), T.trust()})
    digest = bundle_index(data).digests[0]
    device.publish(T.need(CAM), Need(digests=(digest,)).encode())
    heard |= gather(device, {T.chunk_answer(CAM)})
    assert heard[T.chunk_answer(CAM)][:32].hex() == digest
    heard |= dict(device.drain())
    assert not chunks & set(heard), "nothing is offered that nobody would keep"


def test_a_policy_that_people_sign_reaches_devices(site: Any, fleet: Fleet, device: Any, believer: Believer) -> None:
    fleet.push(1)
    device.subscribe(T.trust())
    believer.take(device.next()[1])
    ceremony.set_policy(fleet.keys, site.folder, Policy(model=MODEL, floor=3))
    head = device.next()[1]
    assert believer.take(head) == 3, "snapshot, role and policy"
    assert believer.store.policy(MODEL).floor == 3


def test_one_head_tells_of_every_model(site: Any, fleet: Fleet, device: Any, believer: Believer) -> None:
    ceremony.grant(fleet.keys, site.folder, "words")
    fleet.push(1)
    fleet.push(1, "words")
    device.subscribe(T.trust())
    versions = [timestamp_version(payload) for _, payload in device.drain()]
    fleet.push(2)
    _, head = device.next()
    assert timestamp_version(head) > max(versions)
    believer.take(head)
    assert believer.store.target(MODEL, f"{MODEL}/2.int8.bundle") is not None


def test_documents_that_no_head_leads_to_leave_the_broker(
    site: Any, fleet: Fleet, device: Any, believer: Believer
) -> None:
    fleet.push(1)
    device.subscribe(T.trust())
    first = device.next()[1]
    snapshot = T.chunk(json.loads(first)["signed"]["meta"]["snapshot.json"]["hashes"]["sha256"])
    believer.take(first)
    device.subscribe(snapshot)
    assert gather(device, {snapshot})[snapshot]
    fleet.push(2)
    payload = b"kept"
    while payload:
        payload = gather(device, {snapshot})[snapshot]


def test_documents_come_on_request_too(fleet: Fleet, device: Any) -> None:
    fleet.push(1)
    device.subscribe(T.trust(), T.down(CAM))
    snapshot = json.loads(device.next()[1])["signed"]["meta"]["snapshot.json"]["hashes"]["sha256"]
    device.publish(T.need(CAM), Need(digests=(snapshot,)).encode())
    answer = gather(device, {T.chunk_answer(CAM)})[T.chunk_answer(CAM)]
    assert (answer[:32].hex(), hashlib.sha256(answer[32:]).hexdigest()) == (snapshot, snapshot)


def timestamp_version(head: bytes) -> int:
    return int(json.loads(head)["signed"]["version"])
