"""The driver against a real SQLite database and a courier that loses what it is told to lose."""

from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from dsops import dsse
from dsops.clock import ManualClock
from dsops.directive import PAYLOAD_TYPE, Directive, Recipient, check_directive
from dsops.errors import Conflict, InvalidInput, NotFound
from dsops.messages import ModelState, Observed, Problem
from dsops.states import Install
from dsops_controller.audit import Audit
from dsops_controller.db import tables
from dsops_controller.db.database import Database, upsert
from dsops_controller.rollout.desired import Director
from dsops_controller.rollout.driver import Driver
from dsops_controller.rollout.plan import Plan, WaveSpec
from dsops_controller.rollout.rollouts import Rollouts

SHA = {release: f"{release:064x}" for release in range(1, 6)}


class Courier:
    """Keeps what was published last, as a retained topic does."""

    def __init__(self) -> None:
        self.desired: dict[str, bytes] = {}
        self.seeded: list[tuple[str, str]] = []

    def publish_desired(self, device: str, envelope: bytes) -> None:
        self.desired[device] = envelope

    def seed(self, bundle_sha256: str, model: str) -> None:
        self.seeded.append((bundle_sha256, model))


class Fleet:
    """A controller's database with three devices that report what the test tells them to."""

    def __init__(self, folder: Path) -> None:
        self.clock = ManualClock()
        self.db = Database(f"sqlite:///{folder}/state.db")
        tables.metadata.create_all(self.db.writer)
        self.signing_keys = [Ed25519PrivateKey.generate()]
        self.director = director = Director("fleet", lambda: tuple(self.signing_keys))
        self.courier = Courier()
        self.rollouts = Rollouts(self.db, director, self.clock)
        self.driver = Driver(self.db, self.courier, director, self.clock)
        self.counter = 0
        with self.db.write() as connection:
            for name in ("a", "b", "c"):
                upsert(connection, tables.device, id=name, state="accepted", created_ms=0, online=True)
            for release, sha in SHA.items():
                connection.execute(
                    tables.bundle.insert().values(
                        sha256=sha, model="digits", release=release, variant="int8", length_bytes=9,
                        path=f"digits/{release}.int8.bundle", index_sha256=SHA[1], manifest="{}", pushed_ms=0,
                    )
                )  # fmt: skip

    @property
    def keys(self) -> dict[str, dsse.PublicKey]:
        """What devices believe."""
        return {dsse.key_id(key.public_key()): key.public_key() for key in self.signing_keys}

    def wanted(self, device: str) -> Directive:
        return check_directive(
            self.courier.desired[device], Recipient("fleet", device, self.keys), last_seq=0, now=self.clock.now()
        )

    def report(self, device: str, install: Install, **fields: Any) -> None:
        directive = self.wanted(device)
        slot = directive.slots["digits"]
        state = ModelState(install=install, deployment=slot.deployment, target=slot.sha256, **fields)
        self.counter += 1
        observed = Observed(
            device=device, counter=self.counter, time=self.clock.now(), seq=directive.seq, models={"digits": state}
        )
        with self.db.write() as connection:
            upsert(
                connection, tables.observed, device=device, counter=self.counter, seq=directive.seq,
                report=observed.model_dump_json(), received_ms=0,
            )  # fmt: skip
        self.driver.turn()

    def commit(self, device: str) -> None:
        sha = self.wanted(device).slots["digits"].sha256
        self.report(device, Install.COMMITTED, active=sha)

    def start(self, release: int, **fields: Any) -> str:
        canary = (WaveSpec(devices=("b",)),)
        rollout = self.rollouts.create(Plan(model="digits", release=release, waves=canary, **fields))
        self.driver.turn()
        return rollout

    def state(self, rollout: str) -> str:
        return str(self.rollouts.get(rollout)["state"])


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    return Fleet(tmp_path)


def test_a_release_with_several_variants_needs_one_named(fleet: Fleet) -> None:
    other = "f" * 64
    with fleet.db.write() as connection:
        connection.execute(
            tables.bundle.insert().values(
                sha256=other, model="digits", release=1, variant="float32", length_bytes=9,
                path="digits/1.float32.bundle", index_sha256=SHA[1], manifest="{}", pushed_ms=0,
            )
        )  # fmt: skip
    with pytest.raises(Conflict, match="has several variants: float32, int8"):
        fleet.rollouts.create(Plan(model="digits", release=1))
    with pytest.raises(NotFound, match="no bundle digits 1 coral: this release has float32, int8"):
        fleet.rollouts.create(Plan(model="digits", release=1, variant="coral"))
    rollout = fleet.rollouts.create(Plan(model="digits", release=1, variant="float32"))
    assert fleet.rollouts.get(rollout)["bundle"] == other


