"""Drift and telemetry of a fleet by the command line, against a controller whose store has a week of it."""

import csv
import io
import json
import ssl
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from dsops.api.v1.telemetry_pb2 import (
    DriftReport,
    Event,
    Loss,
    ModelInterval,
    SignalReport,
    SkewCheck,
    TelemetryRecord,
)
from dsops.bundle import describe_blobs, encode_bundle, sha256_hex
from dsops.clock import SystemClock
from dsops.profile import Profile, Signal
from dsops_controller.client import Access
from dsops_controller.dataops.inbox import Inbox
from dsops_controller.dataops.testing import (
    accept,
    heartbeat,
    histogram,
    manifest,
    received,
    sample,
    sample_batch,
    telemetry_batch,
)
from dsops_controller.db import migrate
from dsops_controller.db.alert_tables import alert
from dsops_controller.db.database import Database
from dsops_controller.db.tables import bundle
from dsops_controller.monitoring.settings import MetricsSettings
from dsops_controller.server.config import encode_config, load_config

pytestmark = pytest.mark.integration

Dsops = Callable[..., Any]
MODEL = "animals"
READER = "a-token-that-reads-figures"
NOW_US = round(datetime.now(UTC).timestamp() * 1_000_000)
PROFILE = Profile(n_ref=1000, signals=(Signal(name="predicted_class", kind="categorical", counts=(500, 300, 200)),))
CHANGED, USUAL = (100, 300, 600), (500, 300, 200)
SITE = 12
"""Devices that report."""


def new_bundle(folder: Path) -> str:
    """Put a bundle where a push leaves it, and return its digest."""
    blobs = {"golden.bin": b"g", "model.tflite": b"m", "profile.json": PROFILE.encode()}
    made = manifest(1).model_copy(update={"blobs": describe_blobs(blobs)})
    data = encode_bundle(made, blobs)
    digest = sha256_hex(data)
    (folder / "bundles").mkdir(exist_ok=True)
    (folder / "bundles" / digest).write_bytes(data)
    row = {"sha256": digest, "model": MODEL, "release": 1, "variant": "int8", "path": "p", "length_bytes": len(data)}
    db = opened(folder)
    with db.write() as connection:
        text = made.encode().decode()
        connection.execute(bundle.insert().values(**row, index_sha256="a" * 64, manifest=text, pushed_ms=1))
    db.close()
    return digest


def opened(folder: Path) -> Database:
    db = Database(load_config(folder).database_url(folder))
    migrate.upgrade(db)
    return db


def records(digest: str, number: int) -> list[TelemetryRecord]:
    """Return what a device said in the last ten minutes; the first three see something else."""
    is_sick, ten_us = number < 3, NOW_US - 600_000_000
    known = {"model": MODEL, "release": 1, "digest": digest}
    latencies = [1000.0 * (number + 1)] * 50
    interval = ModelInterval(
        start_us=ten_us, interval_ms=60_000, count=50, errors=number, latency_us=histogram(latencies), **known
    )
    counts = CHANGED if is_sick else USUAL
    report = DriftReport(
        start_us=ten_us, interval_ms=60_000, state="drift" if is_sick else "ok", score=12.0 if is_sick else 0.1,
        frames=1000, since_us=ten_us, onset_us=ten_us if is_sick else 0, log_e=10.0 if is_sick else 0.0,
        signals=[SignalReport(name="predicted_class", cusum=11.0 if is_sick else 0.0, counts=counts)],
        epoch_us=ten_us, epoch_frames=1000,
        skew=SkewCheck(state="ok", frames=1000, p_value=0.5), **known,
    )  # fmt: skip
    made = [TelemetryRecord(model=interval), TelemetryRecord(drift=report), heartbeat(ten_us)]
    if is_sick:
        message = "the frames are not those of the profile; fox 60% instead of 20%"
        made.append(TelemetryRecord(event=Event(time_us=ten_us, kind="drift_alarm", message=message, **known)))
    return made


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory, controller_class: Callable[[Path], Any]) -> Iterator[Path]:
    """A running controller; three of its devices have drifted, and one dropped records."""
    folder = tmp_path_factory.mktemp("fleet") / "server"
    made = controller_class(folder)
    digest, db = new_bundle(folder), opened(folder)
    inbox = Inbox(db, SystemClock())
    inbox.start()
    with db.write() as connection:
        accept(connection, [f"cam-{number}" for number in range(SITE)])
        about = {"kind": "drift", "model": MODEL, "device": "cam-old", "state": "open", "summary": "", "evidence": "{}"}
        seen = {"open_key": f"drift/{MODEL}/cam-old", "opened_ms": 1, "seen_ms": 1}
        connection.execute(alert.insert().values(id="a" * 32, **about, **seen))
    for number in range(SITE):
        sent = records(digest, number)
        losses = [Loss(kind="sample", reason="full", count=7)] if number == 5 else []
        stream = bytes([number]) * 16
        batch = telemetry_batch(stream, range(1, len(sent) + 1), sent, produced=20, losses=losses)
        inbox.put(f"cam-{number}", received(batch))
    kept = [sample(NOW_US - number, [0.5], model=MODEL, reason="drift") for number in range(2)]
    inbox.put("cam-1", received(sample_batch(b"s" * 16, (1, 2), kept)))
    inbox.stop()
    db.close()
    (folder / "metrics.token").write_text(READER + "\n")
    config = load_config(folder).model_copy(update={"metrics": MetricsSettings(token_file="metrics.token")})
    (folder / "controller.toml").write_text(encode_config(config))
    made.start()
    yield folder
    made.stop()


