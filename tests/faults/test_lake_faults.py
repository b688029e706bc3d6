"""The store's process is killed, or the power is cut, again and again at any moment of flushes, compaction, retention
and vacuum: what was acknowledged and is within its time is there, once, and the next start goes on."""

import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from fault_disks import Disk
from lake_worker import NOW_US, opened

from dsops.clock import ManualClock
from dsops_controller.dataops.lake.columns import LakeTable
from dsops_controller.dataops.lake.lake import Lake
from dsops_controller.dataops.lake.pins import Pins
from dsops_controller.dataops.lake.upkeep import Upkeep
from dsops_controller.dataops.store import LakeStore

pytestmark = pytest.mark.faults

WORKER = Path(__file__).with_name("lake_worker.py")
ROUNDS = 12
LONGEST_S = 6.0


class Worker:
    """The process, and what it has acknowledged so far."""

    def __init__(self, folder: Path) -> None:
        command = [sys.executable, str(WORKER), str(folder)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.acknowledged: list[int] = []
        self.steps: set[str] = set()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def wait_for(self, records: int) -> None:
        while len(self.acknowledged) < records:
            assert self._process.poll() is None, self._process.stderr.read() if self._process.stderr else ""
            time.sleep(0.01)

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """Hold every thread outside the kernel, so that a copy of the disk is of one moment."""
        self._process.send_signal(signal.SIGSTOP)
        try:
            while not all(_state(thread) == "T" for thread in Path(f"/proc/{self._process.pid}/task").iterdir()):
                time.sleep(0.001)
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()
        self._reader.join()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.strip().isdecimal():
                self.acknowledged.append(int(line))
            else:
                self.steps.add(line.split()[0])


def _state(thread: Path) -> str:
    """Return the state letter of a thread, see proc(5); one that has ended counts as stopped."""
    try:
        return thread.joinpath("stat").read_text("ascii").rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return "T"


def present(lake: Lake, table: LakeTable) -> list[int]:
    """Return the numbers of the table's records that are within their time."""
    rows = lake.table(table).scan(["seq", "time"]).read_all()
    pairs = zip(rows["seq"].to_pylist(), rows["time"].to_pylist(), strict=True)
    return sorted(seq for seq, moment in pairs if moment.timestamp() * 1e6 >= NOW_US)


def judge(folder: Path, acknowledged: list[int]) -> None:
    """Start on what is left, and look for each acknowledged record."""
    db, lake = opened(folder)
    try:
        lake.flush()
        for table, offset in ((LakeTable.TELEMETRY, 1), (LakeTable.HOSTS, 2), (LakeTable.SAMPLES, 0)):
            found = present(lake, table)
            assert len(found) == len(set(found)), f"{table} has records twice"
            lost = {number + offset for number in acknowledged} - set(found)
            assert not lost, f"{table} has lost {sorted(lost)}"
        assert LakeStore(db, lake).counts().duplicates == 0
        minutes = lake.table(LakeTable.MINUTES).scan(["time", "count"]).read_all()
        answers = zip(minutes["time"].to_pylist(), minutes["count"].to_pylist(), strict=True)
        recent = sum(count for moment, count in answers if moment.timestamp() * 1e6 >= NOW_US)
        assert recent == len(present(lake, LakeTable.TELEMETRY)), "the roll-up counts what telemetry has"
        Upkeep(lake, Pins(lake, ManualClock()), ManualClock()).tend()
        assert LakeStore(db, lake).counts().duplicates == 0
    finally:
        db.close()


def test_a_store_that_is_killed_again_and_again_loses_and_doubles_nothing(tmp_path: Path) -> None:
    chosen = random.Random(7)
    acknowledged: list[int] = []
    steps: set[str] = set()
    for number in range(ROUNDS):
        (tmp_path / f"{number}").mkdir()
        worker = Worker(tmp_path / f"{number}")
        worker.wait_for(2)
        time.sleep(chosen.uniform(0, LONGEST_S))
        worker.kill()
        judge(tmp_path / f"{number}", worker.acknowledged)
        acknowledged += worker.acknowledged
        steps |= worker.steps
    assert len(acknowledged) > 3 * ROUNDS
    assert steps >= {"appended", "synced", "noted", "deleted", "compacted", "dropped", "vacuumed"}


@pytest.fixture(params=["ext4", "xfs"])
def disk(request: pytest.FixtureRequest, arena: Path, needs_loop: None) -> Iterator[Disk]:
    made = Disk.make(request.param, arena / f"lake-{request.param}")
    yield made
    made.leave()


def test_a_store_whose_power_is_cut_loses_and_doubles_nothing(disk: Disk) -> None:
    """Each cut is a copy of the disk as it is at that moment; then the process goes on."""
    chosen = random.Random(11)
    worker = Worker(disk.mounted)
    try:
        worker.wait_for(1)
        for number in range(ROUNDS):
            worker.wait_for(1 + number)
            time.sleep(chosen.uniform(0, LONGEST_S / 4))
            if number % 2:  # so that names are on the disk whose data are not
                disk.commit_journal()
            before = list(worker.acknowledged)
            with worker.stopped():
                cut = disk.cut()
            try:
                judge(cut.mounted, before)
            finally:
                cut.leave()
    finally:
        worker.kill()
    assert worker.steps >= {"appended", "synced", "noted", "deleted", "compacted", "dropped"}
