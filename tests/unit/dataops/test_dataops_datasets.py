"""Data sets over a real lake and database: versions, splits, lineage, erasure."""

import hashlib
import io
import json
import struct
import threading
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb
import numpy as np
import pytest

from dsops.api.v1.samples_pb2 import SampleRecord, Tensor
from dsops.clock import ManualClock
from dsops.errors import Conflict, InvalidInput, NotFound, StateDamaged
from dsops_controller.audit import Audit
from dsops_controller.dataops.datasets import dataset_exports
from dsops_controller.dataops.datasets.dataset_exports import Content, DatasetForm
from dsops_controller.dataops.datasets.dataset_manifest import GroupBy, Labelled, Policy, Shares, Split, split_of
from dsops_controller.dataops.datasets.datasets import Datasets, Query, reference
from dsops_controller.dataops.datasets.lineage import Lineage
from dsops_controller.dataops.inbox import Inbox
from dsops_controller.dataops.labels.agreement import Scale
from dsops_controller.dataops.labels.label_files import GivenLabel
from dsops_controller.dataops.labels.labels import Labels
from dsops_controller.dataops.lake.columns import LakeTable
from dsops_controller.dataops.lake.erasing import erase, present
from dsops_controller.dataops.lake.inspection import Inspector, Level, worst
from dsops_controller.dataops.lake.lake import Lake
from dsops_controller.dataops.lake.pins import Pins
from dsops_controller.dataops.lake.upkeep import Upkeep
from dsops_controller.dataops.samples.sample_reading import FullSample, SampleReader, identity
from dsops_controller.dataops.samples.samples import SampleFilter
from dsops_controller.dataops.store import LakeStore
from dsops_controller.dataops.testing import DIGEST, manifest, received, sample_batch
from dsops_controller.db.database import Database
from dsops_controller.db.tables import bundle as bundles
from dsops_controller.db.tables import dataset as datasets
from dsops_controller.db.tables import device as devices
from dsops_controller.db.tables import erased_sample as erased
from dsops_controller.db.tables import metadata

START = datetime(2026, 1, 1, 12, tzinfo=UTC)
STREAM = b"t" * 16
CLASSES = ("cat", "dog", "fox")
ALL = Policy(shares=Shares(0.0, 0.0))
DEVICES = 12


class Desk:
    """A store with the parts that make data sets."""

    def __init__(self, db: Database, inbox: Inbox, folder: Path) -> None:
        self.db, self.inbox, self.clock = db, inbox, ManualClock(START)
        self.lake = lake = Lake(db, folder / "lake")
        lake.open()
        self.reader = SampleReader(db, LakeStore(db, lake))
        self.labels = Labels(db, self.reader.rows, self.clock)
        self.lineage = Lineage(db, self.clock)
        self.datasets = Datasets(db, lake, self.reader, self.labels, self.clock)

    def put(self, device: str, frames: list[int], first: int = 1) -> list[str]:
        records = [frame(number) for number in frames]
        self.inbox.put(device, received(sample_batch(STREAM, range(first, first + len(records)), records)))
        return [f"{device}/{STREAM.hex()}/{first + place}" for place in range(len(records))]

    def say(self, labels: dict[str, str], who: str = "ann") -> None:
        self.labels.take([GivenLabel("", sample, who, label) for sample, label in labels.items()])

    def place(self, device: str, site: str) -> None:
        with self.db.write() as connection:
            inventory = json.dumps({"site": site})
            connection.execute(devices.insert().values(id=device, state="accepted", created_ms=0, inventory=inventory))

    def content(self, name: str, split: Split | None = None) -> Content:
        record = self.datasets.get(name)
        found = [one for one in self.datasets.members(name) if split in (None, one.split)]
        text, samples = self.datasets.manifest(name), self.datasets.samples(name, None, split)
        return Content(record.reference, record.digest, text, CLASSES, record.counts, found, samples)


