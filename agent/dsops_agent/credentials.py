"""The identity in use, as the parts that connect see it: a renewal replaces it while they run."""

import logging
import ssl
from collections.abc import Callable

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from dsops.clock import Clock
from dsops_agent.identity import Identity, IdentityFolder
from dsops_agent.transport.client import tls_context

logger = logging.getLogger(__name__)

REFUSALS = 3
"""After so many refusals of an identity that never worked, the one before is tried in turns with it."""


class Credentials:
    """Holds the identity in use. Should the broker not take a new one, connections are made with the one before, too.

    :meth:`tls`, :meth:`accepted` and :meth:`refused` are called by the one thread that connects to the broker.
    """

    def __init__(self, folder: IdentityFolder, identity: Identity, clock: Clock, changed: Callable[[], None]) -> None:
        self._folder = folder
        self._clock = clock
        self._changed = changed
        self._current = identity
        self._presented = identity
        self._has_worked = False
        self._refusals = 0

    @property
    def current(self) -> Identity:
        """The identity in use at this moment."""
        return self._current

    def content_key(self) -> X25519PrivateKey:
        """Return the key to which keys of sealed bundles are wrapped; raises as :meth:`IdentityFolder.content_key`."""
        return self._folder.content_key()

    def replace(self, identity: Identity) -> None:
        """Use another identity from now on, and let connections be made anew."""
        self._current = identity
        self._has_worked = False
        self._refusals = 0
        self._changed()

    def tls(self) -> ssl.SSLContext:
        """Return the context for a connection that is about to be made.

        Raises:
            OSError: The identity's files cannot be used.
        """
        self._presented = self._choice()
        return tls_context(self._presented)

    def _choice(self) -> Identity:
        if self._refusals < REFUSALS or self._refusals % 2 == 0:
            return self._current
        before = self._folder.before(self._current.device)
        is_good = before is not None and before.expires > self._clock.now()
        return before if before is not None and is_good else self._current

    def accepted(self) -> None:
        """Take note that the broker accepted the connection: what was before is not needed any more."""
        if self._presented is not self._current or self._has_worked:
            return
        self._refusals = 0
        try:
            self._folder.worked(self._presented)
        except OSError as error:  # it stays until the next connection
            logger.warning("the identity before cannot be removed: %s", error.strerror)
        else:
            self._has_worked = True

    def refused(self) -> None:
        """Take note that the broker refused what was shown to it."""
        if not self._has_worked:
            self._refusals += 1
