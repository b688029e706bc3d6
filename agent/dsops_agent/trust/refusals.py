"""What the TUF client's errors mean, each with a code of its own."""

import contextlib
from collections.abc import Iterator

from tuf.api.exceptions import (
    BadVersionNumberError,
    DownloadHTTPError,
    DownloadLengthMismatchError,
    ExpiredMetadataError,
    LengthOrHashMismatchError,
    RepositoryError,
    UnsignedMetadataError,
)
from tuf.api.serialization import DeserializationError

from dsops.errors import (
    EndlessMetadata,
    ExpiredMetadata,
    IncompleteMetadata,
    MalformedMetadata,
    MismatchedMetadata,
    OldMetadata,
    Refusal,
    StateDamaged,
    UnsignedMetadata,
)

_CLASSES: tuple[tuple[type[Exception], type[Refusal]], ...] = (
    (UnsignedMetadataError, UnsignedMetadata),
    (ExpiredMetadataError, ExpiredMetadata),
    (BadVersionNumberError, OldMetadata),
    (LengthOrHashMismatchError, MismatchedMetadata),
    (DownloadLengthMismatchError, EndlessMetadata),
    (DownloadHTTPError, IncompleteMetadata),
    (DeserializationError, MalformedMetadata),
)
_WRONG_TYPE = "Expected '"
"""How the client begins to say that a document is of another type; it has no class for that."""


def refusal(what: str, error: RepositoryError | DownloadHTTPError | DownloadLengthMismatchError) -> Refusal:
    """Return a refusal of ``what`` for an error of the TUF client.

    What remains of the client's errors says that the snapshot does not speak of a role, or does so no longer.
    """
    found = next((cls for kind, cls in _CLASSES if isinstance(error, kind)), IncompleteMetadata)
    cls = MalformedMetadata if str(error).startswith(_WRONG_TYPE) else found
    return cls(f"{what} is refused", why=f"{type(error).__name__}: {error}"[:500])


@contextlib.contextmanager
def refusals(what: str) -> Iterator[None]:
    """Turn what the TUF client finds wrong with metadata inside into refusals of ``what``."""
    try:
        yield
    except (RepositoryError, DownloadHTTPError, DownloadLengthMismatchError) as error:
        raise refusal(what, error) from error


@contextlib.contextmanager
def host_errors() -> Iterator[None]:
    """Turn faults of the disk into :class:`StateDamaged`."""
    try:
        yield
    except OSError as error:
        raise StateDamaged("the trust folder cannot be used", why=str(error.strerror or error)) from error
