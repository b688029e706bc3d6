"""A device whose clock is behind connects to a real broker, whose certificate it judges by trusted time."""

import socket
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from dsops.clock import SystemClock
from dsops_agent.identity import Identity
from dsops_agent.transport.client import tls_context
from dsops_agent.transport.dates import date_problem, judge_dates_by
from dsops_agent.transport.mqtt import Life, MqttSession, Settings

pytestmark = pytest.mark.integration

YEAR = timedelta(days=365)
FUTURE = datetime.now(UTC) + 10 * YEAR
"""To this machine's clock the broker's certificate begins in ten years, as every certificate does to one in 1970."""
EARLY, INSIDE, LATE = FUTURE - YEAR, FUTURE + YEAR, FUTURE + 3 * YEAR


def name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


@dataclass
class Authority:
    """Issues certificates of the future."""

    key: ec.EllipticCurvePrivateKey
    title: str
    begins: datetime = FUTURE
    ends: datetime = FUTURE + 2 * YEAR

    def issue(self, key: ec.EllipticCurvePublicKey, subject: str, *, ca: bool = False) -> x509.Certificate:
        names = x509.SubjectAlternativeName([x509.DNSName("localhost")])
        return (
            x509.CertificateBuilder()
            .subject_name(name(subject))
            .issuer_name(name(self.title))
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(self.begins)
            .not_valid_after(self.ends)
            .add_extension(names, critical=False)
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .sign(self.key, hashes.SHA256())
        )


class Silent:
    """An inbox that keeps whether there was a connection."""

    is_connected = False

    def message(self, topic: str, payload: bytes) -> None:
        raise AssertionError(topic, payload)

    def connected(self) -> None:
        self.is_connected = True

    def disconnected(self) -> None:
        return


def pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


@pytest.fixture
def authority(broker: Any, pki: Any, tmp_path: Path) -> Authority:
    """An authority of the future, whose certificate the broker shows from now on."""
    made = Authority(ec.generate_private_key(ec.SECP256R1()), "future")
    own = ec.generate_private_key(ec.SECP256R1())
    folder = tmp_path / "future"
    folder.mkdir()
    (folder / "ca.crt").write_bytes(pem(made.issue(made.key.public_key(), "future", ca=True)))
    (folder / "server.crt").write_bytes(pem(made.issue(own.public_key(), "server")))
    private = own.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (folder / "server.key").write_bytes(private)
    broker.kill()
    config = tmp_path / "broker" / "broker.conf"
    text = config.read_text()
    for file in ("server.crt", "server.key"):
        text = text.replace(f"{pki.folder}/{file}", f"{folder}/{file}")
    config.write_text(text)
    broker.start()
    return made


@pytest.fixture
def identity(broker: Any, pki: Any, authority: Authority, tmp_path: Path) -> Identity:
    found = pki.identity(tmp_path / "identity", "cam-1", broker.address, "localhost:1")
    found.ca_path.write_bytes((tmp_path / "future" / "ca.crt").read_bytes())
    return found


def judged(identity: Identity, now: datetime) -> ssl.SSLContext:
    context = tls_context(identity)
    judge_dates_by(context, lambda: now, identity.ca_path)
    return context


@pytest.fixture
def connect(identity: Identity, broker: Any, eventually: Any, threads: Any) -> Callable[..., MqttSession]:
    def make(tls: Callable[[], ssl.SSLContext]) -> MqttSession:
        numbers = count(1)
        life = Life("dsops/v1/d/cam-1/up/conn", lambda: next(numbers), lambda _seq, _online: b"{}")
        settings = Settings("cam-1", broker.address, tls, reconnect_max_s=0.2)
        session = MqttSession(settings, life, Silent(), SystemClock())
        threads(session)
        eventually(lambda: session.is_connected or session.problem is not None)
        return session

    return make


@pytest.fixture
def threads() -> Any:
    running: list[tuple[MqttSession, list[threading.Thread]]] = []

    def start(session: MqttSession) -> None:
        made = [threading.Thread(target=session.run)]
        for thread in made:
            thread.start()
        running.append((session, made))

    yield start
    for session, made in running:
        session.stop()
        for thread in made:
            thread.join(20)
            assert not thread.is_alive()


def test_the_hosts_clock_refuses_a_certificate_of_the_future(identity: Identity, connect: Any) -> None:
    session = connect(partial(tls_context, identity))
    assert not session.is_connected
    assert "not yet valid" in session.problem


@pytest.mark.parametrize("now", [EARLY, INSIDE])
def test_trusted_time_takes_a_certificate_that_has_not_ended(identity: Identity, connect: Any, now: datetime) -> None:
    assert connect(partial(judged, identity, now)).is_connected


def test_trusted_time_refuses_a_certificate_that_has_ended(identity: Identity, connect: Any) -> None:
    session = connect(partial(judged, identity, LATE))
    assert not session.is_connected
    assert "it ended at" in session.problem
    assert session.figures.connections == 0


def test_everything_but_dates_is_checked_as_ever(
    identity: Identity, connect: Any, pki: Any, broker: Any, tmp_path: Path
) -> None:
    identity.ca_path.write_bytes(pki.ca_pem)
    assert "certificate verify failed" in connect(partial(judged, identity, INSIDE)).problem


def test_another_host_is_refused(identity: Identity, broker: Any) -> None:
    context = judged(identity, INSIDE)
    with (
        socket.create_connection(("127.0.0.1", broker.port), timeout=20) as plain,
        pytest.raises(ssl.SSLCertVerificationError, match="ostname"),
    ):
        context.wrap_socket(plain, server_hostname="elsewhere")


def test_dates_of_a_chain_that_cannot_be_seen_are_not_believed() -> None:
    root = Authority(ec.generate_private_key(ec.SECP256R1()), "root")
    middle = Authority(ec.generate_private_key(ec.SECP256R1()), "middle")
    top = root.issue(root.key.public_key(), "root", ca=True)
    leaf = middle.issue(ec.generate_private_key(ec.SECP256R1()).public_key(), "server")
    assert "directly" in date_problem(leaf, [top], INSIDE)
    below = root.issue(middle.key.public_key(), "middle", ca=True)
    assert date_problem(leaf, [top, below], INSIDE) == ""


def test_an_authority_that_has_ended_is_not_believed() -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    long, short = Authority(key, "root"), Authority(key, "root", ends=FUTURE + timedelta(days=9))
    leaf = long.issue(ec.generate_private_key(ec.SECP256R1()).public_key(), "server")
    assert "its authority ended" in date_problem(leaf, [short.issue(key.public_key(), "root", ca=True)], INSIDE)
