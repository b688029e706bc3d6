"""What the access control list allows, asked of a real mosquitto with real certificates."""

import os
import signal
import socket
import ssl
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from dsops.clock import ManualClock, SystemClock
from dsops.errors import BrokerUnreachable
from dsops_controller.fleet.ca import Authority, Issued
from dsops_controller.server.eviction import Evictor
from dsops_controller.server.mosquitto import access_control

pytestmark = pytest.mark.integration

NOT_AUTHORIZED = 0x87
NOBODY_LISTENS = 0x10
P = "dsops/v1"
Join = Callable[..., Any]


@pytest.mark.parametrize(
    "topic",
    [
        f"{P}/d/cam-2/up/state",
        f"{P}/d/cam-2/up/conn",
        f"{P}/d/cam-1/dn/desired",
        f"{P}/d/cam-2/dn/desired",
        f"{P}/c/{'ab' * 32}",
        f"{P}/t/head",
        f"{P}/ctl/state",
        "elsewhere",
    ],
)
def test_a_device_cannot_write_what_is_not_its_own(join: Join, topic: str) -> None:
    assert join("cam-1").publish(topic, retain=True) == NOT_AUTHORIZED


def test_a_device_writes_its_own_reports_and_the_controller_reads_them(join: Join) -> None:
    controller, device = join("controller"), join("cam-1")
    controller.subscribe(f"{P}/d/+/up/#")
    assert device.publish(f"{P}/d/cam-1/up/state", b"mine") == 0
    assert controller.next() == (f"{P}/d/cam-1/up/state", b"mine")


@pytest.mark.parametrize("tail", ["up/state/1", "up/x", "up", "up/ack"])
def test_a_device_writes_nothing_that_nobody_reads_for_the_broker_would_keep_it(join: Join, tail: str) -> None:
    assert join("cam-1").publish(f"{P}/d/cam-1/{tail}", b"junk", retain=True) == NOT_AUTHORIZED


def test_a_device_reads_its_own_directive_and_public_topics_only(join: Join) -> None:
    controller, device = join("controller"), join("cam-1")
    device.subscribe(f"{P}/d/+/dn/#", f"{P}/d/+/up/#", f"{P}/t/#", f"{P}/c/#", f"{P}/ctl/#", "$SYS/#")
    mine = {f"{P}/d/cam-1/dn/desired", f"{P}/t/head", f"{P}/c/{'ab' * 32}", f"{P}/ctl/state"}
    for topic in (f"{P}/d/cam-2/dn/desired", *sorted(mine)):
        assert controller.publish(topic) in (0, NOBODY_LISTENS)
    assert {topic for topic, _ in device.drain()} == mine


def test_a_device_cannot_take_another_ones_place(join: Join) -> None:
    victim = join("cam-1")
    thief = join("cam-2", client_id="cam-1")
    assert victim.publish(f"{P}/d/cam-1/up/state") in (0, NOBODY_LISTENS)
    assert thief.publish(f"{P}/d/cam-1/up/state") == NOT_AUTHORIZED
    assert victim.client.is_connected()


def test_the_controller_reads_the_brokers_figures(join: Join) -> None:
    controller = join("controller")
    controller.subscribe("$SYS/broker/bytes/sent")
    topic, payload = controller.next()
    assert topic == "$SYS/broker/bytes/sent"
    assert payload.isdigit()


def greeting(context: ssl.SSLContext, port: int) -> bytes:
    """Return the first byte of the broker's answer to an MQTT CONNECT; empty when it closes the connection."""
    connect = b"\x10\x11\x00\x04MQTT\x05\x02\x00\x3c\x00\x00\x04evil"
    try:
        with (
            socket.create_connection(("127.0.0.1", port)) as plain,
            context.wrap_socket(plain, server_hostname="127.0.0.1") as secure,
        ):
            secure.sendall(connect)
            return secure.recv(1)
    except (ssl.SSLError, ConnectionError):
        return b""


@pytest.mark.usefixtures("mosquitto")
def test_without_a_certificate_there_is_no_session(site: Any) -> None:
    ca = site.folder / "ca"
    context = ssl.create_default_context(cafile=str(ca / "ca.crt"))
    assert greeting(context, site.ports.broker) == b""
    context.load_cert_chain(ca / "controller.crt", ca / "controller.key")
    assert greeting(context, site.ports.broker) == b"\x20"


