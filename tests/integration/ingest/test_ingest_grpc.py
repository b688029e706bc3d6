"""Devices against the real gRPC interfaces: mutual TLS, admission, hostile messages, back-pressure, enrolment."""

import queue
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from dsops.api.v1.enrolment_pb2 import EnrolReply, EnrolRequest
from dsops.api.v1.enrolment_pb2_grpc import EnrolmentStub
from dsops.api.v1.samples_pb2 import SampleBatch
from dsops.api.v1.samples_pb2_grpc import SamplesStub
from dsops.api.v1.telemetry_pb2 import Ack, TelemetryBatch
from dsops.api.v1.telemetry_pb2_grpc import TelemetryStub
from dsops.clock import SystemClock
from dsops.errors import PortBusy
from dsops.states import Device
from dsops_controller.dataops.inbox import Limits
from dsops_controller.dataops.testing import host, sample, sample_batch, telemetry_batch
from dsops_controller.fleet.ca import Authority
from dsops_controller.fleet.enrolment import ReplySettings
from dsops_controller.fleet.renewal import Renewal
from dsops_controller.fleet.standing import Changes
from dsops_controller.server.ingest import Endpoint, IngestServer, Services, Tls
from dsops_controller.server.refusals import CODE_KEY, PAUSE_KEY

pytestmark = pytest.mark.integration

A, B = b"a" * 16, b"b" * 16
CLOCK = SystemClock()


def now_us() -> int:
    return time.time_ns() // 1000


def request(key: ec.EllipticCurvePrivateKey) -> bytes:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "ignored")])
    csr = x509.CertificateSigningRequestBuilder().subject_name(name).sign(key, hashes.SHA256())
    return csr.public_bytes(serialization.Encoding.DER)


def pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    form = serialization.PrivateFormat.PKCS8
    return key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())


def report(channel: grpc.Channel, *batches: TelemetryBatch) -> list[Ack]:
    return list(TelemetryStub(channel).Report(iter(batches), timeout=20))


def refusal(channel: grpc.Channel, *batches: TelemetryBatch) -> grpc.RpcError:
    with pytest.raises(grpc.RpcError) as caught:
        report(channel, *batches)
    return caught.value


def one(seq: int = 1) -> TelemetryBatch:
    return telemetry_batch(A, [seq], [host(now_us())])


def test_batches_are_acknowledged_after_the_commit_and_stored_once(site: Any) -> None:
    channel = site.as_device("cam-1")
    assert [ack.committed_seq for ack in report(channel, one(1), one(2), one(2), one(1))] == [1, 2, 2, 2]
    samples = sample_batch(B, [1, 2], [sample(now_us(), [1.0]), sample(now_us(), [2.0])])
    acks = list(SamplesStub(channel).Upload(iter([samples]), timeout=20))
    assert [ack.committed_seq for ack in acks] == [2]
    assert site.stored() == 4


def test_an_acknowledgement_arrives_before_the_next_batch_is_sent(site: Any) -> None:
    waiting: queue.Queue[TelemetryBatch | None] = queue.Queue()
    call = TelemetryStub(site.as_device("cam-1")).Report(iter(waiting.get, None), timeout=20)
    for seq in (1, 2, 3):
        waiting.put(one(seq))
        assert next(call).committed_seq == seq
        assert site.stored() == seq
    waiting.put(None)
    assert list(call) == []


def test_traffic_counts_serialized_messages(site: Any) -> None:
    batch = one()
    (ack,) = report(site.as_device("cam-1"), batch)
    traffic = site.server.traffic()
    assert (traffic.messages_in, traffic.messages_out) == (1, 1)
    assert (traffic.bytes_in, traffic.bytes_out) == (batch.ByteSize(), ack.ByteSize())
    assert traffic.grpc_bytes == batch.ByteSize() + ack.ByteSize()


def test_without_a_certificate_there_is_no_connection(site: Any) -> None:
    assert refusal(site.channel(), one()).code() is grpc.StatusCode.UNAVAILABLE


