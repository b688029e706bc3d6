"""What tending a lake and writing it together promise: in a folder, over PostgreSQL, and on S3."""

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from lake_site import EVERYWHERE, START, Site, put, us
from s3_server import S3

from dsops.clock import ManualClock, SystemClock
from dsops.errors import Conflict, NotFound, StateDamaged
from dsops_controller.dataops.datasets.keeping import Keeping, Kept
from dsops_controller.dataops.lake.columns import LakeTable
from dsops_controller.dataops.lake.erasing import erase, present
from dsops_controller.dataops.lake.inspection import Inspector, Level, worst
from dsops_controller.dataops.lake.lease import LEASE_MS, SLACK_MS
from dsops_controller.dataops.lake.places import Bucket, Place
from dsops_controller.dataops.lake.retention import RetentionRules
from dsops_controller.dataops.samples.samples import SampleFilter
from dsops_controller.dataops.testing import host, interval, received, sample, sample_batch, telemetry_batch

A, B = b"a" * 16, b"b" * 16
DAY_S = 86_400
ROUNDS = 4


@pytest.fixture
def same_place(place: Place, request: pytest.FixtureRequest) -> Place:
    """The place as a second controller has it."""
    return request.getfixturevalue("s3").again(place.url, SystemClock()) if isinstance(place, Bucket) else place


@pytest.fixture
def other(new_url: Callable[[Path], str], same_place: Place, site: Site, tmp_path: Path) -> Iterator[Site]:
    """A second controller with a database of its own."""
    (tmp_path / "other").mkdir()
    made = Site(new_url(tmp_path / "other"), same_place)
    yield made
    made.close()


@pytest.fixture
def twin(site: Site, same_place: Place) -> Iterator[Site]:
    """A second controller over the same database."""
    made = Site(site.db.url, same_place)
    yield made
    made.close()