@pytest.fixture
def dsops(run: Dsops, fleet: Path, monkeypatch: pytest.MonkeyPatch) -> Dsops:
    monkeypatch.setenv("DSOPS_CONTEXT", str(fleet / "operator.toml"))
    return run


def test_the_worst_come_first_and_the_list_is_corrected_for_many_devices(dsops: Dsops) -> None:
    found = dsops("drift", "top", "--limit", "4", "-o", "json").result
    (model,) = found["models"]
    assert (model["devices"], model["states"]["drift"], model["share"]) == (SITE, 3, 0.25)
    assert sorted(model["drifted"]) == ["cam-0", "cam-1", "cam-2"]
    assert [row["device"] for row in found["devices"]][:3] == ["cam-0", "cam-1", "cam-2"]
    assert dsops("drift", "top", "--fdr", "0.0001", "-o", "json").result["models"][0]["drifted"] == []
    text = dsops("drift", "top").out
    assert "25.0%" in text
    assert (model["stale"], "STALE" in text, "HEARD" in text) == (0, True, True)
    assert "cam-0, cam-1, cam-2" in text


def test_a_device_is_explained(dsops: Dsops) -> None:
    (found,) = dsops("drift", "show", MODEL, "--device", "cam-1", "-o", "json").result
    assert (found["level"], found["skew"]["state"], found["onset"] is not None) == ("drift", "ok", True)
    assert found["message"].startswith("the frames are not those of the profile")
    assert [row["bin"] for row in found["changes"][0]["changes"]][:2] in (["cat", "fox"], ["fox", "cat"])
    assert len(found["samples"]) == 2
    assert all(sample.startswith("cam-1/") for sample in found["samples"])
    text = dsops("drift", "show", MODEL, "--device", "cam-1").out
    assert "fox 60% instead of 20%" in text
    assert "as the profile" in text
    assert dsops("drift", "show", "--device", "cam-99", "-o", "json").code == 5
    assert {row["device"] for row in dsops("drift", "show", "-o", "json").result} >= {"cam-0", "cam-1", "cam-2"}


def test_a_period_is_reported_as_text_json_markdown_and_html(dsops: Dsops, tmp_path: Path) -> None:
    found = dsops("drift", "report", MODEL, "--since", "2h", "-o", "json").result
    (made,) = found["bundles"]
    assert (made["devices"], made["frames"], made["states"]["drift"]) == (SITE, SITE * 1000, 3)
    assert made["p_value"] < 1e-6
    assert made["signals"][0]["seen"][2] == pytest.approx(0.3)
    page = dsops("drift", "report", MODEL).out
    assert "| **predicted_class** |" in page
    assert "fox 30% instead of 20%" in page
    for name in ("a.md", "a.html", "a.json"):
        assert dsops("drift", "report", MODEL, "--file", tmp_path / name).code == 0
    assert (tmp_path / "a.md").read_text().startswith(f"# Drift of {MODEL}")
    assert (tmp_path / "a.html").read_text().count("<rect ") == 6
    assert json.loads((tmp_path / "a.json").read_text())["model"] == MODEL
    assert dsops("drift", "report", MODEL, "--file", tmp_path / "a.doc").code == 2
    assert dsops("drift", "report", "other", "-o", "json").code == 5
    assert dsops("drift", "report", MODEL, "--since", "soon").code == 2


def test_telemetry_comes_in_buckets_quantiles_and_as_the_newest(dsops: Dsops) -> None:
    series = dsops("telemetry", "query", "--model", MODEL, "--bucket", "10m", "-o", "json").result
    assert sum(row["count"] for row in series) == SITE * 50
    (whole,) = dsops("telemetry", "query", "quantiles", "--quantile", "0.5", "--quantile", "1", "-o", "json").result
    assert (whole["count"], whole["errors"], whole["release"]) == (SITE * 50, 66, 1)
    assert whole["p50_us"] == pytest.approx(6000, rel=0.05)
    assert whole["p100_us"] == pytest.approx(12_000, rel=0.05)
    (one,) = dsops("telemetry", "query", "quantiles", "--device", "cam-3", "-o", "json").result
    assert (one["count"], one["p50_us"]) == (50, pytest.approx(4000, rel=0.05))
    assert dsops("telemetry", "query", "quantiles", "--release", "2", "-o", "json").result == []
    latest = dsops("telemetry", "query", "latest", "--model", MODEL, "-o", "json").result
    assert [row["count"] for row in latest] == [50] * SITE
    assert dsops("telemetry", "query", "--bucket", "90s").code == 2
    assert dsops("telemetry", "query", "--until", "2020-01-01").code == 2


