"""Versions of tables that something needs, such as a dataset: their files are kept whatever happens to the table.

The pins are a Delta table of the lake itself, so every controller that tends the lake sees them, whatever database it
has. Pin first and use the version then: the files of a version that is the newest now are kept for another
:data:`~.lake.VACUUM_HOURS` in any case.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import datetime, timedelta

from arro3.core import Array, Table
from deltalake import DeltaTable
from deltalake import write_deltalake as append_rows
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError

from dsops.clock import Clock
from dsops.errors import NotFound
from dsops_controller.dataops.lake.columns import LakeTable
from dsops_controller.dataops.lake.commits import NO_HOOKS, OURS, properties
from dsops_controller.dataops.lake.lake import PINS, PINS_SCHEMA, VACUUM_HOURS, Lake, translated
from dsops_controller.dataops.lake.scope import EPOCH

_TRIES, _MANY = 5, 20


@dataclass(frozen=True, slots=True)
class Pin:
    """One need of one version.

    Attributes:
        owner: What needs it, such as ``dataset/NAME/VERSION@INBOX``.
    """

    table: LakeTable
    version: int
    owner: str
    created: datetime


class Pins:
    """Makes, lists and releases pins. Safe for use by several threads."""

    def __init__(self, lake: Lake, clock: Clock) -> None:
        self._lake = lake
        self._clock = clock

    def pin(self, table: LakeTable, owner: str, version: int | None = None) -> int:
        """Pin a version, the newest one unless it is given; return it. Durable on return; repeating it changes nothing.

        Raises:
            NotFound: The version is not kept any more, or never was.
            StateDamaged: The lake cannot be read or written.
        """
        with translated():
            try:
                found = self._lake.table(table, version).version()
            except DeltaError as error:
                raise NotFound(f"{table} has no version {version}", why=str(error)[:200]) from error
        if not any((pin.table, pin.version, pin.owner) == (table, found, owner) for pin in self.listed()):
            with self._lake.appending(), translated():
                row = _row(table, found, owner, self._clock.now())
                delta = self._lake.named(PINS)
                append_rows(
                    delta,
                    row,
                    mode="append",
                    commit_properties=OURS,
                    post_commithook_properties=NO_HOOKS,
                    writer_properties=properties(PINS),
                )
                self._lake.settle()
        return found

    def release(self, owner: str) -> None:
        """Give up every pin of ``owner``, durably; does nothing when there is none.

        Raises:
            StateDamaged: The lake cannot be read or written.
        """
        if any(pin.owner == owner for pin in self.listed()):
            text = owner.replace("'", "''")
            self._delete(f"owner = '{text}'")

    def release_version(self, table: LakeTable, version: int, owners: Collection[str]) -> None:
        """Give up the pins that some owners have of one version; else as :meth:`release`."""
        which = [pin for pin in self.listed() if (pin.table, pin.version) == (table, version) and pin.owner in owners]
        if which:
            texts = ", ".join("'" + pin.owner.replace("'", "''") + "'" for pin in which)
            self._delete(f"lake_table = '{table}' and version = {version} and owner in ({texts})")

    def listed(self) -> list[Pin]:
        """Return every pin, the oldest first.

        Raises:
            StateDamaged: The lake cannot be read.
        """
        with translated():
            try:
                table = self._lake.named(PINS).scan().read_all()
            except TableNotFoundError:
                return []
            columns = [table[name].to_pylist() for name in ("lake_table", "version", "owner", "created_us")]
        rows = sorted(zip(*columns, strict=True), key=lambda row: row[3])
        return [Pin(LakeTable(t), v, o, EPOCH + timedelta(microseconds=us)) for t, v, o, us in rows]

    def versions(self, table: LakeTable) -> list[int]:
        """Return the pinned versions of a table, rising.

        Raises:
            StateDamaged: The lake cannot be read.
        """
        return sorted({pin.version for pin in self.listed() if pin.table is table})

    def tidy(self) -> None:
        """Join the files that pinning left behind, when they are many, and remove those of days ago.

        Raises:
            StateDamaged: The lake cannot be read or written.
        """
        with self._lake.appending(), translated():
            if len(self._lake.named(PINS).file_uris()) < _MANY:
                return
            self._commit(_join)
            self._lake.settle()  # what is removed from here on is not needed by anything that is durable
            table = self._lake.named(PINS)
            table.create_checkpoint()
            table.vacuum(
                VACUUM_HOURS,
                dry_run=False,
                enforce_retention_duration=False,
                full=True,
                commit_properties=OURS,
                post_commithook_properties=NO_HOOKS,
            )
            table.cleanup_metadata()
            self._lake.settle()

    def _delete(self, predicate: str) -> None:
        with self._lake.appending(), translated():
            self._commit(
                lambda table: table.delete(predicate, commit_properties=OURS, post_commithook_properties=NO_HOOKS)
            )
            self._lake.settle()

    def _commit(self, work: Callable[[DeltaTable], object]) -> None:
        """Do something to the newest version of the pins; again when another controller was first."""
        for attempt in range(1, _TRIES + 1):
            try:
                work(self._lake.named(PINS))
            except CommitFailedError:
                if attempt == _TRIES:
                    raise
            else:
                return


def _join(table: DeltaTable) -> None:
    table.optimize.compact(commit_properties=OURS, post_commithook_properties=NO_HOOKS)


def _row(table: LakeTable, version: int, owner: str, now: datetime) -> Table:
    us = (now - EPOCH) // timedelta(microseconds=1)
    values: dict[str, list[str] | list[int]] = {
        "lake_table": [table.value],
        "version": [version],
        "owner": [owner],
        "created_us": [us],
    }
    return Table.from_pydict({name: Array(values[name], type=kind) for name, kind in PINS_SCHEMA.items()})
