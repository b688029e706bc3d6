"""Which bundle a device ran at a moment, by telemetry and events of a real store."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from dsops.api.v1.telemetry_pb2 import Event, TelemetryRecord
from dsops_controller.dataops.inbox import Inbox
from dsops_controller.dataops.lake.lake import Lake
from dsops_controller.dataops.running import Proof, Ran, running
from dsops_controller.dataops.store import LakeStore
from dsops_controller.dataops.testing import DIGEST, RIVAL, interval, received, telemetry_batch
from dsops_controller.db.database import Database

START = datetime(2026, 1, 1, 12, tzinfo=UTC)


def us(seconds: float) -> int:
    return round((START.timestamp() + seconds) * 1e6)


def answered(seconds: float, digest: str = DIGEST, release: int = 1) -> TelemetryRecord:
    made = interval(us(seconds), release=release)
    made.model.digest = digest
    return made


def committed(seconds: float, digest: str, release: int, kind: str = "committed") -> TelemetryRecord:
    return TelemetryRecord(event=Event(time_us=us(seconds), kind=kind, model="digits", release=release, digest=digest))


class Desk:
    def __init__(self, db: Database, inbox: Inbox, folder: Path) -> None:
        self.lake = Lake(db, folder / "lake")
        self.lake.open()
        self.inbox, self.store = inbox, LakeStore(db, self.lake)

    def put(self, records: Sequence[TelemetryRecord], device: str = "cam-1") -> None:
        message = telemetry_batch(b"t" * 16, range(1, len(records) + 1), records)
        self.inbox.put(device, received(message))

    def at(self, seconds: float) -> list[Ran]:
        return running(self.store, "cam-1", START + timedelta(seconds=seconds))


@pytest.fixture
def desk(db: Database, inbox: Inbox, tmp_path: Path) -> Desk:
    return Desk(db, inbox, tmp_path)


def told(found: list[Ran]) -> list[tuple[str, int, Proof]]:
    return [(one.digest, one.release, one.proof) for one in found]


@pytest.mark.parametrize("is_flushed", [False, True])
def test_what_answered_in_the_moment_is_what_ran(desk: Desk, *, is_flushed: bool) -> None:
    desk.put([answered(0), answered(100), committed(200, RIVAL, 2), answered(300, RIVAL, 2)])
    desk.put([answered(100, "ee" * 32, 9)], "cam-2")
    if is_flushed:
        desk.lake.flush()
    assert told(desk.at(0.5)) == [(DIGEST, 1, Proof.ANSWERED)]
    assert told(desk.at(300)) == [(RIVAL, 2, Proof.ANSWERED)]
    (one,) = desk.at(300)
    assert (one.since, one.until, one.requests) == (START + timedelta(seconds=300), START + timedelta(seconds=301), 1)


def test_between_answers_of_one_bundle_it_ran_and_after_a_commit_the_new_one_did(desk: Desk) -> None:
    desk.put([answered(0), answered(100), committed(200, RIVAL, 2), answered(300, RIVAL, 2)])
    assert told(desk.at(50)) == [(DIGEST, 1, Proof.BETWEEN)]
    assert told(desk.at(250)) == [(RIVAL, 2, Proof.COMMITTED)]
    assert told(desk.at(199)) == [(DIGEST, 1, Proof.LAST)]  # the other was on its way, or not yet
    assert told(desk.at(400)) == [(RIVAL, 2, Proof.LAST)]
    assert desk.at(-1) == []


def test_two_that_answered_together_are_both_told(desk: Desk) -> None:
    desk.put([answered(0), answered(0, RIVAL, 2)])
    assert told(desk.at(0.5)) == [(DIGEST, 1, Proof.ANSWERED), (RIVAL, 2, Proof.ANSWERED)]


def test_an_event_alone_says_what_was_committed_and_only_commits_count(desk: Desk) -> None:
    desk.put([committed(0, DIGEST, 1), committed(10, RIVAL, 2, "rolled_back")])
    assert told(desk.at(20)) == [(DIGEST, 1, Proof.COMMITTED)]
    assert desk.at(-5) == []


def test_a_moment_out_of_reach_of_every_answer_is_not_guessed(desk: Desk) -> None:
    desk.put([answered(0)])
    assert desk.at(timedelta(days=31).total_seconds()) == []