def frame(number: int) -> SampleRecord:
    return SampleRecord(
        time_us=round(START.timestamp() * 1e6) + number,
        model="animals",
        release=1,
        digest=DIGEST,
        reason="random",
        score=0.5,
        inclusion=0.25 if number % 2 else 0.0,
        input=Tensor(datatype="FP32", shape=[1, 2, 2, 1], data=struct.pack("<4f", number / 1000, 0.25, 0.5, 1)),
        predicted=CLASSES[number % 3],
    )


@pytest.fixture
def desk(db: Database, inbox: Inbox, tmp_path: Path) -> Desk:
    made = Desk(db, inbox, tmp_path)
    made.labels.new_set("animals", CLASSES, Scale.NOMINAL)
    return made


def test_a_version_is_named_by_the_digest_of_its_manifest_and_made_once(desk: Desk) -> None:
    samples = desk.put("cam-1", [1, 2, 3])
    desk.say(dict(zip(samples, CLASSES, strict=True)))
    made, is_new = desk.datasets.create("field", Query("animals"), ALL)
    text = desk.datasets.manifest("field")
    assert (made.version, is_new, made.samples) == (1, True, 3)
    assert made.digest == hashlib.sha256(text).hexdigest()
    lines = [json.loads(line) for line in text.splitlines()]
    assert [line["sample"] for line in lines] == sorted(
        hashlib.sha256(frame(n).input.data).hexdigest() for n in (1, 2, 3)
    )
    assert {line["inclusion"] for line in lines} == {0.25, None}
    assert b"cam-1" not in text
    assert b"ann" not in text
    again, is_new = desk.datasets.create("field", Query("animals"), ALL)
    assert (again, is_new) == (made, False)
    desk.say({samples[0]: "fox"})
    after, is_new = desk.datasets.create("field", Query("animals"), ALL)
    assert (after.version, is_new) == (2, True)
    change = desk.datasets.difference(("field", 1), ("field", None))
    assert [(old, new) for _, old, new in change.relabelled] == [("cat", "fox")]
    assert (change.added, change.removed) == ((), ())
    assert desk.datasets.get("field", 1) == made
    with pytest.raises(NotFound):
        desk.datasets.get("field", 3)


def test_more_samples_and_their_place_in_the_lake_make_no_other_version(desk: Desk) -> None:
    samples = desk.put("cam-1", [1, 2])
    desk.say(dict.fromkeys(samples, "cat"))
    made, _ = desk.datasets.create("field", Query("animals"), ALL)
    desk.put("cam-1", [3, 4], first=3)  # nobody labelled them
    again, is_new = desk.datasets.create("field", Query("animals"), ALL)
    assert (again.digest, is_new) == (made.digest, False)


def test_only_labels_that_count_make_members(desk: Desk) -> None:
    one, two, three, four = desk.put("cam-1", [1, 2, 3, 4])
    desk.say({one: "cat", two: "cat", three: "fox", four: "dog"})
    desk.say({one: "cat", two: "dog", three: "fox"}, "bob")
    desk.say({two: "dog"}, "cid")

    def made(policy: Policy) -> dict[str, int]:
        record, _ = desk.datasets.create("field", Query("animals"), replace(policy, shares=Shares(0, 0)))
        return record.counts["training"]

    assert made(Policy()) == {"cat": 1, "dog": 1, "fox": 1}
    assert made(Policy(labelled=Labelled.MAJORITY)) == {"cat": 1, "dog": 2, "fox": 1}
    assert made(Policy(fewest=2)) == {"cat": 1, "fox": 1}
    assert made(Policy(excluded=("cat",))) == {"dog": 1, "fox": 1}
    with pytest.raises(NotFound, match="4 have no label that counts"):
        made(Policy(fewest=4))


def test_equal_tensors_are_there_once_whatever_device_they_are_of(desk: Desk) -> None:
    samples = desk.put("cam-1", [1, 2]) + desk.put("cam-2", [1, 3])
    desk.say(dict.fromkeys(samples, "cat"))
    made, _ = desk.datasets.create("field", Query("animals"), replace(ALL, group_by=GroupBy.DEVICE))
    assert (made.samples, made.left_out["duplicates"]) == (3, 1)


