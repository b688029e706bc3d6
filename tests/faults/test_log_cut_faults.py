"""Whoever cuts the log of a table is killed, or loses power, after each step: every pinned version and every row can be
read, and the next cut ends the work."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest
from fault_disks import Disk
from lake_worker import NOW_US, opened
from log_cut_worker import TABLE

from dsops.clock import ManualClock, SystemClock
from dsops_controller.dataops.inbox import Inbox
from dsops_controller.dataops.lake.inspection import Inspector, Level, worst
from dsops_controller.dataops.lake.lake import LOG_DAYS
from dsops_controller.dataops.lake.log_cutting import LogCutter
from dsops_controller.dataops.lake.pins import Pins
from dsops_controller.dataops.testing import interval, received, telemetry_batch

pytestmark = pytest.mark.faults

WORKER = Path(__file__).with_name("log_cut_worker.py")
PUTS = 6
PINNED = {2: "dataset/one", 4: "dataset/two"}
"""After so many records a version is pinned, by this owner."""


def prepare(folder: Path) -> dict[int, int]:
    """Fill a lake with a log that is a week old; return how many records each pinned version has."""
    db, lake = opened(folder)
    inbox, pins, rows = Inbox(db, ManualClock()), Pins(lake, ManualClock()), {}
    inbox.start()
    for number in range(1, PUTS + 1):
        inbox.put("cam-1", received(telemetry_batch(b"a" * 16, [number], [interval(NOW_US)])))
        lake.flush()
        if number in PINNED:
            rows[pins.pin(TABLE, PINNED[number])] = number
    lake.table(TABLE).create_checkpoint()
    inbox.put("cam-1", received(telemetry_batch(b"a" * 16, [PUTS + 1], [interval(NOW_US)])))
    old_s = time.time() - (LOG_DAYS + 1) * 86_400
    for path in log(folder):
        os.utime(path, (old_s, old_s))
    lake.settle()
    inbox.stop()
    db.close()
    return rows


def log(folder: Path) -> list[Path]:
    return sorted(path for path in (folder / "lake" / TABLE / "_delta_log").iterdir() if path.name[0] != "_")


def judge(folder: Path, pinned: dict[int, int]) -> None:
    """Start on what is left; read everything, cut, and read it again."""
    db, lake = opened(folder)
    pins = Pins(lake, SystemClock())
    try:
        lake.flush()
        for is_cut in (False, True):
            found = {v: lake.table(TABLE, v).scan(["seq"]).read_all().num_rows for v in pins.versions(TABLE)}
            assert found == pinned
            seqs = lake.table(TABLE).scan(["seq"]).read_all()["seq"].to_pylist()
            assert sorted(seqs) == list(range(1, PUTS + 2))
            assert worst(Inspector(db, lake, pins).check()) is Level.INFO
            if not is_cut:
                with lake.tending():
                    LogCutter(lake, SystemClock()).cut(TABLE, pins.versions(TABLE))
        old = [path.name for path in log(folder) if path.stat().st_mtime < time.time() - LOG_DAYS * 86_400]
        assert [name for name in old if name.endswith(".json") and int(name[:20]) < max(pinned)] == []
        assert {int(path.name[:20]) for path in log(folder) if "checkpoint" in path.name} >= set(pinned)
    finally:
        db.close()


def started(folder: Path) -> "subprocess.Popen[str]":
    command = [sys.executable, str(WORKER), str(folder)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def steps(process: "subprocess.Popen[str]") -> Iterator[str]:
    """Yield the name of each step after it was done; the process goes on when the next is asked for."""
    assert process.stdin is not None
    assert process.stdout is not None
    for line in process.stdout:
        yield line.split()[0]
        process.stdin.write("\n")
        process.stdin.flush()


def test_a_cut_that_is_killed_after_any_step_loses_nothing_and_is_ended_by_the_next(tmp_path: Path) -> None:
    (tmp_path / "fresh").mkdir()
    pinned = prepare(tmp_path / "fresh")
    done: set[str] = set()
    for last in count(1):
        folder = tmp_path / f"{last}"
        shutil.copytree(tmp_path / "fresh", folder)
        process = started(folder)
        for number, step in enumerate(steps(process), 1):
            done.add(step)
            if number == last:
                process.kill()
                break
        ended = process.wait()
        judge(folder, pinned)
        shutil.rmtree(folder)
        if ended == 0:
            break
    assert last > PUTS
    assert done == {"checkpointed", "synced", "noted", "cut"}


@pytest.fixture(params=["ext4", "xfs"])
def disk(request: pytest.FixtureRequest, arena: Path, needs_loop: None) -> Iterator[Disk]:
    made = Disk.make(request.param, arena / f"log-{request.param}")
    yield made
    made.leave()


def test_a_cut_whose_power_goes_after_any_step_loses_nothing(disk: Disk) -> None:
    """Each cut of the power is a copy of the disk as it is then, at every other step with names whose data are not."""
    pinned = prepare(disk.mounted)
    process = started(disk.mounted)
    done = []
    for step in steps(process):
        done.append(step)
        if len(done) % 2:
            disk.commit_journal()
        left = disk.cut()
        try:
            judge(left.mounted, pinned)
        finally:
            left.leave()
    assert process.wait() == 0
    assert set(done) == {"checkpointed", "synced", "noted", "cut"}
