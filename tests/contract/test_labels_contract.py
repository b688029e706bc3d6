"""Labels, data sets and requests for retraining over every kind of state database."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from dsops.api.v1.samples_pb2 import Sealed
from dsops.clock import ManualClock
from dsops.errors import Conflict, InvalidInput, NotFound
from dsops_controller.audit import Audit
from dsops_controller.dataops.datasets.dataset_manifest import Policy, Shares
from dsops_controller.dataops.datasets.datasets import Datasets, Query
from dsops_controller.dataops.datasets.lineage import Lineage
from dsops_controller.dataops.inbox import Inbox
from dsops_controller.dataops.labels.agreement import Scale
from dsops_controller.dataops.labels.label_files import GivenLabel
from dsops_controller.dataops.labels.labels import Labels, Taken, count_since
from dsops_controller.dataops.lake.lake import Lake
from dsops_controller.dataops.samples import exports
from dsops_controller.dataops.samples.exports import Form
from dsops_controller.dataops.samples.sample_reading import SampleReader
from dsops_controller.dataops.samples.samples import SampleFilter
from dsops_controller.dataops.store import LakeStore
from dsops_controller.dataops.testing import manifest, received, sample, sample_batch
from dsops_controller.db.database import Database
from dsops_controller.db.tables import bundle, metadata
from dsops_controller.db.times import to_ms
from dsops_controller.retraining.envelope import Subject
from dsops_controller.retraining.requests import DeliveryState, Requests, RequestState
from dsops_controller.retraining.settings import Cause

START = datetime(2026, 1, 1, 12, tzinfo=UTC)
STREAM = b"t" * 16
CLASSES = ("cat", "dog", "fox")
BOTH = pytest.mark.parametrize(
    "new_url",
    ["sqlite", pytest.param("postgresql", marks=[pytest.mark.integration, pytest.mark.slow])],
    indirect=True,
    scope="module",
)


class Desk:
    """One state database with what is built on samples."""

    def __init__(self, url: str, folder: Path) -> None:
        self.db, self.clock = Database(url), ManualClock(START)
        with self.db.write() as connection:
            metadata.create_all(connection)
        lake = Lake(self.db, folder / "lake")
        lake.open()
        self.inbox = Inbox(self.db, self.clock)
        self.inbox.start()
        self.reader = SampleReader(self.db, LakeStore(self.db, lake))
        self.labels = Labels(self.db, self.reader.rows, self.clock)
        self.datasets = Datasets(self.db, lake, self.reader, self.labels, self.clock)
        self.lineage = Lineage(self.db, self.clock)
        self.requests = Requests(self.db, self.clock)
        records = [sample(to_ms(START) * 1000 + n, [n / 10, 0.5], model="animals") for n in range(5)]
        self.inbox.put("cam-1", received(sample_batch(STREAM, range(1, 6), records)))
        self.labels.new_set("animals", CLASSES, Scale.NOMINAL)

    def say(self, number: int, label: str, who: str = "ann", time: datetime | None = None) -> Taken:
        return self.labels.take([GivenLabel("line 2", sid(number), who, label, time)], source="test")

    def counts(self) -> dict[str, str]:
        return {f"{row.sample[-1]}{row.labeller}": row.label for row in self.labels.current("animals")}

    def close(self) -> None:
        self.inbox.stop()
        self.db.close()


def sid(number: int) -> str:
    return f"cam-1/{STREAM.hex()}/{number}"


@pytest.fixture
def desk(new_url: Callable[[Path], str], tmp_path: Path) -> Iterator[Desk]:
    made = Desk(new_url(tmp_path), tmp_path)
    yield made
    made.close()


@BOTH
def test_the_newest_label_of_a_labeller_counts_and_all_are_kept(desk: Desk) -> None:
    assert desk.say(1, "cat") == Taken(1, 0)
    assert desk.say(1, "cat") == Taken(0, 1)
    assert desk.say(1, "dog") == Taken(1, 0)  # in the same moment of the clock
    desk.clock.advance(5)
    assert desk.say(1, "cat") == Taken(1, 0)
    assert desk.say(1, "fox", "bob") == Taken(1, 0)
    assert desk.counts() == {"1ann": "cat", "1bob": "fox"}
    assert [row.label for row in desk.labels.history(sid(1))] == ["cat", "dog", "cat", "fox"]
    assert desk.labels.history(sid(1))[0].source == "test"


@BOTH
def test_labels_with_a_time_come_in_any_order_and_contradict_only_themselves(desk: Desk) -> None:
    late, early = START - timedelta(hours=1), START - timedelta(hours=2)
    assert desk.say(1, "cat", time=late) == Taken(1, 0)
    assert desk.say(1, "dog", time=early) == Taken(1, 0)
    assert desk.counts() == {"1ann": "cat"}
    assert desk.say(1, "dog", time=early) == Taken(0, 1)
    with pytest.raises(Conflict, match="line 2"):
        desk.say(1, "fox", time=early)
    assert len(desk.labels.history(sid(1))) == 2


@BOTH
def test_classes_have_versions_and_labels_keep_theirs(desk: Desk) -> None:
    desk.say(1, "cat")
    assert desk.labels.new_set("animals", CLASSES, Scale.NOMINAL).version == 1
    newer = desk.labels.new_set("animals", CLASSES, Scale.NOMINAL, "A fox has a brush.")
    assert newer.version == 2
    assert desk.say(1, "cat") == Taken(1, 0)  # looked at again, by the new words
    assert [row.set_version for row in desk.labels.history(sid(1))] == [1, 2]
    assert [row.set_version for row in desk.labels.current("animals")] == [2]
    desk.say(2, "dog")
    assert len(desk.labels.current("animals", 2)) == 2
    assert len(desk.labels.current("animals", 3)) == 0


@BOTH
def test_numbers_are_labels_where_no_classes_are(desk: Desk) -> None:
    desk.labels.new_set("animals", (), Scale.RATIO)
    assert desk.say(1, "2.5") == Taken(1, 0)
    for wrong in ("cat", "-1", "nan", "inf"):
        with pytest.raises(InvalidInput, match="line 2"):
            desk.say(1, wrong)


@BOTH
@pytest.mark.parametrize(
    ("classes", "scale"),
    [
        (("a",), Scale.NOMINAL),
        (("a", "a"), Scale.NOMINAL),
        ((), Scale.ORDINAL),
        (("a", "b"), Scale.RATIO),
        (("a", ""), Scale.NOMINAL),
    ],
)
def test_classes_that_cannot_be_are_refused(desk: Desk, classes: tuple[str, ...], scale: Scale) -> None:
    with pytest.raises(InvalidInput):
        desk.labels.new_set("animals", classes, scale)


@BOTH
def test_without_named_classes_those_of_the_newest_bundle_hold(desk: Desk) -> None:
    with pytest.raises(NotFound, match="not known"):
        desk.labels.newest_set("plants")
    text = manifest(1).model_copy(update={"model": "plants"}).encode().decode()
    row = {"sha256": "1" * 64, "model": "plants", "release": 1, "variant": "int8", "path": "p", "length_bytes": 1}
    with desk.db.write() as connection:
        connection.execute(bundle.insert().values(**row, index_sha256="a" * 64, manifest=text, pushed_ms=0))
    assert desk.labels.newest_set("plants").classes == CLASSES
    assert desk.labels.sets("plants") == ()


@BOTH
def test_samples_of_another_model_are_refused_where_one_is_named(desk: Desk) -> None:
    label = GivenLabel("line 2", sid(1), "ann", "cat")
    with pytest.raises(InvalidInput, match="is of animals, not of plants"):
        desk.labels.take([label], "plants")
    assert desk.labels.take([label], "animals") == Taken(1, 0)


@BOTH
def test_labelled_samples_are_counted_once_however_often_they_are_labelled(desk: Desk) -> None:
    desk.say(1, "cat")
    desk.clock.advance(10)
    between = to_ms(desk.clock.now()) - 1
    for who in ("ann", "bob"):
        desk.say(1, "dog", who)
        desk.say(2, "dog", who)
    with desk.db.read() as connection:
        assert count_since(connection, "animals", 0) == 2
        assert count_since(connection, "animals", between) == 1


@BOTH
def test_a_data_set_is_stored_renewed_and_erased_from(desk: Desk) -> None:
    for number in (1, 2, 3):
        desk.say(number, "cat")
    policy = Policy(shares=Shares(0.0, 0.0))
    made, _ = desk.datasets.create("field", Query("animals", since=START - timedelta(days=1)), policy)
    assert desk.datasets.renew("field") == made
    desk.say(4, "dog")
    assert desk.datasets.renew("field").samples == 4
    assert desk.datasets.erase([sid(4)], "asked for").versions == ("field/3",)
    assert desk.datasets.get("field").digest == made.digest
    desk.lineage.note_export(made.digest, "e" * 64, "", "npz")
    assert [sample.row.id for sample in desk.reader.matching(SampleFilter())] == [sid(n) for n in (1, 2, 3, 5)]


@BOTH
def test_sealed_samples_are_in_no_data_set_and_leave_with_their_ciphertext(desk: Desk, tmp_path: Path) -> None:
    record = sample(to_ms(START) * 1000 + 50, [0.0, 0.0], model="animals")
    record.input.data = b""
    record.sealed.CopyFrom(Sealed(key_id=b"k" * 32, ciphertext=b"secret"))
    desk.inbox.put("cam-2", received(sample_batch(STREAM, [1], [record])))
    name = f"cam-2/{STREAM.hex()}/1"
    desk.labels.take([GivenLabel("", name, "ann", "cat"), GivenLabel("", sid(1), "ann", "cat")])
    made, _ = desk.datasets.create("field", Query("animals"), Policy(shares=Shares(0.0, 0.0)))
    assert (made.samples, made.left_out["sealed"]) == (1, 1)
    found = [desk.reader.get(name)]
    assert found[0].is_sealed
    for form in (Form.NPZ, Form.IMAGES, Form.LABEL_STUDIO):
        with pytest.raises(InvalidInput, match="sealed"):
            exports.export(form, found, {})
    assert b"PAR1" in exports.export(Form.PARQUET, found, {})
    assert ("6b" * 32).encode() in exports.export(Form.CSV, found, {})


@BOTH
def test_a_request_is_stored_claimed_and_settled(desk: Desk) -> None:
    subject = Subject("animals", 1, "b" * 64)
    made, is_new = desk.requests.add(Cause.DRIFT, subject, {"devices": 3}, ["ci", "local"], actor="ann")
    assert (is_new, made.evidence, made.subject) == (True, {"devices": 3}, subject)
    assert desk.requests.add(Cause.DRIFT, subject, {}, ["ci"])[1] is False
    with pytest.raises(Conflict):
        desk.requests.add(Cause.MANUAL, subject, {}, ["ci"])
    claimed = {desk.requests.claim({}), desk.requests.claim({})}
    assert claimed == {(made.id, "ci"), (made.id, "local")}
    assert desk.requests.claim({}) is None
    desk.requests.delivered(made.id, "ci")
    desk.requests.not_delivered(made.id, "local", "no room", is_final=True, wait_s=0.0, most=3)
    found = desk.requests.get(made.id[:9])
    assert [one.state for one in found.deliveries] == [DeliveryState.DELIVERED, DeliveryState.DEAD]
    assert found.state is RequestState.OPEN  # one took it
    desk.clock.advance(15 * 86_400)
    desk.requests.settle(14)
    assert desk.requests.get(made.id).state is RequestState.EXPIRED
    actions = [entry.action for entry in Audit(desk.db, desk.clock).list(subject="animals")]
    assert actions[::-1] == [
        "labels.classes",
        "retraining.requested",
        "retraining.delivered",
        "retraining.dead",
        "retraining.expired",
    ]
