"""A lake as a fleet of 10,000 devices fills it in a day: 10 million rows of telemetry, 20,000 samples.

The rows are written as a flush writes them, in commits of 250,000, and compacted. Only the way through the inbox is
left out: it would take an hour. What a minute's roll-up holds is computed from the same rows.
"""

import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
from deltalake import write_deltalake
from sqlalchemy import insert

from dsops import strictjson
from dsops.clock import ManualClock
from dsops_controller.dataops.lake.columns import COLUMNS, Column, LakeTable
from dsops_controller.dataops.lake.commits import NO_HOOKS, properties
from dsops_controller.dataops.lake.lake import Lake
from dsops_controller.dataops.lake.pins import Pins
from dsops_controller.dataops.lake.upkeep import Upkeep
from dsops_controller.db import migrate
from dsops_controller.db.database import Database
from dsops_controller.db.tables import device_latest

DAY = datetime(2026, 11, 20, tzinfo=UTC)
DEVICES, STEPS, MODELS, RELEASES = 10_000, 1_000, 4, 4
STEP_US = 86_400_000_000 // STEPS
FLUSHES = 40
SAMPLES, SAMPLE_BYTES = 20_000, 10_240
BUCKETS, OFFSET = 16, 100
LABELS = 10
DONE = "done"
Made = dict[str, pa.Array]


def big_lake(folder: Path) -> tuple[Database, Lake, float]:
    """Return the lake in ``folder``, made when it is not there yet, and the seconds that making took."""
    began_s = time.monotonic()
    is_made = (folder / DONE).exists()
    folder.mkdir(parents=True, exist_ok=True)
    db = Database(f"sqlite:///{folder}/state.db")
    lake = Lake(db, folder / "lake")
    if not is_made:
        migrate.upgrade(db)
        lake.open()
        _fill(db, lake)
        Upkeep(lake, Pins(lake, ManualClock(DAY)), ManualClock(DAY)).compact()
        (folder / DONE).touch()
    return db, lake, 0.0 if is_made else time.monotonic() - began_s


def model_name(number: int) -> str:
    """Return the name of a model."""
    return f"model-{number}"


