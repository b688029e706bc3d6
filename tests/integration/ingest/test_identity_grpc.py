"""Who may call what over the real gRPC interfaces: renewal, hostile enrolment, health and reflection on both ports."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dsops.api.v1.enrolment_pb2 import EnrolReply, EnrolRequest, RenewRequest
from dsops.api.v1.enrolment_pb2_grpc import EnrolmentStub, RenewalStub
from dsops.api.v1.telemetry_pb2_grpc import TelemetryStub
from dsops.states import Device
from dsops_controller.fleet.enrolment import CLAIM_BURST, STRANGER_BURST
from dsops_controller.fleet.issuer import device_of
from dsops_controller.server.ingest import address
from dsops_controller.server.refusals import CODE_KEY

pytestmark = pytest.mark.integration

Key = ec.EllipticCurvePrivateKey
STATUS = grpc.StatusCode


def new_key() -> Key:
    return ec.generate_private_key(ec.SECP256R1())


def request(key: Key | rsa.RSAPrivateKey, *extensions: x509.ExtensionType, name: str = "ignored") -> bytes:
    builder = x509.CertificateSigningRequestBuilder()
    builder = builder.subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
    for extension in extensions:
        builder = builder.add_extension(extension, critical=True)
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


def pem(key: Key) -> bytes:
    form = serialization.PrivateFormat.PKCS8
    return key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())


def refused(call: Callable[[], object]) -> tuple[grpc.StatusCode, str]:
    """Return status and code of a refusal."""
    with pytest.raises(grpc.RpcError) as caught:
        call()
    metadata = {key: str(value) for key, value in caught.value.trailing_metadata() or ()}
    return caught.value.code(), metadata.get(CODE_KEY, "")


def renew(channel: grpc.Channel, key: Key) -> EnrolReply:
    reply: EnrolReply = RenewalStub(channel).Renew(RenewRequest(csr_der=request(key)), timeout=20)
    return reply


def enrol(channel: grpc.Channel, asked: EnrolRequest) -> EnrolReply:
    reply: EnrolReply = EnrolmentStub(channel).Enrol(asked, timeout=20)
    return reply


def test_a_device_renews_and_its_old_certificate_ends_when_the_new_one_is_used(site: Any) -> None:
    old, key = site.as_device("cam-1"), new_key()
    told = renew(old, key)
    assert told.ca_pem == site.authority.certificate_pem
    leaf = x509.load_pem_x509_certificate(told.certificate_pem)
    assert (device_of(leaf), leaf.public_key()) == ("cam-1", key.public_key())
    assert list(TelemetryStub(old).Report(iter(()), timeout=20)) == []
    new = site.channel(told.certificate_pem, pem(key))
    assert list(TelemetryStub(new).Report(iter(()), timeout=20)) == []
    assert refused(lambda: list(TelemetryStub(old).Report(iter(()), timeout=20)))[0] is STATUS.UNAUTHENTICATED
    assert refused(lambda: renew(old, new_key()))[0] is STATUS.UNAUTHENTICATED


def test_a_device_cannot_renew_for_another(site: Any) -> None:
    """The request has no name; what the signing request says is ignored, and so is a name smuggled in."""
    site.add_device("cam-2")
    channel, key = site.as_device("cam-2"), new_key()
    victim = x509.SubjectAlternativeName([x509.UniformResourceIdentifier("urn:dsops:device:cam-1")])
    data = RenewRequest(csr_der=request(key, victim, name="cam-1")).SerializeToString()
    raw = channel.unary_unary("/dsops.api.v1.Renewal/Renew", response_deserializer=EnrolReply.FromString)
    smuggled = EnrolRequest(device="cam-1").SerializeToString()
    for body in (data, smuggled + data):  # field 1 of EnrolRequest is a name; here it is the signing request
        told = raw(body, timeout=20)
        leaf = x509.load_pem_x509_certificate(told.certificate_pem)
        assert device_of(leaf) == "cam-2"
        assert leaf.subject.rfc4514_string() == "CN=cam-2"
    assert site.registry.get("cam-1").serial is None


@pytest.mark.parametrize("state", [state for state in Device if state is not Device.ACCEPTED])
def test_who_takes_no_part_renews_nothing(site: Any, state: Device) -> None:
    channel = site.as_device("cam-1")
    site.set_state("cam-1", state)
    assert refused(lambda: renew(channel, new_key()))[0] is STATUS.PERMISSION_DENIED


def test_a_certificate_that_names_no_device_renews_nothing(site: Any) -> None:
    program = site.authority.issue_client("cam-1")
    channel = site.channel(program.certificate_pem, program.key_pem)
    assert refused(lambda: renew(channel, new_key())) == (STATUS.UNAUTHENTICATED, "request.unauthorized")


def test_renewal_refuses_by_name_what_is_malformed(site: Any) -> None:
    channel = site.as_device("cam-1")
    raw = channel.unary_unary("/dsops.api.v1.Renewal/Renew")
    huge = RenewRequest(csr_der=bytes(3 << 20)).SerializeToString()
    for body in (b"", b"\xff\xff", RenewRequest(csr_der=b"x").SerializeToString(), huge):
        assert refused(lambda body=body: raw(body, timeout=20)) == (STATUS.INVALID_ARGUMENT, "request.invalid_input")


def test_strangers_have_no_renewal_and_members_no_enrolment_port(site: Any) -> None:
    assert refused(lambda: renew(site.channel(which=1), new_key()))[0] is STATUS.UNIMPLEMENTED
    assert refused(lambda: renew(site.channel(), new_key()))[0] is STATUS.UNAVAILABLE  # no certificate, no connection
    assert refused(lambda: enrol(site.as_device("cam-1"), EnrolRequest()))[0] is STATUS.UNIMPLEMENTED


def test_a_suspension_counts_from_the_next_message_on(site: Any) -> None:
    """In the same process at once: no poll lies between the operator's word and the next message."""
    channel = site.as_device("cam-1")
    go_on, done = threading.Event(), threading.Event()

    def batches() -> Any:
        go_on.wait(20)
        yield b"\xff"  # would be refused as malformed, were it looked at

    call = channel.stream_stream("/dsops.api.v1.Telemetry/Report")(batches(), timeout=20)
    call.add_done_callback(lambda _: done.set())
    assert list(TelemetryStub(channel).Report(iter(()), timeout=20)) == []
    site.registry.suspend("cam-1")
    go_on.set()
    assert done.wait(20)
    assert call.code() is STATUS.PERMISSION_DENIED