@pytest.mark.parametrize("changes", [True, False])
def test_devices_are_told_whether_a_change_of_contract_is_meant(fleet: Fleet, changes: bool) -> None:
    fleet.start(1, changes_contract=changes)
    assert fleet.wanted("b").slots["digits"].changes_contract is changes


def test_after_a_change_of_the_directors_key_every_directive_is_signed_again(fleet: Fleet) -> None:
    fleet.start(1)
    fleet.commit("b")
    before = {device: (fleet.courier.desired[device], fleet.wanted(device)) for device in ("a", "b", "c")}
    fleet.driver.turn()
    assert {device: envelope for device, (envelope, _) in before.items()} == fleet.courier.desired
    fleet.signing_keys = [Ed25519PrivateKey.generate()]
    fleet.driver.turn()
    for device, (envelope, directive) in before.items():
        assert fleet.courier.desired[device] != envelope
        again = fleet.wanted(device)  # signed by the new key
        assert again.slots == directive.slots
        assert again.seq == directive.seq + 1
    after = dict(fleet.courier.desired)
    fleet.driver.turn()
    assert fleet.courier.desired == after
    fleet.signing_keys.append(Ed25519PrivateKey.generate())  # one of them is enough to be believed
    fleet.driver.turn()
    assert fleet.courier.desired == after


def test_only_the_canary_is_asked_first(fleet: Fleet) -> None:
    fleet.start(1)
    assert set(fleet.courier.desired) == {"b"}
    assert fleet.courier.seeded == [(SHA[1], "digits")]


def test_the_rest_follows_the_canarys_own_report_and_the_rollout_ends(fleet: Fleet) -> None:
    rollout = fleet.start(1)
    fleet.report("b", Install.PROBATION, active=SHA[1])
    assert set(fleet.courier.desired) == {"b"}
    fleet.commit("b")
    assert set(fleet.courier.desired) == {"a", "b", "c"}
    fleet.commit("a")
    assert fleet.state(rollout) == "running"
    fleet.commit("c")
    assert fleet.state(rollout) == "succeeded"


def test_a_refusing_canary_halts_and_the_others_are_never_asked(fleet: Fleet) -> None:
    rollout = fleet.start(1)
    fleet.report("b", Install.REJECTED, problem=Problem(code="bundle.golden_mismatch", message="3 of 32 differ"))
    assert fleet.state(rollout) == "paused"
    assert "bundle.golden_mismatch" in fleet.rollouts.get(rollout)["reason"]
    assert set(fleet.courier.desired) == {"b"}


def test_abort_asks_the_failed_canary_for_what_it_runs(fleet: Fleet) -> None:
    for device in ("b", "a", "c"):
        fleet.start(1) if device == "b" else None
        fleet.commit(device)
    rollout = fleet.start(2)
    first = fleet.wanted("b").seq
    fleet.report("b", Install.REJECTED, active=SHA[1], problem=Problem(code="bundle.golden_mismatch"))
    ((device, envelope),) = fleet.rollouts.abort(rollout)
    fleet.courier.publish_desired(device, envelope)
    assert fleet.wanted("b").slots["digits"].sha256 == SHA[1]
    assert fleet.wanted("b").seq > first
    states = {d["device"]: d["state"] for wave in fleet.rollouts.get(rollout)["waves"] for d in wave}
    assert states == {"b": "rejected", "a": "aborted", "c": "aborted"}


def abort(fleet: Fleet, rollout: str) -> dict[str, str]:
    """End a rollout; return how its deployments ended."""
    for device, envelope in fleet.rollouts.abort(rollout):
        fleet.courier.publish_desired(device, envelope)
    return {d["device"]: d["state"] for wave in fleet.rollouts.get(rollout)["waves"] for d in wave}


def test_abort_takes_a_first_bundle_off_the_list(fleet: Fleet) -> None:
    rollout = fleet.start(1)
    fleet.report("b", Install.FETCHING, progress=0.5)
    assert abort(fleet, rollout) == {"a": "aborted", "b": "aborted", "c": "aborted"}
    assert fleet.wanted("b").slots == {}
    assert set(fleet.courier.desired) == {"b"}


def test_abort_takes_a_device_back_that_is_in_probation(fleet: Fleet) -> None:
    fleet.start(1)
    for device in ("b", "a", "c"):
        fleet.commit(device)
    rollout = fleet.start(2)
    fleet.report("b", Install.PROBATION, active=SHA[2], previous=SHA[1])
    assert abort(fleet, rollout)["b"] == "aborted"
    assert fleet.wanted("b").slots["digits"].sha256 == SHA[1]


