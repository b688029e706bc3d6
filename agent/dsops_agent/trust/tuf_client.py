"""The agent's own TUF client behind the command line of the tuf-conformance suite (its CLIENT-CLI.md).

For tests only: here, and nowhere else, metadata and targets come over HTTP.
"""

import argparse
import contextlib
from collections.abc import Callable, Iterator
from urllib.parse import quote

from tuf.api._payload import TargetFile
from tuf.api.exceptions import (
    DownloadError,
    DownloadHTTPError,
    DownloadLengthMismatchError,
    LengthOrHashMismatchError,
)
from tuf.ngclient.urllib3_fetcher import Urllib3Fetcher

from dsops.clock import SystemClock
from dsops.errors import InvalidInput, NotFound, TransferFailed
from dsops.files import write_atomically
from dsops_agent.status import StateLock
from dsops_agent.trust.refusals import host_errors, refusals
from dsops_agent.trust.updater import DurableUpdater, ensure_folder, sweep

_EMBEDDED = ".embedded_root"


class HttpSource:
    """Reads a repository over HTTP."""

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")
        self._fetcher = Urllib3Fetcher()

    def read(self, name: str, digest: str, max_bytes: int) -> bytes:
        """Return a file; see :class:`~dsops_agent.trust.updater.Source`."""
        return self._fetcher.download_bytes(f"{self._url}/{name}", max_bytes)


def run(options: argparse.Namespace) -> None:
    """Do what the options say.

    Raises:
        DsopsError: It did not succeed.
    """
    actions: dict[str, Callable[[argparse.Namespace], object]] = {
        "init": _init,
        "refresh": _refresh,
        "download": _download,
    }
    lock = StateLock(options.metadata_dir, ".trust.lock")
    lock.take()
    try:
        with host_errors():
            actions[options.action](options)
    finally:
        lock.release()


def _init(options: argparse.Namespace) -> None:
    if options.trusted_root is None:
        raise InvalidInput("init needs the trusted root's file")
    ensure_folder(options.metadata_dir)
    write_atomically(options.metadata_dir / _EMBEDDED, options.trusted_root.read_bytes())


def _refresh(options: argparse.Namespace) -> DurableUpdater:
    if not options.metadata_url:
        raise InvalidInput("--metadata-url is missing")
    folder, clock = options.metadata_dir, SystemClock()
    sweep(folder)
    with refusals("the repository"), _reached():
        updater = DurableUpdater(
            folder,
            HttpSource(options.metadata_url),
            root=(folder / _EMBEDDED).read_bytes(),
            time_at=lambda _root: clock.now(),
        )
        updater.refresh()
    return updater


def _download(options: argparse.Namespace) -> None:
    if not options.target_base_url:
        raise InvalidInput("--target-base-url is missing")
    updater = _refresh(options)
    for name in options.target_name:
        with refusals(name), _reached():
            found = updater.get_targetinfo(name)
            if found is None:
                raise NotFound(f"nobody signed a target {name}")
            _fetch(updater, found, options)


def _fetch(updater: DurableUpdater, target: TargetFile, options: argparse.Namespace) -> None:
    path = options.target_dir / quote(target.path, "")
    if path.is_file() and _is(target, path.read_bytes()):
        return
    folder, slash, name = target.path.rpartition("/")
    if updater.root.consistent_snapshot:
        name = f"{next(iter(target.hashes.values()))}.{name}"
    data = Urllib3Fetcher().download_bytes(
        f"{options.target_base_url.rstrip('/')}/{folder}{slash}{name}", target.length
    )
    target.verify_length_and_hashes(data)
    ensure_folder(options.target_dir)
    write_atomically(path, data)


def _is(target: TargetFile, data: bytes) -> bool:
    try:
        target.verify_length_and_hashes(data)
    except LengthOrHashMismatchError:
        return False
    return True


@contextlib.contextmanager
def _reached() -> Iterator[None]:
    try:
        yield
    except DownloadError as error:
        if isinstance(error, DownloadHTTPError | DownloadLengthMismatchError):
            raise  # an answer of the repository, which its metadata judges
        raise TransferFailed("the repository did not answer", why=str(error)) from error