def test_a_stranger_waits_and_the_operator_sees_where_it_came_from(site: Any) -> None:
    channel, key = site.channel(which=1), new_key()
    asked = EnrolRequest(device="cam-9", csr_der=request(key), facts={"hardware": "test"})
    told = enrol(channel, asked)
    assert (told.pending, told.certificate_pem, told.retry_s > 0) == (True, b"", True)
    shown = site.registry.get("cam-9")
    assert (shown.state, shown.origin, shown.inventory.hardware) == (Device.PENDING, "127.0.0.1", "test")
    site.registry.accept("cam-9")
    told = enrol(channel, asked)
    assert not told.pending
    assert list(TelemetryStub(site.channel(told.certificate_pem, pem(key))).Report(iter(()), timeout=20)) == []


def test_each_refusal_of_enrolment_has_its_own_code(site: Any) -> None:
    channel, key, other = site.channel(which=1), new_key(), new_key()
    token = site.enrolment.new_token("cam-9", 60.0)
    site.enrolment.new_token("cam-8", 60.0)
    enrol(channel, EnrolRequest(device="cam-9", token=token, csr_der=request(key)))
    asked = {
        "enrolment.token_used": EnrolRequest(device="cam-9", token=token, csr_der=request(other)),
        "enrolment.token_unknown": EnrolRequest(device="cam-8", token=token, csr_der=request(other)),
        "enrolment.identity_taken": EnrolRequest(device="cam-9", csr_der=request(other)),
    }
    for code, message in asked.items():
        assert refused(lambda message=message: enrol(channel, message)) == (STATUS.PERMISSION_DENIED, code)
    site.registry.suspend("cam-9")
    barred = EnrolRequest(device="cam-9", token=token, csr_der=request(key))
    assert refused(lambda: enrol(channel, barred)) == (STATUS.PERMISSION_DENIED, "enrolment.device_barred")


def test_a_flood_of_strangers_meets_its_limits_and_a_token_still_works(site: Any) -> None:
    flood, csr = site.channel(which=1), request(new_key())
    token, key = site.enrolment.new_token("cam-9", 600.0), new_key()

    def one(number: int) -> grpc.StatusCode:
        call = EnrolmentStub(flood).Enrol.future(EnrolRequest(device=f"flood-{number}", csr_der=csr), timeout=60)
        code: grpc.StatusCode = call.code()
        return code

    with ThreadPoolExecutor(8) as threads:
        calls = threads.map(one, range(int(STRANGER_BURST) + 200))
        told = enrol(site.channel(which=1), EnrolRequest(device="cam-9", token=token, csr_der=request(key)))
        codes = list(calls)
    assert told.certificate_pem
    assert set(codes) == {STATUS.OK, STATUS.RESOURCE_EXHAUSTED}
    assert CLAIM_BURST <= codes.count(STATUS.OK) < 2 * CLAIM_BURST
    assert len(site.registry.list(Device.PENDING)) == codes.count(STATUS.OK)