def test_a_site_is_never_in_two_splits_and_keeps_its_split(desk: Desk) -> None:
    for number in range(DEVICES):
        desk.place(f"cam-{number}", f"site-{number // 2}")
        desk.say(dict.fromkeys(desk.put(f"cam-{number}", [number * 10 + place for place in range(3)]), "cat"))
    policy = Policy(shares=Shares(0.3, 0.3))
    made, _ = desk.datasets.create("field", Query("animals"), policy)
    by_site: dict[str, set[Split]] = {}
    for member in desk.datasets.members("field"):
        by_site.setdefault(str(member.line["site"]), set()).add(member.split)
    assert all(len(splits) == 1 for splits in by_site.values())
    assert sum(made.groups.values()) == DEVICES // 2
    assert len({next(iter(splits)) for splits in by_site.values()}) >= 2
    more = desk.put("cam-99", [900])
    desk.say({more[0]: "dog"})
    desk.datasets.create("field", Query("animals"), policy)
    assert desk.datasets.difference(("field", 1), ("field", 2)).moved == ()


def test_splits_have_the_shares_that_were_asked_for() -> None:
    splits = [split_of(f"site:{number}", Shares(0.2, 0.1)) for number in range(5000)]
    assert splits.count(Split.VALIDATION) / 5000 == pytest.approx(0.2, abs=0.02)
    assert splits.count(Split.TEST) / 5000 == pytest.approx(0.1, abs=0.02)
    with pytest.raises(InvalidInput):
        Shares(0.5, 0.5)


def test_what_was_erased_is_in_no_answer_and_data_sets_get_a_new_version(desk: Desk) -> None:
    samples = desk.put("cam-1", [1, 2, 3])
    desk.say(dict.fromkeys(samples, "cat"))
    desk.datasets.create("field", Query("animals"), ALL)
    done = desk.datasets.erase([samples[1]], "asked for")
    assert (done.samples, done.versions) == (1, ("field/2",))
    again = desk.datasets.erase([samples[1]], "asked for")
    assert (again.samples, again.versions) == (0, ())
    assert (desk.datasets.get("field").samples, desk.datasets.get("field", 1).gone) == (2, 1)
    with pytest.raises(NotFound):
        desk.reader.get(samples[1])
    assert samples[1] not in {row.sample for row in desk.labels.current("animals")}
    with pytest.raises(InvalidInput, match="there is no sample"):
        desk.say({samples[1]: "cat"})
    with pytest.raises(Conflict, match="not in the store any more"):
        desk.datasets.samples("field", 1)
    assert len(desk.datasets.samples("field")) == 2
    with pytest.raises(InvalidInput):
        desk.datasets.erase(samples, "")


def test_erased_rows_leave_the_lake_also_when_the_first_try_was_cut_off(desk: Desk, tmp_path: Path) -> None:
    samples = desk.put("cam-1", [1, 2, 3]) + desk.put("cam-2", [4])
    desk.lake.flush()
    with desk.db.write() as connection:  # killed before the lake was reached
        connection.execute(erased.insert().values(sample=samples[0], reason="asked for", erased_ms=0))
    done = desk.datasets.erase([samples[0], samples[3]], "asked for")
    assert done.samples == 1
    rows = desk.lake.view(LakeTable.SAMPLES).files
    with duckdb.connect() as duck:
        found = duck.execute("select device, seq from read_parquet($files)", {"files": list(rows)}).fetchall()
    assert sorted(found) == [("cam-1", 2), ("cam-1", 3)]
    again = Lake(desk.db, tmp_path / "lake")
    again.open()
    assert len(desk.reader.matching(SampleFilter())) == 2
    for wrong in (("cam-1", "' or 1=1 --", 1), ("a' or '1'='1", "a" * 32, 1)):
        with pytest.raises(InvalidInput):
            erase(desk.lake, [wrong])


