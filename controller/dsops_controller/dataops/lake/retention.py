"""Which partitions are dropped: those past their days, and the oldest samples of a model over its bytes."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta

from dsops_controller.dataops.lake.columns import PARTITIONS, LakeTable

TELEMETRY_DAYS = 30
EVENT_DAYS = 365
SAMPLE_DAYS = 90
MINUTE_DAYS = 400
SAMPLE_BYTES = 20 << 30
_DAYS = {
    LakeTable.EVENTS: EVENT_DAYS,
    LakeTable.SAMPLES: SAMPLE_DAYS,
    LakeTable.MINUTES: MINUTE_DAYS,
}


@dataclass(frozen=True, slots=True)
class RetentionRules:
    """How long rows are kept.

    Attributes:
        days: Whole days after a partition's own day, by table; 0 keeps it for ever.
        sample_bytes: Bytes of files of one model's samples; 0 sets no bound.
    """

    days: Mapping[LakeTable, int] = field(
        default_factory=lambda: {table: _DAYS.get(table, TELEMETRY_DAYS) for table in LakeTable}
    )
    sample_bytes: int = SAMPLE_BYTES


@dataclass(frozen=True, slots=True)
class FileStat:
    """One file of a table, as its log has it.

    Attributes:
        path: Relative to the table, as it stands in the log.
        model: The partition's model; None where models are no partitions.
    """

    path: str
    day: date
    model: str | None
    bytes: int
    rows: int


@dataclass(frozen=True, slots=True)
class Drop:
    """A partition that goes, and why."""

    day: date
    model: str | None
    rows: int
    bytes: int
    why: str

    def predicate(self) -> str:
        """Return the partition as SQL."""
        day = f"day = '{self.day}'"
        return day if self.model is None else f"({day} and model = '{self.model.replace(chr(39), chr(39) * 2)}')"

    @property
    def name(self) -> str:
        """The partition for people."""
        return f"{self.day}" if self.model is None else f"{self.model}/{self.day}"


def plan(table: LakeTable, files: Iterable[FileStat], today: date, rules: RetentionRules) -> tuple[Drop, ...]:
    """Return what goes today, oldest first. The newest day of a model's samples stays whatever its size."""
    found = _partitions(files)
    days = rules.days.get(table, TELEMETRY_DAYS)
    last = today - timedelta(days=days)
    expired = {key: f"older than {days} days" for key in found if days and key[0] < last}
    if "model" in PARTITIONS[table] and rules.sample_bytes:
        expired |= _over_quota({key: size for key, size in found.items() if key not in expired}, rules.sample_bytes)
    order = sorted(expired, key=lambda key: (key[0], key[1] or ""))
    return tuple(Drop(*key, *found[key], expired[key]) for key in order)


_Partition = tuple[date, str | None]


def _partitions(files: Iterable[FileStat]) -> dict[_Partition, tuple[int, int]]:
    """Return rows and bytes of each partition."""
    found: dict[_Partition, tuple[int, int]] = {}
    for file in files:
        rows, size = found.get((file.day, file.model), (0, 0))
        found[file.day, file.model] = (rows + file.rows, size + file.bytes)
    return found


def _over_quota(found: Mapping[_Partition, tuple[int, int]], quota: int) -> dict[_Partition, str]:
    by_model: dict[str | None, list[_Partition]] = defaultdict(list)
    for key in sorted(found, key=lambda key: key[0], reverse=True):
        by_model[key[1]].append(key)
    dropped: dict[_Partition, str] = {}
    for keys in by_model.values():
        for key in _beyond(keys, found, quota):
            dropped[key] = f"the model's samples exceed {quota} bytes"
    return dropped


def _beyond(
    newest_first: Sequence[_Partition], found: Mapping[_Partition, tuple[int, int]], quota: int
) -> list[_Partition]:
    total = 0
    for number, key in enumerate(newest_first):
        total += found[key][1]
        if number and total > quota:
            return list(newest_first[number:])
    return []