def test_abort_leaves_a_device_alone_that_finished_just_before(fleet: Fleet) -> None:
    rollout = fleet.start(1)
    before, turn = fleet.courier.desired["b"], fleet.driver.turn
    fleet.driver.turn = lambda: None  # type: ignore[method-assign]
    fleet.commit("b")
    fleet.driver.turn = turn  # type: ignore[method-assign]
    assert abort(fleet, rollout) == {"a": "aborted", "b": "succeeded", "c": "aborted"}
    assert fleet.courier.desired == {"b": before}


def test_urgent_goes_from_the_plan_to_the_device(fleet: Fleet) -> None:
    fleet.start(1)
    assert not fleet.wanted("b").slots["digits"].urgent
    abort(fleet, fleet.rollouts.every()[0]["id"])
    fleet.start(2, urgent=True)
    assert fleet.wanted("b").slots["digits"].urgent


def part(fleet: Fleet, rollout: str) -> dict[str, Any]:
    found: dict[str, Any] = fleet.rollouts.get(rollout)["waves"][0][0]
    return found


def test_what_a_device_waits_for_its_window_does_not_count(fleet: Fleet) -> None:
    rollout = fleet.start(1, timeout_s=600)
    fleet.clock.advance(500)
    fleet.report("b", Install.PROVED, waiting="activation window opens 2026-11-29 02:00 Europe/Berlin")
    fleet.clock.advance(12 * 3600)
    fleet.driver.turn()
    assert (part(fleet, rollout)["state"], part(fleet, rollout)["waiting"][:10]) == ("in_progress", "activation")
    fleet.report("b", Install.ACTIVATING)
    assert part(fleet, rollout)["waiting"] == ""
    fleet.clock.advance(99)
    fleet.driver.turn()
    assert part(fleet, rollout)["state"] == "in_progress"
    fleet.clock.advance(2)
    fleet.driver.turn()
    assert part(fleet, rollout)["state"] == "timed_out"


def test_a_device_that_vanishes_while_it_waits_is_given_up(fleet: Fleet) -> None:
    rollout = fleet.start(1, timeout_s=600)
    fleet.report("b", Install.FETCHING, waiting="on battery")
    fleet.clock.advance(3600)
    with fleet.db.write() as connection:
        connection.execute(tables.device.update().where(tables.device.c.id == "b").values(online=False))
    fleet.driver.turn()
    assert part(fleet, rollout)["state"] == "in_progress"
    fleet.clock.advance(601)
    fleet.driver.turn()
    assert part(fleet, rollout)["state"] == "timed_out"


def test_resume_forgives_the_failures_so_far(fleet: Fleet) -> None:
    rollout = fleet.start(1)
    fleet.report("b", Install.REJECTED, problem=Problem(code="bundle.incompatible"))
    fleet.rollouts.resume(rollout)
    fleet.driver.turn()
    assert fleet.state(rollout) == "running"
    fleet.commit("a")
    fleet.commit("c")
    assert fleet.state(rollout) == "succeeded"
    states = {d["device"]: d["state"] for wave in fleet.rollouts.get(rollout)["waves"] for d in wave}
    assert states["b"] == "incompatible"


def test_a_lost_directive_is_repeated_until_the_device_reports_it(fleet: Fleet) -> None:
    fleet.start(1)
    fleet.courier.desired.clear()
    fleet.clock.advance(6)
    fleet.driver.turn()
    assert fleet.wanted("b").slots["digits"].sha256 == SHA[1]
    fleet.commit("b")
    for device in ("a", "c"):
        fleet.commit(device)
    fleet.courier.desired.clear()
    fleet.clock.advance(60)
    fleet.driver.turn()
    assert fleet.courier.desired == {}


def test_a_directive_is_renewed_before_it_expires(fleet: Fleet) -> None:
    fleet.start(1)
    fleet.commit("b")
    before = fleet.wanted("b")
    fleet.clock.advance(8 * 86_400)
    fleet.driver.turn()
    assert fleet.wanted("b").seq == before.seq + 1
    assert fleet.wanted("b").slots == before.slots