HOSTILE = {
    "nothing": EnrolRequest,
    "a name with traversal": lambda: EnrolRequest(device="../../etc/passwd", csr_der=request(new_key())),
    "a name with a wildcard": lambda: EnrolRequest(device="cam/+", csr_der=request(new_key())),
    "the controller's name": lambda: EnrolRequest(device="controller", csr_der=request(new_key())),
    "a name of 65": lambda: EnrolRequest(device="c" * 65, csr_der=request(new_key())),
    "a token of 10 kB": lambda: EnrolRequest(device="cam-9", token="x" * 10_000, csr_der=request(new_key())),
    "no request": lambda: EnrolRequest(device="cam-9", csr_der=b"junk"),
    "a request of 60 kB": lambda: EnrolRequest(device="cam-9", csr_der=bytes(60_000)),
    "a request with 8 kB of names": lambda: EnrolRequest(
        device="cam-9",
        csr_der=request(new_key(), x509.SubjectAlternativeName([x509.DNSName("a" * 60)] * 200)),
    ),
    "an RSA key": lambda: EnrolRequest(device="cam-9", csr_der=request(rsa.generate_private_key(65537, 2048))),
    "P-384": lambda: EnrolRequest(device="cam-9", csr_der=request(ec.generate_private_key(ec.SECP384R1()))),
    "a signature of another": lambda: EnrolRequest(device="cam-9", csr_der=bytes(request(new_key())[:-1]) + b"\x00"),
    "facts of no number": lambda: EnrolRequest(device="cam-9", csr_der=request(new_key()), facts={"cpus": "many"}),
    "a short content key": lambda: EnrolRequest(device="cam-9", csr_der=request(new_key()), content_public_key=b"x"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_application_is_an_invalid_argument(site: Any, name: str) -> None:
    found = refused(lambda: enrol(site.channel(which=1), HOSTILE[name]()))
    assert found == (STATUS.INVALID_ARGUMENT, "request.invalid_input")
    assert [record.id for record in site.registry.list()] == ["cam-1"]


def test_a_message_that_is_too_long_is_not_even_read(site: Any) -> None:
    assert refused(lambda: enrol(site.channel(which=1), EnrolRequest(csr_der=bytes(100_000))))[0] is (
        STATUS.RESOURCE_EXHAUSTED
    )


def test_what_a_request_wishes_for_itself_is_ignored(site: Any) -> None:
    key = new_key()
    wishes = (
        x509.BasicConstraints(ca=True, path_length=None),
        x509.SubjectAlternativeName([x509.UniformResourceIdentifier("urn:dsops:device:cam-1"), x509.DNSName("x")]),
    )
    token = site.enrolment.new_token("cam-9", 60.0)
    asked = EnrolRequest(device="cam-9", token=token, csr_der=request(key, *wishes, name="controller"))
    leaf = x509.load_pem_x509_certificate(enrol(site.channel(which=1), asked).certificate_pem)
    assert leaf.subject.rfc4514_string() == "CN=cam-9"
    assert not leaf.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert list(names) == [x509.UniformResourceIdentifier("urn:dsops:device:cam-9")]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=300))
def test_random_bytes_never_end_as_unknown(site: Any, data: bytes) -> None:
    strange, known = site.channel(which=1), site.as_device("cam-1")
    allowed = {STATUS.INVALID_ARGUMENT, STATUS.RESOURCE_EXHAUSTED}
    assert refused(lambda: strange.unary_unary("/dsops.api.v1.Enrolment/Enrol")(data, timeout=20))[0] in allowed
    assert refused(lambda: known.unary_unary("/dsops.api.v1.Renewal/Renew")(data, timeout=20))[0] in allowed


@pytest.mark.parametrize(
    ("which", "services"),
    [
        (0, {"dsops.api.v1.Telemetry", "dsops.api.v1.Samples", "dsops.api.v1.Renewal"}),
        (1, {"dsops.api.v1.Enrolment"}),
    ],
)
def test_health_and_reflection_answer_independent_clients(site: Any, which: int, services: set[str]) -> None:
    channel = site.channel(which=1) if which else site.as_device("cam-1")
    check = health_pb2_grpc.HealthStub(channel).Check
    for service in ("", *services):
        assert check(health_pb2.HealthCheckRequest(service=service), timeout=20).status == 1
    assert refused(lambda: check(health_pb2.HealthCheckRequest(service="nothing"), timeout=20))[0] is STATUS.NOT_FOUND
    database = ProtoReflectionDescriptorDatabase(channel)
    assert set(database.get_services()) >= services | {"grpc.health.v1.Health"}
    for service in services:
        file = database.FindFileContainingSymbol(service)
        assert service.rpartition(".")[2] in [found.name for found in file.service]


def test_health_is_open_to_who_is_shut_out(site: Any) -> None:
    """It tells nothing; a device learns by it that the store is there and that it is itself who is refused."""
    channel = site.as_device("cam-1")
    site.registry.suspend("cam-1")
    assert health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=20).status == 1


@pytest.mark.parametrize(
    ("peer", "expected"),
    [
        ("ipv4:192.0.2.7:5000", "192.0.2.7"),
        ("ipv6:%5B2001:db8:1:2:3:4:5:6%5D:5000", "2001:db8:1:2::/64"),
        ("ipv6:[::ffff:192.0.2.7]:5000", "192.0.2.7"),
        ("ipv6:%5Bfe80::1%25eth0%5D:5000", "fe80::/64"),
        ("unix:/tmp/x", "unix:/tmp/x"),
        ("", ""),
    ],
)
def test_an_address_is_that_of_a_host_or_of_its_network(peer: str, expected: str) -> None:
    assert address(peer) == expected
