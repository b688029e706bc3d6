"""The gRPC interface over a real database, with a CA of its own and devices that it knows."""

from dataclasses import dataclass, field
from pathlib import Path

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from sqlalchemy import insert, update

from dsops.clock import SystemClock
from dsops.states import Device
from dsops_controller.dataops.inbox import Inbox, Limits
from dsops_controller.dataops.lake.lake import read_pending
from dsops_controller.db.database import Database
from dsops_controller.db.tables import device as device_table
from dsops_controller.db.tables import metadata
from dsops_controller.fleet import certificates
from dsops_controller.fleet.ca import Authority
from dsops_controller.fleet.enrolment import Enrolment, ReplySettings
from dsops_controller.fleet.registry import Registry
from dsops_controller.fleet.renewal import Renewal
from dsops_controller.fleet.standing import Changes
from dsops_controller.server.ingest import Endpoint, IngestServer, Services, Tls
from dsops_controller.server.quotas import UNCHANGED, QuotaRules

CLOCK = SystemClock()


def request(key: ec.EllipticCurvePrivateKey) -> bytes:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "ignored")])
    csr = x509.CertificateSigningRequestBuilder().subject_name(name).sign(key, hashes.SHA256())
    return csr.public_bytes(serialization.Encoding.DER)


def pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    form = serialization.PrivateFormat.PKCS8
    return key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())


@dataclass
class Site:
    """A running server with its CA and database, and the channels that were opened to it."""

    authority: Authority
    db: Database
    inbox: Inbox
    enrolment: Enrolment
    registry: Registry
    changes: Changes
    server: IngestServer
    ports: tuple[int, int] = (0, 0)
    channels: list[grpc.Channel] = field(default_factory=list)

    def add_device(self, name: str, state: Device = Device.ACCEPTED) -> None:
        with self.db.write() as connection:
            connection.execute(
                insert(device_table).values(
                    id=name, state=state.value, created_ms=0, inventory="{}", tags="{}", online=False, conn_seq=0
                )
            )

    def set_state(self, name: str, state: Device) -> None:
        """As another controller on the same database would."""
        with self.db.write() as connection:
            connection.execute(update(device_table).where(device_table.c.id == name).values(state=state.value))

    def certify(self, name: str, key: ec.EllipticCurvePrivateKey | None = None) -> tuple[bytes, bytes]:
        """Issue and enter a certificate; return it and its key, PEM."""
        key = key or ec.generate_private_key(ec.SECP256R1())
        issued = self.authority.issue_device(request(key), name)
        with self.db.write() as connection:
            certificates.add(connection, name, issued, CLOCK.now())
        return issued.certificate_pem, pem(key)

    def channel(self, certificate: bytes | None = None, key: bytes | None = None, which: int = 0) -> grpc.Channel:
        credentials = grpc.ssl_channel_credentials(self.authority.certificate_pem, key, certificate)
        options = [("grpc.max_send_message_length", -1), ("grpc.use_local_subchannel_pool", 1)]
        channel = grpc.secure_channel(f"localhost:{self.ports[which]}", credentials, options)
        self.channels.append(channel)
        return channel

    def as_device(self, name: str) -> grpc.Channel:
        return self.channel(*self.certify(name))

    def stored(self) -> int:
        with self.db.read() as connection:
            return sum(len(row.batch().seqs) for row in read_pending(connection))


class Sites:
    """Makes sites in a folder, and closes them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._made: list[Site] = []

    def make(self, limits: Limits | None = None, *, writes: bool = True, quotas: QuotaRules = UNCHANGED) -> Site:
        """Make a site and start its server; its inbox is written unless it is told not to."""
        db = Database(f"sqlite:///{self._folder}/state{len(self._made)}.db")
        with db.write() as connection:
            metadata.create_all(connection)
        authority = Authority.create(self._folder / f"ca{len(self._made)}", "fleet", CLOCK)
        issued = authority.issue_server(["localhost"])
        inbox = Inbox(db, CLOCK, limits or Limits())
        if writes:
            inbox.start()
        told = ReplySettings("fleet", "localhost:8883", "localhost:8444", "dsops/v1")
        enrolment = Enrolment(db, authority, CLOCK, told)
        changes = Changes(db)
        services = Services(db, inbox, enrolment, Renewal(db, authority, CLOCK, told), changes, CLOCK, quotas)
        tls = Tls(issued.key_pem, issued.certificate_pem, authority.certificate_pem)
        local = Endpoint("127.0.0.1", 0)
        registry = Registry(db, CLOCK, changes=changes)
        site = Site(authority, db, inbox, enrolment, registry, changes, IngestServer(services, tls, local, local))
        site.ports = site.server.start()
        self._made.append(site)
        return site

    def close(self) -> None:
        """Close every site."""
        for site in self._made:
            for channel in site.channels:
                channel.close()
            site.server.stop(0.2)
            site.inbox.stop()
            site.db.close()