def pass_time(desk: Desk) -> None:
    """Let retention drop every day of samples, and remove the files that nothing needs."""
    late = ManualClock(START + timedelta(days=365))
    upkeep = Upkeep(desk.lake, Pins(desk.lake, late), late)
    upkeep.retain()
    upkeep.vacuum(0)
    assert desk.reader.matching(SampleFilter()) == []


def stored_numbers(tmp_path: Path) -> set[int]:
    """Return the numbers of samples in all files of the lake, whether or not the table has them."""
    files = [str(file) for file in (tmp_path / "lake/samples").rglob("*.parquet") if "_delta_log" not in str(file)]
    return (
        {seq for (seq,) in duckdb.sql("select seq from read_parquet($1)", params=[files]).fetchall()}
        if files
        else set()
    )


def test_a_data_set_is_exported_the_same_after_its_days_and_a_vacuum(desk: Desk, tmp_path: Path) -> None:
    samples = desk.put("cam-1", [1, 2, 3])
    desk.say(dict(zip(samples, CLASSES, strict=True)))
    made, _ = desk.datasets.create("field", Query("animals"), ALL)
    assert made.is_kept
    before = {form: dataset_exports.export(form, desk.content("field")) for form in DatasetForm}
    pass_time(desk)
    assert {form: dataset_exports.export(form, desk.content("field")) for form in DatasetForm} == before
    pins = [(pin.owner, pin.version) for pin in Pins(desk.lake, desk.clock).listed()]
    assert pins == [(f"dataset/field/1@{desk.lake.inbox}", made.lake_version)]
    inspector = Inspector(desk.db, desk.lake, Pins(desk.lake, desk.clock))
    assert worst(inspector.check()) is Level.INFO


def test_a_removed_data_set_keeps_nothing_but_its_manifest(desk: Desk, tmp_path: Path) -> None:
    desk.say(dict.fromkeys(desk.put("cam-1", [1, 2]), "cat"))
    desk.datasets.create("field", Query("animals"), ALL)
    assert not desk.datasets.remove("field", 1).is_kept
    assert not desk.datasets.remove("field", 1).is_kept
    assert len(desk.datasets.samples("field")) == 2, "their days are not over"
    again, is_new = desk.datasets.create("field", Query("animals"), ALL)
    assert (again.version, is_new, again.is_kept) == (1, False, True)
    desk.datasets.remove("field", 1)
    pass_time(desk)
    assert stored_numbers(tmp_path) == set()
    with pytest.raises(Conflict) as caught:
        desk.datasets.samples("field")
    assert "the time of 2 was over after the data set was removed" in caught.value.why
    assert desk.datasets.manifest("field")
    with pytest.raises(NotFound):
        desk.datasets.remove("field", 2)


def test_a_data_set_that_a_crash_left_unpinned_is_pinned_by_the_next(desk: Desk, tmp_path: Path) -> None:
    desk.say(dict.fromkeys(desk.put("cam-1", [1, 2]), "cat"))
    made, _ = desk.datasets.create("field", Query("animals"), ALL)
    pins = Pins(desk.lake, desk.clock)
    pins.release(f"dataset/field/1@{desk.lake.inbox}")
    pins.pin(LakeTable.SAMPLES, f"dataset/field@{desk.lake.inbox}", made.lake_version)  # as hold() leaves it
    with pytest.raises(NotFound):
        desk.datasets.create("field", Query("animals", device="none"), ALL)
    assert [pin.owner for pin in pins.listed()] == [f"dataset/field/1@{desk.lake.inbox}"]
    pass_time(desk)
    assert len(desk.datasets.samples("field")) == 2


