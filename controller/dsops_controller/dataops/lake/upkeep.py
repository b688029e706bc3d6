"""Keeps a lake small and quick: drops what is past its time, joins small files, removes files that nothing needs.

Every step is one commit that can be repeated, and none removes a file that a durable version needs: a dropped or
replaced file leaves the disk only when the commit without it is durable, :data:`VACUUM_HOURS` later, and never while a
version that has it is pinned (:mod:`.pins`).
"""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import date
from functools import partial

from deltalake import DeltaTable
from deltalake.exceptions import CommitFailedError

from dsops.clock import Clock
from dsops_controller.dataops.lake.columns import LakeTable
from dsops_controller.dataops.lake.commits import NO_HOOKS, OURS, properties
from dsops_controller.dataops.lake.lake import VACUUM_HOURS, Lake, translated
from dsops_controller.dataops.lake.log_cutting import LogCutter
from dsops_controller.dataops.lake.pins import Pins
from dsops_controller.dataops.lake.places import Watch, unwatched
from dsops_controller.dataops.lake.retention import Drop, FileStat, RetentionRules, plan

TARGET_BYTES = 128 << 20
_TRIES = 5

Record = Callable[[str, str, str], None]
"""Takes action, subject and detail for the audit trail."""


def unrecorded(_action: str, _subject: str, _detail: str) -> None:
    """Keep no trail."""


@dataclass(frozen=True, slots=True)
class Tended:
    """What was done to one table.

    Attributes:
        files_before: Files of the table before, and ``files_after``.
        dropped_rows: Rows of partitions that went.
        removed_files: Files that left the disk.
    """

    table: LakeTable
    files_before: int
    files_after: int
    dropped_rows: int = 0
    removed_files: int = 0


class Upkeep:
    """Tends one lake. Safe for use by several threads and controllers: one works, the others wait or are refused.

    Args:
        lake: The lake.
        pins: What must stay.
        clock: Tells which day it is.
        rules: How long rows are kept.
        record: Takes what is dropped, before it is.
        watch: Called with the name of each step after it was done.
    """

    def __init__(
        self,
        lake: Lake,
        pins: Pins,
        clock: Clock,
        rules: RetentionRules | None = None,
        *,
        record: Record = unrecorded,
        watch: Watch = unwatched,
    ) -> None:
        self._lake = lake
        self._pins = pins
        self._clock = clock
        self._rules = rules or RetentionRules()
        self._record = record
        self._watch = watch
        self._logs = LogCutter(lake, clock, watch)

    def tend(self) -> list[Tended]:
        """Do everything: drop, compact, vacuum, and tidy the pins.

        Raises:
            Conflict: Another controller tends the lake.
            NoSpace: The disk is full.
            StateDamaged: A table cannot be read or written.
        """
        tended = self._each(self._drop, self._join, self._sweep)
        self._pins.tidy()
        return tended

    def retain(self) -> list[Tended]:
        """Drop the partitions that are past their time or their model's bytes; raises as :meth:`tend`."""
        return self._each(self._drop)

    def compact(self) -> list[Tended]:
        """Join the small files of each partition and write a checkpoint; raises as :meth:`tend`."""
        return self._each(self._join)

    def vacuum(self, hours: int = VACUUM_HOURS) -> list[Tended]:
        """Remove files that no version of the last ``hours`` needs and no pinned one; raises as :meth:`tend`.

        Files that no version ever named, which writers left that died, go too when they are as old. Readers and writers
        that take longer than ``hours`` may find files gone.
        """
        return self._each(lambda work: self._sweep(work, hours))

    def _each(self, *steps: Callable[["_Work"], None]) -> list[Tended]:
        """Take each step for every table, make it durable, then take the next."""
        with translated(), self._lake.tending() as renew:
            works = [_Work(table, renew, len(self._lake.table(table).file_uris())) for table in LakeTable]
            for step in steps:
                for work in works:
                    renew()
                    step(work)
                self._lake.settle()
            return [work.done(len(self._lake.table(work.table).file_uris())) for work in works]

    def _drop(self, work: "_Work") -> None:
        table = work.table
        drops = plan(table, stats(self._lake.table(table)), self._clock.now().date(), self._rules)
        for drop in drops:
            self._record("store.drop", f"{table}/{drop.name}", f"{drop.rows} rows, {drop.bytes} bytes: {drop.why}")
        if drops:
            self._delete(table, drops, work.renew)
            self._watch(f"dropped {table}")
            work.dropped_rows += sum(drop.rows for drop in drops)

    def _delete(self, table: LakeTable, drops: Iterable[Drop], renew: Callable[[], None]) -> None:
        predicate = " or ".join(drop.predicate() for drop in drops)
        for attempt in range(1, _TRIES + 1):
            try:
                self._lake.table(table).delete(predicate, commit_properties=OURS, post_commithook_properties=NO_HOOKS)
            except CommitFailedError:  # somebody appended meanwhile
                if attempt == _TRIES:
                    raise
                renew()
            else:
                return

    def _join(self, work: "_Work") -> None:
        table = work.table
        for day in crowded_days(stats(self._lake.table(table))):
            work.renew()
            self._lake.table(table).optimize.compact(
                partition_filters=[("day", "=", f"{day}")],
                target_size=TARGET_BYTES,
                commit_properties=OURS,
                post_commithook_properties=NO_HOOKS,
                writer_properties=properties(table),
            )
            self._watch(f"compacted {table}")
        self._lake.table(table).create_checkpoint()
        self._watch(f"checkpointed {table}")

    def _sweep(self, work: "_Work", hours: int = VACUUM_HOURS) -> None:
        self._lake.settle()  # what is removed from here on is not needed by anything that is durable
        table = work.table
        delta, pinned = self._lake.table(table), self._pins.versions(table)
        sweep = partial(delta.vacuum, hours, enforce_retention_duration=False, full=True, keep_versions=pinned or None)
        removed = set(sweep(dry_run=True))
        if removed:
            sweep(dry_run=False, commit_properties=OURS, post_commithook_properties=NO_HOOKS)
            self._watch(f"vacuumed {table}")
        self._logs.cut(table, pinned)
        work.removed_files += len(removed)


