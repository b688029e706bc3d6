"""What the access control list allows, asked of a real mosquitto with real certificates."""

import socket
import ssl
from collections.abc import Callable
from typing import Any

import pytest

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