def test_an_erasure_wins_over_every_pin_and_data_sets_keep_the_rest(desk: Desk, tmp_path: Path) -> None:
    samples = desk.put("cam-1", [1, 2, 3])
    desk.say(dict.fromkeys(samples, "cat"))
    desk.datasets.create("field", Query("animals"), ALL)
    others = desk.put("cam-2", [4, 5], first=4)
    desk.say(dict.fromkeys(others, "dog"))
    desk.datasets.create("other", Query("animals", device="cam-2"), ALL)  # its version of the table has cam-1's too
    pass_time(desk)
    whole = dataset_exports.export(DatasetForm.NPZ, desk.content("other"))
    assert stored_numbers(tmp_path) == {1, 2, 3, 4, 5}
    desk.datasets.erase([samples[1]], "asked for")
    desk.datasets.erase([samples[1]], "asked for")  # once more is no fault
    pass_time(desk)
    assert stored_numbers(tmp_path) == {1, 3, 4, 5}
    assert dataset_exports.export(DatasetForm.NPZ, desk.content("other")) == whole
    assert [s.row.id for s in desk.datasets.samples("field")] == [
        member.record for member in desk.datasets.members("field")
    ]
    assert len(desk.datasets.samples("field")) == 2
    with pytest.raises(Conflict) as caught:
        desk.datasets.samples("field", 1)
    assert "1 were erased, which data sets cannot prevent" in caught.value.why
    assert {pin.owner.partition("@")[0] for pin in Pins(desk.lake, desk.clock).listed()} == {
        "dataset/field/2",
        "dataset/other/1",
    }
    desk.datasets.erase([samples[0], samples[2], *others], "asked for")
    pass_time(desk)
    assert stored_numbers(tmp_path) == set()


class Meanwhile:
    """Runs one thing in a thread of its own, and lets it go on for a moment before who asked goes on."""

    def __init__(self) -> None:
        self._threads: list[threading.Thread] = []
        self.work: Callable[[], object] | None = None

    def __call__(self) -> None:
        work, self.work = self.work, None
        if work is not None:
            self._threads.append(threading.Thread(target=work))
            self._threads[-1].start()
            self._threads[-1].join(0.3)  # it cannot end in time when it has to wait for the other

    def end(self) -> None:
        (thread,) = self._threads
        thread.join(60)
        assert not thread.is_alive()


class LookedAt(SampleReader):
    """Tells when a data set reads its samples: it holds its version of the table then."""

    meanwhile: Meanwhile

    def named(self, ids: Iterable[str], version: int | None = None) -> list[FullSample]:
        found = super().named(ids, version)
        self.meanwhile()
        return found


class TendedLake(Lake):
    """Tells when an erasure is about to delete: it has noted what, and the rows are there."""

    meanwhile: Meanwhile

    @contextmanager
    def tending(self) -> Iterator[Callable[[], None]]:
        self.meanwhile()
        with super().tending() as renew:
            yield renew


def pinned_with(desk: Desk, sample: str) -> list[str]:
    """Return as whose a version of the table is pinned that has a sample."""
    pins = Pins(desk.lake, desk.clock).listed()
    return [pin.owner for pin in pins if present(desk.lake, [identity(sample)], pin.version)]


def test_no_pin_of_a_data_set_that_is_made_during_an_erasure_holds_what_was_erased(desk: Desk, tmp_path: Path) -> None:
    samples = desk.put("cam-1", [1, 2, 3, 4])
    desk.say(dict.fromkeys(samples, "cat"))
    lake = TendedLake(desk.db, tmp_path / "lake")
    reader = LookedAt(desk.db, LakeStore(desk.db, lake))
    lake.meanwhile, reader.meanwhile = Meanwhile(), Meanwhile()
    made = Datasets(desk.db, lake, reader, desk.labels, desk.clock)
    reader.meanwhile.work = lambda: made.erase([samples[0]], "asked for")
    made.create("field", Query("animals"), ALL)
    reader.meanwhile.end()
    assert pinned_with(desk, samples[0]) == []
    lake.meanwhile.work = lambda: made.create("other", Query("animals"), ALL)
    made.erase([samples[1]], "asked for")
    lake.meanwhile.end()
    assert pinned_with(desk, samples[1]) == []
    for name in ("field", "other"):
        assert sorted(one.row.id for one in desk.datasets.samples(name)) == samples[2:]
        assert desk.datasets.get(name).is_kept
    pass_time(desk)
    assert stored_numbers(tmp_path) == {3, 4}


