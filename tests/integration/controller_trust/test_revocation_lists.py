"""What the broker is told follows from the database: its lists, when it reads them, and whose session is ended when."""

import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from dsops.clock import ManualClock
from dsops.errors import BrokerUnreachable
from dsops_controller.db.database import Database
from dsops_controller.fleet import certificates
from dsops_controller.fleet.applications import Application
from dsops_controller.fleet.ca import Authority
from dsops_controller.fleet.enrolment import Enrolment
from dsops_controller.fleet.issuer import Issuer
from dsops_controller.fleet.registry import Registry
from dsops_controller.fleet.standing import Changes
from dsops_controller.server.expulsion import LATELY, MOST, Expulsion
from dsops_controller.server.mosquitto import access_control
from dsops_controller.server.revocations import BATCH, LIST_LIFE, REFRESH, RevocationFiles, Revocations
from dsops_controller.server.turns import CALM_PER_S, LONGEST_S

pytestmark = pytest.mark.integration

PREFIX = "dsops/v1"


class Evicted:
    """Remembers whose session was to be ended; fails while ``is_down``."""

    def __init__(self) -> None:
        self.devices: list[str] = []
        self.is_down = False
        self.meanwhile: Callable[[], object] = int  # what happens while a session is ended

    def evict(self, device: str) -> None:
        if self.is_down:
            raise BrokerUnreachable("no broker")
        self.devices.append(device)
        self.meanwhile()


class Part:
    """The two loops of the controller, one look of each after the other."""

    def __init__(self, lists: Revocations, sessions: Expulsion) -> None:
        self.lists, self.sessions = lists, sessions
        self.heard = sessions.heard

    def look(self) -> None:
        self.lists.look()
        self.sessions.look()


class Bench:
    """A fleet of two, and the part under test over real files."""

    def __init__(self, folder: Path, db: Database, clock: ManualClock, enrolment: Enrolment, authority: Issuer) -> None:
        self.db, self.clock, self.authority = db, clock, authority
        self.enrolment = enrolment
        self.registry = Registry(db, clock)
        self.files = RevocationFiles(folder / "ca" / "crl.pem", folder / "acl", folder / "pid", PREFIX)
        self.evicted = Evicted()
        self.part = self.start()

    def start(self) -> Part:
        """Start anew, as after a restart of the controller."""
        self.evicted = Evicted()
        sessions = Expulsion(self.db, self.evicted, self.clock)
        changes = Changes(self.db)
        return Part(Revocations(self.db, self.authority, self.files, sessions.follow, changes, self.clock), sessions)

    def enrol(self, name: str) -> str:
        key = ec.generate_private_key(ec.SECP256R1())
        csr = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
        asked = Application(name, csr.public_bytes(serialization.Encoding.DER), self.enrolment.new_token(name))
        leaf = x509.load_pem_x509_certificate(self.enrolment.enrol(asked).certificate_pem)
        return f"{leaf.serial_number:x}"

    def listed(self) -> set[str]:
        return {f"{entry.serial_number:x}" for entry in self.list()}

    def list(self) -> x509.CertificateRevocationList:
        return x509.load_pem_x509_crl(self.files.revoked.read_bytes())


@pytest.fixture
def bench(tmp_path: Path, db: Database, clock: ManualClock, enrolment: Enrolment, authority: Authority) -> Bench:
    return Bench(tmp_path, db, clock, enrolment, authority)


def test_a_fresh_authority_has_an_empty_list_for_a_year(bench: Bench) -> None:
    assert bench.listed() == set()
    assert bench.list().next_update_utc is not None
    bench.part.look()
    assert bench.evicted.devices == []
    assert bench.files.access.read_bytes().decode() == access_control(PREFIX)


def test_who_is_suspended_is_on_both_lists_until_accepted_again(bench: Bench) -> None:
    serial, other = bench.enrol("cam-1"), bench.enrol("cam-2")
    bench.part.look()
    bench.registry.suspend("cam-1")
    bench.part.look()
    assert bench.listed() == {serial}
    assert "user cam-1\ntopic deny #\n" in bench.files.access.read_text()
    assert bench.evicted.devices == ["cam-1"]
    bench.registry.accept("cam-1")
    bench.part.look()
    assert (bench.listed(), other in bench.listed()) == (set(), False)
    assert bench.files.access.read_text() == access_control(PREFIX)
    bench.clock.advance(LONGEST_S)
    bench.part.look()
    assert bench.evicted.devices == ["cam-1"]


