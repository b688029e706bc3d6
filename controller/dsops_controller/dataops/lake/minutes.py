"""What models did in each minute, added up over devices: rows of the table ``minutes``.

A flush adds up the telemetry that it moves, so a minute has as many rows as flushes brought parts of it; queries add
them. Counts are sums and histograms are merged exactly, so the parts may come in any order and weeks late. The table is
a few thousandths of the telemetry and answers what does not ask for one device.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from dsops_controller.dataops.histograms import Merged

MINUTE_US = 60_000_000
HISTOGRAMS = ("latency", "confidence")
_KEYS = ("day", "model", "release", "digest")
_SUMS = ("count", "errors", "unobserved")


@dataclass(slots=True)
class Summed:
    """A merged histogram with the sum and the number of its values."""

    merged: Merged = field(default_factory=Merged)
    sum: float = 0.0
    count: int = 0

    def add(self, name: str, row: Mapping[str, Any]) -> None:
        """Add a histogram of a row by its name."""
        counts: list[int] = row[f"{name}_counts"]
        offset = row[f"{name}_offset"]
        self.merged.add(row[f"{name}_scale"], {offset + i: count for i, count in enumerate(counts) if count})
        self.merged.zero += row[f"{name}_zero"]
        self.sum += row[f"{name}_sum"] or 0.0
        self.count += row[f"{name}_count"]
        if row[f"{name}_count"]:
            self.merged.widen(row[f"{name}_min"], row[f"{name}_max"])

    def columns(self, name: str) -> dict[str, object]:
        """Return the columns of a histogram of this name."""
        merged, found = self.merged, sorted(self.merged.buckets)
        counts = [merged.buckets.get(i, 0) for i in range(found[0], found[-1] + 1)] if found else []
        return {
            f"{name}_scale": merged.scale or 0,
            f"{name}_offset": found[0] if found else 0,
            f"{name}_zero": merged.zero,
            f"{name}_count": self.count,
            f"{name}_sum": self.sum if math.isfinite(self.sum) else None,
            f"{name}_min": merged.low,
            f"{name}_max": merged.high,
            f"{name}_counts": counts,
        }


@dataclass(slots=True)
class _Minute:
    sums: dict[str, int] = field(default_factory=lambda: dict.fromkeys(_SUMS, 0))
    intervals: int = 0
    received: int = 0
    histograms: dict[str, Summed] = field(default_factory=lambda: {name: Summed() for name in HISTOGRAMS})

    def add(self, row: Mapping[str, Any]) -> None:
        self.intervals += 1
        self.received = max(self.received, row["received"])
        for name in _SUMS:
            self.sums[name] += row[name]
        for name, histogram in self.histograms.items():
            histogram.add(name, row)


def roll_up(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, object]]:
    """Return rows of ``minutes`` for rows of ``telemetry``: one for each minute, day, model, release and digest."""
    found: dict[tuple[Any, ...], _Minute] = {}
    for row in rows:
        minute_us = row["time"] - row["time"] % MINUTE_US
        found.setdefault((minute_us, *(row[key] for key in _KEYS)), _Minute()).add(row)
    return [_values(key, minute) for key, minute in found.items()]


def _values(key: tuple[Any, ...], minute: _Minute) -> dict[str, object]:
    histograms: dict[str, object] = {}
    for name, histogram in minute.histograms.items():
        histograms |= histogram.columns(name)
    base: dict[str, object] = {"time": key[0], "received": minute.received, "intervals": minute.intervals}
    return base | dict(zip(_KEYS, key[1:], strict=True)) | minute.sums | histograms
