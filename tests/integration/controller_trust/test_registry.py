"""The register over a real database: reports only rise, and only accepted devices are believed."""

import itertools
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import insert

from dsops import dsse
from dsops.bundle import sha256_hex
from dsops.clock import ManualClock
from dsops.errors import (
    Conflict,
    ForeignReport,
    ForkedReport,
    NotFound,
    ReplayedReport,
    UnsignedReport,
    UntrustedBundle,
)
from dsops.messages import STATE_TYPE, Connection, Inventory, Observed
from dsops.states import Device
from dsops_controller.audit import Audit, RefusalGuard
from dsops_controller.db.database import Database
from dsops_controller.db.tables import device as devices
from dsops_controller.fleet.registry import Registry

pytestmark = pytest.mark.integration

KEY = ec.generate_private_key(ec.SECP256R1())
_names = itertools.count()


def add(db: Database, name: str, state: Device = Device.ACCEPTED) -> None:
    with db.write() as connection:
        pem = dsse.public_pem(KEY.public_key())
        connection.execute(insert(devices).values(id=name, state=state, created_ms=0, public_key=pem))


def report(device: str, counter: int, clock: ManualClock, previous: Observed | None = None) -> Observed:
    before = sha256_hex(previous.payload()) if previous else None
    return Observed(device=device, counter=counter, time=clock.now(), seq=counter, previous=before)


def chain(device: str, length: int, clock: ManualClock) -> list[Observed]:
    made: list[Observed] = []
    for counter in range(1, length + 1):
        made.append(report(device, counter, clock, made[-1] if made else None))
    return made


def in_anothers_name(envelope: bytes) -> bytes:
    """Return an envelope that says that ``KEY`` signed it."""
    said = dsse.decode(envelope, STATE_TYPE)
    signature = said.signatures[0].model_copy(update={"keyid": dsse.key_id(KEY.public_key())})
    return said.model_copy(update={"signatures": (signature,)}).encode()


def refused(db: Database, clock: ManualClock, device: str = "cam-1") -> list[str]:
    """Return the codes of the reports that were refused, oldest first."""
    entries = reversed(Audit(db, clock).list(subject=device))
    return [entry.detail.split(":")[0] for entry in entries if entry.action == "report.refused"]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(counters=st.lists(st.integers(1, 6), min_size=1, max_size=8))
def test_a_report_counts_if_and_only_if_it_is_newer(db: Database, clock: ManualClock, counters: list[int]) -> None:
    name = f"cam-{next(_names)}"
    add(db, name)
    registry = Registry(db, clock)
    sent = chain(name, 6, clock)
    highest = 0
    for counter in counters:
        said = sent[counter - 1]
        if counter < highest:
            with pytest.raises(ReplayedReport):
                registry.observed(name, said.sign(KEY))
        else:
            assert (registry.observed(name, said.sign(KEY)) == said) is (counter > highest)
        highest = max(highest, counter)
        stored = registry.last_observed(name)
        assert stored is not None
        assert stored.counter == highest


def test_a_forged_or_misdirected_report_is_refused_and_recorded_once_an_hour(db: Database, clock: ManualClock) -> None:
    add(db, "cam-1")
    add(db, "cam-2")
    registry = Registry(db, clock)
    forged = report("cam-1", 9, clock).sign(ec.generate_private_key(ec.SECP256R1()))
    other = report("cam-2", 9, clock).sign(KEY)
    attacks = [(forged, UnsignedReport), (in_anothers_name(forged), UnsignedReport)]
    for _ in range(3):
        for data, refusal in (*attacks, (b"", UnsignedReport), (other, ForeignReport)):
            with pytest.raises(refusal):
                registry.observed("cam-1", data)
    assert registry.last_observed("cam-1") is None
    assert refused(db, clock) == ["trust.report_unsigned", "trust.report_foreign"]
    clock.advance(3600)
    with pytest.raises(UnsignedReport):
        registry.observed("cam-1", forged)
    assert refused(db, clock)[2:] == ["trust.report_unsigned"]


def test_a_device_without_a_key_is_not_believed(db: Database, clock: ManualClock) -> None:
    with db.write() as connection:
        connection.execute(insert(devices).values(id="cam-1", state=Device.ACCEPTED, created_ms=0))
    with pytest.raises(UnsignedReport, match="has no key"):
        Registry(db, clock).observed("cam-1", report("cam-1", 1, clock).sign(KEY))


def test_a_replayed_report_is_refused_and_the_retained_copy_of_the_newest_is_not(
    db: Database, clock: ManualClock
) -> None:
    add(db, "cam-1")
    registry = Registry(db, clock)
    old, newest = chain("cam-1", 2, clock)
    for said in (old, newest):
        assert registry.observed("cam-1", said.sign(KEY)) == said
    assert registry.observed("cam-1", newest.sign(KEY)) is None
    assert refused(db, clock) == []
    with pytest.raises(ReplayedReport):
        registry.observed("cam-1", old.sign(KEY))
    assert registry.last_observed("cam-1") == newest
    assert refused(db, clock) == ["trust.report_replayed"]