def test_each_list_is_later_than_the_one_before(bench: Bench) -> None:
    """OpenSSL believes the later one; several changes may fall into one second."""
    bench.enrol("cam-1")
    dates = [bench.list().last_update_utc]
    for _ in range(3):
        for change in (bench.registry.suspend, bench.registry.accept):
            change("cam-1")
            bench.part.look()
            dates.append(bench.list().last_update_utc)
    assert dates == sorted(set(dates))
    assert all(date <= bench.clock.now() for date in dates)


def test_a_clock_that_was_ahead_makes_no_list_of_the_future(bench: Bench) -> None:
    serial = bench.enrol("cam-1")
    ahead = bench.clock.now() + timedelta(days=400)
    bench.files.revoked.write_bytes(bench.authority.revocation_list((), ahead, ahead + LIST_LIFE))
    bench.registry.suspend("cam-1")
    bench.part.look()
    assert bench.list().last_update_utc <= bench.clock.now()
    assert bench.listed() == {serial}


def test_the_list_is_renewed_long_before_it_ends(bench: Bench) -> None:
    bench.part.look()
    first = bench.list()
    bench.clock.advance(REFRESH.total_seconds() - 1)
    bench.part.look()
    assert bench.list().last_update_utc == first.last_update_utc
    bench.clock.advance(2)
    bench.part.look()
    ends = bench.list().next_update_utc
    assert ends is not None
    assert ends - bench.clock.now() == LIST_LIFE
    assert bench.list().is_signature_valid(x509.load_pem_x509_certificate(bench.authority.chain_pem).public_key())  # type: ignore[arg-type]


@pytest.mark.parametrize("content", [b"", b"no list", None])
def test_a_damaged_or_foreign_list_is_written_anew(
    bench: Bench, tmp_path: Path, clock: ManualClock, content: bytes | None
) -> None:
    """A list that OpenSSL cannot use makes the broker refuse everybody."""
    if content is None:
        content = Authority.create(tmp_path / "other", "lab", clock).revocation_list((), clock.now(), clock.now())
    bench.files.revoked.write_bytes(content)
    bench.start().look()
    assert bench.list().is_signature_valid(x509.load_pem_x509_certificate(bench.authority.chain_pem).public_key())  # type: ignore[arg-type]


def test_superseded_certificates_wait_for_each_other_and_suspended_devices_for_nobody(bench: Bench) -> None:
    serials = [bench.enrol(f"cam-{number}") for number in range(3)]
    bench.part.look()
    for number in range(2):
        with bench.db.write() as connection:
            certificates.revoke(connection, f"cam-{number}", certificates.Reason.SUPERSEDED, bench.clock.now())
        bench.part.look()
    assert bench.listed() == {serials[0]}
    bench.clock.advance(BATCH.total_seconds())
    bench.part.look()
    assert bench.listed() == set(serials[:2])
    bench.registry.suspend("cam-2")
    bench.part.look()
    assert bench.listed() == set(serials)
    assert bench.evicted.devices == ["cam-2"], "a device with a newer certificate is not thrown out"


def test_evictions_are_repeated_and_become_rare(bench: Bench) -> None:
    bench.enrol("cam-1")
    bench.registry.suspend("cam-1")
    for _ in range(3600):
        bench.part.look()
        bench.clock.advance(1)
    assert 10 <= len(bench.evicted.devices) <= 20
    before = len(bench.evicted.devices)
    bench.part.heard("cam-1")  # it said something: it is there
    bench.part.heard("cam-2")  # who is not barred is let be
    bench.part.look()
    assert bench.evicted.devices[before:] == ["cam-1"]
    bench.clock.advance(91 * 86400)
    bench.part.look()
    assert len(bench.evicted.devices) == before + 1, "its certificate ended: the broker needs no help"


def test_a_session_does_not_outlive_its_certificate(bench: Bench) -> None:
    """A broker looks at a certificate when a session begins, and never again."""
    bench.enrol("cam-1")
    bench.clock.advance(30 * 86400)
    bench.enrol("cam-2")
    bench.clock.advance(60 * 86400 - 60)
    bench.part.look()
    assert bench.evicted.devices == []
    bench.clock.advance(60)
    bench.part.look()
    assert bench.evicted.devices == ["cam-1"]
    assert bench.files.access.read_text() == access_control(PREFIX), "it may come back with a new one at once"
    bench.enrol("cam-1")
    bench.clock.advance(60)
    bench.part.look()
    assert bench.evicted.devices == ["cam-1"]


