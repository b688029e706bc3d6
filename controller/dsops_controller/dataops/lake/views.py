"""SQL over lake and inbox together: a DuckDB connection with a view named after each table.

The inbox is read first, then the newest version of each table; inbox rows at or below the table's watermark are left
out. So a record is counted once however a flush runs meanwhile: had it left the inbox before it was read, the table
read later has it.

Of a folder, DuckDB reads the files that statistics do not rule out. Of an object store, the Delta library reads the
needed byte ranges and hands DuckDB the rows of the scope.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import duckdb
from sqlalchemy import func, select

from dsops.errors import StateDamaged
from dsops_controller.dataops import queries
from dsops_controller.dataops.batches import Kind
from dsops_controller.dataops.lake.columns import COLUMNS, Column, LakeTable
from dsops_controller.dataops.lake.duck import in_memory
from dsops_controller.dataops.lake.lake import Lake, read_pending, translated
from dsops_controller.dataops.lake.minutes import as_table, roll_up
from dsops_controller.dataops.lake.rows import Rows, split
from dsops_controller.dataops.lake.scope import EVERYTHING, Scope
from dsops_controller.db.database import Database
from dsops_controller.db.tables import inbox

IDENTITY = ("device", "stream", "seq")


@dataclass(frozen=True, slots=True)
class Want:
    """What a query needs of a table.

    Attributes:
        table: The table.
        scope: Bounds, by which files are left out; the query states them once more.
        columns: Only these; all when empty. Matters for an object store.
        version: Of the table, alone; the newest and the inbox when it is None.
    """

    table: LakeTable
    scope: Scope = EVERYTHING
    columns: tuple[str, ...] = ()
    version: int | None = None


def without_tensors(table: LakeTable) -> tuple[str, ...]:
    """Return the columns of a table that are not bytes."""
    return tuple(name for name, column in COLUMNS[table].items() if column is not Column.BYTES)


class Views:
    """Opens connections. Safe for use by several threads."""

    def __init__(self, db: Database, lake: Lake) -> None:
        self._db = db
        self._lake = lake

    @contextmanager
    def open(self, *wants: Want) -> Iterator[duckdb.DuckDBPyConnection]:
        """Give a connection with a view for each table that is wanted.

        Raises:
            StateDamaged: The lake or the database cannot be read.
        """
        kinds = {Kind.SAMPLES if want.table is LakeTable.SAMPLES else Kind.TELEMETRY for want in wants}
        with self._db.read() as connection:
            pending = split(read_pending(connection, kinds=kinds))
        with translated():
            duck = in_memory()
            try:
                for want in wants:
                    self._attach(duck, want, pending)
                yield duck
            except duckdb.Error as error:
                raise StateDamaged("the lake cannot be read", why=str(error)[:500]) from error
            finally:
                duck.close()

    def waiting(self) -> tuple[int, int, int]:
        """Return rows, bytes and oldest arrival (epoch milliseconds, 0 without rows) of the inbox."""
        oldest = func.coalesce(func.min(inbox.c.received_ms), 0)
        size = func.coalesce(func.sum(func.length(inbox.c.payload)), 0)
        with self._db.read() as connection:
            rows, total, first = connection.execute(select(func.count(inbox.c.id), size, oldest)).one()
        return int(rows), int(total), int(first)

    def _attach(self, duck: duckdb.DuckDBPyConnection, want: Want, pending: Rows) -> None:
        view = self._lake.view(want.table, want.scope, want.version)
        is_minutes = want.table is LakeTable.MINUTES
        rows = pending.above(LakeTable.TELEMETRY if is_minutes else want.table, view.watermark)
        if want.version is not None:
            rows = rows.slice(0, 0)
        name = want.table.value
        duck.register(f"{name}_inbox", as_table(roll_up(rows)) if is_minutes else rows)
        definition = queries.LAKE_AND_INBOX if view.files else queries.INBOX_ONLY
        if view.files and view.is_local:
            duck.execute(queries.SET_FILES.replace("TABLE", name), {"files": list(view.files)})
            definition = definition.replace("SOURCE", queries.FILES)
        elif view.files:
            duck.register(f"{name}_lake", view.scan(want.columns).read_all())
        text = definition.replace("SOURCE", "TABLE_lake")
        duck.execute(text.replace("COLUMNS", ", ".join(want.columns) or "*").replace("TABLE", name))
