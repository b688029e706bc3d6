"""The right to rewrite a lake in an object store: held by one controller at a time, for a while.

delta-rs commits a compaction without asking whether another one has replaced the same files meanwhile; both commits
stand and every record of these files is there twice. So whoever compacts, deletes or vacuums first takes a lease: one
row in a Delta table of its own. Each change of it carries the application transaction (``lease``, n + 1) over the n
that was read [Delta protocol, "Transaction Identifiers"]; of two such commits the store refuses one. The controllers'
clocks need to agree within :data:`SLACK_MS`.
"""

from arro3.core import Array, DataType, Table
from deltalake import CommitProperties, DeltaTable, PostCommitHookProperties, Transaction
from deltalake import write_deltalake as write_rows
from deltalake.exceptions import CommitFailedError

from dsops.clock import Clock
from dsops.errors import Conflict
from dsops_controller.dataops.lake.commits import open_or_create

LEASE_MS = 15 * 60_000
SLACK_MS = 60_000
_APP = "lease"
_HOOKS = PostCommitHookProperties(create_checkpoint=True, cleanup_expired_logs=True)


class Lease:
    """One controller's view of the lease.

    Args:
        uri: Address of the table.
        options: Options for the Delta library.
        holder: Names this controller; random, so that none is taken for another.
        clock: Tells the time.
    """

    def __init__(self, uri: str, options: dict[str, str], holder: str, clock: Clock) -> None:
        self._uri = uri
        self._options = options
        self._holder = holder
        self._clock = clock
        self._number = 0
        self._renew_s = 0.0

    def take(self) -> None:
        """Take the lease when nobody holds it.

        Raises:
            Conflict: Another controller holds it, or takes it just now.
            DeltaError: The store cannot be read or written.
        """
        table = self._open()
        holder, until_ms = _read(table)
        if holder not in {"", self._holder} and self._now_ms() < until_ms + SLACK_MS:
            raise _taken(holder)
        self._number = table.transaction_version(_APP) or 0
        self._write(table, self._now_ms() + LEASE_MS)

    def renew(self) -> None:
        """Hold it for another while; does nothing before a third of the last one is over.

        Raises:
            Conflict: It was not renewed in time and another controller has taken it.
            DeltaError: The store cannot be read or written.
        """
        if self._clock.monotonic_s() < self._renew_s:
            return
        table = self._open()
        if table.transaction_version(_APP) != self._number:
            raise _taken(_read(table)[0])
        self._write(table, self._now_ms() + LEASE_MS)

    def give_back(self) -> None:
        """Let the next one have it at once; does nothing when it is not held any more."""
        table = self._open()
        if table.transaction_version(_APP) == self._number:
            self._write(table, 0)

    def _open(self) -> DeltaTable:
        return open_or_create(self._uri, self._options, _row("", 0).schema)

    def _write(self, table: DeltaTable, until_ms: int) -> None:
        step = CommitProperties(app_transactions=[Transaction(_APP, self._number + 1)])
        row = _row(self._holder if until_ms else "", until_ms)
        self._renew_s = self._clock.monotonic_s() + LEASE_MS / 3000
        try:
            write_rows(table, row, mode="overwrite", commit_properties=step, post_commithook_properties=_HOOKS)
        except CommitFailedError as error:
            raise _taken("another controller") from error
        self._number += 1

    def _now_ms(self) -> int:
        return int(self._clock.now().timestamp() * 1000)


def _taken(holder: str) -> Conflict:
    return Conflict("another controller tends the lake", why=f"{holder} holds the lease", hint="try again later")


def _row(holder: str, until_ms: int) -> Table:
    texts, numbers = DataType.string(), DataType.int64()
    return Table.from_pydict({"holder": Array([holder], type=texts), "until_ms": Array([until_ms], type=numbers)})


def _read(table: DeltaTable) -> tuple[str, int]:
    rows = table.scan(["holder", "until_ms"]).read_all()
    holders, untils = rows["holder"].to_pylist(), rows["until_ms"].to_pylist()
    return (holders[0], untils[0]) if holders else ("", 0)
