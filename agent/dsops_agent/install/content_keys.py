"""The keys of sealed bundles on the device: kept wrapped, unwrapped for as long as it takes to hand one over.

A directive brings a wrapped key; what is kept of it goes by the bundle's digest, so that it outlives the directive: the
runtime needs the key again after every start, and after a way back to the bundle before. A key that opened its bundle
is never given up for a newer one that does not, so a controller in the wrong hands cannot lock a device out of what it
runs. Keys of bundles that are neither installed nor wanted are forgotten.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from dsops.bundle import Bundle
from dsops.errors import ContentSealed
from dsops.sealing import ContentKey, unwrap


class WrappedKeys(Protocol):
    """Keeps wrapped keys by the digest of their bundle."""

    def wrapped_keys(self, digest: str) -> tuple[str, ...]:
        """Return the key that opened the bundle, if one did, then the newest."""
        ...

    def key_opened(self, digest: str, wrapped: str) -> None:
        """Keep that a key opened its bundle."""
        ...


class ContentKeys:
    """Finds the content key of a bundle.

    Args:
        device: Who we are.
        wrapped: What directives brought.
        own: Returns the device's own key; asked only for sealed bundles.
    """

    def __init__(self, device: str, wrapped: WrappedKeys, own: Callable[[], X25519PrivateKey]) -> None:
        self._device = device
        self._wrapped = wrapped
        self._own = own

    def of(self, path: Path, digest: str) -> ContentKey | None:
        """Return the key of a bundle file; None when it is not sealed.

        Raises:
            ContentSealed: It is sealed, and no key came, or none that is right.
            MalformedBundle: The file is no bundle.
            StateDamaged: The device's own key, or the journal, cannot be read.
        """
        manifest = Bundle.open(path).manifest
        if manifest.sealed is None:
            return None
        what = f"release {manifest.release} of {manifest.model} is encrypted"
        refusal = ContentSealed(what, why="no content key came for this device")
        for wrapped in self._wrapped.wrapped_keys(digest):
            try:
                key = unwrap(wrapped, self._own(), digest, self._device)
                key.check(manifest)
            except ContentSealed as error:
                refusal = ContentSealed(what, why=str(error))
            else:
                self._wrapped.key_opened(digest, wrapped)
                return key
        raise refusal
