"""A device and the ingest servers behind one address: they die after commits, connections break in the middle of
batches, the device is moved to another server; each record is stored once, and the device learns of it."""

import itertools
import random
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from sqlalchemy import insert

from dsops.api.v1.telemetry_pb2 import Kpi, TelemetryRecord
from dsops.clock import SystemClock
from dsops_agent.backoff import Backoff
from dsops_agent.telemetry.allowance import unlimited
from dsops_agent.telemetry.spool import Spool
from dsops_agent.telemetry.upload import Terms, Uploader, encode_telemetry
from dsops_agent.transport.grpc import telemetry_upload
from dsops_controller.dataops.lake.lake import read_pending
from dsops_controller.db.database import Database
from dsops_controller.db.tables import device as device_table
from dsops_controller.db.tables import metadata, stream
from dsops_controller.fleet import certificates
from dsops_controller.fleet.ca import Authority

pytestmark = [pytest.mark.integration, pytest.mark.slow]

CLOCK = SystemClock()
RECORDS = 4000
PROCESS = Path(__file__).with_name("ingest_process.py")


class Server:
    """A server process that is started anew when it has died."""

    def __init__(self, url: str, folder: Path, name: str) -> None:
        self._command = [sys.executable, str(PROCESS), url, str(folder), name]
        self._order = folder / f"die-{name}"
        self.deaths = 0
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline())

    def die_after_the_next_commit(self) -> None:
        self._order.touch()

    def revive(self) -> None:
        if self.process.poll() is not None:
            assert self.process.returncode == -9
            self.deaths += 1
            self._close()
            self.start()

    def stop(self) -> None:
        self._close()
        assert self.process.wait(30) in (0, -9)

    def _close(self) -> None:
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            pipe.close()


class Address:
    """One address in front of several servers: a connection goes to the next one, and breaks when its bytes are spent.

    Args:
        servers: Whom connections go to, in turns.
        spent: Draws how many bytes a connection may carry towards a server.
    """

    def __init__(self, servers: list[Server], spent: Callable[[], int]) -> None:
        self._turns = itertools.cycle(servers)
        self._spent = spent
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self.carried: list[Server] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                server = next(self._turns)
                try:
                    far = socket.create_connection(("127.0.0.1", server.port), timeout=30)
                except OSError:
                    near.close()
                    continue
                self.carried.append(server)
                for source, sink, most in ((near, far, self._spent()), (far, near, 1 << 60)):
                    threading.Thread(target=_carry, args=(source, sink, most), daemon=True).start()


def _carry(source: socket.socket, sink: socket.socket, most: int) -> None:
    with suppress(OSError):
        while most > 0 and (data := source.recv(min(most, 65_536))):
            sink.sendall(data)
            most -= len(data)
    for end in (source, sink):
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)


class Site:
    """A database with its authority and one device that is accepted."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url, self.folder = url, folder
        self.db = Database(url)
        authority = Authority.create(folder / "ca", "fleet", CLOCK)
        issued = authority.issue_server(["localhost"])
        (folder / "server.key").write_bytes(issued.key_pem)
        (folder / "server.crt").write_bytes(issued.certificate_pem)
        key = ec.generate_private_key(ec.SECP256R1())
        request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
        own = authority.issue_device(request.public_bytes(serialization.Encoding.DER), "cam-1")
        with self.db.write() as connection:
            metadata.create_all(connection)
            row = {"id": "cam-1", "state": "accepted", "created_ms": 0, "inventory": "{}", "tags": "{}"}
            connection.execute(insert(device_table).values(**row, online=False, conn_seq=0))
            certificates.add(connection, "cam-1", own, CLOCK.now())
        pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        self.credentials = grpc.ssl_channel_credentials(authority.certificate_pem, pem, own.certificate_pem)
        if self.db.is_sqlite:
            self.db.close()  # one process writes at a time

    def server(self, name: str) -> Server:
        return Server(self.url, self.folder, name)

    def stored(self) -> list[int]:
        """Return the numbers of the figures that are stored, with repetitions."""
        db = Database(self.url)
        with db.read() as connection:
            records = [record for row in read_pending(connection) for record in row.batch().records()]
            watermarks = connection.execute(stream.select()).all()
        db.close()
        assert sum(row.stored for row in watermarks) == len(records)
        return sorted(record.time_us for record in records if isinstance(record, Kpi))


@pytest.fixture
def site(new_url: Callable[[Path], str], tmp_path: Path) -> Iterator[Site]:
    place = Site(new_url(tmp_path), tmp_path)
    yield place
    place.db.close()


def upload(site: Site, port: int, meanwhile: Callable[[], None]) -> Spool:
    """Have a device upload its records to an address; return its spool when it is empty."""
    spool = Spool(site.folder / "spool", 8 << 20)
    options = [
        ("grpc.min_reconnect_backoff_ms", 50),
        ("grpc.max_reconnect_backoff_ms", 200),
        ("grpc.enable_retries", 0),
    ]
    with grpc.secure_channel(f"localhost:{port}", site.credentials, options) as channel:
        uploader = Uploader(
            "telemetry",
            spool,
            CLOCK,
            upload=telemetry_upload(lambda: channel),
            encode=encode_telemetry,
            terms=Terms(Backoff(0.02, 0.1, random.random), unlimited(CLOCK), lambda _server_us: None),
        )
        thread = threading.Thread(target=uploader.run)
        thread.start()
        deadline = time.monotonic() + 120
        for first in range(1, RECORDS + 1, 100):
            spool.append("telemetry", [figure(number) for number in range(first, first + 100)])
            meanwhile()
        while spool.counters()["telemetry"].pending and time.monotonic() < deadline:
            meanwhile()
            time.sleep(0.05)
        uploader.stop()
        thread.join()
    return spool


def figure(number: int) -> bytes:
    return TelemetryRecord(kpi=Kpi(name="parts", time_us=number, tags={"pad": "x" * 200})).SerializeToString()


@pytest.mark.parametrize("new_url", ["postgresql"], indirect=True, scope="module")
def test_two_servers_behind_one_address_store_each_record_once(site: Site) -> None:
    draw = random.Random(7)
    servers = [site.server("a"), site.server("b")]
    address = Address(servers, lambda: draw.randint(5_000, 150_000))

    def meanwhile() -> None:
        if draw.random() < 0.1:
            draw.choice(servers).die_after_the_next_commit()
        for server in servers:
            server.revive()

    spool = upload(site, address.port, meanwhile)
    counters = spool.counters()["telemetry"]
    spool.close()
    address.close()
    for server in servers:
        server.stop()
    assert site.stored() == list(range(1, RECORDS + 1))
    assert (counters.stored, counters.dropped) == (RECORDS, 0)
    assert sum(server.deaths for server in servers) >= 2
    assert set(map(id, address.carried)) == set(map(id, servers))
    assert len(address.carried) > 10


@pytest.mark.parametrize("new_url", ["sqlite", "postgresql"], indirect=True, scope="module")
def test_a_server_that_is_killed_between_commit_and_acknowledgement_stores_nothing_twice(site: Site) -> None:
    server = site.server("a")
    address = Address([server], lambda: 1 << 60)

    def meanwhile() -> None:
        if server.deaths < 5:
            server.die_after_the_next_commit()
        server.revive()

    spool = upload(site, address.port, meanwhile)
    counters = spool.counters()["telemetry"]
    spool.close()
    address.close()
    server.stop()
    assert server.deaths >= 5
    assert site.stored() == list(range(1, RECORDS + 1))
    assert (counters.stored, counters.dropped) == (RECORDS, 0)