@pytest.fixture
def neighbour(desk: Desk, tmp_path: Path) -> Iterator[Desk]:
    """A controller with a database of its own on the same lake."""
    (tmp_path / "neighbour").mkdir()
    db = Database(f"sqlite:///{tmp_path}/neighbour/state.db")
    with db.write() as connection:
        metadata.create_all(connection)
    inbox = Inbox(db, ManualClock())
    inbox.start()
    made = Desk(db, inbox, tmp_path)
    made.labels.new_set("animals", CLASSES, Scale.NOMINAL)
    yield made
    inbox.stop()
    db.close()


def test_controllers_with_a_database_each_leave_each_others_data_sets_alone(
    desk: Desk, neighbour: Desk, tmp_path: Path
) -> None:
    ours, theirs = desk.put("cam-1", [1, 2]), neighbour.put("cam-2", [3, 4], first=3)
    neighbour.lake.flush()
    for one, samples in ((desk, ours), (neighbour, theirs)):
        one.say(dict.fromkeys(samples, "cat"))
        one.datasets.create("field", Query("animals"), ALL)
    with pytest.raises(Conflict) as caught:
        neighbour.datasets.erase([theirs[0]], "asked for")
    assert f"dataset/field/1@{desk.lake.inbox}" in caught.value.why
    assert f"@{neighbour.lake.inbox}" not in caught.value.why
    assert len(neighbour.datasets.samples("field", 1)) == 2, "nothing was erased"
    neighbour.datasets.remove("field", 1)
    pass_time(desk)
    assert len(desk.datasets.samples("field")) == 2, "it has a pin of its own"
    desk.datasets.remove("field", 1)  # as the refusal says
    neighbour.datasets.erase([theirs[0]], "asked for")
    desk.datasets.erase([theirs[0]], "asked for")
    pass_time(desk)
    assert 3 not in stored_numbers(tmp_path)


def test_what_a_controller_that_is_gone_has_pinned_is_given_up_by_name(
    desk: Desk, neighbour: Desk, tmp_path: Path
) -> None:
    ours, theirs = desk.put("cam-1", [1, 2]), neighbour.put("cam-2", [3, 4], first=3)
    neighbour.lake.flush()
    for one, samples in ((desk, ours), (neighbour, theirs)):
        one.say(dict.fromkeys(samples, "cat"))
        one.datasets.create("field", Query("animals"), ALL)
    lost = f"dataset/field/1@{desk.lake.inbox}"
    with pytest.raises(Conflict) as caught:
        neighbour.datasets.erase([theirs[0]], "asked for")
    assert caught.value.hint.endswith("dsops store unpin OWNER")
    with pytest.raises(NotFound):
        neighbour.datasets.unpin(f"dataset/field/2@{desk.lake.inbox}")
    with pytest.raises(Conflict) as caught:
        neighbour.datasets.unpin(f"dataset/field/1@{neighbour.lake.inbox}")
    assert caught.value.hint == "dsops dataset remove field/1"
    neighbour.datasets.unpin(lost)
    assert lost not in [pin.owner for pin in Pins(neighbour.lake, neighbour.clock).listed()]
    neighbour.datasets.erase([theirs[0]], "asked for")
    pass_time(neighbour)
    assert 3 not in stored_numbers(tmp_path)
    assert [row.actor for row in Audit(neighbour.db, neighbour.clock).list(subject=lost)] == ["controller"]


class ForgetfulLake(Lake):
    """Drops every sample as soon as it is asked for its newest version without the right to keep others away."""

    is_forgetful = False

    def version(self, table: LakeTable) -> int:
        if self.is_forgetful and self._writing.acquire(blocking=False):
            self._writing.release()
            self.table(table).delete()
        return super().version(table)


def test_what_a_data_set_pins_after_an_erasure_has_its_samples_whatever_is_dropped_meanwhile(
    desk: Desk, tmp_path: Path
) -> None:
    samples = desk.put("cam-1", [1, 2, 3])
    desk.say(dict.fromkeys(samples, "cat"))
    desk.datasets.create("field", Query("animals"), ALL)
    lake = ForgetfulLake(desk.db, tmp_path / "lake")
    lake.is_forgetful = True
    Datasets(desk.db, lake, desk.reader, desk.labels, desk.clock).erase([samples[0]], "asked for")
    pass_time(desk)
    assert sorted(one.row.id for one in desk.datasets.samples("field")) == samples[1:]