def test_a_certificate_of_another_ca_is_no_connection(site: Any, tmp_path: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    foreign = Authority.create(tmp_path / "foreign", "fleet", CLOCK).issue_device(request(key), "cam-1")
    assert refusal(site.channel(foreign.certificate_pem, pem(key)), one()).code() is grpc.StatusCode.UNAVAILABLE
    assert site.stored() == 0


def test_a_certificate_that_names_no_device_is_unauthenticated(site: Any) -> None:
    program = site.authority.issue_client("controller")
    server = site.authority.issue_server(["cam-1"])
    for issued in (program, server):
        error = refusal(site.channel(issued.certificate_pem, issued.key_pem), one())
        # gRPC's TLS may refuse a server's certificate by its purpose; either way nothing is stored.
        assert error.code() in {grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.UNAVAILABLE}
    assert refusal(site.channel(program.certificate_pem, program.key_pem), one()).code() is (
        grpc.StatusCode.UNAUTHENTICATED
    )
    assert site.stored() == 0


@pytest.mark.parametrize("state", [state for state in Device if state is not Device.ACCEPTED])
def test_only_accepted_devices_may_speak(site: Any, state: Device) -> None:
    site.add_device("cam-2", state)
    assert refusal(site.as_device("cam-2"), one()).code() is grpc.StatusCode.PERMISSION_DENIED
    assert site.stored() == 0


def test_a_certificate_that_the_register_does_not_know_is_unauthenticated(site: Any) -> None:
    """Signed by the right authority, but never entered: the database is the truth."""
    key = ec.generate_private_key(ec.SECP256R1())
    for name in ("cam-1", "ghost"):
        issued = site.authority.issue_device(request(key), name)
        error = refusal(site.channel(issued.certificate_pem, pem(key)), one())
        assert error.code() is grpc.StatusCode.UNAUTHENTICATED
    assert site.stored() == 0


def test_a_suspended_device_loses_its_open_stream_without_a_word(site: Any) -> None:
    waiting: queue.Queue[TelemetryBatch | None] = queue.Queue()
    call = TelemetryStub(site.as_device("cam-1")).Report(iter(waiting.get, None), timeout=20)
    waiting.put(one())
    assert next(call).committed_seq == 1
    site.set_state("cam-1", Device.SUSPENDED)
    with pytest.raises(grpc.RpcError) as caught:
        next(call)
    waiting.put(None)
    assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED


def with_seqs(*seqs: int) -> TelemetryBatch:
    batch = telemetry_batch(A, [1, 2], [host(now_us()), host(now_us())])
    batch.seqs[:] = seqs
    return batch


HOSTILE = {
    "short stream id": lambda: telemetry_batch(b"abc", [1], [host(now_us())]).SerializeToString(),
    "no stream id": lambda: b"",
    "falling numbers": lambda: with_seqs(2, 1).SerializeToString(),
    "equal numbers": lambda: with_seqs(1, 1).SerializeToString(),
    "too few numbers": lambda: with_seqs(1).SerializeToString(),
    "number out of range": lambda: with_seqs(1, 2**64 - 1).SerializeToString(),
    "not a message": lambda: b"\xff" * 40,
    "not UTF-8": lambda: one().SerializeToString() + b"\x1a\x06\x0a\x04\x1a\x02\xff\xfe",
}


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("path", ["/dsops.api.v1.Telemetry/Report", "/dsops.api.v1.Samples/Upload"])
def test_a_hostile_message_is_an_invalid_argument(site: Any, name: str, path: str) -> None:
    call = site.as_device("cam-1").stream_stream(path)
    with pytest.raises(grpc.RpcError) as caught:
        list(call(iter([HOSTILE[name]()]), timeout=20))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert dict(caught.value.trailing_metadata() or ())[CODE_KEY] == "request.invalid_input"
    assert site.stored() == 0


def test_a_message_above_four_mebibytes_is_refused(site: Any) -> None:
    huge = sample_batch(B, [1], [sample(now_us(), [0.0] * (1 << 20))])
    with pytest.raises(grpc.RpcError) as caught:
        list(SamplesStub(site.as_device("cam-1")).Upload(iter([huge]), timeout=20))
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert site.stored() == 0


def test_a_stream_of_another_kind_is_refused(site: Any) -> None:
    channel = site.as_device("cam-1")
    report(channel, one())
    batch = SampleBatch(stream=A, seqs=[2], samples=[sample(now_us(), [1.0])], produced=2)
    with pytest.raises(grpc.RpcError) as caught:
        list(SamplesStub(channel).Upload(iter([batch]), timeout=20))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_a_full_inbox_asks_for_a_pause(make_site: Callable[..., Any]) -> None:
    site = make_site(limits=Limits(batches=1), writes=False)
    site.add_device("cam-1")
    channel = site.as_device("cam-1")
    waiting = TelemetryStub(channel).Report(iter([one()]), timeout=20)
    while site.inbox.pause_ms() == 0:
        time.sleep(0.01)
    error = refusal(channel, telemetry_batch(B, [1], [host(now_us())]))
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert int(str(dict(error.trailing_metadata() or ())[PAUSE_KEY])) > 0
    site.inbox.start()
    assert [ack.committed_seq for ack in waiting] == [1]


def test_a_device_enrols_and_then_reports(site: Any) -> None:
    token = site.enrolment.new_token("cam-9", 60.0)
    key = ec.generate_private_key(ec.SECP256R1())
    asked = EnrolRequest(device="cam-9", token=token, csr_der=request(key), facts={"hardware": "test"})
    told: EnrolReply = EnrolmentStub(site.channel(which=1)).Enrol(asked, timeout=20)
    assert (told.fleet, told.broker, told.store) == ("fleet", "localhost:8883", "localhost:8444")
    assert told.ca_pem == site.authority.certificate_pem
    assert [ack.committed_seq for ack in report(site.channel(told.certificate_pem, pem(key)), one())] == [1]


def test_the_enrolment_port_takes_no_telemetry(site: Any) -> None:
    assert refusal(site.channel(which=1), one()).code() is grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize("busy", [0, 1])
def test_a_busy_port_is_named(site: Any, busy: int) -> None:
    issued = site.authority.issue_server(["localhost"])
    renewal = Renewal(site.db, site.authority, CLOCK, ReplySettings("fleet", "b:1", "s:1", "dsops/v1"))
    services = Services(site.db, site.inbox, site.enrolment, renewal, Changes(site.db), CLOCK)
    tls = Tls(issued.key_pem, issued.certificate_pem, site.authority.certificate_pem)
    with socket.create_server(("127.0.0.1", 0)) as holder:
        endpoints = [Endpoint("127.0.0.1", 0), Endpoint("127.0.0.1", 0)]
        for port in (holder.getsockname()[1], site.ports[0]):  # another program, another server of ours
            endpoints[busy] = Endpoint("127.0.0.1", port)
            with pytest.raises(PortBusy, match=str(port)):
                IngestServer(services, tls, endpoints[0], endpoints[1]).start()


def test_stopping_ends_open_streams(site: Any) -> None:
    waiting: queue.Queue[TelemetryBatch | None] = queue.Queue()
    call = TelemetryStub(site.as_device("cam-1")).Report(iter(waiting.get, None), timeout=20)
    waiting.put(one())
    assert next(call).committed_seq == 1
    site.server.stop(0.1)
    with pytest.raises(grpc.RpcError):
        next(call)
    waiting.put(None)
    assert site.stored() == 1
