"""How much one user may hold of what all share: never the last quarter, which another one may need.

What is held cannot be taken back, so the rule cannot wait until somebody else asks.
"""

from collections import Counter

NOBODY = ""
"""Who asks when no user is known: all of these may hold everything."""


def user_named(uid: int) -> str:
    """Return how a user is called here."""
    return f"uid {uid}"


def most_of(whole: int) -> int:
    """Return how much one user may hold: three quarters, and at least one."""
    return max(whole - -(-whole // 4), 1)


class Shares:
    """Who holds how much. Not thread-safe.

    Args:
        whole: How much there is.
    """

    def __init__(self, whole: int) -> None:
        self._most, self._left = most_of(whole), whole
        self._of_users: Counter[str] = Counter()

    def fits(self, size: int, user: str) -> bool:
        """Return whether so much is left, and this user may have it."""
        return size <= self._left and (user == NOBODY or self._of_users[user] + size <= self._most)

    def take(self, size: int, user: str) -> None:
        """Take note that a user holds so much more."""
        self._left -= size
        self._of_users[user] += size

    def give_back(self, size: int, user: str) -> None:
        """Take note that a user holds so much less."""
        self.take(-size, user)
        if not self._of_users[user]:
            del self._of_users[user]