class Rota:
    """When a lake is tended: so many seconds after the last time, and when a day (UTC) has closed."""

    def __init__(self, clock: Clock, every_s: float) -> None:
        self._clock = clock
        self._every_s = every_s
        self._last = clock.monotonic_s(), clock.now().date()

    def is_due(self) -> bool:
        """Return whether it is time; then it is not again until the next."""
        now = self._clock.monotonic_s(), self._clock.now().date()
        if now[0] - self._last[0] < self._every_s and now[1] == self._last[1]:
            return False
        self._last = now
        return True


@dataclass(slots=True)
class _Work:
    table: LakeTable
    renew: Callable[[], None]
    files: int
    dropped_rows: int = 0
    removed_files: int = 0

    def done(self, files: int) -> Tended:
        return Tended(self.table, self.files, files, self.dropped_rows, self.removed_files)


def stats(delta: DeltaTable) -> list[FileStat]:
    """Return the files of a version.

    Raises:
        DeltaError: The log cannot be read.
    """
    actions = delta.get_add_actions(flatten=True)
    names = actions.schema.names
    if not actions.num_rows:
        return []
    columns = {name: actions[name].to_pylist() for name in names if name in _FILE_COLUMNS}
    models = columns.get("partition.model", [None] * actions.num_rows)
    needed = [columns[name] for name in ("path", "partition.day")]
    rest = [columns[name] for name in ("size_bytes", "num_records")]
    return [FileStat(*row) for row in zip(*needed, models, *rest, strict=True)]


_FILE_COLUMNS = ("path", "partition.day", "partition.model", "size_bytes", "num_records")


def crowded_days(files: Iterable[FileStat], target_bytes: int = TARGET_BYTES) -> list[date]:
    """Return the days that have a partition with two files or more below the target size, the oldest first."""
    small = Counter((file.day, file.model) for file in files if file.bytes < target_bytes)
    return sorted({day for (day, _), number in small.items() if number > 1})
