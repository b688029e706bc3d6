"""Who answers a request when champion and challenger share them: decided by its key alone, so the same key stays. Pure.

The draw is the one of rings (:meth:`dsops.trust.Ring.draw`): the first eight bytes of SHA-256 over ``salt|key``. The
salt is the deployment of the challenger: another challenger gets other keys.
"""

import hashlib

_WHOLE = 2**64


def goes_to_challenger(salt: str, key: str, share: float) -> bool:
    """Return whether the challenger answers the requests of a key; without a key it answers none.

    A key that goes to the challenger at one share goes there at every larger one.
    """
    return bool(key) and draw(salt, key) < share * _WHOLE


def draw(salt: str, key: str) -> int:
    """Return a key's number, evenly spread below 2^64."""
    return int.from_bytes(hashlib.sha256(f"{salt}|{key}".encode()).digest()[:8], "big")
