"""Where the TUF client gets metadata: documents by digest below a head, or what is on disk already."""

from collections.abc import Mapping
from pathlib import Path

from tuf.api.exceptions import DownloadError, DownloadHTTPError, RepositoryError

from dsops.head import roots_named

_ROOTS_AT_ONCE = 16
_HEAD = "timestamp.json"
_NOT_FOUND = 404


class Awaited(DownloadError):
    """A document that exists has not come yet."""


class Offered:
    """A head, and the documents that came. What the head does not lead to does not exist.

    Args:
        head: The timestamp.
        documents: What came, by the digest under which it was asked for.

    Raises:
        MalformedMetadata: The head cannot be parsed.
    """

    def __init__(self, head: bytes, documents: Mapping[str, bytes]) -> None:
        self.head = head
        self._documents = documents
        self._roots = roots_named(head)
        self.awaited: dict[str, None] = {}
        """Digests of documents that were asked for in vain."""

    def read(self, name: str, digest: str, max_bytes: int) -> bytes:
        """Return a document; raises Awaited, and notes its digest, when it has not come yet."""
        if name == _HEAD:
            return self.head
        if name.endswith(".root.json"):
            return self._root(int(name.partition(".")[0]))
        return self.document(name, digest)

    def document(self, name: str, digest: str) -> bytes:
        """Return a document by its digest; ``name`` is only said.

        Raises:
            Awaited: It has not come yet.
            RepositoryError: No digest is signed for it.
        """
        if not digest:
            raise RepositoryError(f"the digest of {name} is missing")
        if digest not in self._documents:
            self.awaited[digest] = None
            raise Awaited(f"{name} has not come yet")
        return self._documents[digest]

    def _root(self, version: int) -> bytes:
        if version > len(self._roots):
            raise DownloadHTTPError(f"there is no root {version}", _NOT_FOUND)
        following = self._roots[version - 1 : version - 1 + _ROOTS_AT_ONCE]
        self.awaited.update(dict.fromkeys(d for d in following if d not in self._documents))
        return self.document(f"root {version}", following[0])


class Stored:
    """The metadata folder itself: a refresh from it is a check of what is there, without a network."""

    head = b""
    """None is offered."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def read(self, name: str, digest: str, max_bytes: int) -> bytes:
        """Return the stored timestamp; other files the client reads by itself, and what it cannot read is absent."""
        if name == _HEAD and (self._folder / _HEAD).is_file():
            return (self._folder / _HEAD).read_bytes()
        raise DownloadHTTPError(f"{name} is not here", _NOT_FOUND)

    def document(self, name: str, digest: str) -> bytes:
        """Say that a document is not here."""
        raise DownloadHTTPError(f"{name} is not here", _NOT_FOUND)
