"""Access to the state database: one writer at a time, many readers.

On SQLite there is exactly one writing connection (two that write and checkpoint at once can corrupt a WAL before SQLite
3.51.3), WAL with synchronous=FULL, so what was committed survives a power cut. On PostgreSQL the pool serves both.
"""

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

from sqlalchemy import Connection, Engine, Table, create_engine, event, func, make_url, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.pool import StaticPool

from dsops.errors import NoSpace, StateDamaged
from dsops.files import make_private

_WRITER = ("PRAGMA journal_mode=WAL", "PRAGMA synchronous=FULL", "PRAGMA foreign_keys=ON", "PRAGMA busy_timeout=10000")
_READER = ("PRAGMA query_only=ON", "PRAGMA wal_autocheckpoint=0", "PRAGMA busy_timeout=10000")


class Database:
    """Reads and writes in transactions."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.is_sqlite = url.startswith("sqlite")
        self._one_writer: AbstractContextManager[object] = threading.RLock() if self.is_sqlite else nullcontext()
        self._held: dict[int, threading.Lock] = {}
        if self.is_sqlite:
            _make_private(url)
            self.writer = create_engine(url, poolclass=StaticPool, connect_args={"check_same_thread": False})
            self._reader = create_engine(url)
            _on_connect(self.writer, _WRITER)
            _on_connect(self._reader, _READER)
            event.listen(self.writer, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))
        else:
            self.writer = self._reader = create_engine(url, pool_pre_ping=True)

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """Run one read-write transaction: committed at the end of the block, rolled back on an error.

        Raises:
            NoSpace: The disk is full.
            StateDamaged: The database cannot be read or written.
        """
        with self._one_writer, _translated(), self.writer.begin() as connection:
            yield connection

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """Run one read-only transaction.

        Raises:
            StateDamaged: The database cannot be read.
        """
        with _translated(), self._reader.connect() as connection:
            yield connection

    @contextmanager
    def alone(self, lock: int) -> Iterator[None]:
        """Hold a lock, named by a number, over many transactions: among threads, over PostgreSQL among controllers too.

        Who holds it must not take it once more. Threads wait without a connection: those that wait would else have all
        of them, and who holds the lock none for its transactions.

        Raises:
            StateDamaged: The database does not answer.
        """
        with self._held.setdefault(lock, threading.Lock()):
            if self.is_sqlite:  # one process has it
                yield
                return
            with self._alone_among_controllers(lock):
                yield

    @contextmanager
    def _alone_among_controllers(self, lock: int) -> Iterator[None]:
        with _translated(), self.writer.connect() as connection:
            connection.execute(select(func.pg_advisory_lock(lock)))
            try:
                yield
            finally:
                connection.execute(select(func.pg_advisory_unlock(lock)))

    def close(self) -> None:
        """Close every connection."""
        self._reader.dispose()
        self.writer.dispose()


def upsert(connection: Connection, table: Table, **values: object) -> None:
    """Insert a row, or update the one with the same primary key."""
    dialect = sqlite if connection.dialect.name == "sqlite" else postgresql
    keys = [column.name for column in table.primary_key.columns]
    statement = dialect.insert(table).values(**values)
    changed = {name: statement.excluded[name] for name in values if name not in keys}
    connection.execute(statement.on_conflict_do_update(index_elements=keys, set_=changed))


def _on_connect(engine: Engine, pragmas: tuple[str, ...]) -> None:
    def apply(connection: DBAPIConnection, _record: object) -> None:
        connection.isolation_level = None
        cursor = connection.cursor()
        for pragma in pragmas:
            cursor.execute(pragma)
        cursor.close()

    event.listen(engine, "connect", apply)


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except OperationalError as error:
        text = str(error.orig)
        if "full" in text or "No space" in text:
            raise NoSpace("the state database cannot be written", why=text) from error
        raise StateDamaged("the state database does not answer", why=text) from error
    except DBAPIError as error:
        if "malformed" in str(error.orig) or "not a database" in str(error.orig):
            raise StateDamaged("the state database cannot be read", why=str(error.orig)) from error
        raise


def _make_private(url: str) -> None:
    name = make_url(url).database
    if name and name != ":memory:":
        make_private(Path(name))  # it holds keys
