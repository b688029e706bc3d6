"""The TUF client (specification 1.0.33, section 5) of python-tuf, made to survive power cuts.

The stock client renames without fsync: after a power cut the newest metadata, and with it the protection against
rollback, may be gone, and between its unlink and its symlink there is no ``root.json``. The two private methods that
write are replaced here; crash tests guard the replacement.
"""

import contextlib
import json
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path

from tuf.api._payload import TargetFile, Targets
from tuf.api.exceptions import DownloadHTTPError, DownloadLengthMismatchError
from tuf.ngclient.config import UpdaterConfig
from tuf.ngclient.fetcher import FetcherInterface
from tuf.ngclient.updater import Updater

from dsops.files import fsync_folder, write_atomically

_BASE = "pack:///"
_MAX_ROLE_BYTES = 512 * 1024


class PackFetcher(FetcherInterface):
    """Serves metadata that is already here. What is not among ``files`` does not exist (404)."""

    def __init__(self, files: Mapping[str, bytes]) -> None:
        self._files = files

    def _fetch(self, url: str) -> Iterator[bytes]:
        name = url.removeprefix(_BASE)
        if name not in self._files:
            raise DownloadHTTPError(f"{name} is not in the pack", 404)
        return iter((self._files[name],))

    def download_bytes(self, url: str, max_length: int) -> bytes:
        """Return a file's bytes without a temporary file.

        Raises:
            DownloadHTTPError: It is not in the pack.
            DownloadLengthMismatchError: It is longer than the metadata allows.
        """
        data = b"".join(self.fetch(url))
        if len(data) > max_length:
            raise DownloadLengthMismatchError(f"{url.removeprefix(_BASE)} is longer than {max_length} bytes")
        return data


class DurableUpdater(Updater):
    """One refresh of the metadata in a folder. Make a new one for every refresh or query; one at a time a folder.

    Args:
        folder: The client's metadata folder; it must exist.
        files: The metadata on offer, by file name.
        root: The embedded first root, the anchor of all trust.
        now: Trusted time.

    Raises:
        RepositoryError: The embedded root is not valid.
        OSError: The folder cannot be written.
    """

    def __init__(self, folder: Path, files: Mapping[str, bytes], *, root: bytes, now: datetime) -> None:
        config = UpdaterConfig(targets_max_length=_MAX_ROLE_BYTES, snapshot_max_length=_MAX_ROLE_BYTES)
        super().__init__(str(folder), _BASE, fetcher=PackFetcher(files), config=config, bootstrap=root)
        self._trusted_set.reference_time = now

    def signed_target(self, path: str, role: str) -> TargetFile | None:
        """Return what ``role``, delegated by the top-level targets role, says of a target.

        An entry of the same path in any other role counts for nothing.

        Raises:
            RepositoryError: Metadata failed to verify.
            DownloadError: The pack lacks metadata.
            OSError: The folder cannot be written.
        """
        found = self.get_targetinfo(path)
        if found is None or not self._trusted_set.contains(role, Targets.type):
            return None
        signed = self._trusted_set[role]
        return found if isinstance(signed, Targets) and signed.targets.get(path) is found else None

    def _persist_file(self, filename: str, data: bytes) -> None:
        path = Path(filename)
        if not (path.is_file() and path.read_bytes() == data):
            write_atomically(path, data)

    def _update_root_symlink(self) -> None:
        folder = Path(self._dir)
        link = folder / "root.json"
        newest = Path("root_history", f"{self._trusted_set.root.version}.root.json")
        if link.is_symlink() and link.readlink() == newest:
            return
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


def local_files(folder: Path) -> dict[str, bytes]:
    """Return the stored metadata under the names by which a refresh asks for it, so that it can run offline.

    A file that cannot be read is left out, and so does not exist.
    """
    files: dict[str, bytes] = {}
    for path in folder.glob("*.json"):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            data = path.read_bytes()
            version = int(json.loads(data)["signed"]["version"])
            files[path.name if path.name == "timestamp.json" else f"{version}.{path.name}"] = data
    return files


def ensure_folder(folder: Path) -> None:
    """Make a folder and make its name durable."""
    for step in (*reversed(folder.parents), folder):
        if not step.exists():
            step.mkdir()
            fsync_folder(step.parent)
