"""The server side of the ingest benchmark, in a process of its own.

``python -m measure.ingest_server FOLDER store|echo DEVICES`` makes devices with certificates, writes its port into
``FOLDER/port``, says ``ready`` and serves until its input ends: the controller's own interface over SQLite and the lake
as the product runs it; or, as a limit, an interface with the same TLS and messages that only counts and answers.
"""

import asyncio
import sys
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from sqlalchemy import insert

from dsops.api.v1.telemetry_pb2 import Ack
from dsops.clock import SystemClock
from dsops_controller.dataops.inbox import Inbox
from dsops_controller.dataops.lake.lake import Lake
from dsops_controller.db.database import Database
from dsops_controller.db.tables import device as device_table
from dsops_controller.db.tables import metadata
from dsops_controller.fleet import certificates
from dsops_controller.fleet.ca import Authority, Issued
from dsops_controller.fleet.enrolment import Enrolment, ReplySettings
from dsops_controller.fleet.issuer import DeviceCertificate
from dsops_controller.fleet.renewal import Renewal
from dsops_controller.fleet.standing import Changes
from dsops_controller.server.config import StoreSettings
from dsops_controller.server.ingest import MAX_MESSAGE_BYTES, Endpoint, IngestServer, Services, Tls
from dsops_controller.server.quotas import QuotaRules
from measure.child import wait_for_end_of_input
from measure.ingest_load import PATHS

CLOCK = SystemClock()
NO_QUOTAS = QuotaRules(records_per_s=0, bytes_per_s=0, calls_per_s=0)
"""Few devices stand for many here."""


class Store:
    """Inbox and lake, filled and flushed as the controller does it."""

    def __init__(self, folder: Path) -> None:
        self.db = Database(f"sqlite:///{folder}/state.db")
        with self.db.write() as connection:
            metadata.create_all(connection)
        self.lake = Lake(self.db, folder / "lake")
        self.inbox = Inbox(self.db, CLOCK)
        self._stopping = threading.Event()
        self._flushing = threading.Thread(target=self._flush)

    def start(self) -> None:
        """Start the writer and the flushes."""
        self.lake.open()
        self.inbox.start()
        self._flushing.start()

    def stop(self) -> None:
        """End both."""
        self._stopping.set()
        self._flushing.join()
        self.inbox.stop()
        self.db.close()

    def _flush(self) -> None:
        while not self._stopping.wait(StoreSettings().flush_s):
            self.lake.flush()


def prepare(folder: Path, devices: int) -> tuple[Authority, Issued, dict[str, DeviceCertificate]]:
    """Make the authority, the server's certificate and those of the devices."""
    made = {}
    authority = Authority.create(folder / "ca", "fleet", CLOCK)
    (folder / "ca.crt").write_bytes(authority.certificate_pem)
    for number in range(devices):
        key = ec.generate_private_key(ec.SECP256R1())
        request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
        issued = authority.issue_device(request.public_bytes(serialization.Encoding.DER), f"cam-{number}")
        form = serialization.PrivateFormat.PKCS8
        pem = key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())
        (folder / f"cam-{number}.key").write_bytes(pem)
        (folder / f"cam-{number}.crt").write_bytes(issued.certificate_pem)
        made[f"cam-{number}"] = issued
    return authority, authority.issue_server(["localhost"]), made


def serve_store(folder: Path, devices: int) -> None:
    """Serve as the controller does."""
    authority, issued, members = prepare(folder, devices)
    store = Store(folder)
    with store.db.write() as connection:
        for name, member in members.items():
            row = {"id": name, "state": "accepted", "created_ms": 0, "inventory": "{}", "tags": "{}"}
            connection.execute(insert(device_table).values(**row, online=False, conn_seq=0))
            certificates.add(connection, name, member, CLOCK.now())
    store.start()
    told = ReplySettings("fleet", "localhost:1", "localhost:2", "dsops/v1")
    services = Services(
        store.db,
        store.inbox,
        Enrolment(store.db, authority, CLOCK, told),
        Renewal(store.db, authority, CLOCK, told),
        Changes(store.db),
        CLOCK,
        NO_QUOTAS,
    )
    local = Endpoint("127.0.0.1", 0)
    tls = Tls(issued.key_pem, issued.certificate_pem, authority.certificate_pem)
    server = IngestServer(services, tls, local, local)
    (folder / "port").write_text(str(server.start()[0]))
    wait_for_end_of_input()
    server.stop(0.2)
    store.stop()


async def _echo(requests: AsyncIterator[bytes], context: "grpc.aio.ServicerContext[bytes, bytes]") -> None:
    async for _ in requests:
        await context.write(Ack(committed_seq=1).SerializeToString())


async def serve_echo(folder: Path, devices: int) -> None:
    """Answer every message, and do nothing else."""
    authority, issued, _ = prepare(folder, devices)
    server = grpc.aio.server(options=[("grpc.max_receive_message_length", MAX_MESSAGE_BYTES)])
    for path in PATHS.values():
        service, _, method = path[1:].partition("/")
        handler = grpc.stream_stream_rpc_method_handler(_echo)
        server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(service, {method: handler})])
    pair = (issued.key_pem, issued.certificate_pem)
    credentials = grpc.ssl_server_credentials([pair], authority.certificate_pem, require_client_auth=True)
    (folder / "port").write_text(str(server.add_secure_port("127.0.0.1:0", credentials)))
    await server.start()
    await asyncio.get_running_loop().run_in_executor(None, wait_for_end_of_input)
    await server.stop(0.2)


if __name__ == "__main__":
    place, mode, count = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    if mode == "store":
        serve_store(place, count)
    else:
        asyncio.run(serve_echo(place, count))