def test_a_broker_that_is_down_is_told_when_it_is_back(bench: Bench) -> None:
    serials = {bench.enrol(f"cam-{number}") for number in range(5)}
    for number in range(5):
        bench.registry.suspend(f"cam-{number}")
    bench.evicted.is_down = True
    for _ in range(5):
        with pytest.raises(BrokerUnreachable):
            bench.part.look()
        bench.clock.advance(1)
    assert bench.listed() == serials, "the lists do not wait for the broker"
    bench.evicted.is_down = False
    for _ in range(5):
        bench.part.look()
        bench.clock.advance(1)
    assert set(bench.evicted.devices) == {f"cam-{number}" for number in range(5)}


def test_a_restart_finds_what_was_left_undone(bench: Bench) -> None:
    serial = bench.enrol("cam-1")
    bench.part.look()
    bench.registry.suspend("cam-1")  # and the controller dies
    again = bench.start()
    again.look()
    assert bench.listed() == {serial}
    assert bench.evicted.devices == ["cam-1"]


def test_a_restart_evicts_at_once_only_who_was_suspended_lately(bench: Bench) -> None:
    names = [f"cam-{number:02}" for number in range(2 * MOST)]
    for name in names:
        bench.enrol(name)
        bench.registry.suspend(name)
    bench.clock.advance(LATELY.total_seconds() + 1)
    bench.enrol("late-1")
    bench.registry.suspend("late-1")
    bench.part = bench.start()
    bench.part.look()
    assert bench.evicted.devices == ["late-1", names[0]]
    bench.clock.advance(len(names) / CALM_PER_S)
    for _ in range(3):
        bench.part.look()
    assert set(bench.evicted.devices) == {"late-1", *names}


@pytest.mark.parametrize("is_back_by", ["certificate", "acceptance"])
def test_who_is_back_in_the_meantime_keeps_its_session(bench: Bench, is_back_by: str) -> None:
    """Who was found to be shut out may have a new session by the time that its turn comes."""
    names = ["cam-1", "cam-2"]
    for name in names:
        bench.enrol(name)
    bench.part.look()
    if is_back_by == "certificate":
        bench.clock.advance(90 * 86400)
        bench.evicted.meanwhile = lambda: bench.enrol("cam-2")
    else:
        for name in names:
            bench.registry.suspend(name)
        bench.evicted.meanwhile = lambda: bench.registry.accept("cam-2")
    bench.part.lists.look()
    bench.part.sessions.look()
    bench.clock.advance(1 / CALM_PER_S)
    bench.part.sessions.look()  # it goes by what was found before
    assert bench.evicted.devices == ["cam-1"]


PROGRAM = "import signal,sys,time; signal.signal(signal.SIGHUP, lambda *_: sys.exit(7)); "


@pytest.mark.parametrize(("name", "code"), [("mosquitto", 7), ("innocent", None)])
def test_only_a_broker_is_sent_a_signal(bench: Bench, name: str, code: int | None) -> None:
    """The number in an old pid file may be another process's by now."""
    rename = f"open('/proc/self/comm', 'w').write({name!r}); print('ready', flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", PROGRAM + rename], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            bench.files.pid.write_text(f"{process.pid}\n")
            bench.enrol("cam-1")
            bench.registry.suspend("cam-1")
            bench.part.look()
            if code is None:
                with pytest.raises(subprocess.TimeoutExpired):
                    process.wait(0.5)
            else:
                assert process.wait(20) == code
        finally:
            process.kill()


@pytest.mark.parametrize("content", ["", "x", "-1", "99999999999", "4194304"])
def test_a_useless_pid_file_does_no_harm(bench: Bench, content: str) -> None:
    bench.files.pid.write_text(content)
    bench.enrol("cam-1")
    bench.registry.suspend("cam-1")
    bench.part.look()
    assert bench.evicted.devices == ["cam-1"]


def test_changes_are_noticed_across_processes(bench: Bench, db: Database) -> None:
    changes = Changes(db)
    changes.look()
    steps: list[Callable[[], object]] = [
        lambda: bench.registry.suspend("cam-1"),
        lambda: bench.registry.accept("cam-1"),
        lambda: bench.registry.decommission("cam-1"),
    ]
    bench.enrol("cam-1")
    for step in steps:
        seen = changes.version
        step()
        changes.look()
        assert changes.version > seen
        seen = changes.version
        changes.look()
        assert changes.version == seen
    assert changes.wait(seen, 0.0) == seen