class CutOffError(Exception):
    """Ends a command at some step."""


@pytest.mark.slow
def test_an_erasure_that_is_cut_off_at_any_step_is_completed_by_the_next(desk: Desk, tmp_path: Path) -> None:
    samples = desk.put("cam-1", list(range(1, 9)))
    desk.say(dict.fromkeys(samples, "cat"))
    desk.datasets.create("field", Query("animals"), ALL)
    pass_time(desk)
    steps_left = 0

    def watch(_step: str) -> None:
        nonlocal steps_left
        steps_left -= 1
        if not steps_left:
            raise CutOffError

    lake = Lake(desk.db, tmp_path / "lake", watch)
    cut = Datasets(desk.db, lake, desk.reader, desk.labels, desk.clock)
    for number in range(1, 7):
        steps_left, was_cut = 2 * number, False
        try:
            cut.erase([samples[number]], "asked for")
        except CutOffError:
            was_cut = True
        desk.datasets.erase([samples[number]], "asked for")
        pass_time(desk)
        assert stored_numbers(tmp_path) == {1, *range(number + 2, 9)}
        assert len(desk.datasets.samples("field")) == 8 - number
        assert was_cut or number > 2, "a test of nothing"


def test_a_sample_that_is_not_what_the_manifest_says_is_never_handed_out(desk: Desk) -> None:
    samples = desk.put("cam-1", [1, 2])
    desk.say(dict.fromkeys(samples, "cat"))
    desk.datasets.create("field", Query("animals"), ALL)
    with desk.db.write() as connection:
        row = connection.execute(datasets.select()).one()
        swapped = "\n".join(reversed(zlib.decompress(row.records).decode().splitlines()))
        connection.execute(datasets.update().values(records=zlib.compress(swapped.encode())))
    with pytest.raises(StateDamaged, match="is not what the data set holds"):
        desk.datasets.samples("field")
    with desk.db.write() as connection:
        other = zlib.compress(zlib.decompress(row.manifest).replace(b"cat", b"dog"))
        connection.execute(datasets.update().values(manifest=other))
    with pytest.raises(StateDamaged, match="manifest"):
        desk.datasets.manifest("field")


def test_exports_hold_what_training_needs(desk: Desk) -> None:
    samples = desk.put("cam-1", [1, 2, 3])
    desk.say(dict(zip(samples, CLASSES, strict=True)))
    desk.datasets.create("field", Query("animals"), ALL)
    content = desk.content("field", Split.TRAINING)
    with np.load(io.BytesIO(dataset_exports.export(DatasetForm.NPZ, content)), allow_pickle=False) as found:
        assert found["x"].shape == (3, 2, 2, 1)
        assert sorted(found["y"].tolist()) == [0, 1, 2]
        assert [found["classes"][y] for y in found["y"]] == found["label"].tolist()
        assert np.isnan(found["inclusion"]).sum() == 1
        assert found["dataset"].item() == content.digest
    assert dataset_exports.export(DatasetForm.NPZ, content) == dataset_exports.export(DatasetForm.NPZ, content)
    with pytest.raises(NotFound):
        dataset_exports.export(DatasetForm.NPZ, replace(content, members=[], samples=[]))


