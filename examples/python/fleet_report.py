"""Report drift and quality of every device of a fleet, with as many processes or machines as it takes.

Each task reads one Parquet file of the lake and returns sums, which are merged in pairs. So no process holds more than
one file and the sums of the fleet, and ten times the devices need ten times the workers and nothing else. It needs no
dsops: pip install deltalake pyarrow numpy distributed

    python fleet_report.py lake --out report.csv                          # processes of this machine
    python fleet_report.py s3://fleet-data/lake --scheduler tcp://host:8786 --since 2026-01-01
"""

import argparse
import copy
import csv
import json
import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import DeltaTable
from deltalake.fs import DeltaStorageHandler
from distributed import Client, LocalCluster
from pyarrow.fs import PyFileSystem

SUMS = ("count", "errors", "unobserved", "confidence_count")
COLUMNS = ["device", "model", "release", "time", "interval_ms", "latency_scale", "latency_offset", "latency_counts"]
COLUMNS += ["labels", "confidence_sum", *SUMS]
FIELDS = ("device", "model", "release", "requests", "error_rate", "p95_us", "p95_ratio", "confidence", "label_shift")
FIELDS += ("unobserved", "drift", "silent_hours", "remarks")
BATCH_ROWS = 500_000
SLOW, SHIFTED, FAILING, SILENT_HOURS, ENOUGH = 1.5, 0.3, 0.05, 24.0, 100
Key = tuple[str, str, int]
"""Device, model, release."""


@dataclass
class Figures:
    """Sums over the intervals of one model on one device; they merge in any order."""

    sums: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SUMS, 0))
    confidence: float = 0.0
    last_us: int = 0
    scale: int | None = None
    latency: dict[int, int] = field(default_factory=dict)
    labels: dict[int, int] = field(default_factory=dict)

    def merge(self, other: "Figures") -> None:
        """Add another's sums; of two resolutions of histograms the coarser stays [OTLP, "ExponentialHistogram"]."""
        for name in SUMS:
            self.sums[name] += other.sums[name]
        self.confidence += other.confidence
        self.last_us = max(self.last_us, other.last_us)
        scales = [scale for scale in (self.scale, other.scale) if scale is not None]
        if scales:
            mine, theirs = (_coarser(one, min(scales)) for one in (self, other))
            self.scale, self.latency = min(scales), _added(mine, theirs)
        self.labels = _added(self.labels, other.labels)

    def p95_us(self) -> float | None:
        """Return the 95th percentile of latency, within 2 %."""
        total, seen = sum(self.latency.values()), 0
        for bucket in sorted(self.latency):
            seen += self.latency[bucket]
            if seen >= 0.95 * total:
                return float(2.0 ** ((bucket + 0.5) / 2.0 ** (self.scale or 0)))
        return None


Partial = dict[Key, Figures]


def read_file(uri: str, options: dict[str, str] | None, path: str) -> Partial:
    """Return the sums of one file of telemetry; reads the needed columns, a row group at a time."""
    files = PyFileSystem(DeltaStorageHandler(uri, options))
    found: Partial = {}
    with files.open_input_file(path) as source:
        for batch in pq.ParquetFile(source).iter_batches(columns=COLUMNS, batch_size=BATCH_ROWS):
            merge_into(found, _sums_of(batch))
    return found


def read_drift(uri: str, options: dict[str, str] | None, path: str) -> dict[Key, tuple[int, str]]:
    """Return the newest state of each device's drift in one file of reports, with its time."""
    files = PyFileSystem(DeltaStorageHandler(uri, options))
    with files.open_input_file(path) as source:
        table = pq.read_table(source, columns=["device", "model", "release", "time", "state"])
    found: dict[Key, tuple[int, str]] = {}
    times = table["time"].cast(pa.int64()).to_pylist()
    keys = zip(*(table[name].to_pylist() for name in ("device", "model", "release")), strict=True)
    for key, time_us, state in zip(keys, times, table["state"].to_pylist(), strict=True):
        found[key] = max(found.get(key, (0, "")), (time_us, state))
    return found


def merge_into(whole: Partial, part: Partial) -> Partial:
    """Merge sums into ``whole`` and return it."""
    for key, figures in part.items():
        if key in whole:
            whole[key].merge(figures)
        else:
            whole[key] = figures
    return whole


def merge_pair(first: Partial, second: Partial) -> Partial:
    """Return the merged sums of two tasks, which stay as they are."""
    return merge_into(copy.deepcopy(first), second)