def together(*calls: Callable[[], object]) -> None:
    """Run calls at once; raise the first error."""
    errors: list[BaseException] = []

    def run(call: Callable[[], object]) -> None:
        try:
            call()
        except BaseException as error:  # noqa: BLE001 - raised below
            errors.append(error)

    threads = [threading.Thread(target=run, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def feed(site: Site, device: str) -> None:
    """Put and flush two records at a time."""
    for number in range(1, 2 * ROUNDS, 2):
        site.inbox.put(device, received(telemetry_batch(A, [number, number + 1], [interval(us()), host(us())])))
        site.lake.flush()


def tidy(site: Site) -> None:
    """Compact while others write; another may hold the lease."""
    for _ in range(2):
        try:
            site.upkeep().tend()
        except Conflict:
            continue


@EVERYWHERE
def test_two_controllers_with_inboxes_of_their_own_fill_one_lake(site: Site, other: Site) -> None:
    together(*(lambda site=site, name=name: feed(site, name) for site, name in ((site, "cam-1"), (other, "cam-2"))))
    for counts in (site.store.counts(), other.store.counts()):
        assert (counts.records_stored, counts.duplicates) == (4 * ROUNDS, 0)
    assert {row.device for row in site.store.telemetry()} == {"cam-1", "cam-2"}


@pytest.mark.integration
@pytest.mark.parametrize("new_url", ["postgresql"], indirect=True, scope="module")
def test_two_controllers_over_one_inbox_flush_at_once(site: Site, twin: Site) -> None:
    together(*(lambda site=site, name=name: feed(site, name) for site, name in ((site, "cam-1"), (twin, "cam-2"))))
    assert (site.store.counts().records_stored, site.store.counts().duplicates) == (4 * ROUNDS, 0)


@EVERYWHERE
def test_tending_by_two_while_two_write_doubles_and_loses_nothing(site: Site, other: Site) -> None:
    for number, one in enumerate((site, other)):
        put(one, "lake", (f"cam-{number}", telemetry_batch(B, [1], [interval(us())])))
    together(lambda: feed(site, "cam-0"), lambda: feed(other, "cam-1"), lambda: tidy(site), lambda: tidy(other))
    site.upkeep().tend()
    counts = site.store.counts()
    assert (counts.records_stored, counts.duplicates) == (4 * ROUNDS + 2, 0)
    assert len(site.lake.view(LakeTable.TELEMETRY).files) == 1


@EVERYWHERE
def test_old_days_and_samples_over_their_bytes_are_dropped_and_recorded(site: Site) -> None:
    days = (0, -20, -50)
    put(site, "lake", ("cam-1", telemetry_batch(A, [1, 2, 3], [interval(us(day * DAY_S)) for day in days])))
    for number, day in enumerate(days, 1):
        shots = sample_batch(B, [number], [sample(us(day * DAY_S), [1.0] * 64, model="big")])
        put(site, "lake", ("cam-1", shots))
    put(site, "lake", ("cam-1", sample_batch(B, [4], [sample(us(-50 * DAY_S), [1.0], model="small")])))
    size = max(site.lake.table(LakeTable.SAMPLES).get_add_actions(flatten=True)["size_bytes"].to_pylist())
    rules = RetentionRules({table: 30 if table is LakeTable.TELEMETRY else 60 for table in LakeTable}, 2 * size)
    tended = {row.table: row for row in site.upkeep(rules).retain()}
    assert (tended[LakeTable.TELEMETRY].dropped_rows, tended[LakeTable.SAMPLES].dropped_rows) == (1, 1)
    assert [row.count for row in site.store.telemetry()] == [2]
    left = [(row.model, row.time) for row in site.store.samples(SampleFilter())]
    assert left == [("big", START), ("big", START + timedelta(days=-20)), ("small", START + timedelta(days=-50))]
    gone = START.date() - timedelta(days=50)
    assert [(action, subject) for action, subject, _ in site.trail] == [
        ("store.drop", f"telemetry/{gone}"),
        ("store.drop", f"samples/big/{gone}"),
    ]
    site.upkeep(rules).retain()
    assert len(site.trail) == 2, "what is gone is not dropped again"


@EVERYWHERE
def test_a_pinned_version_outlives_retention_compaction_and_vacuum(site: Site) -> None:
    put(site, "lake", ("cam-1", telemetry_batch(A, [1], [interval(us(-50 * DAY_S))])))
    put(site, "lake", ("cam-1", telemetry_batch(A, [2], [interval(us())])))
    version = site.pins.pin(LakeTable.TELEMETRY, "dataset/one")
    assert site.pins.pin(LakeTable.TELEMETRY, "dataset/one", version) == version
    assert [(pin.table, pin.version, pin.owner) for pin in site.pins.listed()] == [
        (LakeTable.TELEMETRY, version, "dataset/one")
    ]
    put(site, "lake", ("cam-1", telemetry_batch(A, [3], [interval(us())])))
    site.upkeep().tend()
    site.upkeep().vacuum(0)
    newest, pinned = (site.lake.table(LakeTable.TELEMETRY, number) for number in (None, version))
    assert sorted(newest.scan(["seq"]).read_all()["seq"].to_pylist()) == [2, 3]
    assert sorted(pinned.scan(["seq"]).read_all()["seq"].to_pylist()) == [1, 2]
    site.pins.release("dataset/one")
    assert site.pins.versions(LakeTable.TELEMETRY) == []
    site.upkeep().vacuum(0)
    with pytest.raises(Exception, match=r"(?i)not.?found|no such"):
        pinned.scan(["seq"]).read_all()
    with pytest.raises(NotFound):
        site.pins.pin(LakeTable.TELEMETRY, "dataset/two", 10_000)


@EVERYWHERE
def test_what_is_erased_leaves_pinned_versions_and_the_rest_of_a_data_set_stays(site: Site) -> None:
    """As an erasure does it; what data sets make of it is tested with them."""
    put(site, "lake", ("cam-1", sample_batch(A, [1, 2, 3], [sample(us(-50 * DAY_S), [n, 0.5]) for n in (1.0, 2, 3)])))
    keeping, old = Keeping(site.lake, site.pins), RetentionRules(dict.fromkeys(LakeTable, 30), 0)
    one, gone, other = (("cam-1", A.hex(), number) for number in (1, 2, 3))
    held = keeping.hold("field")
    keeping.settle("field", [Kept("field", 1, held, [one, other])])
    assert [(pin.owner, pin.version) for pin in site.pins.listed()] == [(f"dataset/field/1@{site.lake.inbox}", held)]
    site.upkeep(old).retain()
    assert site.reader.matching(SampleFilter()) == []
    erase(site.lake, [gone])
    moved = keeping.let_go([gone], [Kept("field", 1, held, [one, other])])
    assert keeping.versions("field", 1) == [moved["field", 1]]
    site.upkeep(old).retain()
    site.upkeep(old).vacuum(0)
    names = ["/".join(map(str, identity)) for identity in (one, gone, other)]
    left = site.reader.named(names, moved["field", 1])
    assert [found.row.id for found in left] == [names[0], names[2]]
    assert [len(found.input.data) for found in left] == [8, 8]
    with pytest.raises(StateDamaged):
        present(site.lake, [gone], held)


@EVERYWHERE
def test_what_waits_in_another_inbox_comes_after_an_erasure_and_goes_with_one_there(site: Site, other: Site) -> None:
    """A device that heard no acknowledgement sent its sample to both controllers."""
    sent = ("cam-1", sample_batch(A, [1, 2], [sample(us(), [number]) for number in (1.0, 2.0)]))
    gone = [("cam-1", A.hex(), 1)]
    put(site, "lake", sent)
    put(other, "inbox", sent)
    erase(site.lake, gone)
    assert present(site.lake, gone) == set()
    other.lake.flush()
    assert present(site.lake, gone) == set(gone)
    put(other, "inbox", ("cam-1", sample_batch(B, [1], [sample(us(), [3.0])])))
    gone += [("cam-1", B.hex(), 1)]
    erase(other.lake, gone)
    for one in (site, other):
        one.lake.flush()
        assert present(one.lake, gone) == set()
    assert present(other.lake, [("cam-1", A.hex(), 2)]) == {("cam-1", A.hex(), 2)}


@EVERYWHERE
def test_pins_that_came_and_went_leave_few_files_behind(site: Site) -> None:
    for number in range(21):
        site.pins.pin(LakeTable.HOSTS, f"dataset/{number:02}")
    site.pins.release("dataset/07")
    before = site.pins.listed()
    assert len(site.lake.named("pins").file_uris()) == 20
    site.pins.tidy()
    assert len(site.lake.named("pins").file_uris()) == 1
    assert site.pins.listed() == before
    assert len(before) == 20
    site.pins.pin(LakeTable.HOSTS, "dataset/99")
    site.pins.release("dataset/00")
    assert [pin.owner for pin in site.pins.listed()][-1] == "dataset/99"


@EVERYWHERE
def test_a_vacuum_leaves_what_is_younger_than_its_hours(site: Site) -> None:
    for number in (1, 2):
        put(site, "lake", ("cam-1", telemetry_batch(A, [number], [host(us())])))
    before = set(site.lake.view(LakeTable.HOSTS).files)
    site.upkeep().compact()
    assert all(row.removed_files == 0 for row in site.upkeep().vacuum())
    old = site.lake.table(LakeTable.HOSTS, 2)
    assert set(old.file_uris()) == before
    assert old.scan(["seq"]).read_all().num_rows == 2


@pytest.mark.integration
def test_one_controller_at_a_time_holds_the_lease(s3: S3) -> None:
    clock = ManualClock(START)
    first = s3.place()
    assert isinstance(first, Bucket)
    second = s3.again(first.url, clock)
    held, mine = s3.again(first.url, clock), []
    with held.tending() as renew:
        with pytest.raises(Conflict), second.tending():
            mine.append("taken")
        clock.advance(LEASE_MS / 1000)
        renew()
        clock.advance(LEASE_MS / 1000)
        with pytest.raises(Conflict), second.tending():
            mine.append("taken")
        clock.advance(SLACK_MS / 1000)
        with second.tending(), pytest.raises(Conflict):
            renew()
        mine.append("lapsed")
    with second.tending():
        mine.append("given back")
    assert mine == ["lapsed", "given back"]


@pytest.mark.slow
@pytest.mark.integration
def test_a_lake_in_a_bucket_takes_and_answers(s3: S3, tmp_path: Path) -> None:
    """The whole suite runs there too, marked slow."""
    place = s3.place()
    first, second = Site(f"sqlite:///{tmp_path}/1.db", place), Site(f"sqlite:///{tmp_path}/2.db", place)
    for number, one in enumerate((first, second)):
        put(one, "lake", (f"cam-{number}", telemetry_batch(A, [1], [interval(us(), [100.0])])))
    first.upkeep().compact()
    for one in (first, second):
        assert [row.p50_us for row in one.store.telemetry()] == pytest.approx([100.0] * 2, rel=0.03)
        one.close()
    assert not (tmp_path / "lake").exists()


@pytest.mark.slow
@pytest.mark.integration
def test_a_check_finds_an_object_that_is_gone_or_cut(s3: S3, tmp_path: Path) -> None:
    one = Site(f"sqlite:///{tmp_path}/1.db", s3.place())
    put(one, "lake", ("cam-1", telemetry_batch(A, [1, 2], [interval(us()), host(us())])))
    assert worst(Inspector(one.db, one.lake, one.pins).check()) is Level.INFO
    for table in (LakeTable.TELEMETRY, LakeTable.HOSTS):
        bucket, _, key = one.lake.table(table).file_uris()[0].removeprefix("s3://").partition("/")
        if table is LakeTable.HOSTS:
            s3.client.delete_object(Bucket=bucket, Key=key)
        else:
            data = s3.client.get_object(Bucket=bucket, Key=key)["Body"].read()
            s3.client.put_object(Bucket=bucket, Key=key, Body=data[:-9])
    found = [finding for finding in Inspector(one.db, one.lake, one.pins).check() if finding.level is Level.DAMAGED]
    assert [finding.where for finding in found] == ["telemetry", "hosts"]
    one.close()


DYING = """
import json, os, signal, sys
from pathlib import Path
from dsops.clock import ManualClock
from dsops_controller.dataops.lake.lake import Lake
from dsops_controller.dataops.lake.pins import Pins
from dsops_controller.dataops.lake.places import place_of
from dsops_controller.dataops.lake.upkeep import Upkeep
from dsops_controller.db.database import Database

def watch(step):
    if step == sys.argv[4]:
        os.kill(os.getpid(), signal.SIGKILL)

place = place_of(sys.argv[2], Path(), json.loads(sys.argv[3]), ManualClock())
lake = Lake(Database(sys.argv[1]), place, watch)
call = sys.argv[5]
upkeep = Upkeep(lake, Pins(lake, ManualClock()), ManualClock(), watch=watch)
lake.flush() if call == "flush" else upkeep.vacuum(0) if call == "vacuum" else getattr(upkeep, call)()
"""
DEATHS = [
    *(("flush", step) for step in ("appended telemetry", "appended samples", "appended minutes", "deleted")),
    *(("compact", step) for step in ("compacted telemetry", "checkpointed minutes")),
    ("retain", "dropped telemetry"),
    ("vacuum", "vacuumed telemetry"),
]


@pytest.mark.integration
@pytest.mark.slow
@pytest.mark.parametrize(("call", "step"), DEATHS)
def test_a_controller_may_die_anywhere_on_an_object_store(s3: S3, tmp_path: Path, call: str, step: str) -> None:
    """What it leaves is taken up by its next start; a lease that it held ends by itself."""
    place = s3.place()
    assert isinstance(place, Bucket)
    clock = ManualClock()
    url = f"sqlite:///{tmp_path}/state.db"
    one = Site(url, s3.again(place.url, clock))
    put(one, "lake", ("cam-1", telemetry_batch(A, [1], [interval(us(-50 * DAY_S))])))
    for number in (2, 3):
        put(one, "lake", ("cam-1", telemetry_batch(A, [number], [interval(us())])))
    if call == "vacuum":
        one.upkeep().compact()
    put(one, "inbox", ("cam-1", telemetry_batch(A, [4, 5], [interval(us()), host(us())])))
    put(one, "inbox", ("cam-1", sample_batch(B, [1], [sample(us(), [1.0])])))
    words = (url, place.url, json.dumps(dict(s3.options)), step, call)
    died = subprocess.run([sys.executable, "-c", DYING, *words], check=False, capture_output=True)
    assert died.returncode == -signal.SIGKILL, died.stderr.decode()
    again = Site(url, s3.again(place.url, clock))
    again.lake.flush()
    if call != "flush":
        with pytest.raises(Conflict):
            again.upkeep().tend()
        clock.advance((LEASE_MS + SLACK_MS) / 1000)
    again.upkeep().tend()
    counts = again.store.counts()
    assert (counts.records_stored, counts.samples_stored, counts.duplicates) == (5, 1, 0)
    assert [row.count for row in again.store.telemetry()] == [3]
    for site in (one, again):
        site.close()
