"""The driver against a real SQLite database and a courier that loses what it is told to lose."""

from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from dsops import dsse
from dsops.clock import ManualClock
from dsops.directive import Directive, Recipient, check_directive
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