@pytest.mark.usefixtures("mosquitto")
@pytest.mark.parametrize("case", ["good", "foreign authority", "expired", "not yet valid", "a server's", "self-made"])
def test_only_a_valid_certificate_of_the_fleet_is_let_in(site: Any, tmp_path: Path, case: str) -> None:
    clocks = {"expired": timedelta(days=-91), "not yet valid": timedelta(days=2)}
    authority = Authority.load(site.folder / "ca", ManualClock(datetime.now(UTC) + clocks.get(case, timedelta())))
    if case == "foreign authority":
        authority = Authority.create(tmp_path / "foreign", "test", SystemClock())
    key = ec.generate_private_key(ec.SECP256R1())
    csr = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    made = authority.issue_device(csr.public_bytes(serialization.Encoding.DER), "cam-1").certificate_pem
    issued = Issued(made, key.private_bytes(*form))
    if case == "a server's":
        issued = authority.issue_server(["cam-1"])
    if case == "self-made":
        leaf = x509.load_pem_x509_certificate(made)
        issued = Authority(leaf, key, SystemClock()).issue_client("cam-2")
    issued.save(tmp_path, "cam-1")
    context = ssl.create_default_context(cafile=str(site.folder / "ca" / "ca.crt"))
    context.load_cert_chain(tmp_path / "cam-1.crt", tmp_path / "cam-1.key")
    assert (greeting(context, site.ports.broker) == b"\x20") is (case == "good")


def test_a_will_is_bound_by_the_access_list_too(site: Any, join: Join) -> None:
    """Else a device would speak for another by leaving a will and going away."""
    controller = join("controller")
    controller.subscribe(f"{P}/d/+/up/#")
    identity = join("cam-1") and site.folder.parent / "cam-1"
    context = ssl.create_default_context(cafile=str(site.folder / "ca" / "ca.crt"))
    context.load_cert_chain(f"{identity}.crt", f"{identity}.key")
    for victim in ("cam-2", "cam-1"):
        topic = f"{P}/d/{victim}/up/conn".encode()
        will = b"\x00" + len(topic).to_bytes(2, "big") + topic + b"\x00\x01w"
        body = b"\x00\x04MQTT\x05\x06\x00\x3c\x00\x00\x05cam-1" + will
        with (
            socket.create_connection(("127.0.0.1", site.ports.broker)) as plain,
            context.wrap_socket(plain, server_hostname="127.0.0.1") as secure,
        ):
            secure.sendall(b"\x10" + bytes([len(body)]) + body)
            secure.recv(1)
    assert controller.next() == (f"{P}/d/cam-1/up/conn", b"w")
    assert controller.drain() == []


def test_a_shared_subscription_hands_out_nothing_of_others(join: Join) -> None:
    controller, device = join("controller"), join("cam-1")
    device.subscribe(f"$share/thief/{P}/d/+/dn/#", f"$share/thief/{P}/d/+/up/#")
    for topic in (f"{P}/d/cam-2/dn/desired", f"{P}/d/cam-2/dn/chunk"):
        controller.publish(topic)
    assert device.drain() == []


def test_a_message_that_is_too_long_ends_its_senders_session_only(join: Join, eventually: Join) -> None:
    device, other = join("cam-1"), join("cam-2")
    ended = []
    device.client.on_disconnect = lambda *_: ended.append(True)
    device.client.publish(f"{P}/d/cam-1/up/state", bytes(140_000), qos=1)
    eventually(lambda: bool(ended), "the session is ended")
    device.client.loop_stop()
    assert other.publish(f"{P}/d/cam-2/up/state") in (0, NOBODY_LISTENS)


def test_who_is_barred_writes_and_reads_nothing_though_connected(
    site: Any, mosquitto: Any, join: Join, eventually: Join
) -> None:
    controller, device, other = join("controller"), join("cam-1"), join("cam-2")
    device.subscribe(f"{P}/d/cam-1/dn/#", f"{P}/ctl/state")
    other.subscribe(f"{P}/ctl/state")
    access = site.folder / "mosquitto" / "acl"
    access.write_text(access_control(P, ["cam-1"]))
    os.kill(int((site.folder / "mosquitto" / "mosquitto.pid").read_text()), signal.SIGHUP)
    eventually(lambda: device.publish(f"{P}/d/cam-1/up/state") == NOT_AUTHORIZED, "the broker has the list")
    for topic in (f"{P}/d/cam-1/dn/desired", f"{P}/ctl/state"):
        assert controller.publish(topic) in (0, NOBODY_LISTENS)
    assert other.next()[0] == f"{P}/ctl/state"
    assert device.drain() == []
    assert other.publish(f"{P}/d/cam-2/up/state") in (0, NOBODY_LISTENS)


def test_an_eviction_ends_a_session_and_no_other(site: Any, mosquitto: Any, join: Join, eventually: Join) -> None:
    device, other = join("cam-1"), join("cam-2")
    ended = []
    device.client.on_disconnect = lambda *_: ended.append(True)
    authority = Authority.load(site.folder / "ca", SystemClock())
    evictor = Evictor("127.0.0.1", site.ports.broker, site.folder / "ca" / "ca.crt", authority.issue_evictor)
    evictor.evict("cam-1")
    eventually(lambda: bool(ended), "the session is ended")
    evictor.evict("cam-3")  # who is not there is no error
    assert other.client.is_connected()
    mosquitto.kill()
    with pytest.raises(BrokerUnreachable):
        evictor.evict("cam-1")