def _fill(db: Database, lake: Lake) -> None:
    rng = np.random.default_rng(7)
    for first in range(0, STEPS, STEPS // FLUSHES):
        steps = np.arange(first, first + STEPS // FLUSHES)
        counts = rng.integers(0, 20, (len(steps) * DEVICES, BUCKETS))
        device, step = np.tile(np.arange(DEVICES), len(steps)), np.repeat(steps, DEVICES)
        time_us = _DAY_US + step * STEP_US + device * (STEP_US // DEVICES)
        _append(lake, LakeTable.TELEMETRY, _telemetry(device, step, time_us, counts))
        _append(lake, LakeTable.MINUTES, _minutes(device, time_us, counts))
    for part in _samples(rng):
        _append(lake, LakeTable.SAMPLES, part)
    with db.write() as connection:
        connection.execute(insert(device_latest), [*_latest()])


def _telemetry(device: np.ndarray, step: np.ndarray, time_us: np.ndarray, counts: np.ndarray) -> Made:
    total = counts.sum(1)
    return {
        "device": _names("camera-", DEVICES).take(pa.array(device)),
        "stream": _names("00", DEVICES).take(pa.array(device)),
        "seq": pa.array(step + 1),
        "time": _times(time_us),
        "received": _times(time_us + 1_000_000),
        "model": _names("model-", MODELS).take(pa.array(device % MODELS)),
        "release": pa.array(device // MODELS % RELEASES + 1),
        "interval_ms": pa.array(np.full(len(device), STEP_US // 1000)),
        "count": pa.array(total),
        "errors": pa.array(total // 100),
        "labels": _lists(np.tile(total[:, None] // LABELS, LABELS)),
        **_histogram("latency", counts, total),
        **_histogram("confidence", counts[:, :4], counts[:, :4].sum(1)),
    }


def _minutes(device: np.ndarray, time_us: np.ndarray, counts: np.ndarray) -> Made:
    """Add up by minute, tenth of it (a flush takes ten seconds), model and release."""
    kinds = MODELS * RELEASES
    slot = (time_us - _DAY_US) // 10_000_000
    group = slot * kinds + device % kinds
    found, place = np.unique(group, return_inverse=True)
    sums = np.zeros((len(found), BUCKETS), np.int64)
    np.add.at(sums, place, counts)
    total, kind = sums.sum(1), found % kinds
    minute_us = _DAY_US + found // kinds // 6 * 60_000_000
    return {
        "time": _times(minute_us),
        "received": _times(minute_us + 60_000_000),
        "model": _names("model-", MODELS).take(pa.array(kind % MODELS)),
        "release": pa.array(kind // MODELS + 1),
        "intervals": pa.array(np.bincount(place)),
        "count": pa.array(total),
        "errors": pa.array(total // 100),
        **_histogram("latency", sums, total),
        **_histogram("confidence", sums[:, :4], sums[:, :4].sum(1)),
    }


def _samples(rng: np.random.Generator) -> Iterator[Made]:
    for first in range(0, SAMPLES, 500):
        number = np.arange(first, first + 500)
        time_us = _DAY_US + number * (86_400_000_000 // SAMPLES)
        inputs = [rng.integers(0, 256, SAMPLE_BYTES, np.uint8).tobytes() for _ in number]
        yield {
            "device": _names("camera-", DEVICES).take(pa.array(number % DEVICES)),
            "stream": _names("11", DEVICES).take(pa.array(number % DEVICES)),
            "seq": pa.array(number // DEVICES + 1),
            "time": _times(time_us),
            "received": _times(time_us),
            "model": _names("model-", MODELS).take(pa.array(number % MODELS)),
            "release": pa.array(np.ones(500, np.int64)),
            "reason": pa.array(["audit"] * 500),
            "input_datatype": pa.array(["UINT8"] * 500),
            "input_shape": _lists(np.tile([1, SAMPLE_BYTES], (500, 1))),
            "output_shape": _lists(np.tile([1, 10], (500, 1))),
            "input_bytes": pa.array(np.full(500, SAMPLE_BYTES)),
            "input": pa.array(inputs, pa.binary()),
            "output": pa.array([bytes(10)] * 500, pa.binary()),
        }


def _latest() -> Iterator[dict[str, object]]:
    figures = dict.fromkeys(("p50_us", "p95_us", "p99_us", "confidence", "drift_score"), 123.456)
    text = strictjson.dumps({"release": 1, "digest": _DIGEST, "count": 150, "errors": 1, **figures}).decode()
    for device in range(DEVICES):
        row = {"device": f"camera-{device:06d}", "time_ms": _DAY_US // 1000, "figures": text}
        yield row | {"model": model_name(device % MODELS)}
        yield row | {"model": ""}


def _append(lake: Lake, table: LakeTable, columns: Made) -> None:
    rows = len(columns["time"])
    whole = {name: columns.get(name, _blank(kind, rows)) for name, kind in COLUMNS[table].items()}
    whole["day"] = columns["time"].cast(pa.timestamp("us")).cast(pa.date32())
    if "digest" in whole:
        whole["digest"] = pa.array([_DIGEST] * rows)
    write_deltalake(
        lake.table(table),
        pa.table(whole),
        mode="append",
        post_commithook_properties=NO_HOOKS,
        writer_properties=properties(table),
    )


def _histogram(name: str, counts: np.ndarray, total: np.ndarray) -> Made:
    ones = np.ones(len(total), np.int64)
    low, high = 2.0 ** (OFFSET / 16), 2.0 ** ((OFFSET + counts.shape[1]) / 16)
    return {
        f"{name}_scale": pa.array(4 * ones),
        f"{name}_offset": pa.array(OFFSET * ones),
        f"{name}_zero": pa.array(0 * ones),
        f"{name}_count": pa.array(total),
        f"{name}_sum": pa.array(total * low),
        f"{name}_min": pa.array(low * ones),
        f"{name}_max": pa.array(high * ones),
        f"{name}_counts": _lists(counts),
    }


def _blank(kind: Column, rows: int) -> pa.Array:
    if kind is Column.INTS:
        return _lists(np.zeros((rows, 0), np.int64))
    return pa.nulls(rows, _TYPES[kind])


def _lists(values: np.ndarray) -> pa.Array:
    rows, width = values.shape
    offsets = pa.array(np.arange(rows + 1, dtype=np.int32) * width)
    return pa.ListArray.from_arrays(offsets, pa.array(values.reshape(-1).astype(np.int64)))


def _names(prefix: str, count: int) -> pa.Array:
    width = 6 if count > MODELS else 1
    texts: Sequence[str] = [f"{prefix}{number:0{width}d}" for number in range(count)]
    return pa.array(texts)


def _times(time_us: np.ndarray) -> pa.Array:
    return pa.array(time_us).cast(pa.timestamp("us", tz="UTC"))


_DAY_US = int(DAY.timestamp()) * 1_000_000
_DIGEST = "ab" * 32
_TYPES = {
    Column.TEXT: pa.string(),
    Column.INT: pa.int64(),
    Column.FLOAT: pa.float64(),
    Column.TIME: pa.timestamp("us", tz="UTC"),
    Column.DAY: pa.date32(),
    Column.BYTES: pa.binary(),
}