def test_parquet_has_a_file_for_each_split_and_pictures(desk: Desk, tmp_path: Path) -> None:
    samples = desk.put("cam-1", [1, 2, 3])
    desk.say(dict(zip(samples, CLASSES, strict=True)))
    desk.datasets.create("field", Query("animals"), ALL)
    with zipfile.ZipFile(io.BytesIO(dataset_exports.export(DatasetForm.PARQUET, desk.content("field")))) as archive:
        archive.extractall(tmp_path)
    assert (tmp_path / "manifest.jsonl").read_bytes() == desk.datasets.manifest("field")
    assert "| cat | 1 | 0 | 0 |" in (tmp_path / "README.md").read_text()
    query = f"select label, class, image.path, image.bytes from '{tmp_path}/data/train-00000-of-00001.parquet'"
    rows = duckdb.sql(query).fetchall()
    assert sorted(row[:2] for row in rows) == [("cat", 0), ("dog", 1), ("fox", 2)]
    assert all(row[3].startswith(b"\x89PNG") for row in rows)
    with zipfile.ZipFile(io.BytesIO(dataset_exports.export(DatasetForm.IMAGES, desk.content("field")))) as archive:
        assert len([name for name in archive.namelist() if name.startswith("train/cat/")]) == 1


def test_a_model_leads_to_its_data_set_by_digest_or_by_an_exported_file(desk: Desk) -> None:
    desk.say(dict.fromkeys(desk.put("cam-1", [1, 2]), "cat"))
    record, _ = desk.datasets.create("field", Query("animals"), ALL)
    desk.lineage.note_export(record.digest, "e" * 64, "training", "npz")
    desk.lineage.note_export(record.digest, "e" * 64, "training", "npz")
    manifests = [
        manifest(1, {"training": "e" * 64}),
        manifest(2, {"field": f"sha256:{record.digest}"}),
        manifest(3, {"training": "f" * 64}),
    ]
    with desk.db.write() as connection:
        for number, one in enumerate(manifests):
            row = {"sha256": f"{number}" * 64, "model": "animals", "release": one.release, "variant": "int8"}
            rest = {"path": f"p{number}", "length_bytes": 1, "index_sha256": "a" * 64, "pushed_ms": 0}
            connection.execute(bundles.insert().values(**row, **rest, manifest=one.encode().decode()))
    found = desk.lineage.models(record.digest)
    assert [(one.release, one.purpose, one.by) for one in found] == [(1, "training", "npz"), (2, "field", "digest")]
    assert [desk.lineage.behind(one) for one in manifests] == [
        {"training": "field/1"},
        {"field": "field/1"},
        {},
    ]


def test_time_and_versions_of_classes_choose(desk: Desk) -> None:
    first, second = desk.put("cam-1", [1, 2])
    desk.say({first: "cat"})
    desk.labels.new_set("animals", (*CLASSES, "owl"), Scale.NOMINAL)
    desk.say({second: "owl"})

    def made(query: Query) -> int:
        try:
            return desk.datasets.create("field", query, ALL)[0].samples
        except NotFound:
            return 0

    assert made(Query("animals")) == 2
    assert made(Query("animals", set_version=2)) == 1
    assert made(Query("animals", since=START + timedelta(hours=1))) == 0
    assert made(Query("animals", until=START + timedelta(hours=1))) == 2
    assert made(Query("animals", device="cam-2")) == 0
    desk.labels.new_set("animals", CLASSES[:2], Scale.NOMINAL)
    assert made(Query("animals")) == 1  # an owl is no class any more


@pytest.mark.parametrize("name", ["", "Field", "a/b", "../x", "x" * 64])
def test_names_that_are_none_are_refused(desk: Desk, name: str) -> None:
    with pytest.raises(InvalidInput):
        desk.datasets.create(name, Query("animals"), ALL)


def test_references_are_a_name_or_a_name_and_a_number() -> None:
    assert (reference("a"), reference("a/3")) == (("a", None), ("a", 3))
    for wrong in ("a/", "a/x", "a/0", "a/3/4"):
        with pytest.raises(InvalidInput):
            reference(wrong)


def test_a_name_belongs_to_one_model(desk: Desk) -> None:
    desk.say(dict.fromkeys(desk.put("cam-1", [1]), "cat"))
    desk.datasets.create("field", Query("animals"), ALL)
    desk.labels.new_set("plants", ("a", "b"), Scale.NOMINAL)
    with pytest.raises(NotFound):
        desk.datasets.create("field", Query("plants"), ALL)
