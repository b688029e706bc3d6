"""The TUF client (specification 1.0.33, section 5) of python-tuf, made to survive power cuts.

The stock client renames without fsync: after a power cut the newest metadata, and with it the protection against
rollback, may be gone, and between its unlink and its symlink there is no ``root.json``. The private methods that write
and that load are replaced here; crash tests and the conformance suite guard the replacement.
"""

from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Protocol
from urllib.parse import quote

from tuf.api._payload import Root, Signed, Snapshot, TargetFile, Targets, Timestamp
from tuf.api.exceptions import DownloadLengthMismatchError, ExpiredMetadataError
from tuf.ngclient.config import UpdaterConfig
from tuf.ngclient.fetcher import FetcherInterface
from tuf.ngclient.updater import Updater

from dsops.bundle import sha256_hex
from dsops.files import fsync_folder, write_atomically
from dsops_agent.trust.floors import Keys

_NOWHERE = "source:///"
_MAX_ROLE_BYTES = 512 * 1024
_TOP = (Root.type, Timestamp.type, Snapshot.type, Targets.type)


class Source(Protocol):
    """Where metadata comes from."""

    def read(self, name: str, digest: str, max_bytes: int) -> bytes:
        """Return a file of the repository; never more than one byte beyond ``max_bytes`` need be returned.

        Args:
            name: The file's name, for example ``3.targets.json``.
            digest: SHA-256 (hex) that verified metadata gives for it; empty for roots and the timestamp, which have
                none, and where a repository signs none.
            max_bytes: Its longest permitted length.

        Raises:
            DownloadHTTPError: There is no such file (404). For a root this means that the one before is the newest, so
                it must never stand for a file that only did not come.
            DownloadError: It could not be had.
        """
        ...


class _NoFetcher(FetcherInterface):
    """Nothing is fetched by URL: every file comes from the source."""

    def _fetch(self, url: str) -> Iterator[bytes]:
        raise NotImplementedError(url)


class DurableUpdater(Updater):
    """One refresh of the metadata in a folder, and what it verified. Make a new one for every refresh.

    Args:
        folder: The client's metadata folder; it must exist.
        source: Where newer metadata comes from.
        root: The embedded first root, the anchor of all trust.
        time_at: Returns trusted time, given the newest root that is trusted.

    Raises:
        RepositoryError: The embedded root is not valid.
        OSError: The folder cannot be written.
    """

    def __init__(self, folder: Path, source: Source, *, root: bytes, time_at: Callable[[Root], datetime]) -> None:
        self._source = source
        self._time_at = time_at
        self._is_open = False
        config = UpdaterConfig(targets_max_length=_MAX_ROLE_BYTES, snapshot_max_length=_MAX_ROLE_BYTES)
        super().__init__(str(folder), _NOWHERE, fetcher=_NoFetcher(), config=config, bootstrap=root)
        self._is_open = True

    @property
    def root(self) -> Root:
        """The newest trusted root."""
        return self._trusted_set.root

    def role(self, name: str) -> Signed | None:
        """Return a role as it was verified by the root, or else by the top-level targets role; None before that."""
        is_known = self._trusted_set.contains(name, Root.type if name in _TOP else Targets.type)
        return self._trusted_set[name] if is_known else None

    def keys(self, name: str) -> Keys:
        """Return the keys that may sign a role of the top level, or one that targets delegates to."""
        delegator = self._trusted_set.root if name in _TOP else self._trusted_set.targets
        role = delegator.get_delegated_role(name)
        return Keys(frozenset(role.keyids), role.threshold)

    def signed_target(self, path: str, role: str) -> TargetFile | None:
        """Return what ``role``, delegated by the top-level targets role, says of a target.

        An entry of the same path in any other role counts for nothing.

        Raises:
            RepositoryError: Metadata failed to verify.
            DownloadError: Metadata could not be had.
            OSError: The folder cannot be written.
        """
        found = self.get_targetinfo(path)
        if found is None or not self._trusted_set.contains(role, Targets.type):
            return None
        signed = self._trusted_set[role]
        return found if isinstance(signed, Targets) and signed.targets.get(path) is found else None

    def require_current(self, now: datetime, *roles: str) -> None:
        """Check that neither the top level nor ``roles``, all of them loaded, have expired.

        Raises:
            ExpiredMetadataError: One has.
        """
        self._trusted_set.reference_time = now
        for name in (*_TOP, *roles):
            if self._trusted_set[name].is_expired(now):
                raise ExpiredMetadataError(f"{name} is expired")

    def lacking(self, roles: Iterable[str]) -> Iterator[str]:
        """Yield the digests of documents of ``roles`` that the trusted snapshot names and the folder does not hold."""
        snapshot = self._trusted_set.get(Snapshot.type)
        for name in roles if isinstance(snapshot, Snapshot) else ():
            digest = self._digest_of(name)
            path = Path(self._dir, f"{quote(name, '')}.json")
            if digest and not (path.is_file() and sha256_hex(path.read_bytes()) == digest):
                yield digest

    def _load_root(self) -> None:
        super()._load_root()
        self._trusted_set.reference_time = self._time_at(self._trusted_set.root)

    def _download_metadata(self, rolename: str, length: int, version: int | None = None) -> bytes:
        name = f"{quote(rolename, '')}.json" if version is None else f"{version}.{quote(rolename, '')}.json"
        data = self._source.read(name, self._digest_of(rolename), length)
        if len(data) > length:
            raise DownloadLengthMismatchError(f"{name} is longer than {length} bytes")
        return data

    def _digest_of(self, name: str) -> str:
        if name in (Root.type, Timestamp.type):
            return ""
        snapshot = None if name == Snapshot.type else self._trusted_set.snapshot.meta.get(f"{name}.json")
        meta = self._trusted_set.timestamp.snapshot_meta if name == Snapshot.type else snapshot
        return (meta.hashes or {}).get("sha256", "") if meta else ""

    def _persist_file(self, filename: str, data: bytes) -> None:
        path = Path(filename)
        if not (path.is_file() and path.read_bytes() == data):
            write_atomically(path, data)

    def _update_root_symlink(self) -> None:
        folder = Path(self._dir)
        link = folder / "root.json"
        newest = Path("root_history", f"{self._trusted_set.root.version}.root.json")
        if link.is_symlink() and (link.readlink() == newest or not self._is_open):
            return  # while this is being made only the first root is loaded: the link to a newer one stays
        if not (folder / newest).is_file():
            return  # the disk did not take the newest root: the link stays with the one before
        fresh = folder / ".root.json.new"
        fresh.unlink(missing_ok=True)
        fresh.symlink_to(newest)
        fresh.replace(link)
        fsync_folder(folder)


def sweep(folder: Path) -> None:
    """Remove what an interrupted write left in a metadata folder."""
    history = folder / "root_history"
    for leftover in (*folder.glob(".*.tmp"), *history.glob(".*.tmp"), folder / ".root.json.new"):
        leftover.unlink(missing_ok=True)


def ensure_folder(folder: Path) -> None:
    """Make a folder and make its name durable."""
    for step in (*reversed(folder.parents), folder):
        if not step.exists():
            step.mkdir()
            fsync_folder(step.parent)