def test_a_directive_that_the_controller_never_wrote_is_overruled_and_audited(fleet: Fleet) -> None:
    """Somebody with a stolen director's key, or a database that was restored from an older copy."""
    fleet.start(1)
    fleet.commit("b")
    mine = fleet.wanted("b")
    with fleet.db.write() as connection:
        report = Observed(device="b", counter=99, time=fleet.clock.now(), seq=mine.seq + 7)
        values = {"counter": 99, "seq": mine.seq + 7, "report": report.model_dump_json(), "received_ms": 0}
        upsert(connection, tables.observed, device="b", **values)
    fleet.driver.turn()
    after = fleet.wanted("b")
    assert after.seq == mine.seq + 8
    assert after.slots == mine.slots
    fleet.driver.turn()
    assert fleet.wanted("b") == after
    rows = [entry for entry in Audit(fleet.db, fleet.clock).list() if entry.action == "directive.foreign"]
    assert [row.subject for row in rows] == ["b"]


def test_a_silent_device_times_out(fleet: Fleet) -> None:
    rollout = fleet.start(1, timeout_s=30)
    fleet.clock.advance(31)
    fleet.driver.turn()
    assert fleet.state(rollout) == "paused"
    assert "timed_out" in fleet.rollouts.get(rollout)["reason"]


def test_the_sequence_number_rises_past_what_the_device_accepted(fleet: Fleet) -> None:
    with fleet.db.write() as connection:
        upsert(
            connection,
            tables.observed,
            device="b",
            counter=1,
            seq=41,
            report=Observed(device="b", counter=1, time=fleet.clock.now(), seq=41).model_dump_json(),
            received_ms=0,
        )
    fleet.start(1)
    assert fleet.wanted("b").seq == 42


def test_a_device_that_runs_it_already_is_not_waited_for(fleet: Fleet) -> None:
    fleet.start(1)
    for device in ("b", "a", "c"):
        fleet.commit(device)
    again = fleet.start(1)
    assert fleet.state(again) == "succeeded"
    states = {d["state"] for wave in fleet.rollouts.get(again)["waves"] for d in wave}
    assert states == {"already_installed"}


def test_what_cannot_be_rolled_out_is_refused(fleet: Fleet) -> None:
    with pytest.raises(NotFound, match="digits 9"):
        fleet.start(9)
    with pytest.raises(InvalidInput, match="zzz"):
        fleet.rollouts.create(Plan(model="digits", release=1, cohort=("zzz",)))
    fleet.start(1)
    with pytest.raises(Conflict, match="running"):
        fleet.start(2)
    with pytest.raises(NotFound):
        fleet.rollouts.get("ro-none")


def test_a_large_wave_is_started_bit_by_bit_and_every_device_is_told(fleet: Fleet) -> None:
    names = [f"cam-{number:04}" for number in range(450)]
    with fleet.db.write() as connection:
        rows = [{"id": name, "state": "accepted", "created_ms": 0, "online": True} for name in names]
        connection.execute(tables.device.insert(), rows)
    fleet.rollouts.create(Plan(model="digits", release=1, cohort=tuple(names), waves=(WaveSpec(percent=100),)))
    told = []
    while len(fleet.courier.desired) < len(names):
        fleet.driver.turn()
        told.append(len(fleet.courier.desired))
    assert told == [200, 400, 450]


def test_a_fleet_that_is_silent_is_reminded_at_a_bounded_rate(fleet: Fleet) -> None:
    names = [f"cam-{number:04}" for number in range(150)]
    with fleet.db.write() as connection:
        rows = [{"id": name, "state": "accepted", "created_ms": 0, "online": True} for name in names]
        connection.execute(tables.device.insert(), rows)
    rollout = fleet.rollouts.create(
        Plan(model="digits", release=1, cohort=tuple(names), waves=(WaveSpec(percent=100),))
    )
    fleet.driver.turn()
    reminded: list[set[str]] = []
    for _ in range(4):
        fleet.courier.desired.clear()
        fleet.clock.advance(5)
        fleet.driver.turn()
        reminded.append(set(fleet.courier.desired))
    assert [len(each) for each in reminded] == [50, 50, 50, 50]
    assert len(set().union(*reminded[:3])) == 150, "each once before anyone twice"
    assert fleet.state(rollout) == "running"


def test_many_directives_that_end_soon_are_renewed_over_several_turns(fleet: Fleet) -> None:
    names = [f"cam-{number:04}" for number in range(150)]
    envelope = dsse.sign(PAYLOAD_TYPE, b"{}", fleet.signing_keys[0]).encode()
    with fleet.db.write() as connection:
        for name in names:
            upsert(connection, tables.device, id=name, state="accepted", created_ms=0, online=False)
            values = {"seq": 1, "envelope": envelope, "slots": "{}", "updated_ms": 0}
            upsert(connection, tables.desired, device=name, **values)
    fleet.driver.turn()
    assert len(fleet.courier.desired) == 100
    fleet.driver.turn()
    assert set(fleet.courier.desired) == set(names)
