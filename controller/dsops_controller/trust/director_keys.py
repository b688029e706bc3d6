"""The keys with which directives are signed now: those of the server that the published key list names."""

import threading

from dsops import dsse
from dsops.errors import Conflict
from dsops_controller.trust.keys import OnlineKeys
from dsops_controller.trust.repository import Repository


class DirectorKeys:
    """Calling it returns the keys; they change when a rotation of the director is published. Safe for threads.

    Before the first ceremony there is no list, and every key of the director is returned.
    """

    def __init__(self, repository: Repository, online: OnlineKeys) -> None:
        self._repository = repository
        self._online = online
        self._lock = threading.Lock()
        self._known: tuple[object, tuple[dsse.PrivateKey, ...]] = (None, ())

    def __call__(self) -> tuple[dsse.PrivateKey, ...]:
        """Return the keys, at least one.

        Raises:
            Conflict: Devices believe another key.
            StateDamaged: The metadata cannot be read.
        """
        stamp = self._repository.stamp
        if stamp is None:
            return self._online.all("director")
        with self._lock:
            if self._known[0] != stamp:
                self._known = (stamp, self._named())
            return self._known[1]

    def _named(self) -> tuple[dsse.PrivateKey, ...]:
        found = self._online.directors(self._repository.director().keyring())
        if not found:
            raise Conflict(
                "devices believe another director's key than this server has",
                why="fleet/director.json names none of keys/director*.pem",
                hint="restore the keys from a backup, or: dsops trust rotate director",
            )
        return found