def test_losses_and_silent_devices_are_told(dsops: Dsops) -> None:
    assert dsops("telemetry", "query", "losses", "-o", "json").result == [
        {"device": "cam-5", "kind": "sample", "reason": "full", "count": 7}
    ]
    beats = dsops("telemetry", "query", "heartbeats", "-o", "json").result
    assert len(beats) == SITE
    assert all(row["silent_s"] >= 0 and row["waiting_records"] == 3 for row in beats)
    assert "SILENT S" in dsops("telemetry", "query", "heartbeats").out


def test_alerts_are_listed_shown_and_told_again(dsops: Dsops) -> None:
    wanted = {("drift", f"cam-{number}") for number in range(3)} | {("fleet-drift", ""), ("losses", "cam-5")}
    deadline = time.monotonic() + 60
    while {(row["kind"], row["device"]) for row in dsops("alerts", "list", "-o", "json").result} != wanted:
        assert time.monotonic() < deadline
        time.sleep(0.5)
    (old,) = (row for row in dsops("alerts", "list", "--all", "-o", "json").result if row["device"] == "cam-old")
    assert (old["state"], old["ended"]) == ("resolved", "left")
    assert "resolved: left" in dsops("alerts", "list", "--all").out
    (whole,) = dsops("alerts", "list", "--kind", "fleet-drift", "-o", "json").result
    assert dsops("alerts", "show", whole["id"][:12], "-o", "json").result["evidence"]["drifted"] == 3
    assert "3 of 12 devices with animals have drifted" in dsops("alerts", "list").out
    assert dsops("alerts", "retry", whole["id"][:12]).code == 0
    assert dsops("alerts", "retry", "--webhook", "ops", "-o", "json").result == {"notices": 0}
    assert "0 notices" in dsops("alerts", "retry", "--all").err
    assert [dsops("alerts", "retry", *what).code for what in ((), ("--all", "--webhook", "ops"))] == [2, 2]
    assert dsops("alerts", "show", "none", "-o", "json").code == 5


def test_figures_are_read_with_the_operators_token_or_one_of_their_own(fleet: Path) -> None:
    access = Access.load(fleet / "operator.toml")
    trust = ssl.create_default_context(cafile=access.ca)
    with httpx.Client(base_url=access.url, verify=trust, trust_env=False) as web:

        def get(path: str, token: str) -> httpx.Response:
            return web.get(path, headers={"Authorization": f"Bearer {token}"})

        read = get("/metrics", READER)
        assert (read.status_code, read.headers["content-type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
        assert 'dsops_drift_discoveries{model="animals"} 3' in read.text.splitlines()
        assert get("/metrics", access.token).status_code == 200
        assert get("/metrics", "another").status_code == web.get("/metrics").status_code == 401
        for path in ("/api/v1/devices", "/metrics/", "/api/v1/telemetry/latest"):
            assert get(path, READER).status_code == 401
        assert web.post("/metrics", headers={"Authorization": f"Bearer {READER}"}).status_code == 401


def test_rows_go_to_other_programs(dsops: Dsops, tmp_path: Path) -> None:
    text = dsops("telemetry", "query", "latest", "--model", MODEL, "-o", "csv").out
    rows = list(csv.DictReader(io.StringIO(text)))
    assert sorted(row["device"] for row in rows) == sorted(f"cam-{number}" for number in range(SITE))
    assert dsops("telemetry", "query", "latest", "-o", "csv", "--to", tmp_path / "a.csv").code == 0
    assert (tmp_path / "a.csv").read_text().startswith("device,model,time")
    assert dsops("telemetry", "query", "latest", "-o", "arrow").code == 2


def test_rows_go_to_arrow(dsops: Dsops, tmp_path: Path) -> None:
    pytest.importorskip("arro3.io", reason="arro3-io is not installed: pip install 'dsops[arrow]'")
    ipc = pytest.importorskip("pyarrow.ipc")
    place = tmp_path / "a.arrow"
    assert dsops("telemetry", "query", "quantiles", "-o", "arrow", "--to", place).code == 0
    (row,) = ipc.open_file(str(place)).read_all().to_pylist()
    assert (row["model"], row["count"], row["start"].tzinfo is not None) == (MODEL, SITE * 50, True)
    assert row["p50_us"] == pytest.approx(6000, rel=0.05)


def test_what_no_controller_has_pinned_cannot_be_given_up(dsops: Dsops) -> None:
    assert dsops("store", "unpin", "dataset/field/1@inbox-0").code == 2, "it was not confirmed"
    assert dsops("store", "unpin", "dataset/field/1@inbox-0", "--yes").code == 5


def test_a_decommissioned_device_leaves_the_lists_and_is_told_of_by_its_name(dsops: Dsops) -> None:
    assert dsops("device", "decommission", "cam-0", "--yes").code == 0
    assert "cam-0" not in {row["device"] for row in dsops("drift", "show", "-o", "json").result}
    found = dsops("drift", "top", "-o", "json").result
    assert found["models"][0]["devices"] == SITE - 1
    assert "cam-0" not in {row["device"] for row in found["devices"]}
    assert dsops("drift", "show", "--device", "cam-0", "-o", "json").result[0]["level"] == "drift"