def test_a_report_of_another_line_is_refused(db: Database, clock: ManualClock) -> None:
    add(db, "cam-1")
    registry = Registry(db, clock)
    first, second = chain("cam-1", 2, clock)
    registry.observed("cam-1", first.sign(KEY))
    twin = report("cam-1", 1, ManualClock(clock.now() + timedelta(seconds=1)))
    for said in (twin, report("cam-1", 2, clock, twin), report("cam-1", 2, clock)):
        with pytest.raises(ForkedReport):
            registry.observed("cam-1", said.sign(KEY))
    assert registry.observed("cam-1", second.sign(KEY)) == second
    assert refused(db, clock) == ["trust.report_forked"]


def test_reports_that_were_lost_on_their_way_break_nothing(db: Database, clock: ManualClock) -> None:
    add(db, "cam-1")
    registry = Registry(db, clock)
    sent = chain("cam-1", 5, clock)
    for said in (sent[0], sent[3], sent[4]):
        assert registry.observed("cam-1", said.sign(KEY)) == said
    assert refused(db, clock) == []


@pytest.mark.parametrize("state", [Device.PENDING, Device.SUSPENDED, Device.REJECTED, Device.DECOMMISSIONED])
def test_only_accepted_devices_are_believed(db: Database, clock: ManualClock, state: Device) -> None:
    add(db, "cam-1", state)
    registry = Registry(db, clock)
    with pytest.raises(UntrustedBundle, match=state):
        registry.observed("cam-1", report("cam-1", 1, clock).sign(KEY))
    with pytest.raises(UntrustedBundle, match=state):
        registry.connection(Connection(device="cam-1", online=True, boot_id="a", conn_seq=1))
    with pytest.raises(UntrustedBundle, match=state):
        registry.require_accepted("cam-1")
    assert registry.get("cam-1").online is False


def test_an_unknown_device_is_refused(db: Database, clock: ManualClock) -> None:
    registry = Registry(db, clock)
    with pytest.raises(UntrustedBundle, match="unknown"):
        registry.observed("ghost", report("ghost", 1, clock).sign(KEY))
    with pytest.raises(UntrustedBundle, match="unknown"):
        registry.require_accepted("ghost")
    with pytest.raises(NotFound):
        registry.get("ghost")
    with pytest.raises(NotFound):
        registry.suspend("ghost")


def test_births_and_deaths_show_who_is_online(db: Database, clock: ManualClock) -> None:
    add(db, "cam-1")
    registry = Registry(db, clock)
    inventory = Inventory(hardware="x86_64", cpus=2)
    birth = Connection(device="cam-1", online=True, boot_id="a", conn_seq=4, inventory=inventory)
    assert registry.connection(birth) is True
    assert registry.connection(birth) is False
    record = registry.get("cam-1")
    assert (record.online, record.conn_seq, record.inventory, record.seen) == (True, 4, inventory, clock.now())
    assert registry.connection(Connection(device="cam-1", online=False, boot_id="a", conn_seq=3)) is False
    assert registry.connection(Connection(device="cam-1", online=False, boot_id="a", conn_seq=4)) is True
    assert registry.get("cam-1").online is False
    assert registry.get("cam-1").inventory == inventory


def test_states_change_only_as_the_table_allows(db: Database, clock: ManualClock) -> None:
    add(db, "cam-1")
    registry = Registry(db, clock)
    assert registry.suspend("cam-1", "ann").state is Device.SUSPENDED
    assert registry.suspend("cam-1", "ann").state is Device.SUSPENDED
    assert registry.accept("cam-1", "ann").state is Device.ACCEPTED
    with pytest.raises(Conflict):
        registry.reject("cam-1", "ann")
    registry.decommission("cam-1", "ann")
    with pytest.raises(Conflict):
        registry.accept("cam-1", "ann")
    trail = [(entry.actor, entry.action) for entry in reversed(Audit(db, clock).list())]
    assert trail == [("ann", f"device.{state}") for state in ("suspended", "accepted", "decommissioned")]


def test_devices_are_listed_by_name_and_state(db: Database, clock: ManualClock) -> None:
    for name, state in (("b", Device.ACCEPTED), ("a", Device.PENDING)):
        add(db, name, state)
    registry = Registry(db, clock)
    registry.set_tags("a", {"site": "hall"})
    assert [record.id for record in registry.list()] == ["a", "b"]
    assert [record.id for record in registry.list(Device.PENDING)] == ["a"]
    assert registry.get("a").tags == {"site": "hall"}


def test_strangers_cannot_fill_the_audit_trail(db: Database, clock: ManualClock) -> None:
    registry = Registry(db, clock, RefusalGuard(clock, limit=3))
    for number in range(10):
        with pytest.raises(UntrustedBundle):
            registry.observed(f"ghost-{number}", b"")
    actions = [entry.action for entry in Audit(db, clock).list()]
    assert actions == ["refusals.left_out", *["report.refused"] * 3]
    clock.advance(3600)
    with pytest.raises(UntrustedBundle):
        registry.observed("ghost", b"")
    assert Audit(db, clock).list()[0].subject == "ghost"


def test_what_was_reported_survives_a_restart(tmp_path: Path, clock: ManualClock, db: Database) -> None:
    add(db, "cam-1")
    sent = report("cam-1", 3, clock)
    Registry(db, clock).observed("cam-1", sent.sign(KEY))
    db.close()
    again = Registry(Database(f"sqlite:///{tmp_path}/state.db"), clock)
    assert again.last_observed("cam-1") == sent
    assert again.observed("cam-1", sent.sign(KEY)) is None
