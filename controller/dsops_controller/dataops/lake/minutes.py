"""What models did in each minute, added up over devices: rows of the table ``minutes``.

A flush adds up the telemetry that it moves, so a minute has as many rows as flushes brought parts of it; queries add
them. Counts are sums and histograms are merged exactly, so the parts may come in any order and weeks late. The table is
a few thousandths of the telemetry and answers what does not ask for one device.

Of many rows, DuckDB adds up those of one minute and one scale first: outside of the interpreter's lock, so that others
are acknowledged meanwhile.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from arro3.core import Array, DataType, Table

from dsops_controller.dataops.histograms import Merged
from dsops_controller.dataops.lake.columns import COLUMNS, LakeTable
from dsops_controller.dataops.lake.duck import in_memory
from dsops_controller.dataops.lake.fields import column

HISTOGRAMS = ("latency", "confidence")
MINUTE_US = 60_000_000
FEW_ROWS = 2000
"""So many cost less in Python than DuckDB costs to start."""
MOST_BUCKETS = 4096
"""Of one merged histogram, from its lowest to its highest. One that would have more becomes coarser: two values that
are far apart at the finest scale would else be billions."""
_MOST_INT = 2**63 - 1
_KEYS = ("time", "day", "model", "release", "digest")
_SUMS = ("count", "errors", "unobserved")
_NUMBERS = ("zero", "count", "sum", "min", "max")

_Key: TypeAlias = "tuple[Any, ...]"

_KEYED = """
select * exclude (time, day, received), epoch_us(received) as received, day - date '1970-01-01' as day,
       epoch_us(time) - epoch_us(time) % 60000000 as time