def _sums_of(batch: pa.RecordBatch) -> Partial:
    """Group a batch by device, model and release with array operations."""
    columns = [batch[name].dictionary_encode() for name in ("device", "model", "release")]
    codes = np.zeros(batch.num_rows, np.int64)
    for column in columns:
        codes = codes * len(column.dictionary) + column.indices.to_numpy(zero_copy_only=False)
    _, first, group = np.unique(codes, return_index=True, return_inverse=True)
    keys = list(zip(*(column.take(pa.array(first)).to_pylist() for column in columns), strict=True))
    number = len(keys)
    sums = {name: np.bincount(group, _numbers(batch[name]), number).astype(np.int64) for name in SUMS}
    confidence = np.bincount(group, _numbers(batch["confidence_sum"]), number) / 1e6
    ends = _numbers(batch["time"].cast(pa.int64())) + _numbers(batch["interval_ms"]) * 1000
    last = np.zeros(number)
    np.maximum.at(last, group, ends)
    scale = _numbers(batch["latency_scale"]).astype(np.int64)
    coarsest = np.full(number, np.iinfo(np.int64).max)
    np.minimum.at(coarsest, group, scale)
    rows, places, counts = _exploded(batch["latency_counts"])
    buckets = (_numbers(batch["latency_offset"]).astype(np.int64)[rows] + places) >> (scale - coarsest[group])[rows]
    latency = _by_group(group[rows], buckets, counts, number)
    rows, places, counts = _exploded(batch["labels"])
    labels = _by_group(group[rows], places, counts, number)
    figures = zip(*(sums[name].tolist() for name in SUMS), confidence.tolist(), last.tolist(), strict=True)
    return {
        key: Figures(dict(zip(SUMS, counts, strict=True)), sure, int(end), int(coarsest[i]), latency[i], labels[i])
        for i, (key, (*counts, sure, end)) in enumerate(zip(keys, figures, strict=True))
    }


def _numbers(column: pa.Array) -> np.ndarray:
    return np.nan_to_num(column.to_numpy(zero_copy_only=False).astype(np.float64))


