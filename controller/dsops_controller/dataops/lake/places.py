"""Where a lake is: a folder, or a prefix of an object store. The Delta code above is the same for both.

In a folder nothing that the Delta writer writes is durable until the file system was synced, and a lock on a file keeps
writers apart. In an object store an answered PUT is durable and a commit is a PUT that fails when the version is there
(``aws_conditional_put``), so any number of writers append at once; what must not run twice at once takes a lease
(:mod:`.lease`).
"""

import ctypes
import fcntl
import os
import re
import secrets
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Protocol

from deltalake import DeltaTable

from dsops.clock import Clock
from dsops.errors import InvalidConfig
from dsops_controller.dataops.lake import delta_log
from dsops_controller.dataops.lake.lease import Lease

Watch = Callable[[str], None]
"""Called with the name of each step after it was done; for progress and for fault injection."""
LEASE = "upkeep_lease"
_URL = re.compile(r"^([a-z][a-z0-9+.-]*)://[^/]+")
_CONDITIONAL = {"aws_conditional_put": "etag"}
_DEFAULTS = {"s3": _CONDITIONAL, "s3a": _CONDITIONAL, "gs": {}, "az": {}, "abfs": {}, "abfss": {}}


def unwatched(_step: str) -> None:
    """Do nothing between steps."""


def keep() -> None:
    """Keep what needs no renewal."""


class Place(Protocol):
    """Where tables are."""

    @property
    def options(self) -> dict[str, str] | None:
        """Options for the Delta library; None for a folder, whose files other programs may open by their paths."""
        ...

    def uri(self, table: str) -> str:
        """Return the address of a table."""
        ...

    def appending(self) -> AbstractContextManager[None]:
        """Hold the right to append, and to undo."""
        ...

    def tending(self) -> AbstractContextManager[Callable[[], None]]:
        """Hold the right to rewrite and remove files; call what it gives between steps, to go on holding it.

        Raises:
            Conflict: Another controller holds it, or has taken it over.
        """
        ...

    def recover(self, tables: Iterable[str]) -> None:
        """Take back what a crash of the machine may have left half written."""
        ...

    def settle(self, tables: Iterable[str], watch: Watch) -> None:
        """Return when everything that was written is durable."""
        ...


class Folder:
    """A lake in a folder, made when absent."""

    options = None

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def uri(self, table: str) -> str:
        """Return the path of a table."""
        return str(self._folder / table)

    @contextmanager
    def appending(self) -> Iterator[None]:
        """Hold the lock file: one writer on this host."""
        self._folder.mkdir(parents=True, exist_ok=True)
        with (self._folder / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    @contextmanager
    def tending(self) -> Iterator[Callable[[], None]]:
        """Hold the same lock; the kernel keeps it."""
        with self.appending():
            yield keep

    def recover(self, tables: Iterable[str]) -> None:
        """Undo commits that were not synced; see :mod:`.delta_log`."""
        synced = delta_log.load_synced(self._folder)
        for table in tables:
            delta_log.undo_unsynced(self._folder / table, synced.get(table))

    def settle(self, tables: Iterable[str], watch: Watch) -> None:
        """Sync the file system and note which versions are synced."""
        paths = {table: self._folder / table for table in tables}
        tails = {t: delta_log.Tail(DeltaTable(p).version(), delta_log.checkpoints(p)) for t, p in paths.items()}
        _sync_file_system(self._folder)
        watch("synced")
        delta_log.save_synced(self._folder, tails)
        watch("noted")


class Bucket:
    """A lake below a prefix of an object store.

    Args:
        url: ``s3://bucket/prefix`` or one of another store that the Delta library knows.
        options: Of the Delta library, such as ``aws_endpoint_url``; the environment (``AWS_...``) gives the others.
        clock: Tells until when a lease holds.
    """

    def __init__(self, url: str, options: Mapping[str, str], clock: Clock) -> None:
        self.url = url.rstrip("/")
        self._options = {**_DEFAULTS[_scheme(url)], **options}
        self._lease = Lease(self.uri(LEASE), self._options, secrets.token_hex(8), clock)
        self._tending = threading.Lock()  # the lease is this controller's, whatever thread

    @property
    def options(self) -> dict[str, str]:
        """Options for the Delta library."""
        return dict(self._options)

    def uri(self, table: str) -> str:
        """Return the URL of a table."""
        return f"{self.url}/{table}"

    def appending(self) -> AbstractContextManager[None]:
        """Need nothing: commits that cannot both stand are refused by the store."""
        return nullcontext()

    @contextmanager
    def tending(self) -> Iterator[Callable[[], None]]:
        """Hold the lease: the Delta library does not refuse two compactions of the same files."""
        with self._tending:
            self._lease.take()
            try:
                yield self._lease.renew
            finally:
                self._lease.give_back()

    def recover(self, tables: Iterable[str]) -> None:
        """Need nothing: what was written is whole."""

    def settle(self, tables: Iterable[str], watch: Watch) -> None:
        """Need nothing: what was written is durable."""


def place_of(lake: str, base: Path, options: Mapping[str, str], clock: Clock) -> Place:
    """Return the place that a setting names: a URL, or a folder relative to ``base``.

    Raises:
        InvalidConfig: The URL is of a store that is not supported, or options are given for a folder.
    """
    if "://" in lake:
        return Bucket(lake, options, clock)
    if options:
        raise InvalidConfig("[store] options are for a lake in an object store", why=f"lake is the folder {lake}")
    return Folder(base / lake)


def _scheme(url: str) -> str:
    match = _URL.match(url)
    if match is None or match[1] not in _DEFAULTS:
        known = ", ".join(f"{scheme}://" for scheme in _DEFAULTS)
        raise InvalidConfig(f"the lake cannot be at {url}", why=f"known are folders and {known}")
    return match[1]


def _sync_file_system(folder: Path) -> None:
    """Make everything that was written to the file system of ``folder`` durable: syncfs(2), elsewhere sync(2)."""
    syncfs = getattr(ctypes.CDLL(None, use_errno=True), "syncfs", None)
    if syncfs is None:
        os.sync()
        return
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        if syncfs(handle) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
    finally:
        os.close(handle)