from source
"""
_NUMBERS_SQL = """
sum(NAME_zero), sum(NAME_count), coalesce(sum(NAME_sum), 0),
coalesce(min(nullif(NAME_min, 0)) filter (NAME_count > 0 and NAME_max is not null), 0),
max(NAME_max) filter (NAME_count > 0 and NAME_min is not null)
"""
_SUMS_SQL = """
select KEYS, max(received), count(*), sum("count"), sum(errors), sum(unobserved), NUMBERS from (KEYED) group by KEYS
"""
_BUCKETS_SQL = """
select KEYS, scale, list(bucket), list(n)
from (
  select KEYS, scale, bucket, sum(n) as n
  from (
    select KEYS, NAME_scale as scale, unnest(NAME_counts) as n,
           NAME_offset + generate_subscripts(NAME_counts, 1) - 1 as bucket
    from (KEYED)
  )
  where n > 0 group by all
)
group by all
"""


@dataclass(slots=True)
class Summed:
    """A merged histogram with the sum and the number of its values."""

    merged: Merged = field(default_factory=Merged)
    sum: float = 0.0
    count: int = 0

    def add(self, zero: int, count: int, sum_: float | None, low: float | None, high: float | None) -> None:
        """Add the figures of a histogram, its buckets aside."""
        self.merged.zero += zero
        self.sum += sum_ or 0.0
        self.count += count
        if count:
            self.merged.widen(low, high)

    def bound(self, most: int) -> None:
        """Halve the resolution until no more than ``most`` buckets lie between the lowest and the highest."""
        merged = self.merged
        while merged.buckets and max(merged.buckets) - min(merged.buckets) >= most:
            merged.add((merged.scale or 0) - 1, {})

    def columns(self, name: str) -> dict[str, object]:
        """Return the columns of a histogram of this name."""
        self.bound(MOST_BUCKETS)
        merged, found = self.merged, sorted(self.merged.buckets)
        counts = [min(merged.buckets.get(i, 0), _MOST_INT) for i in range(found[0], found[-1] + 1)] if found else []
        return {
            f"{name}_scale": merged.scale or 0,
            f"{name}_offset": found[0] if found else 0,
            f"{name}_zero": min(merged.zero, _MOST_INT),
            f"{name}_count": min(self.count, _MOST_INT),
            f"{name}_sum": self.sum,
            f"{name}_min": merged.low,
            f"{name}_max": merged.high,
            f"{name}_counts": counts,
        }


@dataclass(slots=True)
class _Minute:
    received_us: int = 0
    intervals: int = 0
    sums: list[int] = field(default_factory=lambda: [0] * len(_SUMS))
    histograms: dict[str, Summed] = field(default_factory=lambda: {name: Summed() for name in HISTOGRAMS})

    def add(self, received_us: int, intervals: int, *figures: Any) -> None:  # noqa: ANN401 - columns of several types
        """Add figures in the order of sums, then the numbers of each histogram."""
        self.received_us = max(self.received_us, received_us)
        self.intervals += intervals
        self.sums = [old + new for old, new in zip(self.sums, figures, strict=False)]
        for place, name in enumerate(HISTOGRAMS):
            first = len(_SUMS) + place * len(_NUMBERS)
            self.histograms[name].add(*figures[first : first + len(_NUMBERS)])

    def values(self, key: _Key) -> dict[str, Any]:
        sums = {name: min(value, _MOST_INT) for name, value in zip(_SUMS, self.sums, strict=True)}
        values: dict[str, Any] = {
            **dict(zip(_KEYS, key, strict=True)),
            **sums,
            "received": self.received_us,
            "intervals": self.intervals,
        }
        for name, histogram in self.histograms.items():
            values |= histogram.columns(name)
        return values


_Minutes: TypeAlias = "dict[_Key, _Minute]"


def roll_up(telemetry: Table) -> list[dict[str, Any]]:
    """Return rows of ``minutes`` for rows of ``telemetry``: one for each minute, day, model, release and digest.

    Raises:
        duckdb.Error: There is no memory for it.
    """
    found: _Minutes = {}
    if telemetry.num_rows <= FEW_ROWS:
        _add_few(found, telemetry)
    else:
        _add_many(found, telemetry)
    return [minute.values(key) for key, minute in found.items()]


def as_table(minutes: list[dict[str, Any]]) -> Table:
    """Return rows of ``minutes`` with the columns of the lake."""
    columns = COLUMNS[LakeTable.MINUTES].items()
    return Table.from_pydict({name: column(kind, [row[name] for row in minutes]) for name, kind in columns})


def _add_few(found: _Minutes, telemetry: Table) -> None:
    names = (*_KEYS, "received", *_SUMS, *(f"{name}_{part}" for name in HISTOGRAMS for part in _NUMBERS))
    buckets = [f"{name}_{part}" for name in HISTOGRAMS for part in ("scale", "offset", "counts")]
    columns = [_plain(telemetry, name) for name in (*names, *buckets)]
    for row in zip(*columns, strict=True):
        time_us, day, model, release, digest, received_us, *figures = row
        key = (time_us - time_us % MINUTE_US, day, model, release, digest)
        minute = found.setdefault(key, _Minute())
        minute.add(received_us, 1, *figures)
        parts = iter(figures[-len(buckets) :])
        for name, scale, offset, counts in zip(HISTOGRAMS, parts, parts, parts, strict=True):
            _pour(minute, name, scale, {offset + i: n for i, n in enumerate(counts) if n})


def _add_many(found: _Minutes, telemetry: Table) -> None:
    duck = in_memory()
    try:
        duck.register("source", telemetry)
        numbers = ", ".join(_NUMBERS_SQL.replace("NAME", name) for name in HISTOGRAMS)
        for row in duck.execute(_sql(_SUMS_SQL.replace("NUMBERS", numbers))).fetchall():
            found.setdefault(row[: len(_KEYS)], _Minute()).add(*row[len(_KEYS) :])
        for name in HISTOGRAMS:
            for *key, scale, buckets, counts in duck.execute(_sql(_BUCKETS_SQL.replace("NAME", name))).fetchall():
                _pour(found[tuple(key)], name, scale, dict(zip(buckets, counts, strict=True)))
    finally:
        duck.close()


def _sql(text: str) -> str:
    return text.replace("KEYED", _KEYED).replace("KEYS", ", ".join(_KEYS))


def _pour(minute: _Minute, name: str, scale: int, buckets: Mapping[int, int]) -> None:
    if buckets:  # an empty histogram of a coarser scale makes nothing coarser
        minute.histograms[name].merged.add(scale, buckets)


def _plain(telemetry: Table, name: str) -> Iterator[Any]:
    """Yield the values of a column; moments in microseconds, days counted from 1970."""
    kinds = {"time": DataType.int64(), "received": DataType.int64(), "day": DataType.int32()}
    for chunk in telemetry[name].chunks:
        plain: Array = chunk.cast(kinds[name]) if name in kinds else chunk
        yield from plain.to_pylist()
