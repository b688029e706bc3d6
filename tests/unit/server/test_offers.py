"""What the broker is offered and what leaves it, whenever the controller is killed. A dict plays the broker."""

import hashlib
import itertools
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from dsops.chunks import ChunkIndex, index_of, split
from dsops.clock import ManualClock
from dsops.errors import Conflict, NotFound
from dsops.states import Device, Rollout
from dsops.topics import Topics
from dsops_controller.db import tables
from dsops_controller.db.database import Database, upsert
from dsops_controller.rollout.desired import Director
from dsops_controller.rollout.plan import Plan
from dsops_controller.rollout.rollouts import Rollouts
from dsops_controller.server.link import Message
from dsops_controller.server.offers import REFRESH_S, Due, Offers, due
from dsops_controller.server.publications import Publications
from dsops_controller.trust.repository import Offer

T = Topics()
CHUNK = 16


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class Untrusted:
    """No trust metadata yet."""

    is_established = False

    def offer(self) -> Offer:
        raise AssertionError("there is none")


class Files:
    """Files in memory: bundles and deltas alike."""

    def __init__(self) -> None:
        self.held: dict[str, bytes] = {}

    def add(self, data: bytes) -> str:
        self.held[sha(data)] = data
        return sha(data)

    def index(self, sha256: str) -> ChunkIndex:
        if sha256 not in self.held:
            raise NotFound(f"there is no file {sha256}")
        return index_of(self.held[sha256], CHUNK)

    def digests(self, sha256: str) -> tuple[str, ...]:
        index = self.index(sha256)
        return (index.digest, *dict.fromkeys(index.digests))

    def chunk(self, digest: str) -> bytes | None:
        pieces = [piece for data in self.held.values() for piece in split(data, CHUNK)]
        indexes = [self.index(file).encode() for file in self.held]
        return next((piece for piece in (*pieces, *indexes) if sha(piece) == digest), None)

    def topics(self, *files: str) -> set[str]:
        return {T.chunk(d) for file in files for d in (self.index(file).digest, *self.index(file).digests)}


class Controller:
    """A controller that can be killed: everything but the database, the files and the broker goes."""

    def __init__(self, db: Database, files: Files, broker: dict[str, bytes], clock: ManualClock) -> None:
        self.offers = Offers(db, clock)
        self.publications = Publications(db, T, Untrusted(), files, clock)
        self.broker = broker

    def life(self) -> Iterator[None]:
        """Begin a session, which says everything again, then do what is due; between two steps it may be killed."""
        for file in sorted(self.offers.wanted()):
            yield from self._publish(self.publications.file(file))
        yield from self.upkeep()

    def upkeep(self) -> Iterator[None]:
        """Do what is due."""
        todo = self.offers.due()
        for file in todo.retire:
            yield from self._publish(self.publications.retirement(file))
            self.offers.end(file)
            yield
        for file in todo.offer:
            yield from self._publish(self.publications.file(file))

    def _publish(self, messages: Iterator[Message]) -> Iterator[None]:
        for message in messages:
            self.broker[message.topic] = message.payload
            if not message.payload:
                del self.broker[message.topic]
            yield


class Stage:
    """A database with one device, and two bundles that share their first half."""

    def __init__(self, folder: Path) -> None:
        self.db = Database(f"sqlite:///{folder}/state.db")
        tables.metadata.create_all(self.db.writer)
        self.clock = ManualClock()
        self.files = Files()
        self.broker: dict[str, bytes] = {}
        with self.db.write() as connection:
            upsert(connection, tables.device, id="cam-1", state=Device.ACCEPTED, created_ms=0)
        shared = bytes(range(64))
        self.old = self.bundle(1, shared + b"o" * 40)
        self.new = self.bundle(2, shared + b"n" * 40)

    def bundle(self, release: int, data: bytes) -> str:
        file = self.files.add(data)
        with self.db.write() as connection:
            connection.execute(
                tables.bundle.insert().values(
                    sha256=file, model="m", release=release, variant="int8", length_bytes=len(data),
                    path=f"m/{release}.int8.bundle", index_sha256=file, manifest="{}", pushed_ms=0,
                )
            )  # fmt: skip
        return file

    def delta(self, base: str, target: str) -> str:
        file = self.files.add(b"delta" * 10)
        with self.db.write() as connection:
            values = {"sha256": file, "length_bytes": 50, "index_sha256": file, "created_ms": 0}
            upsert(connection, tables.delta, base_sha256=base, target_sha256=target, **values)
        return file

    def roll_out(self, bundle: str, state: Rollout = Rollout.RUNNING) -> None:
        values = {"model": "m", "release": 1, "bundle_sha256": bundle, "state": state, "plan": "{}"}
        with self.db.write() as connection:
            upsert(connection, tables.rollout, id="r", **values, created_ms=0, updated_ms=0)

    def desire(self, *bundles: str) -> None:
        slots = json.dumps({f"m{number}": {"sha256": file} for number, file in enumerate(bundles)})
        with self.db.write() as connection:
            values = {"seq": 1, "envelope": b"e", "slots": slots, "updated_ms": 0}
            upsert(connection, tables.desired, device="cam-1", **values)

    def controller(self) -> Controller:
        return Controller(self.db, self.files, self.broker, self.clock)

    def settle(self) -> None:
        for _ in self.controller().upkeep():
            pass

    def live(self, most: int | None = None) -> int:
        """Start a controller and kill it after so many steps; return how many it did."""
        return len(list(itertools.islice(self.controller().life(), most)))

    def noted(self) -> set[str]:
        with self.db.read() as connection:
            return set(connection.execute(tables.seeded.select()).scalars())


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(tmp_path)


