"""Cuts the logs of tables: what is older than a week goes, but for what pinned versions are read from.

A pinned version is read from a checkpoint of its own, without any commit. In a folder everything else goes that is
below a checkpoint which is a week old. In an object store only the Delta library can list and remove, and it cuts all
that is old: there, the log of a table stays while anything is pinned.
"""

from collections.abc import Collection
from datetime import timedelta
from pathlib import Path

from dsops.clock import Clock
from dsops_controller.dataops.lake import delta_log
from dsops_controller.dataops.lake.columns import LakeTable
from dsops_controller.dataops.lake.lake import LOG_DAYS, Lake
from dsops_controller.dataops.lake.places import Watch, unwatched

PINNED_EVERY_S = 86_400.0
"""The log of a table with pins is cut so often."""


class LogCutter:
    """Cuts the logs of one lake; call it with the right to tend."""

    def __init__(self, lake: Lake, clock: Clock, watch: Watch = unwatched) -> None:
        self._lake = lake
        self._clock = clock
        self._watch = watch
        self._cut_s: dict[LakeTable, float] = {}

    def cut(self, table: LakeTable, pinned: Collection[int]) -> None:
        """Remove what is older than a week and that neither the newest nor a pinned version is read from.

        Nothing goes before what takes its place is durable.

        Raises:
            DeltaError: The table cannot be read or written.
            OSError: Likewise.
        """
        if not pinned:
            self._lake.table(table).cleanup_metadata()
            return
        if self._lake.place.options is not None:
            return
        now_s = self._clock.monotonic_s()
        if now_s - self._cut_s.get(table, -PINNED_EVERY_S) < PINNED_EVERY_S:
            return
        self._cut_s[table] = now_s
        self._cut_folder(table, pinned)

    def _cut_folder(self, table: LakeTable, pinned: Collection[int]) -> None:
        folder = Path(self._lake.place.uri(table))
        for version in sorted(set(pinned) - set(delta_log.checkpoints(folder))):
            self._lake.table(table, version).create_checkpoint()
            self._watch(f"checkpointed {table} {version}")
        self._lake.table(table).create_checkpoint()  # readers follow the hint to the one that was written last
        self._watch(f"checkpointed {table}")
        self._lake.settle()
        before = self._clock.now() - timedelta(days=LOG_DAYS)
        for path in delta_log.superfluous(folder, pinned, before.timestamp()):
            path.unlink()
            self._watch(f"cut {table}")
