"""What each bundle did since the controller first heard of it: counts and histograms that only grow.

What monitoring systems want are sums over all devices that never fall. They are added up when a flush moves records
into the lake, in the transaction that takes them from the inbox: each record counts once, also over a crash. Histograms
keep OpenTelemetry's buckets, merged exactly.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from arro3.core import Table
from sqlalchemy import Connection, Row, and_, select

from dsops import strictjson
from dsops_controller.dataops.histograms import Merged
from dsops_controller.dataops.lake.minutes import HISTOGRAMS, by_bundle
from dsops_controller.db.database import Database
from dsops_controller.db.tables import bundle_total
from dsops_controller.db.times import from_ms
from dsops_controller.db.upsert import upsert

MAX_BUCKETS = 640


@dataclass(slots=True)
class Total:
    """A histogram of all devices with the sum and the number of its values; it becomes coarser rather than larger."""

    merged: Merged = field(default_factory=Merged)
    sum: float = 0.0
    count: int = 0

    def add(self, name: str, row: Mapping[str, Any]) -> None:
        """Add a histogram of a row of ``minutes`` by its name."""
        counts: list[int] = row[f"{name}_counts"]
        offset = row[f"{name}_offset"]
        self.merged.add(row[f"{name}_scale"], {offset + i: count for i, count in enumerate(counts) if count})
        self.merged.zero += row[f"{name}_zero"]
        self.sum += row[f"{name}_sum"] or 0.0
        self.count += row[f"{name}_count"]
        if row[f"{name}_count"]:
            self.merged.widen(row[f"{name}_min"], row[f"{name}_max"])
        self.bound()

    def bound(self, most: int = MAX_BUCKETS) -> None:
        """Halve the resolution until no more than ``most`` buckets lie between the lowest and the highest."""
        merged = self.merged
        while merged.buckets and max(merged.buckets) - min(merged.buckets) >= most:
            merged.add((merged.scale or 0) - 1, {})

    def pour(self, other: "Total") -> None:
        """Add another histogram."""
        if other.merged.scale is not None:
            self.merged.add(other.merged.scale, other.merged.buckets)
        self.merged.zero += other.merged.zero
        if other.count:
            self.merged.widen(other.merged.low, other.merged.high)
        self.sum += other.sum
        self.count += other.count
        self.bound()

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


def sums(minutes: Table) -> list[dict[str, Any]]:
    """Return rows of ``minutes`` added up for each bundle; raises as :func:`.minutes.by_bundle`."""
    return by_bundle(minutes).to_struct_array().to_pylist() if minutes.num_rows else []


def add(connection: Connection, rows: Iterable[Mapping[str, Any]], now_ms: int) -> None:
    """Add what :func:`sums` returned to the totals, within the caller's transaction."""
    column = bundle_total.c
    for row in sorted(rows, key=lambda row: (row["digest"], row["model"], row["release"])):
        key = {name: row[name] for name in ("digest", "model", "release")}
        ours = and_(*(column[name] == value for name, value in key.items()))
        present = connection.execute(select(bundle_total).where(ours).with_for_update()).one_or_none()
        values: dict[str, Any] = {**key, "updated_ms": now_ms}
        values["since_ms"] = now_ms if present is None else present.since_ms
        for name, more in (("answers", "count"), ("errors", "errors"), ("unobserved", "unobserved")):
            before = 0 if present is None else int(getattr(present, name))
            values[name] = min(before + row[more], 2**63 - 1)
        for name in HISTOGRAMS:
            total = Total() if present is None else Total.decode(getattr(present, name))
            total.add(name, row)
            values[name] = total.encode()
        connection.execute(upsert(connection.dialect.name, bundle_total), values)


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
