"""What each bundle did since the controller first heard of it: counts and histograms that only grow.

What monitoring systems want are sums over all devices that never fall. They are added up when a flush moves records
into the lake, in the transaction that takes them from the inbox: each record counts once, also over a crash. Histograms
keep OpenTelemetry's buckets, merged exactly.
"""

import json
import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from arro3.core import Table
from sqlalchemy import Connection, Row, select

from dsops import strictjson
from dsops_controller.dataops.histograms import Merged
from dsops_controller.dataops.lake.minutes import HISTOGRAMS, Summed
from dsops_controller.dataops.strangers import UNKNOWN_BUNDLE, BundleKey, Namers, seats
from dsops_controller.db.database import Database
from dsops_controller.db.tables import bundle_total
from dsops_controller.db.times import from_ms
from dsops_controller.db.upsert import upsert

MAX_BUCKETS = 640
_COUNTS = {"answers": "count", "errors": "errors", "unobserved": "unobserved"}


class Total(Summed):
    """A histogram of all devices; it becomes coarser rather than larger than :data:`MAX_BUCKETS`."""

    def pour(self, other: Summed) -> None:
        """Add another histogram."""
        if other.merged.scale is not None:
            self.merged.add(other.merged.scale, other.merged.buckets)
        self.merged.zero += other.merged.zero
        if other.count:
            self.merged.widen(other.merged.low, other.merged.high)
        if math.isfinite(self.sum + other.sum):  # a device may say anything, and what is stored is JSON
            self.sum += other.sum
        self.count += other.count
        self.bound(MAX_BUCKETS)

    def below(self, limits: Iterable[float]) -> list[int]:
        """Return how many values are at most each limit; a bucket counts when its middle is."""
        scale = self.merged.scale or 0
        middles = [(2.0 ** ((at + 0.5) / 2.0**scale), count) for at, count in self.merged.buckets.items()]
        return [self.merged.zero + sum(count for middle, count in middles if middle <= limit) for limit in limits]

    def encode(self) -> str:
        """Return it as text."""
        merged = self.merged
        facts = {
            "scale": merged.scale,
            "buckets": {str(at): count for at, count in sorted(merged.buckets.items())},
            "zero": merged.zero,
            "low": merged.low,
            "high": merged.high,
            "sum": self.sum,
            "count": self.count,
        }
        return strictjson.dumps(facts).decode()

    @classmethod
    def decode(cls, text: str) -> "Total":
        """Read what :meth:`encode` wrote."""
        facts = json.loads(text)
        buckets = {int(at): count for at, count in facts["buckets"].items()}
        merged = Merged(facts["scale"], buckets, facts["zero"], facts["low"], facts["high"])
        return cls(merged, facts["sum"], facts["count"])


@dataclass(frozen=True, slots=True)
class BundleTotal:
    """What one bundle did on all devices.

    Attributes:
        since: When it was heard of first.
        updated: When something was added last.
        answers: Answered requests; ``errors`` failed, ``unobserved`` were not shown to the monitor.
        latency: Of requests in the interpreter, microseconds.
        confidence: Largest scores, parts per million.
    """

    model: str
    release: int
    digest: str
    since: datetime
    updated: datetime
    answers: int
    errors: int
    unobserved: int
    latency: Total
    confidence: Total


def totals(db: Database) -> list[BundleTotal]:
    """Return the totals of every bundle, by model and release.

    Raises:
        StateDamaged: The database cannot be read.
    """
    column = bundle_total.c
    with db.read() as connection:
        rows = connection.execute(select(bundle_total).order_by(column.model, column.release, column.digest)).all()
    return [_total(row) for row in rows]