def _exploded(lists: pa.ListArray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return row, place within the list and value of each element."""
    lengths = np.nan_to_num(lists.value_lengths().to_numpy(zero_copy_only=False)).astype(np.int64)
    rows = np.repeat(np.arange(len(lists)), lengths)
    places = np.arange(len(rows)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    return rows, places, lists.flatten().to_numpy(zero_copy_only=False).astype(np.int64)


def _by_group(groups: np.ndarray, places: np.ndarray, counts: np.ndarray, number: int) -> list[dict[int, int]]:
    found: list[dict[int, int]] = [{} for _ in range(number)]
    if not len(groups):
        return found
    low = int(places.min())
    width = int(places.max()) - low + 1
    sums = np.bincount(groups * width + places - low, counts, number * width).reshape(number, width)
    for group, place in np.argwhere(sums):
        found[group][int(place) + low] = int(sums[group, place])
    return found


def _coarser(figures: Figures, scale: int) -> dict[int, int]:
    shift = (figures.scale or 0) - scale if figures.scale is not None else 0
    found: dict[int, int] = {}
    for bucket, count in figures.latency.items():
        found[bucket >> shift] = found.get(bucket >> shift, 0) + count
    return found


def _added(first: dict[int, int], second: dict[int, int]) -> dict[int, int]:
    return {key: first.get(key, 0) + second.get(key, 0) for key in first | second}


def shift(mine: dict[int, int], rest: dict[int, int]) -> float | None:
    """Return the Jensen-Shannon distance of two label distributions: 0 equal, 1 disjoint; None with too few labels."""
    labels = sorted(mine | rest)
    p, q = (np.array([counts.get(label, 0) for label in labels], float) for counts in (mine, rest))
    if p.sum() < ENOUGH or q.sum() < ENOUGH:
        return None
    p, q = p / p.sum(), q / q.sum()
    middle = (p + q) / 2
    bits = sum(float(np.sum(one[one > 0] * np.log2(one[one > 0] / middle[one > 0]))) for one in (p, q)) / 2
    return max(0.0, bits) ** 0.5


def rows_of(whole: Partial, drift: dict[Key, tuple[int, str]], now_us: int) -> list[dict[str, Any]]:
    """Return one row for each model on each device, those with remarks first."""
    fleet: dict[tuple[str, int], Figures] = {}
    for (_, model, release), figures in whole.items():
        fleet.setdefault((model, release), Figures()).merge(figures)
    rows = [_row(key, figures, fleet[key[1:]], drift.get(key, (0, ""))[1], now_us) for key, figures in whole.items()]
    return sorted(rows, key=lambda row: (-len(row["remarks"]), row["device"], row["model"], row["release"]))


def _row(key: Key, figures: Figures, fleet: Figures, drift: str, now_us: int) -> dict[str, Any]:
    sums, p95, usual = figures.sums, figures.p95_us(), fleet.p95_us()
    rest = {label: count - figures.labels.get(label, 0) for label, count in fleet.labels.items()}
    row: dict[str, Any] = dict(zip(("device", "model", "release"), key, strict=True)) | {
        "requests": sums["count"],
        "error_rate": sums["errors"] / max(1, sums["count"] + sums["errors"]),
        "p95_us": p95,
        "p95_ratio": p95 / usual if p95 and usual else None,
        "confidence": figures.confidence / sums["confidence_count"] if sums["confidence_count"] else None,
        "label_shift": shift(figures.labels, rest),
        "unobserved": sums["unobserved"] / max(1, sums["count"]),
        "drift": drift,
        "silent_hours": (now_us - figures.last_us) / 3.6e9,
    }
    return row | {"remarks": _remarks(row)}


def _remarks(row: dict[str, Any]) -> list[str]:
    return [
        text
        for text, holds in (
            ("drift", row["drift"] in {"warning", "drift"}),
            ("other labels than the fleet", (row["label_shift"] or 0) > SHIFTED),
            ("slow", (row["p95_ratio"] or 0) > SLOW),
            ("failing", row["error_rate"] > FAILING),
            ("silent", row["silent_hours"] > SILENT_HOURS),
        )
        if holds
    ]


def files_of(uri: str, options: dict[str, str] | None, since: date | None) -> list[str]:
    """Return the files of one version of a table whose day is ``since`` or later, relative to it."""
    actions = DeltaTable(uri, storage_options=options).get_add_actions(flatten=True)
    if not actions.num_rows:
        return []
    days = actions["partition.day"].to_pylist()
    return [path for path, day in zip(actions["path"].to_pylist(), days, strict=True) if not since or day >= since]


def report(client: Client, lake: str, options: dict[str, str] | None, since: date | None) -> list[dict[str, Any]]:
    """Compute the report on the cluster of ``client``."""
    telemetry, reports = f"{lake}/telemetry", f"{lake}/drift_reports"
    parts = [
        client.submit(read_file, telemetry, options, path, pure=False) for path in files_of(telemetry, options, since)
    ]
    states = [
        client.submit(read_drift, reports, options, path, pure=False) for path in files_of(reports, options, since)
    ]
    while len(parts) > 1:  # a tree: no process merges everything
        pairs = [parts[i : i + 2] for i in range(0, len(parts), 2)]
        parts = [client.submit(merge_pair, *pair, pure=False) if len(pair) == 2 else pair[0] for pair in pairs]
    whole: Partial = parts[0].result() if parts else {}
    drift: dict[Key, tuple[int, str]] = {}
    for found in client.gather(states):
        for key, state in found.items():
            drift[key] = max(drift.get(key, (0, "")), state)
    now_us = max((figures.last_us for figures in whole.values()), default=0)
    return rows_of(whole, drift, now_us)


def main(arguments: Sequence[str]) -> int:
    """Write the report; return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("lake", help="folder or URL of the lake")
    parser.add_argument("--since", type=date.fromisoformat, help="first day, YYYY-MM-DD")
    parser.add_argument("--scheduler", help="address of a Dask scheduler; without it, processes of this machine")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes of this machine")
    parser.add_argument("--option", action="append", default=[], help="NAME=VALUE for the object store")
    parser.add_argument("--out", type=Path, default=Path("report.csv"), help="where to write it")
    args = parser.parse_args(arguments)
    options = dict(text.split("=", 1) for text in args.option) or None
    lake = args.lake if "://" in args.lake else str(Path(args.lake).resolve())
    if args.scheduler:
        with Client(args.scheduler) as client:
            rows = report(client, lake, options, args.since)
    else:
        with (
            LocalCluster(args.workers, processes=True, threads_per_worker=1, dashboard_address=None) as cluster,
            Client(cluster) as client,
        ):
            rows = report(client, lake, options, args.since)
    _write(args.out, rows)
    remarked = [row for row in rows if row["remarks"]]
    summary = {
        "written": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
        "devices": len({row["device"] for row in rows}),
        "requests": sum(row["requests"] for row in rows),
        "remarked": {row["device"]: row["remarks"] for row in remarked},
    }
    print(json.dumps(summary, indent=2))
    return 0


def _write(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, FIELDS)
        writer.writeheader()
        for row in rows:
            shown = {name: f"{value:.6g}" if isinstance(value, float) else value for name, value in row.items()}
            writer.writerow(shown | {"remarks": "; ".join(row["remarks"])})


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
