"""A TUF client in this process: what a device will make of new metadata, found out before it is published."""

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from pathlib import Path

from tuf.api.exceptions import DownloadError, DownloadHTTPError, RepositoryError
from tuf.api.metadata import TargetFile
from tuf.ngclient import Updater
from tuf.ngclient.fetcher import FetcherInterface

from dsops.errors import UntrustedBundle

_METADATA = "pack://metadata/"
_TARGETS = "pack://targets/"


class PackFetcher(FetcherInterface):
    """Serves metadata from memory. What is not there does not exist (404), as on a device."""

    def __init__(self, files: Mapping[str, bytes]) -> None:
        self._files = files

    def _fetch(self, url: str) -> Iterator[bytes]:
        data = self._files.get(url.removeprefix(_METADATA))
        if data is None:
            raise DownloadHTTPError(f"{url} is not in the pack", 404)
        return iter([data])


class _Client(Updater):
    """The stock client at a time that is passed in; the stock one reads the host's clock once, when it is made."""

    def __init__(self, folder: Path, files: Mapping[str, bytes], root: bytes, now: datetime) -> None:
        super().__init__(str(folder), _METADATA, str(folder), _TARGETS, fetcher=PackFetcher(files), bootstrap=root)
        self._trusted_set.reference_time = now


def accept(
    folder: Path, files: Mapping[str, bytes], root: bytes, paths: Iterable[str], now: datetime
) -> dict[str, TargetFile]:
    """Let a client that keeps its state in ``folder`` refresh from ``files`` and look ``paths`` up.

    Returns:
        What the owners signed under each path; a path that they did not sign is absent.

    Raises:
        UntrustedBundle: The client refuses the metadata; the text says why.
    """
    try:
        client = _Client(folder, files, root, now)
        client.refresh()
        return {path: target for path in paths if (target := client.get_targetinfo(path)) is not None}
    except (RepositoryError, DownloadError) as error:
        raise UntrustedBundle("a device would refuse this metadata", why=str(error)[:300]) from error
