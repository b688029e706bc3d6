"""Profiles and class names of bundles by their digest, each read once: what drift is judged and explained by."""

import threading
from collections.abc import Sequence

from dsops.errors import BundleError, NotFound
from dsops.profile import Profile
from dsops_controller.bundles import Bundles

_MOST = 256


class BundleFacts:
    """Reads bundles. Safe for use by several threads."""

    def __init__(self, bundles: Bundles) -> None:
        self._bundles = bundles
        self._known: dict[str, tuple[Profile | None, tuple[str, ...]]] = {}
        self._lock = threading.Lock()

    def profile(self, digest: str) -> Profile | None:
        """Return a bundle's profile; None when the bundle is not here, or damaged."""
        return self._facts(digest)[0]

    def labels(self, digest: str) -> Sequence[str]:
        """Return the names of its classes; none when the bundle is not here."""
        return self._facts(digest)[1]

    def _facts(self, digest: str) -> tuple[Profile | None, tuple[str, ...]]:
        with self._lock:
            if digest not in self._known:
                facts = self._read(digest)
                if facts[0] is None:  # it may be pushed later
                    return facts
                while len(self._known) >= _MOST:
                    self._known.pop(next(iter(self._known)))
                self._known[digest] = facts
            return self._known[digest]

    def _read(self, digest: str) -> tuple[Profile | None, tuple[str, ...]]:
        try:
            bundle = self._bundles.open(self._bundles.by_digest(digest).sha256)
            return Profile.decode(bundle.read(bundle.manifest.profile)), bundle.manifest.labels
        except (NotFound, BundleError):
            return None, ()
