"""The shipped batch job over the lake finds the devices that were made odd, and counts what the store counts."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest
from s3_server import s3_server

from dsops.api.v1.telemetry_pb2 import TelemetryRecord
from dsops.clock import ManualClock
from dsops_controller.dataops.inbox import Inbox
from dsops_controller.dataops.lake.lake import Lake
from dsops_controller.dataops.lake.places import Folder, Place
from dsops_controller.dataops.store import LakeStore
from dsops_controller.dataops.testing import drift_report, histogram, interval, received, telemetry_batch
from dsops_controller.db.database import Database
from dsops_controller.db.tables import metadata

pytestmark = [pytest.mark.integration, pytest.mark.slow]

EXAMPLE = Path(__file__).parents[3] / "examples/python/fleet_report.py"
NOW_US = 1_767_225_600_000_000
DAY_US = 86_400_000_000
LATENCIES = [100.0] * 18 + [400.0] * 2


def made(device: str, number: int) -> TelemetryRecord:
    """Return one interval; devices are alike but for what their names say."""
    slow = 4 if device == "slow" else 1
    record = interval(NOW_US + number * 1_000_000, [value * slow for value in LATENCIES])
    model = record.model
    model.errors = 5 if device == "failing" else 0
    model.labels[:] = [1, 19] if device == "shifted" else [10, 10]
    if device == "silent":
        model.start_us -= 2 * DAY_US
    if device == "coarse":  # the same values at half the resolution
        model.latency_us.CopyFrom(histogram(LATENCIES, scale=3))
    return record


DEVICES = ("cam-1", "cam-2", "cam-3", "coarse", "shifted", "slow", "failing", "silent", "drifting")


def fill(folder: Path, place: Place) -> int:
    """Fill a lake in three flushes; return how many requests the store counts."""
    db = Database(f"sqlite:///{folder}/state.db")
    with db.write() as connection:
        metadata.create_all(connection)
    lake = Lake(db, place)
    lake.open()
    inbox = Inbox(db, ManualClock())
    inbox.start()
    for part in range(3):
        for device in DEVICES:
            seqs = range(part * 3 + 1, part * 3 + 4)
            inbox.put(device, received(telemetry_batch(b"a" * 16, seqs, [made(device, seq) for seq in seqs])))
        lake.flush()
    for seq, state in ((10, "ok"), (11, "drift")):
        report = drift_report(NOW_US + seq, state=state)
        inbox.put("drifting", received(telemetry_batch(b"a" * 16, [seq], [report])))
    lake.flush()
    inbox.stop()
    total = sum(row.count for row in LakeStore(db, lake).telemetry())
    db.close()
    return total


def run(lake: str, folder: Path, *words: str) -> tuple[dict[str, object], dict[str, dict[str, str]]]:
    command = [sys.executable, str(EXAMPLE), lake, "--workers", "2", "--out", str(folder / "report.csv"), *words]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    with (folder / "report.csv").open(newline="") as file:
        return json.loads(done.stdout), {row["device"]: row for row in csv.DictReader(file)}


def check(summary: dict[str, object], rows: dict[str, dict[str, str]], requests: int) -> None:
    assert (summary["devices"], summary["requests"]) == (len(DEVICES), requests)
    assert summary["remarked"] == {
        "drifting": ["drift"],
        "shifted": ["other labels than the fleet"],
        "slow": ["slow"],
        "failing": ["failing"],
        "silent": ["silent"],
    }
    assert float(rows["cam-1"]["p95_us"]) == pytest.approx(400.0, rel=0.03)
    assert float(rows["slow"]["p95_us"]) == pytest.approx(1600.0, rel=0.03)
    assert float(rows["failing"]["error_rate"]) == pytest.approx(0.2)
    assert float(rows["cam-1"]["confidence"]) == pytest.approx(0.9)
    assert float(rows["silent"]["silent_hours"]) == pytest.approx(48.0, rel=0.01)


def test_a_folder_is_reported_by_processes(tmp_path: Path) -> None:
    requests = fill(tmp_path, Folder(tmp_path / "lake"))
    check(*run("lake", tmp_path), requests)
    later, _ = run("lake", tmp_path, "--since", "2026-01-01")
    assert later["devices"] == len(DEVICES) - 1


def test_a_bucket_is_reported_by_processes(tmp_path: Path) -> None:
    with s3_server() as s3:
        place = s3.place()
        requests = fill(tmp_path, place)
        options = [word for name, value in s3.options.items() for word in ("--option", f"{name}={value}")]
        check(*run(place.uri("").rstrip("/"), tmp_path, *options), requests)