def test_what_is_due_follows_from_what_is_wanted_and_what_was_offered() -> None:
    now_ms = 10 * 86_400_000
    old_ms = now_ms - int(REFRESH_S * 1000) - 1
    assert due({"new": 1, "old": 1, "fresh": 1}, {"old": old_ms, "fresh": now_ms, "gone": now_ms}, now_ms) == Due(
        offer=("new", "old"), retire=("gone",)
    )


def test_wherever_the_controller_is_killed_the_broker_holds_what_is_wanted_in_the_end(stage: Stage) -> None:
    stage.desire(stage.old)
    stage.settle()
    assert set(stage.broker) == stage.files.topics(stage.old)
    for lived in itertools.count():
        wanted, other = (stage.new, stage.old) if lived % 2 == 0 else (stage.old, stage.new)
        stage.desire(wanted)
        done = stage.live(lived)
        assert stage.files.topics(wanted) & stage.files.topics(other) <= set(stage.broker), "what both share stays"
        stage.live()
        stage.live()  # once more changes nothing
        assert set(stage.broker) == stage.files.topics(wanted)
        assert stage.noted() == {wanted}
        if done < lived:
            break
    assert lived > 10


def test_a_delta_is_offered_while_its_target_is_rolled_out(stage: Stage) -> None:
    delta = stage.delta(stage.old, stage.new)
    stage.desire(stage.old)
    stage.settle()
    assert set(stage.broker) == stage.files.topics(stage.old)
    stage.desire(stage.new)
    stage.roll_out(stage.new)
    stage.settle()
    assert set(stage.broker) == stage.files.topics(stage.new, delta)
    stage.roll_out(stage.new, Rollout.SUCCEEDED)
    stage.settle()
    assert set(stage.broker) == stage.files.topics(stage.new)
    stage.desire()
    stage.settle()
    assert (stage.broker, stage.noted()) == ({}, set())


def test_chunks_are_offered_again_before_the_broker_forgets_them(stage: Stage) -> None:
    stage.desire(stage.new)
    stage.settle()
    stage.broker.clear()
    stage.clock.advance(REFRESH_S - 60)
    stage.settle()
    assert stage.broker == {}
    stage.clock.advance(120)
    stage.settle()
    assert set(stage.broker) == stage.files.topics(stage.new)


def test_a_file_that_is_lost_does_not_hold_up_the_others(stage: Stage) -> None:
    stage.desire(stage.old, stage.new)
    stage.settle()
    del stage.files.held[stage.old]
    stage.desire()
    stage.settle()
    assert stage.noted() == set()
    assert not set(stage.broker) & stage.files.topics(stage.new)


def test_a_rollout_that_the_broker_has_no_room_for_is_refused_with_the_figures(stage: Stage) -> None:
    director = Director("fleet", tuple)
    rollouts = Rollouts(stage.db, director, stage.clock, retained_bytes=200)
    stage.desire(stage.old)
    with pytest.raises(Conflict, match=r"104 bytes of 1 files .* with 104 more .* over the 200") as caught:
        rollouts.create(Plan(model="m", release=2))
    assert "retained_bytes in controller.toml" in caught.value.hint
    rollouts.create(Plan(model="m", release=1))  # the broker holds it already
    with stage.db.write() as connection:
        connection.execute(tables.rollout.update().values(state=Rollout.ABORTED))
    stage.desire()
    rollouts.create(Plan(model="m", release=2))


def test_after_a_loss_devices_that_a_rollout_waits_for_are_told_first_then_those_that_are_there(stage: Stage) -> None:
    states = {
        "a": ("accepted", False),
        "b": ("accepted", True),
        "c": ("accepted", False),
        "d": ("decommissioned", True),
    }
    with stage.db.write() as connection:
        for name, (state, online) in states.items():
            upsert(connection, tables.device, id=name, state=state, created_ms=0, online=online)
            values = {"seq": 1, "envelope": name.encode(), "slots": "{}", "updated_ms": 0}
            if state == "accepted":
                upsert(connection, tables.desired, device=name, **values)
        rollout = {"id": "r", "model": "m", "release": 1, "bundle_sha256": stage.old, "state": "running", "plan": "{}"}
        connection.execute(tables.rollout.insert().values(created_ms=0, updated_ms=0, **rollout))
        part = {"id": "p", "rollout": "r", "device": "c", "wave": 0, "state": "in_progress"}
        connection.execute(tables.deployment.insert().values(**part))
    publications = stage.controller().publications
    assert publications.devices() == ["c", "b", "d", "a"]
    assert publications.desired("a") == Message(T.desired("a"), b"a", retain=True)
    assert publications.desired("d") == Message(T.desired("d"), b"", retain=True), "what is gone for good is deleted"
    assert publications.desired("cam-1") is None