@dataclass(slots=True)
class Added:
    """What a flush adds to one bundle: answers, errors and unobserved, and histograms by name."""

    counts: list[int] = field(default_factory=lambda: [0] * len(_COUNTS))
    histograms: dict[str, Total] = field(default_factory=lambda: {name: Total() for name in HISTOGRAMS})

    def add(self, row: Mapping[str, Any]) -> None:
        """Add a row of ``minutes``."""
        self.counts = [old + row[name] for old, name in zip(self.counts, _COUNTS.values(), strict=True)]
        for name, total in self.histograms.items():
            total.pour(_histogram(name, row))

    def join(self, other: "Added") -> None:
        """Add what the same flush adds to another bundle."""
        self.counts = [old + more for old, more in zip(self.counts, other.counts, strict=True)]
        for name, total in self.histograms.items():
            total.pour(other.histograms[name])


def by_bundle(minutes: Iterable[Mapping[str, Any]]) -> dict[BundleKey, Added]:
    """Return rows of ``minutes`` added up by digest, model and release."""
    found: dict[BundleKey, Added] = {}
    for row in minutes:
        found.setdefault((row["digest"], row["model"], row["release"]), Added()).add(row)
    return found


def namers_of(telemetry: Table) -> Namers:
    """Return what tells which devices named a bundle in rows of ``telemetry``."""

    def named(wanted: Collection[BundleKey]) -> dict[BundleKey, set[str]]:
        found: dict[BundleKey, set[str]] = {key: set() for key in wanted}
        columns = (telemetry[name].to_pylist() for name in ("digest", "model", "release", "device"))
        for *key, device in zip(*columns, strict=True):
            if (devices := found.get((key[0], key[1], key[2]))) is not None:
                devices.add(device)
        return found

    return named


def add(connection: Connection, bundles: Mapping[BundleKey, Added], namers: Namers, now_ms: int) -> None:
    """Add to the totals of bundles, within the caller's transaction."""
    column, taken = bundle_total.c, seats(connection, bundles, namers)
    rows = _with_rows(bundles, taken.crowded)
    for (digest, model, release), more in sorted(rows.items(), key=lambda item: item[0]):
        ours = (column.digest == digest) & (column.model == model) & (column.release == release)
        present = connection.execute(select(bundle_total).where(ours).with_for_update()).one_or_none()
        values: dict[str, Any] = {"digest": digest, "model": model, "release": release, "updated_ms": now_ms}
        values["since_ms"] = now_ms if present is None else present.since_ms
        values["named_by"] = taken.named_by.get((digest, model, release), "") if present is None else present.named_by
        for name, count in zip(_COUNTS, more.counts, strict=True):
            before = 0 if present is None else int(getattr(present, name))
            values[name] = min(before + count, 2**63 - 1)
        for name in HISTOGRAMS:
            total = Total() if present is None else Total.decode(getattr(present, name))
            total.pour(more.histograms[name])
            values[name] = total.encode()
        connection.execute(upsert(connection.dialect.name, bundle_total), values)


def _with_rows(bundles: Mapping[BundleKey, Added], crowded: Collection[BundleKey]) -> dict[BundleKey, Added]:
    """Return what is added to each row; bundles that get none of their own share one."""
    found = {key: more for key, more in bundles.items() if key not in crowded}
    if crowded:
        shared = found.setdefault(UNKNOWN_BUNDLE, Added())
        for key in sorted(crowded):
            shared.join(bundles[key])
    return found


def _histogram(name: str, row: Mapping[str, Any]) -> Summed:
    counts: list[int] = row[f"{name}_counts"]
    buckets = {row[f"{name}_offset"] + i: count for i, count in enumerate(counts) if count}
    scale = row[f"{name}_scale"] if buckets else None
    merged = Merged(scale, buckets, row[f"{name}_zero"], row[f"{name}_min"], row[f"{name}_max"])
    return Summed(merged, row[f"{name}_sum"], row[f"{name}_count"])


def _total(row: Row[Any]) -> BundleTotal:
    return BundleTotal(
        model=row.model,
        release=row.release,
        digest=row.digest,
        since=from_ms(row.since_ms),
        updated=from_ms(row.updated_ms),
        answers=row.answers,
        errors=row.errors,
        unobserved=row.unobserved,
        latency=Total.decode(row.latency),
        confidence=Total.decode(row.confidence),
    )
