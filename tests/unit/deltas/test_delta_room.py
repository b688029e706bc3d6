"""What the broker has no room for, and what nobody can use any more: deltas come and go, also across kills."""

from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import delete
from test_delta_offers import NEW, OLD, DeltaFleet

from dsops.messages import ModelState, Observed
from dsops.states import Install
from dsops_controller.db import tables
from dsops_controller.db.database import upsert
from dsops_controller.deltas.files import DeltaFiles
from dsops_controller.deltas.room import NO_ROOM, without_room
from dsops_controller.deltas.workshop import TIDY_S, Workshop
from dsops_controller.rollout.driver import Driver
from dsops_controller.rollout.rollouts import Rollouts
from dsops_controller.rollout.wanted import wanted_files

BOTH = len(OLD.data) + len(NEW.data)


class NarrowFleet(DeltaFleet):
    """A fleet whose broker may be offered so much."""

    def allow(self, retained_bytes: int) -> None:
        self.limit = retained_bytes
        self.rollouts = Rollouts(self.db, self.director, self.clock, retained_bytes)
        self.workshop = Workshop(self.db, self.bundles, self.files, self.clock, retained_bytes)
        self.driver = Driver(self.db, self.courier, self.director, self.clock, self.workshop)

    def held(self) -> int:
        with self.db.read() as connection:
            return sum(wanted_files(connection).values())

    def left_out(self) -> int:
        with self.db.read() as connection:
            return without_room(connection)

    def files_there(self) -> set[str]:
        return {path.name for path in (self.bundles.folder.parent / "deltas").iterdir()}

    def report_active(self, device: str = "b") -> None:
        """Have a device's newest report say that it runs ``OLD``."""
        state = ModelState(install=Install.COMMITTED, active=self.sha[1])
        self.counter += 1
        said = Observed(device=device, counter=self.counter, time=self.clock.now(), seq=1, models={"digits": state})
        with self.db.write() as connection:
            values = {"counter": self.counter, "seq": 1, "report": said.model_dump_json()}
            upsert(connection, tables.observed, device=device, **values, received_ms=0)

    def make(self) -> str:
        """Roll out ``NEW`` with a delta; return the rollout."""
        rollout = self.roll_out(NEW)
        self.workshop.work()
        self.driver.turn()
        assert self.target() == self.sha[12]
        return rollout


@pytest.fixture
def fleet(tmp_path: Path) -> NarrowFleet:
    made = NarrowFleet(tmp_path)
    made.install(OLD)
    return made


def test_a_delta_is_left_out_when_with_it_the_sum_would_exceed_the_limit(fleet: NarrowFleet) -> None:
    fleet.allow(BOTH + 100)
    fleet.make()
    assert fleet.offer() is None, "the device fetches the bundle"
    assert fleet.held() <= fleet.limit
    (row,) = fleet.rows()
    assert (row.sha256, row.index_sha256, row.withheld) == (None, None, NO_ROOM)
    assert fleet.left_out() == 1
    assert fleet.files_there() == set()
    assert not fleet.workshop.work(), "it is remembered"


def test_the_delta_that_fits_to_the_byte_is_offered(fleet: NarrowFleet) -> None:
    fleet.make()
    offer = fleet.offer()
    assert offer is not None
    with fleet.db.write() as connection:
        connection.execute(delete(tables.delta))
        connection.execute(tables.rollout.update().values(state="aborted"))
    for slack, fits in ((-1, False), (0, True)):
        fleet.report_active()
        fleet.allow(len(NEW.data) + offer.length_bytes + slack)
        fleet.roll_out(NEW)
        fleet.workshop.work()
        assert (fleet.left_out() == 0) is fits
        assert fleet.held() <= fleet.limit
        with fleet.db.write() as connection:
            connection.execute(tables.rollout.update().values(state="aborted"))


def test_the_next_rollout_decides_anew(fleet: NarrowFleet) -> None:
    fleet.allow(BOTH + 100)
    fleet.rollouts.abort(fleet.make())
    fleet.allow(10 * BOTH)
    fleet.make()
    assert fleet.offer() is not None
    assert fleet.left_out() == 0


def test_deltas_of_an_earlier_rollout_are_counted_when_it_is_rolled_out_again(fleet: NarrowFleet) -> None:
    fleet.rollouts.abort(fleet.make())
    assert [row.withheld for row in fleet.rows()] == [""]
    fleet.allow(BOTH + 100)
    fleet.roll_out(NEW)
    assert fleet.held() <= fleet.limit
    assert fleet.left_out() == 1


def test_a_delta_stays_while_a_device_that_comes_back_may_use_it(fleet: NarrowFleet) -> None:
    fleet.make()
    fleet.commit("b")
    fleet.report_active("c")  # it still has the base, and the desired state of b names the target
    fleet.workshop.tidy()
    assert len(fleet.rows()) == 1
    assert len(fleet.files_there()) == 1


@pytest.mark.parametrize("gone", ["base", "target"])
def test_a_delta_goes_when_nobody_has_its_base_or_wants_its_target(fleet: NarrowFleet, gone: str) -> None:
    rollout = fleet.make()
    offer = fleet.offer()
    assert offer is not None
    assert fleet.files.chunk(offer.index) is not None
    if gone == "base":
        fleet.commit("b")
    else:
        fleet.rollouts.abort(rollout)
    with fleet.db.write() as connection:
        upsert(connection, tables.seeded, sha256=offer.sha256, length_bytes=1, seeded_ms=0)
    fleet.workshop.tidy()
    assert fleet.rows() == []
    assert fleet.files_there() == {offer.sha256}, "it names the chunks that the broker holds"
    assert fleet.files.digests(offer.sha256)
    with fleet.db.write() as connection:
        connection.execute(delete(tables.seeded))
    fleet.workshop.tidy()
    assert fleet.files_there() == {offer.sha256}, "it is not looked at all the time"
    fleet.clock.advance(TIDY_S)
    fleet.workshop.tidy()
    assert fleet.files_there() == set()
    assert fleet.files.chunk(offer.index) is None


def test_killed_between_row_and_file_the_file_goes_next_time(
    fleet: NarrowFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet.make()
    fleet.commit("b")

    def killed(self: Path, missing_ok: bool = False) -> None:
        raise SystemExit("killed")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", killed)
        with pytest.raises(SystemExit):
            fleet.files.remove_unwanted()
    assert fleet.rows() == []
    assert len(fleet.files_there()) == 1
    again = DeltaFiles(fleet.db, fleet.bundles.folder.parent / "deltas")
    again.remove_unwanted()
    assert fleet.files_there() == set()


def test_killed_between_file_and_row_the_file_goes_and_is_made_again(fleet: NarrowFleet) -> None:
    fleet.files.keep(b"a delta that nobody noted")
    fleet.workshop.tidy()
    assert fleet.files_there() == set()
    fleet.make()
    assert fleet.offer() is not None
    assert len(fleet.files_there()) == 1


def test_a_damaged_delta_is_read_once_then_forgotten_and_made_again(
    fleet: NarrowFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet.make()
    offer = fleet.offer()
    assert offer is not None
    path = fleet.bundles.folder.parent / "deltas" / offer.sha256
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    again = DeltaFiles(fleet.db, path.parent)
    reads: list[Any] = []
    read = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda self: (reads.append(self), read(self))[1])
    assert [again.chunk(f"{number:064x}") for number in range(20)] == [None] * 20
    assert len(reads) == 1, "a stranger's digest costs that once"
    again.forget_lost()
    assert fleet.rows() == []
    sha256, _ = again.keep(read(path)[:-1] + b"x")
    assert again.digests(sha256)
